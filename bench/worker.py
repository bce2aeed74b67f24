"""``python -m bench.worker STAGE CONTENDER SIZE DATA CORES``: one contender, in a process of its own.

It says ``ready``, then for every line ``lay_out OUT`` or ``run OUT`` that it reads it does that and answers with a line
of JSON. Only the work itself is timed.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path

from bench import registry
from bench.stage import SIZES, Task


def main() -> None:
    """Answer until the input ends."""
    stage, contender, size, data, cores = sys.argv[1:]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])  # of child processes, such as Java, as well
    answers, sys.stdout = sys.stdout, sys.stderr  # a library's talk is no answer
    (kind,) = [c for c in registry.stage(stage).contenders if c.name == contender]
    worker = kind(Task(SIZES[size], Path(data), int(cores)))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        verb, _, out = line.strip().partition(" ")
        rows = 0
        gc.collect()
        start = time.perf_counter()
        if verb == "run":
            rows = worker.run(Path(out))
        else:
            worker.lay_out(Path(out))
        print(json.dumps({"seconds": time.perf_counter() - start, "rows": rows}), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""``python -m bench.prepare STAGE SIZE FOLDER CORES``: makes a stage's input."""

from __future__ import annotations

import sys
from pathlib import Path

from bench import registry
from bench.stage import SIZES, Task

if __name__ == "__main__":
    stage, size, folder, cores = sys.argv[1:]
    registry.stage(stage).prepare(Task(SIZES[size], Path(folder), int(cores)))

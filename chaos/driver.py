"""A process that runs jobs, and dies where it is told to: ``python -m chaos.driver``, an order a line."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import reduce, wraps
from importlib import import_module
from typing import Any

_TRACE = 40  # lines
WHEN = ("before", "after")
POINTS: Mapping[str, tuple[str, str]] = {
    "delta.append": ("jobs.lake.delta", "append"),
    "delta.append_here": ("jobs.lake.delta", "append_here"),
    "delta.overwrite": ("jobs.lake.delta", "overwrite"),
    "delta.persist": ("jobs.lake.delta", "persist"),
    "delta.upsert": ("jobs.lake.delta", "upsert"),
    "delta.upsert_in_time": ("jobs.lake.delta", "upsert_in_time"),
    "quarantine.append": ("jobs.lake.quarantine", "append"),
    "quarantine.settle": ("jobs.lake.quarantine", "settle"),
    "drift.record": ("jobs.lake.drift", "record"),
    "ledger.record": ("jobs.lake.ledger", "record"),
    "promotion.promote": ("jobs.lake.promotion", "Promotion.promote"),
    "maintaining.expire": ("jobs.lake.maintaining", "Care.expire"),
    "maintaining.tidy": ("jobs.lake.maintaining", "Care.tidy"),
    "intents.write": ("jobs.lake.intents", "write"),
    "leases.take": ("jobs.lake.leases", "Lease.take"),
    "leases.release": ("jobs.lake.leases", "Lease.release"),
}
"""Where a run can be made to die: before and after each of these, the first, second, ... time."""

KILLED = "workers killed"
"""Among the calls of every point: how many workers were."""
HALF_WAY = ("intents.write", "delta.append", "quarantine.append", "ledger.record")
"""Points between which a promotion is half done."""


@dataclass(frozen=True)
class Death:
    """Where and how a run dies.

    Attributes:
        point: One of :data:`POINTS`.
        when: One of :data:`WHEN`.
        nth: Which call.
        how: ``kill``: the process and all of its children, by SIGKILL; ``stop``: they stand still by SIGSTOP, until
            somebody wakes them; ``worker``: its Python workers only; ``term``: SIGTERM to the process.
    """

    point: str
    when: str
    nth: int = 1
    how: str = "kill"

    def __str__(self) -> str:
        return f"{self.how} {self.when} {self.point} ({self.nth})"


def die(how: str) -> int:
    """Die, or have the workers do so; how many of them did."""
    killed = 0
    match how:
        case "kill":
            os.killpg(0, signal.SIGKILL)
        case "stop":
            os.killpg(0, signal.SIGSTOP)
        case "term":
            os.kill(os.getpid(), signal.SIGTERM)
        case "worker":
            for number in workers(os.getpid()):
                os.kill(number, signal.SIGKILL)
                killed += 1
    return killed


def workers(ancestor: int) -> list[int]:
    """Spark's Python workers among the descendants of a process."""
    import psutil

    found = []
    for child in psutil.Process(ancestor).children(recursive=True):
        with suppress(psutil.Error):  # it has ended by now
            found += [child.pid] if "pyspark.daemon" in " ".join(child.cmdline()) else []
    return found


def stands_still(process: int) -> bool:
    """Whether a process was stopped and not yet woken."""
    import psutil

    with suppress(psutil.Error):  # it has ended by now
        return bool(psutil.Process(process).status() == psutil.STATUS_STOPPED)
    return False


@contextmanager
def watched(death: Death | None) -> Iterator[Counter[str]]:
    """Count the calls of every point while the block runs, and have the process die at one of them."""
    calls = Counter[str]()
    with ExitStack() as stack:
        for point in POINTS:
            owner, name = place(point)
            honest = getattr(owner, name)
            stack.callback(setattr, owner, name, honest)
            setattr(owner, name, _watched(point, honest, calls, death))
        yield calls


def place(point: str) -> tuple[Any, str]:
    """The module or class that has a point, and its name there."""
    module, name = POINTS[point]
    *outer, last = name.split(".")
    return reduce(getattr, outer, import_module(module)), last


def _watched(point: str, honest: Callable[..., Any], calls: Counter[str], death: Death | None) -> Callable[..., Any]:
    @wraps(honest)
    def call(*arguments: Any, **options: Any) -> Any:
        calls[point] += 1
        mine = death if death and (death.point, death.nth) == (point, calls[point]) else None
        if mine and mine.when == "before":
            calls[KILLED] += die(mine.how)
        result = honest(*arguments, **options)
        if mine and mine.when == "after":
            calls[KILLED] += die(mine.how)
        return result

    return call


def run(job: str, arguments: list[str], death: Death | None) -> dict[str, Any]:
    """Run a job of ``jobs``, or a module by its whole name, as its command line does.

    Returns:
        How it ended, as the fields of :class:`chaos.crew.Ran`.
    """
    from jobs.lake import cli

    module = import_module(job if "." in job else f"jobs.{job}")
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    _forget()
    with redirect_stdout(out), redirect_stderr(err), watched(death) as calls:
        try:
            cli.main(module.__doc__ or "", module.arguments, module.run, arguments)
        except SystemExit as end:
            code = end.code
    unforeseen = _causes(out.getvalue()) if code == 4 else ""
    return {"code": code, "out": out.getvalue(), "err": err.getvalue() + unforeseen, "calls": calls}


def _causes(trace: str) -> str:
    """What a trace says, without the places in the code."""
    lines = [line for line in trace.splitlines() if not line.lstrip().startswith(("at ", "File ", "..."))]
    return "\n".join(lines[-_TRACE:])


def _forget() -> None:
    """Have Delta forget the tables it has seen, as a new process would: another lake may be at their place."""
    from pyspark.sql import SparkSession

    session = SparkSession.getActiveSession()
    if session:
        session._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]


def main() -> None:
    """Carry out orders until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what Spark prints is no answer
    from jobs.lake import cli

    print(json.dumps({"pid": os.getpid()}), file=answers)
    for line in sys.stdin:
        order = json.loads(line)
        if order["job"] == "warm up":
            cli.context(profile="testing").spark.range(1).collect()
            print(json.dumps({"code": 0}), file=answers)
            continue
        death = Death(**order["death"]) if order["death"] else None
        print(json.dumps(run(order["job"], order["arguments"], death)), file=answers)


if __name__ == "__main__":
    main()

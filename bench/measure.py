"""Times the contenders of a stage: in turns, each in its own process on the same cores, and compares what they make."""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

from bench.stage import Contender, Size, Stage, Task

_EVERY = 0.1  # s between two looks at the memory


@dataclass
class Result:
    """What was measured of one contender.

    Attributes:
        stage: The stage.
        contender: Its name.
        role: ours, peer or limit.
        rows: Rows (windows, events) of one round.
        seconds: Of each round.
        peak_rss_mb: Most memory that it and its child processes held, pages that they share counted for each.
    """

    stage: str
    contender: str
    role: str
    rows: int = 0
    seconds: list[float] = field(default_factory=list)
    peak_rss_mb: int = 0

    @property
    def median(self) -> float:
        """Seconds of the round in the middle."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.median


class Process:
    """A contender at work."""

    def __init__(self, stage: Stage, contender: type[Contender], task: Task, log: Path) -> None:
        self._log = log.open("w")
        words = [stage.name, contender.name, task.size.name, str(task.data), str(task.cores)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "POLARS_MAX_THREADS": str(task.cores), "OMP_NUM_THREADS": str(task.cores)},
        )
        self._answer("ready\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def ask(self, verb: str, out: Path) -> dict[str, Any]:
        """Have it do something."""
        assert self._process.stdin
        self._process.stdin.write(f"{verb} {out}\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._answer())
        return answer

    def _answer(self, expected: str = "") -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line or (expected and line != expected):
            self._process.wait()
            tail = Path(self._log.name).read_text().splitlines()[-15:]
            raise RuntimeError("\n".join([f"a contender died; the end of {self._log.name}:", *tail]))
        return line

    @contextmanager
    def peak(self) -> Iterator[list[int]]:
        """The most memory, in bytes, of it and its children while the block runs."""
        most, done = [0], threading.Event()

        def look() -> None:
            ended = False
            while not ended:
                ended = done.wait(_EVERY)
                most[0] = max(most[0], _memory(self._process.pid))

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield most
        finally:
            done.set()
            watcher.join()


def _memory(pid: int) -> int:
    total = 0
    parent = psutil.Process(pid)
    for process in (parent, *parent.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:  # it has ended since
            continue
    return total


def prepared(stage: Stage, size: Size, home: Path, cores: int) -> Task:
    """The stage's input, made once and kept."""
    data = home / "data" / f"{stage.name}-{size.name}"
    task = Task(size, data, cores)
    if not data.exists():
        partial = data.with_name(f".{data.name}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        words = [stage.name, size.name, str(partial), str(cores)]
        subprocess.run([sys.executable, "-m", "bench.prepare", *words], check=True)
        partial.rename(data)
    return task


def measure(stage: Stage, task: Task, home: Path, rounds: int, say: Callable[[str], None]) -> list[Result]:
    """Let every contender do the work so many times, one after the other and then again.

    Raises:
        AssertionError: Two contenders made different things of the same input.
    """
    results = [Result(stage.name, c.name, c.role) for c in stage.contenders]
    runs = home / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    runs.mkdir(parents=True)
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Process(stage, contender, task, runs / f"{number}.log"))
            for number, contender in enumerate(stage.contenders)
        ]
        made: dict[str, object] = {}
        for round_ in range(rounds + 1):  # the first warms up: compilers, caches, pools
            for number, (worker, contender, result) in enumerate(zip(workers, stage.contenders, results, strict=True)):
                if not round_ and not contender.warms_up:
                    continue
                out = runs / f"{number}-{round_}"
                worker.ask("lay_out", out)
                with worker.peak() as most:
                    answer = worker.ask("run", out)
                result.rows = answer["rows"]
                if round_:
                    result.seconds.append(round(answer["seconds"], 4))
                    result.peak_rss_mb = max(result.peak_rss_mb, most[0] >> 20)
                if result.contender not in made:
                    made[result.contender] = stage.digest(result.contender, out)
                shutil.rmtree(out, ignore_errors=True)
                note = "" if round_ else "  (warm-up)"
                say(f"{stage.name:<10} {result.contender:<34} {answer['seconds']:8.2f} s{note}")
    ours = made[results[0].contender]
    for name, digest in made.items():
        assert digest is None or alike(digest, ours), f"{stage.name}: {name} made {digest}, ours is {ours}"
    return results


def alike(one: object, other: object, rel_tol: float = 1e-6, abs_tol: float = 0.0) -> bool:
    """Whether two digests are equal, fractions among them within a tolerance."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=rel_tol, abs_tol=abs_tol)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(alike(one[name], other[name], rel_tol, abs_tol) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(alike(*pair, rel_tol, abs_tol) for pair in zip(one, other, strict=True))
    return one == other

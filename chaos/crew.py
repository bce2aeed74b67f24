"""Processes that run jobs: one that is kept, and others that are there to die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from chaos.driver import Death, stands_still

_ELSEWHERE = "America/New_York"  # behind UTC, and with daylight saving
_LONGEST = 600.0  # s that a job may take, unless it is given more: then it hangs


@dataclass(frozen=True)
class Ran:
    """How a job ended.

    Attributes:
        code: Its exit code; None if its process died.
        out: What it printed as its result.
        err: What it said; of a process that died, where its log is.
        calls: How often it came by each of the points where it can be made to die; unknown if its process died.
    """

    code: int | None
    out: str = ""
    err: str = ""
    calls: Mapping[str, int] = field(default_factory=dict)

    @property
    def died(self) -> bool:
        """Whether its process died."""
        return self.code is None

    def came_by(self, death: Death) -> bool:
        """Whether it came to where it was to die."""
        return self.died or self.calls.get(death.point, 0) >= death.nth


class Driver:
    """A process with a Spark session, which runs jobs as ``spark-submit.sh`` does."""

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        self._log, self._at_work = log.open("a"), False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chaos.driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,  # a group of its own, to be killed as a whole
        )
        self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, job: str, *arguments: str, death: Death | None = None) -> None:
        """Have it run a job; :meth:`end` says how it ended."""
        assert self._process.stdin
        if self._at_work:
            self.end()
        self._at_work = True
        order = {"job": job, "arguments": arguments, "death": asdict(death) if death else None}
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:  # it is dead already, which end() will find
            return

    def end(self, longest: float = _LONGEST) -> Ran:
        """Wait until the job has ended, or its process.

        Args:
            longest: How long it may take, in seconds.

        Raises:
            TimeoutError: It took longer, and was killed: it hangs.
        """
        hangs = threading.Event()

        def give_up() -> None:
            hangs.set()
            self.kill()

        watchdog = threading.Timer(longest, give_up)
        watchdog.start()
        try:
            answer, self._at_work = self._answer(), False
        finally:
            watchdog.cancel()
        if hangs.is_set():
            raise TimeoutError(f"it hung for {longest:.0f} s; see {self._log.name}")
        return Ran(None, err=f"its process died; see {self._log.name}") if answer is None else Ran(**answer)

    def run(
        self,
        job: str,
        *arguments: str,
        death: Death | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> Ran:
        """Run a job to its end; one that is to stand still at a point is woken when something else has been done.

        If it never comes by that point, the other thing is done all the same, at its end.
        """
        self.begin(job, *arguments, death=death)
        if meanwhile is None:
            return self.end()
        with ThreadPoolExecutor(1) as waiter:
            ended = waiter.submit(self.end)
            try:
                while not ended.done() and not stands_still(self.pid):
                    time.sleep(0.05)
                meanwhile()
            finally:
                self.kill(signal.SIGCONT)
        return ended.result()

    @property
    def lives(self) -> bool:
        """Whether it can run another job."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process, and its group."""
        return self._process.pid

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the process, its JVM and its workers."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return

    def close(self) -> None:
        """End it, whatever it does."""
        self.kill(signal.SIGCONT)
        self.kill()
        self._process.wait()
        self._log.close()

    def _answer(self) -> dict[str, Any] | None:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        self._process.wait()
        return None


class Crew:
    """The driver that is kept warm, and those that are there to die.

    Attributes:
        environment: What they are given beside this process's environment.
    """

    def __init__(self, home: Path, environment: Mapping[str, str]) -> None:
        self._home, self.environment = home, environment
        self._warm: Driver | None = None
        self._spare: Driver | None = None

    def warm(self) -> Driver:
        """The driver that runs what is not to be broken."""
        if self._warm is None or not self._warm.lives:
            self._warm = self._new("warm")
        return self._warm

    @contextmanager
    def victim(self) -> Iterator[Driver]:
        """A driver that may be killed while the block runs; the next one is started after it."""
        victim, self._spare = self._spare or self.another(), None
        try:
            yield victim
        finally:
            victim.close()
            self._spare = self.another()

    def another(self, **environment: str) -> Driver:
        """A driver of one's own, which opens its session; its machine is in another time zone than the kept one's."""
        driver = self._new("victim", TZ=_ELSEWHERE, **environment)
        driver.begin("warm up")
        return driver

    def _new(self, name: str, **environment: str) -> Driver:
        return Driver(self._home / f"{name}.log", {**self.environment, **environment})

    def close(self) -> None:
        """End all of them."""
        for driver in (self._warm, self._spare):
            if driver is not None:
                driver.close()

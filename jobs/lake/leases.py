"""One writer per table at a time: leases in the lake itself, renewed while a run lives.

The leases of a table are numbered files, ``ops/leases/silver.devices/000000000007.json``; the one with the highest
number counts. To take the table is to create the next number, which only one of many can (``O_EXCL`` in a folder,
``If-None-Match: *`` in S3). A lease may be taken from a run that has let go of it, that has died on this machine, or
that did not renew it for as long as it said it would. No clocks are compared: whoever waits watches, by its own clock,
whether the lease changes.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jobs.lake.errors import HeldError, MachineError, TakenOverError
from jobs.lake.layout import Lake

_LOOK_EVERY = 0.5  # s between two looks at a lease that is waited for
_LENGTH = 2048  # bytes of a lease
_BEATS = 3  # renewals within the time that a lease lasts
_HIDDEN = "?"  # the start of a process that is there, and of which no more is told


@dataclass(frozen=True)
class Holder:
    """Who holds a table.

    Attributes:
        job: What it runs, as ``silver.py``.
        host: Its machine, as people know it.
        since: When it took the table, ISO 8601 in UTC.
        seconds: How long the lease lasts unless it is renewed.
        token: Tells this lease from all others.
        machine: Its machine since it was started, and its processes' name space; empty if that cannot be told.
        process: Its number there.
        processes: Those of its processes that could write, ``number:start``.
        beat: How often it was renewed.
        released: Whether the run has let go of it.
    """

    job: str
    host: str
    since: str
    seconds: float
    token: str
    machine: str = ""
    process: int = 0
    processes: tuple[str, ...] = ()
    beat: int = 0
    released: bool = False

    def __str__(self) -> str:
        return f"{self.job} on {self.host} (process {self.process}) since {self.since}"

    @property
    def is_dead(self) -> bool:
        """Whether it is known to have ended without letting go: it ran on this machine, and none of it is left."""
        return self.machine != "" and self.machine == _machine() and not any(map(_lives, self.processes))


_UNKNOWN = Holder("a run that died while it took it, or of another version,", "?", "?", 60.0, "")


@dataclass
class Lease:
    """A table that this process holds, or waits for.

    Attributes:
        lake: The lake; it says how long leases last, and how long one is waited for.
        table: The table, below the lake.
        taken_over: Whether the last holder had not let go of it.
        in_use: Whether a run is at work that holds it.
    """

    lake: Lake
    table: str
    taken_over: bool = False
    in_use: bool = False
    _number: int = 0
    _holder: Holder = field(default=_UNKNOWN)
    _sure_until: float = 0.0
    _lost_to: Holder | None = None
    _ended: threading.Event = field(default_factory=threading.Event)
    _writing: threading.Lock = field(default_factory=threading.Lock)
    _uses: int = 1

    def __post_init__(self) -> None:
        self._writer = self.lake.writer()
        self._key = f"ops/leases/{self.table.replace('/', '.')}"

    def take(self) -> None:
        """Wait for the table, and take it.

        Raises:
            HeldError: Another run holds it, and went on holding it for as long as this one may wait.
        """
        started, watched, since, said = now(), None, 0.0, False
        while True:
            numbers, last = self._last()
            if last != watched:
                watched, since = last, now()
                if last and not said and not self._is_vacant(last, 0):
                    said = True
                    print(f"{self.table} is held by {last}: waiting for it", file=sys.stderr)
            if (last is None or self._is_vacant(last, now() - since)) and self._create(max(numbers, default=0) + 1):
                self.taken_over = last is not None and not last.released
                threading.Thread(target=self._renew, name=f"lease of {self.table}", daemon=True).start()
                return
            if last is not None and now() - started >= self.lake.leases.wait_seconds:
                raise HeldError(
                    f"{self.table} is held by {last}",
                    why=f"one run at a time writes a table; this one waited {now() - started:.0f} s",
                    remedy="wait for that run; if it hangs, or is gone, the same command with"
                    " --set leases.take_over=true",
                )
            time.sleep(_LOOK_EVERY)

    def _is_vacant(self, last: Holder, unchanged: float) -> bool:
        return last.released or last.is_dead or self.lake.leases.take_over or unchanged > last.seconds

    def _create(self, number: int) -> bool:
        """Create the lease with this number; whether it is ours, and counts."""
        begun, place = now(), self._place(number)
        self._holder = Holder(
            job=os.path.basename(sys.argv[0]),
            host=socket.gethostname(),
            since=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            seconds=self.lake.leases.seconds,
            token=secrets.token_hex(8),
            machine=_machine(),
            process=os.getpid(),
            processes=_processes(),
        )
        made = self._writer.create(place, _written(self._holder))
        # Ours may be there though the answer was lost; and another's, though we were told yes, where a store lets two.
        numbers, there = self._last()
        if there is None or there.token != self._holder.token:
            if made and numbers[-1:] > [number]:  # a number that was free because it is old, and was tidied away
                self._writer.delete(place)
            return False
        self._number, self._sure_until = number, begun + self._holder.seconds
        for old in numbers[:-1]:
            self._writer.delete(self._place(old))
        return True

    def check(self) -> None:
        """Make sure that the table is still held: to be called before anything is committed to it.

        Raises:
            TakenOverError: It is not, or nobody can tell.
        """
        if now() < self._sure_until and self.successor() is None:
            return
        if self._lost_to:
            raise TakenOverError(
                f"{self.table} was taken over by {self._lost_to}",
                why="this run gave no sign of life for too long, or another was told to take the table",
                remedy="nothing was committed since; when the other run has ended, run the same command again",
            )
        raise TakenOverError(
            f"{self.table} could not be held: its lease was not renewed for {self._holder.seconds:.0f} s",
            why="the store did not take this run's sign of life for so long, or the machine stood still",
            remedy="nothing was committed since; ./spark-submit.sh doctor, and when all is well the same command",
        )

    def successor(self) -> Holder | None:
        """Who has taken the table over, if anybody has."""
        if self._lost_to is None and self._numbers()[-1:] != [self._number]:
            _, self._lost_to = self._last()
        return self._lost_to

    def _renew(self) -> None:
        """Renew the lease until it is let go of, or lost: then nothing that is under way may be committed."""
        while not self._ended.wait(self._holder.seconds / _BEATS):
            begun = now()
            # A store that does not answer is asked again, until the lease has run out.
            with suppress(MachineError, OSError):
                numbers, last = self._last()
                if last and numbers[-1] >= self._number and last.token != self._holder.token:
                    self._lost_to = last
                else:
                    self._write(beat=self._holder.beat + 1, processes=_processes())
                    self._sure_until = begun + self._holder.seconds
            if self._lost_to or now() > self._sure_until:
                _cancel_spark()
                while self.in_use and not self._ended.wait(_LOOK_EVERY):
                    _cancel_spark()  # what the run has begun since
                return

    def _write(self, **changes: Any) -> None:
        with self._writing:
            if not self._holder.released:
                self._holder = replace(self._holder, **changes)
                self._writer.put(self._place(self._number), _written(self._holder))

    def abandon(self) -> None:
        """Renew the lease no more, and do not let go of the table: who comes next takes it over."""
        self._ended.set()

    def release(self) -> None:
        """Let go of the table; if the store does not take that, the lease runs out by itself."""
        self.abandon()
        if self._lost_to is None and now() < self._sure_until:
            with suppress(MachineError, OSError):
                self._write(released=True)

    def _place(self, number: int) -> str:
        return f"{self._key}/{number:012d}.json"

    def _numbers(self) -> list[int]:
        infos = self.lake.listed(self.lake.arrow_path(f"{self.lake.uri}/{self._key}"))
        names = [info.base_name.removesuffix(".json") for info in infos]
        return sorted(int(name) for name in names if name.isdigit())

    def _last(self) -> tuple[list[int], Holder | None]:
        """The numbers that are there, and the lease that counts, that of the highest; none if it was never held."""
        while numbers := self._numbers():
            place = self.lake.arrow_path(f"{self.lake.uri}/{self._place(numbers[-1])}")
            try:
                with self.lake.filesystem().open_input_stream(place) as stream:
                    return numbers, _read(stream.read())
            except OSError:
                if self._numbers()[-1:] == numbers[-1:]:
                    raise
                # It was tidied away, while it was read, by who took the next.
        return [], None


_held: dict[tuple[str, str], Lease] = {}
_lock = threading.RLock()


@contextmanager
def hold(lake: Lake, *tables: str, on_take_over: Callable[[str], None] | None = None) -> Iterator[None]:
    """Be the one run that writes these tables; a table that this process holds already stays held.

    A run that is interrupted lets go of nothing, since what it had begun may still be under way: who comes next finds
    it dead, or waits until the lease has run out.

    Args:
        lake: The lake.
        tables: The tables, below the lake; always in one order, so that no two runs wait for each other.
        on_take_over: Called with a table that the last holder had not let go of; if it fails, the table is not held,
            and it is called by who comes next.

    Raises:
        HeldError: Another run holds one of them.
    """
    taken: list[Lease] = []
    try:
        for table in sorted(tables):
            taken.append(_enter(lake, table, on_take_over))
        yield
    except Exception:
        _leave(taken)
        raise
    except BaseException:
        for lease in taken:
            lease.in_use = False
        raise
    _leave(taken)


def _enter(lake: Lake, table: str, on_take_over: Callable[[str], None] | None) -> Lease:
    with _lock:
        lease = _held.get((lake.uri, table))
        if lease is not None:
            lease._uses += 1
            lease.in_use = True
            return lease
        lease = Lease(lake, table)
        lease.take()
        try:
            if lease.taken_over and on_take_over:
                on_take_over(table)
        except BaseException:
            lease.abandon()
            raise
        lease.in_use = True
        _held[lake.uri, table] = lease
        return lease


def _leave(taken: list[Lease]) -> None:
    for lease in reversed(taken):
        with _lock:
            lease._uses -= 1
            if not lease._uses:
                del _held[lease.lake.uri, lease.table]
                lease.release()


def check(lake: Lake) -> None:
    """Make sure that every table of this lake which this process holds is still held: before anything is committed.

    Raises:
        TakenOverError: One is not.
    """
    with _lock:
        held = [lease for (uri, _), lease in _held.items() if uri == lake.uri]
    for lease in held:
        lease.check()


def succeeded(lake: Lake) -> bool:
    """Whether another run is known to have taken over a table of this lake which this process holds."""
    with _lock, suppress(MachineError, OSError):  # a store that does not answer tells of no other run
        return any(lease.successor() for (uri, _), lease in _held.items() if uri == lake.uri)
    return False


def now() -> float:
    """Seconds that only go forward, those of a machine's sleep included where the system counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _written(holder: Holder) -> bytes:
    # Of one length, whatever it says: who reads it asks for its length first, and it may be renewed between the two.
    return json.dumps(asdict(holder), indent=1).encode().ljust(_LENGTH)


def _read(text: bytes) -> Holder:
    try:
        found = json.loads(text)
        return Holder(**{**found, "processes": tuple(found["processes"])})
    except (ValueError, TypeError, KeyError):
        return _UNKNOWN


def _machine() -> str:
    """This machine since it was started, and the name space that its processes' numbers are of; empty if unknown."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _processes() -> tuple[str, ...]:
    """This process, and the JVM that writes for it."""
    numbers = [os.getpid()]
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # under spark-submit the JVM is there first, and has started us
        numbers.append(os.getppid())
    elif "pyspark" in sys.modules:
        gateway = sys.modules["pyspark"].SparkContext._gateway
        numbers += [gateway.proc.pid] if gateway else []
    return tuple(f"{number}:{start}" for number in numbers if (start := _start(number)))


def _lives(process: str) -> bool:
    number, _, start = process.partition(":")
    found = _start(int(number))
    return found == start or (found != "" and _HIDDEN in (found, start))


def _start(number: int) -> str:
    """When a process was started, in ticks since the machine was; empty if it has ended, ``?`` if that is hidden."""
    try:
        # The name of the program is in brackets, and may have brackets and blanks.
        state, *rest = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return _HIDDEN if _is_there(number) else ""


def _is_there(number: int) -> bool:
    """Whether there is such a process: one of another user's, that ``/proc`` may not show (``hidepid``), too."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _cancel_spark() -> None:
    """Have Spark give up what it does."""
    spark = sys.modules.get("pyspark")
    context = spark and spark.SparkContext._active_spark_context
    if context:
        context.cancelAllJobs()

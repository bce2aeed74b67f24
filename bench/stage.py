"""What a stage of the benchmark is: work, and those who do it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import duckdb


@dataclass(frozen=True)
class Size:
    """How much work.

    Attributes:
        name: As it is asked for.
        sensors: Accelerometers, at 100 Hz.
        minutes: How long each is simulated.
        windows: Windows of 1,024 samples that the kernel is given.
        events: Events of the waterways.
    """

    name: str
    sensors: int
    minutes: int
    windows: int
    events: int

    @property
    def samples(self) -> int:
        """Rows of the accelerometers."""
        return self.sensors * self.minutes * 6_000


SIZES = {
    size.name: size
    for size in (
        Size("small", sensors=8, minutes=10, windows=2_000, events=200_000),
        Size("medium", sensors=64, minutes=60, windows=20_000, events=10_000_000),
        Size("large", sensors=64, minutes=240, windows=80_000, events=40_000_000),
    )
}


@dataclass(frozen=True)
class Task:
    """What a contender is given.

    Attributes:
        size: How much.
        data: Folder with the input, which nobody changes.
        cores: How many it may use.
    """

    size: Size
    data: Path
    cores: int


Role = Literal["ours", "peer", "limit"]


class Contender(ABC):
    """One way to do a stage's work.

    Attributes:
        name: As the table has it.
        role: Ours; a peer, that does the same work; or a limit, that does only what cannot be left out.
        warms_up: Whether a first round is not timed; not worth it where a round takes minutes.
    """

    name: ClassVar[str]
    role: ClassVar[Role] = "peer"
    warms_up: ClassVar[bool] = True

    def __init__(self, task: Task) -> None:
        self.task = task
        self.open()

    def open(self) -> None:  # noqa: B027
        """What is done once and not timed: imports, a session, a pool."""

    def lay_out(self, out: Path) -> None:  # noqa: B027
        """What a round needs in its own empty folder, not timed."""

    @abstractmethod
    def run(self, out: Path) -> int:
        """Do the work; return how many rows (windows, events) it was."""


@dataclass(frozen=True)
class Stage:
    """Work that is timed.

    Attributes:
        name: As it is asked for.
        title: What the work is, in a line.
        unit: What is counted: rows, windows or events.
        contenders: Who does it, ours first.
        prepare: (task) -> makes the input, once.
        digest: (contender, its folder) -> what it made, so that two can be compared; None for one that makes less.
        targets: Contender -> least ratio of its time to ours.
    """

    name: str
    title: str
    unit: str
    contenders: Sequence[type[Contender]]
    prepare: Callable[[Task], None]
    digest: Callable[[str, Path], object | None]
    targets: Mapping[str, float] = field(default_factory=dict)


def fetched(query: str) -> list[tuple[Any, ...]]:
    """What DuckDB answers."""
    with duckdb.connect() as db:
        return db.execute(query).fetchall()


def linked(source: Path, target: Path) -> None:
    """The same files in another folder, without their bytes: a lake of one's own over input that is shared."""
    for folder, _, names in os.walk(source):
        place = target / Path(folder).relative_to(source)
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            os.link(os.path.join(folder, name), place / name)

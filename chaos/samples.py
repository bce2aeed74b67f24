"""Small bronzes, each made once from a seed, that arrive in a lake part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chaos.stores import put
from jobs.lake.layout import Lake
from sim.base import parameters_from, write, write_truth
from sim.catalog import SIMULATORS
from sim.faults import FaultParameters
from sim.writers import LocalWriter

PARTS = 2


@dataclass(frozen=True)
class Sample:
    """A bronze.

    Attributes:
        dataset: Its dataset.
        values: Parameters of its simulator.
        files_per_batch: So many that a part of it is two batches.
        dirt: Share of its rows, and files, that are spoiled.
    """

    dataset: str
    values: Mapping[str, object]
    files_per_batch: int = 2
    dirt: float = 0.03

    def make(self, home: Path) -> None:
        """Make its folder, a lake with nothing but bronze."""
        simulator, writer = SIMULATORS[self.dataset], LocalWriter(self.folder(home))
        parameters = parameters_from(simulator, self.values)
        for _ in write(simulator, parameters, writer, faults=FaultParameters(seed=7, rows=self.dirt, files=self.dirt)):
            continue
        write_truth(simulator, parameters, writer)

    def folder(self, home: Path) -> Path:
        """Where it is."""
        return home / "samples" / self.dataset

    def files(self, home: Path) -> list[str]:
        """Names of its files below the lake, in order of their arrival."""
        folder = self.folder(home)
        found = (path.relative_to(folder).as_posix() for path in (folder / "bronze" / self.dataset).rglob("*"))
        return sorted(name for name in found if (folder / name).is_file())

    def part(self, home: Path, number: int) -> list[str]:
        """The files of one part."""
        names = self.files(home)
        size = -(-len(names) // PARTS)
        return names[number * size : (number + 1) * size]

    def arrive(self, home: Path, lake: Lake, number: int) -> None:
        """Have a part arrive in a lake, in order: with times that are the same in every lake, if it is a folder."""
        folder, order = self.folder(home), self.files(home)
        for name in self.part(home, number):
            put(lake, name, (folder / name).read_bytes(), order.index(name))
        for path in (folder / "bronze" / "_truth").rglob("*") if number == 0 else ():
            if path.is_file():
                put(lake, path.relative_to(folder).as_posix(), path.read_bytes(), 0)


_START = {"start": "2026-01-01T00:00:00Z", "seed": 7}
SAMPLES = {
    sample.dataset: sample
    for sample in (
        Sample(
            "accelerometer",
            # Half of it in the hour, day and year after: one half can expire.
            {**_START, "start": "2025-12-31T23:59:30Z", "entities": 2, "duration": "1m", "rate_hz": 50},
            files_per_batch=6,
        ),
        Sample("devices", {**_START, "entities": 4, "duration": "6h", "interval_seconds": 300, "rollout_days": 0.2}),
        Sample("fleet", {**_START, "entities": 2, "duration": "1h"}),
        Sample("turbofan", {"entities": 4, "seed": 7}),
        Sample("waterways", {**_START, "duration": "20m", "rate_hz": 1}),
    )
}

"""One more hour: silver and gold of what is new, in a lake that holds one hour, ten or a hundred."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

from bench import suite
from bench.stage import Stage, Task, linked
from jobs import gold
from jobs.catalog import DATASETS, GOLD
from jobs.lake import cli
from jobs.silver import promote
from sim import accelerometer
from sim.accelerometer import AccelerometerParameters

SENSORS = 4
HOURS = 130
BRONZE = Path("bronze") / "accelerometer"
_SLACK = 20  # hours that a lake may have more than its name says, because every round brings one


def prepare(task: Task) -> None:
    """Hours of bronze to take from: few rows, a file for each sensor and hour."""
    parameters = {"entities": SENSORS, "duration": f"{HOURS}h", "rate_hz": 20, "seed": 7}
    suite.simulated(task, accelerometer.SIMULATOR, AccelerometerParameters.model_validate(parameters))


class After(suite.Suite):
    """Ours, with a lake that grows by an hour a round."""

    hours: ClassVar[int]

    def open(self) -> None:
        """Bring the lake to its hours, each a batch of its own, as they would have come."""
        self.place = self.task.data / f"lake-{self.hours}"
        self.every_hour = sorted({file.parent.parent for file in (self.task.data / BRONZE).glob("**/*.parquet")})
        if self._held() > self.hours + _SLACK:
            shutil.rmtree(self.place)
        for _ in range(self._held(), self.hours):
            self._arrive()
        self._bring_up(cli.context(str(self.place), overrides=[f"silver.max_files_per_batch={SENSORS}"]))

    def lay_out(self, out: Path) -> None:
        """The next hour arrives."""
        self._arrive()

    def run(self, out: Path) -> int:
        """Promote it, and compute its windows."""
        return self._bring_up(self.context(self.place))

    def _bring_up(self, context: cli.Context) -> int:
        entries = promote(context, DATASETS["accelerometer"])
        gold.bring_up(context, GOLD["sensor_spectra"])
        return sum(entry.rows_read for entry in entries)

    def _held(self) -> int:
        return len([*(self.place / BRONZE).glob("year=*/month=*/day=*/hour=*")])

    def _arrive(self) -> None:
        hour = self.every_hour[self._held()]
        linked(hour, self.place / hour.relative_to(self.task.data))


class Hundred(After):
    """A hundred hours."""

    name = "after 100 hours"
    hours = 100


class Ten(After):
    """Ten hours."""

    name = "after 10 hours"
    role = "peer"
    hours = 10


class One(After):
    """One hour."""

    name = "after 1 hour"
    role = "peer"
    hours = 1


def digest(_contender: str, _out: Path) -> object | None:
    """Nothing: each brings in another hour."""


STAGE = Stage(
    name="incremental",
    title="one more hour, in a lake that has a hundred of them, ten or one",
    unit="rows",
    contenders=(Hundred, Ten, One),
    prepare=prepare,
    digest=digest,
    targets={Ten.name: 1 / 1.3, One.name: 1 / 1.3},
)

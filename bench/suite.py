"""The suite as a contender: its jobs in one session, as a person would run them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from bench.stage import Contender, Role, Task, linked
from jobs.catalog import DATASETS
from jobs.lake import cli
from jobs.lake.cli import Context
from jobs.silver import promote
from sim.base import P, Simulator, write
from sim.faults import FaultParameters
from sim.writers import open_writer


class Suite(Contender):
    """Ours, with a session that is open."""

    name: ClassVar[str] = "sensor-lakehouse"
    role: ClassVar[Role] = "ours"

    def open(self) -> None:
        """Open the session."""
        assert self.context(Path("unused")).spark is not None

    def context(self, lake: Path) -> Context:
        """The context of a lake, with the settings that ship."""
        return cli.context(str(lake))


class OnSilver(Suite):
    """Ours, from silver on."""

    def lay_out(self, out: Path) -> None:
        """A lake that has the silver."""
        linked(self.task.data / "silver", out / "silver")


def simulated(task: Task, simulator: Simulator[P], parameters: P, faults: FaultParameters | None = None) -> None:
    """Bronze of a stage's input."""
    for _ in write(simulator, parameters, open_writer(str(task.data)), faults=faults):
        continue


def promoted(task: Task, dataset: str) -> None:
    """Make the silver of a stage's input out of its bronze."""
    context = cli.context(str(task.data))
    promote(context, DATASETS[dataset])
    context.spark.stop()

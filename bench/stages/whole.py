"""Bronze to gold: every dataset, and every table."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

from pyspark.sql import types as T

from bench import suite
from bench.script import accelerometer, devices, fleet, turbofan, waterways
from bench.script.base import Run, connect
from bench.stage import Contender, Size, Stage, Task, fetched, linked
from jobs.catalog import GOLD
from jobs.pipeline import run_stages
from sim.base import parameters_from, write_truth
from sim.catalog import SIMULATORS
from sim.writers import open_writer

DATASETS = (accelerometer, turbofan, devices, fleet, waterways)


def parameters(size: Size) -> dict[str, dict[str, object]]:
    """Simulator -> what it is asked for: at ``medium`` a million rows or so of each, but of engines."""
    return {
        "accelerometer": {"entities": max(size.sensors // 4, 2), "duration": f"{size.minutes}m", "rate_hz": 100},
        "devices": {"entities": size.sensors * 4, "duration": f"{size.minutes * 48}m"},
        "fleet": {"entities": size.sensors // 2, "duration": f"{size.minutes * 24}m"},
        "turbofan": {"entities": size.sensors * 6, "operating_conditions": 6, "test_share": 0.2},
        "waterways": {"duration": "1d", "rate_hz": round(size.events / 10 / 86_400, 3)},
    }


def prepare(task: Task) -> None:
    """Bronze of every simulator, and the truth."""
    for name, values in parameters(task.size).items():
        simulator = SIMULATORS[name]
        simulated = parameters_from(simulator, {**values, "seed": 7})
        suite.simulated(task, simulator, simulated)
        write_truth(simulator, simulated, open_writer(str(task.data)))


class Suite(suite.Suite):
    """Ours: the pipeline, with books, provenance and Delta."""

    def lay_out(self, out: Path) -> None:
        """A lake that has the bronze, and the truth in it."""
        linked(self.task.data / "bronze", out / "bronze")

    def run(self, out: Path) -> int:
        """Promote every dataset, and compute every table."""
        return sum(entry.rows_read for entry in run_stages(self.context(out)) if entry.stage == "silver")


class Script(Contender):
    """One script: DuckDB, and the same numpy in as many processes as there are cores."""

    name: ClassVar[str] = "script without Spark"

    def open(self) -> None:
        """Connect, and open the pool, whose processes load what they need in the round that warms up."""
        self.db = connect(self.task.cores)
        self.pool = ProcessPoolExecutor(self.task.cores, get_context("spawn"))

    def run(self, out: Path) -> int:
        """Write a Parquet file for each table, and silver."""
        run = Run(self.db, self.pool, self.task.data, out)
        run.begin()
        return sum(dataset.bring_up(run) for dataset in DATASETS)


def digest(contender: str, out: Path) -> object | None:
    """Of every table the rows, a hash of all that is exact, and sums of the fractions."""
    files = f"{out}/gold/{{}}/*.parquet" if contender == Suite.name else f"{out}/{{}}.parquet"
    return {name: fetched(summed(table.schema, files.format(name))) for name, table in GOLD.items()}


def summed(schema: T.StructType, files: str) -> str:
    """A query that sums up a table.

    Fractions are summed, and alike to some digits: the order of a sum is Spark's or DuckDB's to choose, and the last
    digit of a sine Java's or C's. Lists and maps of them are counted.
    """
    exact, sums = [], ["count(*)"]
    for field in schema:
        name, kind = field.name, field.dataType
        if isinstance(kind, T.FractionalType):
            sums.append(f"sum({name}::DOUBLE)")
        elif isinstance(kind, T.ArrayType | T.MapType) and "float" in kind.simpleString():
            sums.append(f"sum({'len' if isinstance(kind, T.ArrayType) else 'cardinality'}({name}))")
        elif isinstance(kind, T.TimestampType):
            exact.append(f"epoch_us({name}::TIMESTAMPTZ)")
        else:
            exact.append(f"{name}::VARCHAR")
    return f"SELECT sum(hash({', '.join(exact)})::HUGEINT), {', '.join(sums)} FROM read_parquet('{files}')"


STAGE = Stage(
    name="whole",
    title="bronze to gold, all datasets",
    unit="rows",
    contenders=(Suite, Script),
    prepare=prepare,
    digest=digest,
    targets={Script.name: 1 / 1.5},
)

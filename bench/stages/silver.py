"""Bronze to silver: read, check, drop what is there twice, order, write."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import duckdb
import polars as pl

from bench import suite
from bench.stage import Contender, Stage, Task, fetched, linked
from bench.stages.simulate import parameters
from jobs.catalog import DATASETS
from jobs.silver import promote
from sim import accelerometer
from sim.faults import FaultParameters

LIMIT = 156.9064  # m/s2, as the shipped settings have it
KEY = ["sensor_id", "event_time"]
AXES = ["ax", "ay", "az"]


def prepare(task: Task) -> None:
    """Bronze, with one row in a thousand spoiled or sent twice."""
    faults = FaultParameters(seed=7, rows=0.001, kinds=("nan", "out_of_range", "duplicate"))
    suite.simulated(task, accelerometer.SIMULATOR, parameters(task.size), faults)


def bronze(task: Task) -> str:
    """Every file of bronze, as a pattern."""
    return f"{task.data}/bronze/accelerometer/**/*.parquet"


class Suite(suite.Suite):
    """Ours: with provenance, every reason of every refusal, drift, books and Delta."""

    def lay_out(self, out: Path) -> None:
        """A lake that has the bronze."""
        linked(self.task.data / "bronze" / "accelerometer", out / "bronze" / "accelerometer")

    def run(self, out: Path) -> int:
        """Promote it."""
        entries = promote(self.context(out), DATASETS["accelerometer"])
        return sum(entry.rows_read for entry in entries)


class DuckDB(Contender):
    """One query; refused rows are dropped."""

    name: ClassVar[str] = "DuckDB"

    def open(self) -> None:
        """Connect."""
        self.db = duckdb.connect(config={"threads": self.task.cores})

    def run(self, out: Path) -> int:
        """Write one Parquet file."""
        good = " AND ".join(f"isfinite({axis}) AND abs({axis}) <= {LIMIT}" for axis in AXES)
        out.mkdir(parents=True, exist_ok=True)
        self.db.execute(
            f"""COPY (
                SELECT DISTINCT ON (sensor_id, event_time) sensor_id, event_time, ax, ay, az
                FROM read_parquet('{bronze(self.task)}', hive_types = {{'sensor_id': VARCHAR}})
                WHERE event_time >= '2000-01-01' AND event_time < '2100-01-01' AND {good}
                ORDER BY sensor_id, event_time
            ) TO '{out}/silver.parquet' (FORMAT parquet, COMPRESSION zstd)"""
        )
        return self.task.size.samples


class Polars(Contender):
    """One lazy query, streamed."""

    name: ClassVar[str] = "Polars"

    def run(self, out: Path) -> int:
        """Write one Parquet file."""
        rows = pl.scan_parquet(bronze(self.task), hive_partitioning=True, hive_schema={**_HIVE, "sensor_id": pl.String})
        good = [pl.col(axis).is_finite() & (pl.col(axis).abs() <= LIMIT) for axis in AXES]
        first, last = pl.datetime(2000, 1, 1, time_zone="UTC"), pl.datetime(2100, 1, 1, time_zone="UTC")
        out.mkdir(parents=True, exist_ok=True)
        (
            rows.filter(pl.col("event_time") >= first, pl.col("event_time") < last, *good)
            .select(*KEY, *AXES)
            .unique(KEY, keep="any")
            .sort(KEY)
            .sink_parquet(out / "silver.parquet", compression="zstd")
        )
        return self.task.size.samples


_HIVE = dict.fromkeys(("year", "month", "day", "hour"), pl.Int64)


def digest(contender: str, out: Path) -> object | None:
    """Rows, and the sum of their hashes."""
    files = f"{out}/silver/accelerometer/*.parquet" if contender == Suite.name else f"{out}/silver.parquet"
    return fetched(
        f"SELECT count(*), sum(hash(sensor_id, event_time, ax, ay, az)::HUGEINT) FROM read_parquet('{files}')"
    )


STAGE = Stage(
    name="silver",
    title="bronze to silver: check, once each, in order",
    unit="rows",
    contenders=(Suite, DuckDB, Polars),
    prepare=prepare,
    digest=digest,
    targets={DuckDB.name: 1 / 1.3},
)

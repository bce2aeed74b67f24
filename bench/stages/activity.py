"""Events per county over sliding windows."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import duckdb
import polars as pl

from bench import suite
from bench.stage import Contender, Size, Stage, Task, fetched
from jobs import gold
from jobs.catalog import GOLD
from sim.base import parameters_from
from sim.catalog import SIMULATORS

MINUTE = 60_000_000


def parameters(size: Size) -> dict[str, object]:
    """A day of events."""
    return {"duration": "1d", "rate_hz": round(size.events / 86_400, 3), "seed": 7}


def prepare(task: Task) -> None:
    """Silver, as ours writes it."""
    simulator = SIMULATORS["waterways"]
    suite.simulated(task, simulator, parameters_from(simulator, parameters(task.size)))
    suite.promoted(task, "waterways")


def silver(task: Task) -> str:
    """The files of silver, as a pattern."""
    return f"{task.data}/silver/waterways/*.parquet"


class Suite(suite.OnSilver):
    """Ours, with Delta and books."""

    def run(self, out: Path) -> int:
        """Compute gold."""
        (entry,) = gold.bring_up(self.context(out), GOLD["county_activity"])
        return entry.rows_read


class DuckDB(Contender):
    """One query, by panes of a minute as ours does it."""

    name: ClassVar[str] = "DuckDB"

    def open(self) -> None:
        """Connect."""
        self.db = duckdb.connect(config={"threads": self.task.cores})
        self.db.execute("SET TimeZone = 'UTC'")

    def run(self, out: Path) -> int:
        """Write one Parquet file."""
        out.mkdir(parents=True, exist_ok=True)
        self.db.execute(
            f"""COPY (
                WITH panes AS (
                    SELECT county, epoch_us(event_time) // {MINUTE} AS pane, waterbody_name, count(*) AS events
                    FROM read_parquet('{silver(self.task)}') WHERE event_time IS NOT NULL GROUP BY ALL
                ), spread AS (
                    SELECT county, unnest(range(pane - 4, pane + 1)) AS start, waterbody_name, events FROM panes
                ), names AS (
                    SELECT county, start, waterbody_name, sum(events) AS events FROM spread GROUP BY ALL
                ), every AS (
                    SELECT * FROM names UNION ALL
                    SELECT '(all)', start, waterbody_name, sum(events) FROM names GROUP BY ALL
                )
                SELECT county, make_timestamptz(start * {MINUTE}) AS window_start, sum(events)::BIGINT AS events,
                    count(waterbody_name) AS waterbodies, sum(events) / 5.0 AS events_per_minute
                FROM every GROUP BY county, start ORDER BY county, window_start
            ) TO '{out}/activity.parquet' (FORMAT parquet, COMPRESSION zstd)"""
        )
        return self.task.size.events


class Polars(Contender):
    """One lazy query, by the same panes."""

    name: ClassVar[str] = "Polars"

    def run(self, out: Path) -> int:
        """Write one Parquet file."""
        out.mkdir(parents=True, exist_ok=True)
        minute = pl.col("event_time").dt.epoch("us") // MINUTE
        panes = (
            pl.scan_parquet(silver(self.task))
            .filter(pl.col("event_time").is_not_null())
            .group_by("county", "waterbody_name", minute.alias("pane"))
            .agg(pl.len().alias("events"))
        )
        names = (
            panes.with_columns(pl.int_ranges(pl.col("pane") - 4, pl.col("pane") + 1).alias("start"))
            .explode("start")
            .group_by("county", "start", "waterbody_name")
            .agg(pl.col("events").sum())
        )
        total = names.group_by("start", "waterbody_name").agg(pl.col("events").sum())
        every = pl.concat([names, total.select(pl.lit("(all)").alias("county"), "start", "waterbody_name", "events")])
        (
            every.group_by("county", "start")
            .agg(pl.col("events").sum(), pl.col("waterbody_name").count().alias("waterbodies"))
            .select(
                "county",
                pl.from_epoch(pl.col("start") * MINUTE, "us").alias("window_start"),
                pl.col("events").cast(pl.Int64),
                "waterbodies",
                (pl.col("events") / 5.0).alias("events_per_minute"),
            )
            .sort("county", "window_start")
            .sink_parquet(out / "activity.parquet", compression="zstd")
        )
        return self.task.size.events


def digest(contender: str, out: Path) -> object | None:
    """Windows, and sums over them."""
    files = f"{out}/gold/county_activity/*.parquet" if contender == Suite.name else f"{out}/activity.parquet"
    return fetched(
        f"""SELECT count(*), sum(events)::BIGINT, sum(waterbodies)::BIGINT,
        sum(hash(county, epoch_us(window_start::TIMESTAMPTZ), events, waterbodies::BIGINT)::HUGEINT)
        FROM read_parquet('{files}')"""
    )


STAGE = Stage(
    name="activity",
    title="silver to gold/county_activity",
    unit="events",
    contenders=(Suite, DuckDB, Polars),
    prepare=prepare,
    digest=digest,
    targets={DuckDB.name: 0.5},
)

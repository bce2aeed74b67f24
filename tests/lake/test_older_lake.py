"""A lake that an older release wrote opens, evolves, and has its books balanced."""

from __future__ import annotations

import tarfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from bench.measure import alike
from jobs import gold, pipeline, replay, silver, simulate
from jobs.catalog import DATASETS, GOLD
from jobs.lake import cli, reporting
from jobs.lake.cli import Context
from jobs.lake.replaying import Selection

ARCHIVE = Path(__file__).parents[1] / "data" / "older_lake" / "lake.tar.gz"
DATASET = DATASETS["accelerometer"]


@pytest.fixture
def older(spark: SparkSession, tmp_path: Path) -> Context:
    """A context on the older lake."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "older"
    for log in (folder / "ops" / "checkpoints").rglob("sources/0/*"):
        log.write_text(log.read_text().replace("file:///older/", f"file://{folder}/"))
    return cli.context(str(folder), "testing")


def rows(context: Context, path: str) -> pa.Table:
    return DeltaTable(f"{context.lake.uri}/{path}").to_pyarrow_table()


def test_older_lake__takes_in_new_rows_and_a_new_column_and_balances(older: Context):
    assert silver.plan(older, DATASET)["files"] == 0  # nothing is promoted twice
    before = rows(older, "silver/accelerometer")
    refused = rows(older, "quarantine/accelerometer")
    spectra = rows(older, "gold/sensor_spectra")
    assert (before.num_rows, refused.num_rows) == (2_983, 21)
    assert "entity" not in refused.column_names

    more = {"entities": 2, "rate_hz": 50, "start": "2026-01-01T01:00:10Z", "duration": "30s", "seed": 7}
    simulate.simulate(older, "accelerometer", more)
    # A column that nobody declared, and a value that no sensor has.
    sensor = before["sensor_id"][0].as_py()
    instants = np.datetime64("2026-01-01T02:00:00", "us") + np.arange(3) * np.timedelta64(20, "ms")
    axes = dict.fromkeys(("ax", "ay"), pa.array([0.0, 0.1, 0.2], pa.float32()))
    table = pa.table(
        {
            "event_time": pa.array(instants, pa.timestamp("us", tz="UTC")),
            **axes,
            "az": pa.array([9.8, 1e6, 9.8], pa.float32()),
            "temperature": [21.5, 21.5, 21.6],
            "sensor_id": [sensor] * 3,
        }
    )
    older.lake.writer().write(table, "bronze/accelerometer", name="warm", partition_by=("sensor_id",))
    pipeline.run_stages(older)

    held = rows(older, "silver/accelerometer")
    assert held.num_rows == 2_983 + 3_000 + 2
    assert held.filter(pc.field("temperature").is_valid())["temperature"].to_pylist() == [21.5, 21.6]
    kept = duckdb.sql("SELECT * FROM before EXCEPT SELECT * EXCLUDE temperature FROM held").fetchall()
    assert kept == []
    now = rows(older, "quarantine/accelerometer")
    assert duckdb.sql("SELECT count(*), count(entity), count(event_time) FROM now").fetchall() == [(22, 1, 1)]
    assert "rows_expired" in rows(older, "ops/ledger").column_names

    # Step by step, from then to now, gold is what it would be if it were computed at once.
    order = [(name, "ascending") for name in GOLD["sensor_spectra"].key]
    found = rows(older, "gold/sensor_spectra")
    assert found.num_rows > spectra.num_rows
    gold.bring_up(older, GOLD["sensor_spectra"], rebuild=True)
    anew = rows(older, "gold/sensor_spectra")
    assert anew.schema == found.schema
    # The older rows are from another machine, whose processor may have rounded the last digit otherwise.
    assert alike(anew.sort_by(order).to_pylist(), found.sort_by(order).to_pylist(), rel_tol=1e-5, abs_tol=1e-6)
    facts = reporting.facts(older.lake, DATASET)
    assert facts.books.missing == 0
    assert (facts.rows, facts.books.quarantined, facts.books.duplicates) == (5_985, 22, 2)


def test_older_lake__what_it_refused_can_be_replayed(older: Context):
    before = reporting.facts(older.lake, DATASET)
    assert before.books.missing == 0
    (reason,) = [r for r in before.reasons if r.code == "out_of_range"]
    wide = cli.context(older.lake.uri, "testing", ["datasets.accelerometer.acceleration_limit=1e30"])
    entries = replay.replay(wide, DATASET, Selection("out_of_range"))
    assert sum(entry.rows_written for entry in entries) == reason.rows > 0
    after = reporting.facts(older.lake, DATASET)
    assert (after.rows, after.books.quarantined) == (2_983 + reason.rows, 21 - reason.rows)
    assert after.books.missing == 0

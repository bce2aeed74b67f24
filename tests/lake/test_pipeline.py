"""The whole way from bronze to gold, on a folder and on S3: nothing lost, nothing doubled, nothing done twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pytest
from pyspark.sql import SparkSession

from jobs import gold, ingest, pipeline, silver, simulate
from jobs.catalog import DATASETS, GOLD
from jobs.lake import checkpoint, cli, delta, ledger
from jobs.lake.cli import Context
from sim.faults import FaultParameters, expected_duplicates, expected_refusals
from tests.lake.conftest import killed_at

QUADRUPEDS = {"entities": 3, "start": "2026-01-01T00:59:30Z", "duration": "1m", "rate_hz": 100, "seed": 7}
ENGINES = {"entities": 6, "seed": 7}
SMALL: dict[str, dict[str, object]] = {
    "accelerometer": QUADRUPEDS,
    "devices": {"entities": 6, "duration": "4h", "rollout_days": 0.2, "seed": 7},
    "fleet": {"entities": 3, "duration": "2h", "seed": 7},
    "turbofan": ENGINES,
    "waterways": {"duration": "30m", "rate_hz": 2, "seed": 7},
}


def rows(context: Context, path: str) -> pa.Table:
    """A Delta table as a reader without Spark sees it, in an order of its own."""
    table = delta.open_table(context.lake, f"{context.lake.uri}/{path}")
    assert table is not None
    content = table.to_pyarrow_table()
    # Nested columns cannot be sorted by; the keys come first in every table.
    flat = [f.name for f in content.schema if not pa.types.is_nested(f.type)]
    return content.sort_by([(name, "ascending") for name in flat])


def simulate_all(context: Context) -> None:
    """Something of every dataset; some messages of devices are spoiled, so that there is a quarantine."""
    for name, values in SMALL.items():
        simulate.simulate(context, name, values, FaultParameters(seed=7) if name == "devices" else None)


def contents(context: Context) -> dict[str, pa.Table]:
    """Every silver and gold table."""
    paths = [*(f"silver/{name}" for name in DATASETS), *(f"gold/{name}" for name in GOLD)]
    return {path: rows(context, path) for path in paths}


def versions(context: Context) -> dict[str, int | None]:
    paths = [*(f"silver/{name}" for name in DATASETS), *(f"gold/{name}" for name in GOLD)]
    return {path: delta.latest_version(context.lake, f"{context.lake.uri}/{path}") for path in paths}


def records(context: Context, dataset: str) -> pa.Table:
    """What was injected."""
    place = context.lake.arrow_path(context.lake.truth(f"{dataset}_faults"))
    found = pads.dataset(place, filesystem=context.lake.filesystem(), ignore_prefixes=["."])
    return found.to_table()


def refusals(context: Context, dataset: str) -> Counter[str]:
    """Quarantine counted by the code of each reason."""
    reasons = rows(context, f"quarantine/{dataset}")["reasons"].to_pylist()
    return Counter(reason.split()[0] for of_row in reasons for reason in of_row)


def test_faults__are_injected_into_every_dataset():
    assert SMALL.keys() == DATASETS.keys()


@pytest.mark.parametrize(("seed", "name"), enumerate(SMALL, start=1))
def test_faults__refusals_by_reason_equal_the_injected_and_the_books_balance(lake: Context, seed: int, name: str):
    faults = FaultParameters(seed=seed, rows=0.01, files=0.5)
    simulate.simulate(lake, name, {**SMALL[name], "seed": seed}, faults)
    entries = silver.promote(lake, DATASETS[name])
    injected = records(lake, name)
    expected = expected_refusals(injected)
    assert expected, "nothing was injected"
    assert refusals(lake, name) == expected
    read, written, duplicate, quarantined, files = (
        sum(getattr(entry, field) for entry in entries)
        for field in ("rows_read", "rows_written", "rows_duplicate", "rows_quarantined", "files_quarantined")
    )
    assert duplicate == expected_duplicates(injected)
    assert quarantined == sum(n for code, n in expected.items() if code != "unreadable_file")
    assert files == expected.get("unreadable_file", 0)
    assert read == written + duplicate + quarantined
    assert written == rows(lake, f"silver/{name}").num_rows
    if name == "accelerometer":
        conflicts = expected.get("conflicting_duplicate", 0)
        assert written == 18_000 - (quarantined - conflicts)


@pytest.fixture(scope="module")
def promoted(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A lake in a folder that has all tables."""
    context = cli.context(str(tmp_path_factory.mktemp("promoted") / "lake"), "testing")
    fill(context)
    return context


def fill(context: Context) -> None:
    """Bring something of every dataset up to gold, simulated and real."""
    simulate_all(context)
    ingest.ingest(context, DATASETS["turbofan"], [engine_file("test_FD001.txt.gz")])
    pipeline.run_stages(context)


def test_pipeline__twice_changes_nothing_and_says_so(promoted: Context):
    before, at = contents(promoted), versions(promoted)
    books = rows(promoted, "ops/ledger").num_rows
    again = pipeline.run_stages(promoted)
    promoted.close_books(again)
    assert {entry.outcome for entry in again} == {ledger.NOTHING_NEW}
    assert versions(promoted) == at
    assert contents(promoted) == before
    added = rows(promoted, "ops/ledger").num_rows - books
    assert added == len(DATASETS) + len(GOLD)


def test_lake__on_s3_holds_the_rows_of_the_lake_in_a_folder(promoted: Context, s3_lake: Context):
    fill(s3_lake)
    assert contents(s3_lake) == contents(promoted)
    assert silver.plan(s3_lake, DATASETS["accelerometer"])["files"] == 0


def engine_file(name: str) -> str:
    return str(Path(__file__).parents[2] / "sim" / "data" / "turbofan" / name)


def test_simulate__the_truth_is_there_before_any_row_that_is_held_against_it(lake: Context):
    with killed_at(simulate, "write_truth"):
        simulate.simulate(lake, "accelerometer", QUADRUPEDS)
    assert checkpoint.bronze_files(lake.lake, "accelerometer") == []


def test_readers__deltalake_and_duckdb_agree_without_spark(lake: Context):
    simulate.simulate(lake, "accelerometer", QUADRUPEDS)
    silver.promote(lake, DATASETS["accelerometer"])
    gold.bring_up(lake, GOLD["sensor_spectra"])
    table = delta.open_table(lake.lake, lake.lake.silver("accelerometer"))
    assert table is not None
    held = table.to_pyarrow_dataset()
    total, low, high = duckdb.sql("SELECT count(*), min(az), max(az) FROM held").fetchall()[0]
    assert total == 18_000
    assert 5 < low < 9.8 < high < 15
    spectra = rows(lake, "gold/sensor_spectra")
    by_axis = duckdb.sql("SELECT axis, count(DISTINCT sensor_id) FROM spectra GROUP BY axis ORDER BY axis").fetchall()
    assert by_axis == [("magnitude", 3), ("x", 3), ("y", 3), ("z", 3)]
    files = table.file_uris()
    assert duckdb.sql(f"SELECT count(*) FROM read_parquet({files!r})").fetchall() == [(18_000,)]


def test_fd001__every_row_is_in_silver_and_health_falls_in_every_engine(lake: Context):
    files = [engine_file(f"{split}_FD001.txt.gz") for split in ("train", "test")]
    ingest.ingest(lake, DATASETS["turbofan"], files)
    (entry,) = silver.promote(lake, DATASETS["turbofan"])
    assert (entry.rows_written, entry.rows_quarantined, entry.rows_duplicate) == (33_727, 0, 0)
    held = rows(lake, "silver/turbofan")
    assert Counter(held["split"].to_pylist()) == {"train": 20_631, "test": 13_096}
    # By hand from the files: RUL_FD001.txt begins 112, 98; engine 1 of the test split has 31 cycles.
    first = held.filter((pc.field("split") == "test") & (pc.field("unit_number") == 1))
    assert first.filter(pc.field("cycle") == 31)["remaining_useful_life"].to_pylist() == [112]
    assert first.filter(pc.field("cycle") == 1)["remaining_useful_life"].to_pylist() == [142]
    gold.bring_up(lake, GOLD["engine_health"])
    health = rows(lake, "gold/engine_health")
    worse = duckdb.sql("""
        SELECT count(*) FILTER (last < least_new) FROM (
            SELECT unit_number, arg_max(health_index, cycle) AS last,
                   min(health_index) FILTER (cycle <= 20) AS least_new
            FROM health WHERE split = 'train' GROUP BY unit_number)
    """).fetchall()
    assert worse == [(100,)]


def test_gold__hour_by_hour_with_late_rows_equals_a_rebuild(lake: Context):
    late = simulate_in_parts(lake)
    pipeline.run_stages(lake)
    for part in late:
        simulate.simulate(lake, "accelerometer", part)
        (promoted,) = silver.promote(lake, DATASETS["accelerometer"])
        (computed,) = gold.bring_up(lake, GOLD["sensor_spectra"])
        gold.bring_up(lake, GOLD["spectra_accuracy"])
        # 20 s of one sensor touch three windows at most, on four axes.
        assert promoted.rows_written == 2_000
        assert computed.rows_written <= 3 * 4
    step_by_step = {name: rows(lake, f"gold/{name}") for name in ("sensor_spectra", "spectra_accuracy")}
    for name, before in step_by_step.items():
        assert rebuilt(lake, name) == before


def rebuilt(lake: Context, name: str) -> pa.Table:
    """A gold table that is computed anew from all of silver."""
    before = delta.latest_version(lake.lake, lake.lake.gold(name))
    (entry,) = gold.bring_up(lake, GOLD[name], rebuild=True)
    assert delta.latest_version(lake.lake, lake.lake.gold(name)) != before
    assert rows(lake, "ops/ledger")["batch_id"].to_pylist().count(entry.batch_id) == 1
    return rows(lake, f"gold/{name}")


def simulate_in_parts(lake: Context) -> list[dict[str, object]]:
    """Two sensors for two minutes around a change of hour, but for 20 s of the first; return what is left out."""
    common: dict[str, object] = {"rate_hz": 100, "seed": 7}
    simulate.simulate(
        lake, "accelerometer", {**common, "entities": 2, "start": "2026-01-01T00:59:00Z", "duration": "30s"}
    )
    pipeline.run_stages(lake)
    simulate.simulate(
        lake, "accelerometer", {**common, "entities": 2, "start": "2026-01-01T00:59:50Z", "duration": "70s"}
    )
    return [{**common, "entities": 1, "start": "2026-01-01T00:59:30Z", "duration": "20s"}]


def test_gold__engines_that_fly_on_equal_a_rebuild(lake: Context):
    simulate.simulate(lake, "turbofan", {"entities": 5, "seed": 1})
    pipeline.run_stages(lake)
    assert rows(lake, "gold/engine_summary").num_rows == 5
    simulate.simulate(lake, "turbofan", {"entities": 8, "seed": 1})
    silver.promote(lake, DATASETS["turbofan"])
    # Their health is not known yet: a summary of now would be of five engines, and stay so.
    (entry,) = gold.bring_up(lake, GOLD["engine_summary"])
    assert entry.outcome == "nothing new"
    pipeline.run_stages(lake)
    tables = ("engine_health", "engine_summary")
    step_by_step = {name: rows(lake, f"gold/{name}") for name in tables}
    assert step_by_step["engine_summary"].num_rows == 8
    for name in tables:
        assert rebuilt(lake, name) == step_by_step[name]


def test_settings__another_window_rebuilds_the_table(lake: Context, request: pytest.FixtureRequest):
    from jobs.lake import cli

    simulate.simulate(lake, "accelerometer", QUADRUPEDS)
    silver.promote(lake, DATASETS["accelerometer"])
    gold.bring_up(lake, GOLD["sensor_spectra"])
    changed = cli.context(lake.lake.uri, "testing", ["tables.sensor_spectra.window_seconds=5.12"])
    gold.bring_up(changed, GOLD["sensor_spectra"])
    spans = duckdb_spans(rows(changed, "gold/sensor_spectra"))
    assert spans == [(5_120_000,)]


def duckdb_spans(spectra: pa.Table) -> list[tuple[int]]:
    return duckdb.sql("SELECT DISTINCT date_diff('microsecond', window_start, window_end) FROM spectra").fetchall()

"""Care of tables: small files joined, old rows and unneeded files gone, and no row lost while others write."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import types as T

from jobs import gold, maintain, pipeline, simulate
from jobs.catalog import DATASETS, GOLD
from jobs.lake import cli, delta, ledger, quality, quarantine, reporting
from jobs.lake.cli import Context
from jobs.lake.delta import Transaction
from jobs.lake.errors import ConfigurationError, UsageError
from jobs.lake.maintaining import Care, Done, Kept
from jobs.lake.replaying import Replay, Selection
from jobs.lake.tables import Dataset, column
from tests.lake.conftest import TOY, Floor, counts, killed_at

TODAY = date(2026, 1, 3)
EVENTS = replace(
    TOY,
    schema=T.StructType([*TOY.schema, column("event_time", T.TimestampType(), "When", "UTC")]),
)
SILVER = Kept("silver/toy", "event_time", cluster_by=("id", "event_time"))


def care(context: Context, run_id: str = "", **settings: int) -> Care:
    changed = context.settings.maintain.model_copy(update=settings)
    return Care(lambda: context.spark, context.lake, changed, run_id or context.run_id, TODAY)


def events(*numbers: int, at: Sequence[datetime | None] | None = None) -> pa.Table:
    """A row a number: id, n, value, and an instant, as many hours after 2026-01-01 as the number says."""
    instants = at or [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in numbers]
    return pa.table(
        {
            "id": [f"e{n % 3}" for n in numbers],
            "n": pa.array(numbers, pa.int32()),
            "value": pa.array([float(n % 100) for n in numbers], pa.float32()),
            "event_time": pa.array(instants, pa.timestamp("us", tz="UTC")),
        }
    )


@pytest.fixture
def floor(lake: Context) -> Floor:
    """The toy dataset with an event time, on an empty lake."""
    return Floor(lake, EVENTS)


def strict(limit: float) -> Dataset:
    return replace(EVENTS, rules=lambda _: [quality.in_range("n", -limit, limit)])


def fill(floor: Floor, batches: int, first: int = 0) -> None:
    """Write silver in so many commits, of four rows each."""
    for number in range(first, first + batches):
        write_deltalake(floor.context.lake.silver("toy"), events(*range(4 * number, 4 * number + 4)), mode="append")


def data_files(floor: Floor, path: str = "silver/toy") -> list[str]:
    return sorted(os.path.basename(uri) for uri in DeltaTable(f"{floor.context.lake.uri}/{path}").file_uris())


def test_tidy__small_files_become_one_and_no_row_changes(floor: Floor):
    fill(floor, 5)
    before = floor.values
    tidied = care(floor.context).tidy(SILVER, cluster=False)
    assert tidied is not None
    done, entry = tidied
    assert (done.files_joined, done.files_written, done.files_removed) == (5, 1, 0)
    assert (entry.stage, entry.dataset, entry.files, entry.rows_written) == ("maintain", "silver/toy", 5, 0)
    assert entry.bytes_read == done.bytes_joined > 0
    assert len(data_files(floor)) == 1
    assert floor.values == before
    assert care(floor.context, "next").tidy(SILVER, cluster=False) is None


def test_tidy__a_file_of_half_the_target_is_left_alone(floor: Floor):
    fill(floor, 3)
    assert care(floor.context, target_file_bytes=2).tidy(SILVER, cluster=False) is None
    assert len(data_files(floor)) == 3


def test_tidy__clusters_a_table_until_more_is_written(floor: Floor):
    fill(floor, 3)
    before = floor.values
    tidied = care(floor.context).tidy(SILVER, cluster=True)
    assert tidied is not None
    assert (tidied[0].files_joined, tidied[0].files_written) == (3, 1)
    (last,) = DeltaTable(floor.context.lake.silver("toy")).history(1)
    assert json.loads(last["operationParameters"]["zOrderBy"]) == ["id", "event_time"]
    assert floor.values == before
    assert care(floor.context, "again").tidy(SILVER, cluster=True) is None
    fill(floor, 1, first=3)
    assert care(floor.context, "more").tidy(SILVER, cluster=True) is not None


def test_tidy__a_table_that_is_not_there_needs_nothing(floor: Floor):
    assert care(floor.context).tidy(SILVER, cluster=True) is None
    assert care(floor.context).expire(replace(SILVER, keep_days=1)) is None
    assert care(floor.context).look(SILVER)["files"] == 0


def age(floor: Floor, hours: float) -> None:
    """Let everything that silver has, or had, be so much older."""
    folder = Path(floor.context.lake.silver("toy"))
    then = time.time() - hours * 3600
    for file in folder.glob("*.parquet"):
        os.utime(file, (then, then))
    for log in (folder / "_delta_log").glob("*.json"):
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        for action in actions:
            if "remove" in action:
                action["remove"]["deletionTimestamp"] = int(then * 1000)
        log.write_text("".join(json.dumps(action) + "\n" for action in actions))
        log.with_name(f".{log.name}.crc").unlink(missing_ok=True)


def test_tidy__what_was_joined_is_removed_a_week_later_and_not_before(floor: Floor):
    fill(floor, 4)
    before = floor.values
    folder = Path(floor.context.lake.silver("toy"))
    (folder / "part-of-a-run-that-died.parquet").write_bytes(b"torn")
    care(floor.context).tidy(SILVER, cluster=False)
    age(floor, hours=167)
    assert care(floor.context, "sooner").tidy(SILVER, cluster=False) is None
    assert len([*folder.glob("*.parquet")]) == 6
    age(floor, hours=169)
    look = care(floor.context).look(SILVER)
    bytes_there = sum(f.stat().st_size for f in folder.glob("*.parquet"))
    tidied = care(floor.context, "later").tidy(SILVER, cluster=False)
    assert tidied is not None
    left = [*folder.glob("*.parquet")]
    assert [f.name for f in left] == data_files(floor)
    assert tidied[0] == Done(files_removed=5, bytes_freed=bytes_there - left[0].stat().st_size)
    assert (look["files_to_remove"], look["bytes_to_free"]) == (5, tidied[0].bytes_freed)
    assert floor.values == before


def test_expire__whole_days_go_and_are_booked_once(floor: Floor):
    midnight = datetime(2026, 1, 2, tzinfo=UTC)
    instants = [
        *(midnight - timedelta(days=3), midnight - timedelta(microseconds=1)),
        *(midnight, midnight + timedelta(days=9), None),
    ]
    write_deltalake(floor.context.lake.silver("toy"), events(*range(5), at=instants))
    table = replace(SILVER, keep_days=1)  # of the third of January: the second is kept
    look = care(floor.context).look(table)
    assert (look["rows_to_expire"], look["keeps_from"]) == (2, date(2026, 1, 2))
    assert len(floor.silver) == 5
    entry = care(floor.context).expire(table)
    assert entry is not None
    assert (entry.rows_expired, counts(entry)) == (2, (0, 0, 0, 0))
    assert [row["n"] for row in sorted(floor.silver, key=lambda r: r["n"])] == [2, 3, 4]
    assert care(floor.context, "again").expire(table) is None
    assert [row["rows_expired"] for row in floor.rows("ops/ledger") if row["stage"] == "maintain"] == [2]


def test_expire__a_run_that_died_before_it_could_book_is_booked_by_the_next(floor: Floor):
    fill(floor, 8)  # 32 hours
    table = replace(SILVER, keep_days=1)
    with killed_at(Care, "_book"):  # before the DELETE
        care(floor.context).expire(table)
    assert len(floor.silver) == 32
    with killed_at(ledger, "record"):
        care(floor.context).expire(table)
    assert len(floor.silver) == 8
    assert not [row for row in floor.rows("ops/ledger") if row["stage"] == "maintain"]
    # A day later there is more to expire: both are booked.
    later = replace(care(floor.context, "later"), today=TODAY + timedelta(days=1))
    later.expire(table)
    booked = [(r["batch_id"], r["rows_expired"]) for r in floor.rows("ops/ledger") if r["stage"] == "maintain"]
    assert sorted(booked) == [
        ("maintain/expiry/silver/toy/20455", 24),  # 2026-01-02 is day 20,455 of 1970
        ("maintain/expiry/silver/toy/20456", 8),
    ]


def test_maintain__while_a_promotion_runs_no_row_is_lost_or_doubled(floor: Floor):
    """A promotion appends batch after batch, and gold merges; another session compacts and clusters all along."""
    other = replace(floor.context, run_id="other")
    session = floor.context.spark.newSession()
    caring = replace(care(other), open_spark=lambda: session)
    upserts, rounds = Kept("gold/sums", cluster_by=("id",)), 0
    sums = floor.context.lake.gold("sums")
    schema = T.StructType([T.StructField("id", T.StringType()), T.StructField("total", T.LongType())])

    def write() -> None:
        for number in range(3):
            first = 10 * number
            again = [first - 1] if number else []  # each batch repeats a row of the one before
            rows = events(*again, *range(first, first + 10))
            entry = floor.promote(floor.put(f"{number}.parquet", rows), number=number)
            assert counts(entry) == (10 + len(again), 10, len(again), 0)
            found = [("a", number), (f"b{number}", number)]
            new = floor.context.spark.createDataFrame(found, schema).coalesce(1)
            if number == 0:
                delta.overwrite(floor.context.lake, new, sums, Transaction("gold/sums", number))
            else:
                delta.upsert(floor.context.lake, new, sums, ["id"], Transaction("gold/sums", number))

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(write)
        while not writing.done():
            for table in (SILVER, upserts):
                caring = replace(caring, run_id=f"care-{rounds}")
                caring.tidy(table, cluster=bool(rounds % 2))
            rounds += 1
        writing.result()
    assert rounds > 1
    assert sorted(row["n"] for row in floor.silver) == list(range(30))
    assert sorted((r["id"], r["total"]) for r in floor.rows("gold/sums")) == sorted(
        [("a", 2), *((f"b{number}", number) for number in range(3))]
    )
    operations = {c["operation"] for c in DeltaTable(floor.context.lake.silver("toy")).history()}
    assert {"WRITE", "OPTIMIZE"} <= operations


WATERWAYS = {"start": "2026-01-01T23:00:00Z", "duration": "2h", "rate_hz": 1, "seed": 3}
KEEP = "silver.keep_days.waterways=1"


def two_batches(context: Context) -> None:
    """Fill ``silver/waterways`` in two commits."""
    for seed in (1, 2):
        simulate.simulate(context, "waterways", {**WATERWAYS, "duration": "2m", "seed": seed})
        pipeline.silver.promote(context, DATASETS["waterways"])


def table_of(context: Context, path: str) -> pa.Table:
    found = delta.open_table(context.lake, f"{context.lake.uri}/{path}")
    assert found is not None
    return found.to_pyarrow_table()


def run_maintain(context: Context, path: str = "silver/waterways") -> list[Any]:
    table = {t.path: t for t in maintain.tables(context)}[path]
    caring = Care(lambda: context.spark, context.lake, context.settings.maintain, context.run_id, TODAY)
    return maintain.maintain(context, caring, table, cluster=False)


def test_expire__gold_that_tells_the_time_keeps_it_and_gold_that_sums_up_is_of_what_is_left(lake: Context):
    # Two hours about the midnight before the second of January, the first day that is kept.
    rivers = cli.context(lake.lake.uri, "testing", [KEEP])
    simulate.simulate(rivers, "waterways", WATERWAYS)
    pipeline.run_stages(rivers)
    order = [("county", "ascending"), ("window_start", "ascending")]
    activity = table_of(rivers, "gold/county_activity").sort_by(order)
    total = table_of(rivers, "silver/waterways").num_rows
    expired = next(entry.rows_expired for entry in run_maintain(rivers))
    held = table_of(rivers, "silver/waterways")
    assert 0 < expired == total - held.num_rows
    assert duckdb.sql("SELECT min(event_time) >= '2026-01-02' FROM held").fetchall() == [(True,)]

    again = replace(rivers, run_id="again")
    pipeline.run_stages(again)
    assert table_of(rivers, "gold/county_activity").sort_by(order) == activity
    profile = table_of(rivers, "gold/county_profile")
    assert (
        duckdb.sql("SELECT county, events FROM profile WHERE county <> '(all)' ORDER BY county").fetchall()
        == duckdb.sql("SELECT county, count(*) FROM held GROUP BY county ORDER BY county").fetchall()
    )
    # Computed anew, windows that silver no longer has in full stay as they were; the others come out the same.
    gold.bring_up(again, GOLD["county_activity"], rebuild=True)
    assert table_of(rivers, "gold/county_activity").sort_by(order) == activity
    facts = reporting.facts(rivers.lake, DATASETS["waterways"])
    assert (facts.books.expired, facts.books.missing) == (expired, 0)

    # Other settings leave them as they were, too.
    changed = cli.context(rivers.lake.uri, "testing", ["tables.county_activity.window_seconds=600"])
    gold.bring_up(changed, GOLD["county_activity"])
    wider = table_of(rivers, "gold/county_activity")
    found = duckdb.sql(
        """SELECT window_start >= '2026-01-02' AS kept, window_end - window_start AS length, count(*) > 0
        FROM wider GROUP BY ALL ORDER BY kept"""
    ).fetchall()
    assert found == [(False, timedelta(minutes=5), True), (True, timedelta(minutes=10), True)]


def test_expire__waits_until_gold_has_seen_the_rows(lake: Context, capfd: pytest.CaptureFixture[str]):
    two_batches(lake)
    total = table_of(lake, "silver/waterways").num_rows
    run_maintain(cli.context(lake.lake.uri, "testing", [KEEP]))
    assert "nothing expires until gold has seen it: gold --table county_activity" in capfd.readouterr().err
    assert table_of(lake, "silver/waterways").num_rows == total


def test_expire__by_a_run_that_died_is_booked_though_gold_has_yet_to_see_it(lake: Context):
    simulate.simulate(lake, "waterways", {**WATERWAYS, "duration": "2m"})
    pipeline.run_stages(lake)
    total = table_of(lake, "silver/waterways").num_rows
    keeping = cli.context(lake.lake.uri, "testing", [KEEP])
    with killed_at(ledger, "record"):
        run_maintain(keeping)
    assert table_of(lake, "silver/waterways").num_rows == 0
    run_maintain(keeping)
    booked = [row for row in table_of(lake, "ops/ledger").to_pylist() if row["rows_expired"]]
    assert [(row["dataset"], row["rows_expired"]) for row in booked] == [("silver/waterways", total)]


def test_expire__of_quarantine_is_in_the_books(floor: Floor):
    nan = events(1, 2, 3).set_column(2, "value", pa.array([1.0, float("nan"), float("nan")], pa.float32()))
    floor.promote(floor.put("a.parquet", nan), floor.put("b.parquet", b"torn"))
    assert len(floor.quarantine) == 3
    table = Kept("quarantine/toy", "quarantined_at", keep_days=5, row="source_row")
    assert care(floor.context).expire(table) is None
    later = replace(care(floor.context), today=datetime.now(UTC).date() + timedelta(days=6))
    entry = later.expire(table)
    assert entry is not None
    assert entry.rows_expired == 2
    found = reporting.facts(floor.context.lake, EVENTS)
    assert (found.books.refusals_expired, found.books.quarantined, found.books.missing) == (2, 0, 0)
    assert found.books.mended == 0
    assert found.shares["validity"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("place", [(ledger, "record"), (quarantine, "settle")])
def test_maintain__waits_for_a_replay_that_is_half_done(
    floor: Floor, capfd: pytest.CaptureFixture[str], place: tuple[Any, str]
):
    """Were its rows to expire meanwhile, they would be counted twice, and those that stay be put there again."""
    floor.promote(floor.put("a.parquet", events(50, 300)), dataset=strict(10))
    again = Replay(
        floor.context.spark, floor.context.lake, strict(100), floor.thresholds, floor.context.settings.silver,
        floor.context.run_id, Selection(),
    )  # fmt: skip
    with killed_at(*place):
        [*again.replay()]
    context = cli.context(floor.context.lake.uri, "testing")
    later = replace(care(context), today=datetime.now(UTC).date() + timedelta(days=6))
    refused = Kept("quarantine/toy", "quarantined_at", keep_days=5)
    told = "nothing is done until what was begun is finished: replay --dataset toy"
    for table in (refused, SILVER):
        assert maintain.begun(context, table) == "replay --dataset toy"
        assert maintain.maintain(context, later, table, cluster=False) == []
        assert f"maintain {table.path}: {told}" in capfd.readouterr().err
    assert len(floor.quarantine) == 2
    assert [counts(entry) for entry in again.replay()] == [(2, 1, 0, 1)]
    (expired,) = maintain.maintain(context, later, refused, cluster=False)
    assert expired.rows_expired == 1
    assert reporting.facts(floor.context.lake, EVENTS).books.missing == 0


def test_maintain__leaves_what_a_batch_that_is_half_done_compares_with(floor: Floor):
    """Joined, and a week later removed, it would be gone when the batch is repeated."""
    floor.promote(floor.put("a.parquet", events(1, 2)))
    floor.promote(floor.put("b.parquet", events(3, 4)), number=1)
    last = floor.put("c.parquet", events(4, 5))
    with killed_at(ledger, "record"):
        floor.promote(last, number=2)
    for _ in range(2):
        assert maintain.maintain(floor.context, care(floor.context), SILVER, cluster=False) == []
        age(floor, hours=200)
    assert counts(floor.promote(last, number=2)) == (2, 1, 1, 0)
    # It is in the books, and comes again until Spark has it as done.
    place = Path(floor.context.lake.checkpoint("silver", "toy"))
    for folder, waits_for in (("offsets", "silver --dataset toy"), ("commits", "")):
        (place / folder).mkdir(parents=True)
        (place / folder / "2").touch()
        assert maintain.begun(floor.context, SILVER) == waits_for
    (tidied,) = maintain.maintain(floor.context, care(floor.context), SILVER, cluster=False)
    assert (tidied.files, tidied.batch_id) == (3, "maintain/tidy/silver/toy/0")
    assert len(floor.silver) == 5


def test_maintain__of_a_lake_on_s3(s3_lake: Context):
    two_batches(s3_lake)
    before = table_of(s3_lake, "silver/waterways").sort_by("event_id")
    kept = Kept("silver/waterways", "event_time", 1, ("county", "event_time"))
    look = care(s3_lake).look(kept)
    assert (look["files"], look["small_files"], look["rows_to_expire"]) == (2, 2, before.num_rows)
    tidied = care(s3_lake).tidy(kept, cluster=False)
    assert tidied is not None
    assert tidied[0].files_written == 1
    assert table_of(s3_lake, "silver/waterways").sort_by("event_id") == before
    expired = care(s3_lake).expire(kept)
    assert expired is not None
    assert expired.rows_expired == before.num_rows
    assert table_of(s3_lake, "silver/waterways").num_rows == 0


def command(lake: Context, *arguments: str) -> object:
    """Exit code of ``maintain`` as it is typed."""
    with pytest.raises(SystemExit) as ended:
        cli.main("maintain", maintain.arguments, maintain.run, [*arguments, "--lake", lake.lake.uri])
    return ended.value.code


def test_command__plan_tells_what_there_is_to_do_and_does_nothing(lake: Context, capfd: pytest.CaptureFixture[str]):
    two_batches(lake)
    capfd.readouterr()
    before = delta.latest_version(lake.lake, lake.lake.silver("waterways"))
    assert command(lake, "--table", "all", "--plan", "--json", "--set", KEEP) == 0
    told = {row["table"]: row for row in json.loads(capfd.readouterr().out)["would maintain"]}
    rivers = told["silver/waterways"]
    assert (rivers["files"], rivers["small_files"], rivers["files_to_remove"]) == (2, 2, 0)
    assert rivers["rows_to_expire"] == table_of(lake, "silver/waterways").num_rows
    assert rivers["waits"] == "county_activity"
    assert "silver/fleet" not in told
    assert delta.latest_version(lake.lake, lake.lake.silver("waterways")) == before


def test_command__everything_and_again(lake: Context, capfd: pytest.CaptureFixture[str]):
    two_batches(lake)
    assert command(lake, "--table", "all", "--json") == 0
    books = {row["dataset"]: row for row in json.loads(capfd.readouterr().out)["books"]}
    assert books["silver/waterways"]["files"] == 2
    assert sorted(books) == ["ops/ledger", "silver/waterways"]
    assert command(lake, "--table", "silver/waterways", "--json") == 0
    (again,) = json.loads(capfd.readouterr().out)["books"]
    assert (again["dataset"], again["outcome"]) == ("silver/waterways", "nothing new")


def test_command__what_cannot_be_done_is_said():
    with pytest.raises(UsageError, match="there is no table 'silver/tides'"):
        cli.choice([t.path for t in maintain.tables(cli.context("unused", "testing"))], "silver/tides", "table")
    with pytest.raises(ConfigurationError, match=r"silver\.keep_days\.turbofan") as told:
        cli.context("unused", "testing", ["silver.keep_days.turbofan=30"])
    assert "known are accelerometer, devices, fleet, waterways" in told.value.why
    with pytest.raises(ConfigurationError, match=r"gold\.keep_days\.county_profile"):
        cli.context("unused", "testing", ["gold.keep_days.county_profile=30"])
    with pytest.raises(ConfigurationError, match=r"silver\.keep_days\.fleet = 0"):
        cli.context("unused", "testing", ["silver.keep_days.fleet=0"])
    with pytest.raises(ConfigurationError, match=r"maintain\.vacuum_hours = 24"):
        cli.context("unused", "testing", ["maintain.vacuum_hours=24"])

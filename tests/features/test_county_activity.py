"""Events per county in sliding windows, counted once more in plain Python."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs import gold, silver
from jobs.catalog import DATASETS, GOLD
from jobs.features import county_activity
from jobs.features.county_activity import SCHEMA, SILVER, ActivitySettings
from jobs.lake.cli import Context
from sim import waterways

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
Event = tuple[str, str, datetime | None]  # county, waterbody, instant
Counted = dict[tuple[str, datetime], tuple[datetime, int, int, float]]


def counted(events: Iterable[Event], length: int, slide: int) -> Counted:
    """Window by window: try every start near an event, and see whether the event is within."""
    found: dict[tuple[str, datetime], list[str]] = defaultdict(list)
    for county, waterbody, time in events:
        if time is None:
            continue
        nearest = (time - EPOCH) // timedelta(seconds=slide)
        for number in range(nearest - length // slide - 2, nearest + 2):
            start = EPOCH + timedelta(seconds=number * slide)
            if start <= time < start + timedelta(seconds=length):
                found[county, start].append(waterbody)
                found["(all)", start].append(waterbody)
    return {
        key: (key[1] + timedelta(seconds=length), len(names), len(set(names)), len(names) * 60 / length)
        for key, names in found.items()
    }


def told(rows: Iterable[dict]) -> Counted:
    return {
        (r["county"], r["window_start"]): (r["window_end"], r["events"], r["waterbodies"], r["events_per_minute"])
        for r in rows
    }


def frame(spark: SparkSession, events: list[Event]) -> DataFrame:
    rows = [(county, waterbody, None if t is None else (t - EPOCH) // MICROSECOND) for county, waterbody, t in events]
    table = spark.createDataFrame(rows, "county string, waterbody_name string, micros long")
    return table.withColumn("event_time", F.timestamp_micros("micros"))


def computed(silver: DataFrame, new: DataFrame, settings: ActivitySettings) -> Counted:
    inputs = {SILVER: silver}
    rows = county_activity.compute(inputs, county_activity.touched(new, inputs, settings), settings)
    assert rows.columns == SCHEMA.names
    assert [f.dataType for f in rows.schema] == [f.dataType for f in SCHEMA]
    table = rows.toArrow().to_pylist()
    assert len(told(table)) == len(table)
    return told(table)


def scattered(seed: int, count: int) -> list[Event]:
    """Events in a few minutes of several days, some at a whole second, some before 1970, some without time."""
    rng = random.Random(seed)
    origins = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 9)] + [EPOCH]
    events: list[Event] = []
    for _ in range(count):
        seconds = rng.uniform(-400, 400) if rng.random() < 0.7 else rng.randrange(-400, 400)
        time = rng.choice(origins) + timedelta(seconds=seconds)
        county = rng.choice(["Essex", "Erie", "St. Lawrence"])
        events.append((county, rng.choice("abcdef"), time if rng.random() < 0.9 else None))
    return events


@pytest.mark.parametrize(("length", "slide"), [(300, 60), (100, 60), (7, 7), (90, 60)])
def test_compute__equals_a_count_in_plain_python(spark: SparkSession, length: int, slide: int):
    events = scattered(length, 400)
    settings = ActivitySettings(window_seconds=length, slide_seconds=slide)
    rows = frame(spark, events)
    expected = counted(events, length, slide)
    assert computed(rows, rows, settings) == expected
    # Only the windows of three new events, and of all counties.
    new = [event for event in events if event[2]][:3]
    windows = {start for _, start in counted(new, length, slide)}
    assert computed(rows, frame(spark, new), settings) == {k: v for k, v in expected.items() if k[1] in windows}


def test_touched__reads_only_the_spans_of_its_windows(spark: SparkSession):
    settings = ActivitySettings()
    late = [("Essex", "a", datetime(2026, 1, 1, 0, 30, tzinfo=UTC)), ("Essex", "a", datetime(2026, 6, 1, tzinfo=UTC))]
    new = frame(spark, [*late])
    within = county_activity._within_touched(county_activity.touched(new, {}, settings), settings)
    asked = [datetime(2026, 1, 1, 0, m, tzinfo=UTC) for m in (24, 26, 34, 36)]
    asked += [datetime(2026, month, 1, 12, tzinfo=UTC) for month in (1, 3, 6)]
    asked += [datetime(2026, 5, 31, 23, 56, tzinfo=UTC), datetime(2026, 6, 1, 0, 4, 59, tzinfo=UTC)]
    read = frame(spark, [("Essex", "a", time) for time in asked]).where(within).toArrow()["event_time"].to_pylist()
    needed = {asked[1], asked[2], asked[7], asked[8]}
    assert needed <= set(read)
    assert not {asked[4], asked[5], asked[6]} & set(read)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("window_seconds", {"window_seconds": 0}),
        ("slide_seconds", {"slide_seconds": 0}),
        ("slide_seconds", {"slide_seconds": 301}),
        ("slide_seconds", {"window_seconds": 1441, "slide_seconds": 1}),
        ("window_seconds", {"window_seconds": 7.5}),
    ],
)
def test_settings__nonsense_is_refused_by_name(field: str, values: dict):
    with pytest.raises(ValidationError) as refusal:
        ActivitySettings.model_validate(values)
    (detail,) = refusal.value.errors()
    assert (detail["loc"] or detail["msg"].removeprefix("Value error, ").split())[0] == field


# In a lake, with late events and duplicates


def rows(context: Context, name: str) -> list[dict]:
    table = DeltaTable(context.lake.gold(name)).to_pyarrow_table().to_pylist()
    return sorted(table, key=lambda row: [str(row[key]) for key in GOLD[name].key])


def put(context: Context, name: str, table: pa.Table) -> None:
    context.lake.writer().write(table, "bronze/waterways", name=name, partition_by=("year", "month", "day", "hour"))


def test_gold__with_late_events_and_duplicates_equals_a_count_and_a_rebuild(lake: Context):
    run = waterways.WaterwaysParameters(seed=5, start="2026-01-01T00:40:00Z", duration="40m", rate_hz=2)
    events = pa.concat_tables([waterways.table(run, unit) for unit in waterways.units(run)]).unify_dictionaries()
    assert events.num_rows == 4_800
    rng = random.Random(1)
    shuffled = rng.sample(range(4_800), 4_800)
    late, on_time = shuffled[:240], sorted(shuffled[240:])  # 5 % come later
    repeated = rng.sample(range(4_800), 96)  # 2 % come twice, some of them late
    put(lake, "first", events.take(on_time + [n for n in repeated[:48] if n not in late]))
    silver.promote(lake, DATASETS["waterways"])
    for name in ("county_activity", "county_profile"):
        gold.bring_up(lake, GOLD[name])

    def plain(places: Iterable[int]) -> Counted:
        chosen = events.take(sorted(places)).to_pylist()
        return counted([(r["county"], r["waterbody_name"], r["event_time"]) for r in chosen], 300, 60)

    assert told(rows(lake, "county_activity")) == plain(on_time)
    put(lake, "late", events.take(late + repeated))
    (promoted,) = silver.promote(lake, DATASETS["waterways"])
    assert (promoted.rows_written, promoted.rows_duplicate) == (240, 96)
    for name in ("county_activity", "county_profile"):
        gold.bring_up(lake, GOLD[name])
    assert told(rows(lake, "county_activity")) == plain(range(4_800))
    for name in ("county_activity", "county_profile"):
        step_by_step = rows(lake, name)
        gold.bring_up(lake, GOLD[name], rebuild=True)
        assert rows(lake, name) == step_by_step
    (everything,) = [row for row in rows(lake, "county_profile") if row["county"] == "(all)"]
    assert (everything["events"], everything["listings"], everything["places"]) == (4_800, 0, 544)

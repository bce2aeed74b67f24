"""Events per county in sliding windows, counted once more in plain Python."""

from __future__ import annotations

import json
import random
import shutil
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pydantic import ValidationError
from pyspark.sql.pandas.types import to_arrow_schema

from jobs import gold, silver
from jobs.catalog import DATASETS, GOLD
from jobs.features.county_activity import SCHEMA, ActivitySettings, activity
from jobs.ingest import ingest
from jobs.lake.cli import Context
from jobs.lake.tables import ALL
from jobs.lake.windowed import merge_runs
from sim import waterways

PUBLISHED = Path(__file__).parents[2] / "sim/data/waterways/Recommended_Fishing_Rivers_And_Streams.csv.gz"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
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


def table(events: Iterable[Event]) -> pa.Table:
    """Rows as a task of windows reads them: texts as a dictionary, and none without a time."""
    counties, waterbodies, times = zip(*(event for event in events if event[2]), strict=True)
    return pa.table(
        {
            "event_time": pa.array(times, pa.timestamp("us", "UTC")),
            "county": pa.array(counties).dictionary_encode(),
            "waterbody_name": pa.array(waterbodies),
        }
    )


def computed(events: Iterable[Event], settings: ActivitySettings, windows: Sequence[tuple[int, int]]) -> Counted:
    found = activity(table(events), settings, {ALL: windows})
    assert found.schema.equals(to_arrow_schema(SCHEMA))
    rows = found.to_pylist()
    assert len(told(rows)) == len(rows)
    return told(rows)


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


@pytest.mark.parametrize(("length", "slide"), [(300, 60), (100, 60), (7, 7), (90, 60), (1440, 1)])
def test_activity__equals_a_count_in_plain_python(length: int, slide: int):
    events = scattered(length, 400)
    settings = ActivitySettings(window_seconds=length, slide_seconds=slide)
    expected = counted(events, length, slide)
    assert computed(events, settings, [(-(10**10), 10**10)]) == expected
    # Only some windows, apart from each other.
    wanted = sorted({(start - EPOCH) // timedelta(seconds=slide) for _, start in expected})[::3]
    windows = merge_runs((number, number) for number in wanted)
    starts = {EPOCH + timedelta(seconds=number * slide) for number in wanted}
    assert computed(events, settings, windows) == {k: v for k, v in expected.items() if k[1] in starts}


def test_activity__no_events():
    nothing = table([("Essex", "a", EPOCH)]).slice(0, 0)
    assert activity(nothing, ActivitySettings(), {ALL: [(0, 5)]}).num_rows == 0


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("window_seconds", {"window_seconds": 0}),
        ("window_seconds", {"window_seconds": 10**13}),
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


def test_gold__of_a_list_alone_has_no_events_and_stops_nothing(lake: Context):
    ingest(lake, DATASETS["waterways"], [str(PUBLISHED)])
    silver.promote(lake, DATASETS["waterways"])
    for name in ("county_activity", "county_profile"):
        gold.bring_up(lake, GOLD[name])
    assert rows(lake, "county_activity") == []
    (everything,) = [row for row in rows(lake, "county_profile") if row["county"] == "(all)"]
    assert (everything["events"], everything["listings"]) == (0, 544)
    run = waterways.WaterwaysParameters(seed=5, start="2026-01-01T00:40:00Z", duration="1m", rate_hz=1)
    events = pa.concat_tables([waterways.table(run, unit) for unit in waterways.units(run)]).unify_dictionaries()
    put(lake, "events", events)
    silver.promote(lake, DATASETS["waterways"])
    gold.bring_up(lake, GOLD["county_activity"])
    assert told(rows(lake, "county_activity")) == counted(
        [(r["county"], r["waterbody_name"], r["event_time"]) for r in events.to_pylist()], 300, 60
    )


def rewritten(context: Context, name: str) -> None:
    """Have a data file of silver's take another name, as compaction does, and remove it, as VACUUM does later."""
    folder = Path(context.lake.silver("waterways"))
    logs = sorted((folder / "_delta_log").glob("*.json"))
    (add,) = [
        action["add"] for log in logs for line in log.read_text().splitlines()
        if (action := json.loads(line)).get("add", {}).get("path") == name
    ]  # fmt: skip
    shutil.move(folder / name, folder / f"joined-{name}")
    actions = [
        {"commitInfo": {"timestamp": 0, "operation": "OPTIMIZE", "operationParameters": {}}},
        {"remove": {"path": name, "deletionTimestamp": 1, "dataChange": False}},
        {"add": {**add, "path": f"joined-{name}", "dataChange": False}},
    ]
    (folder / "_delta_log" / f"{len(logs):020d}.json").write_text("\n".join(map(json.dumps, actions)))


def test_gold__of_windows_whose_older_rows_are_in_another_file_by_now(lake: Context):
    run = waterways.WaterwaysParameters(seed=5, start="2026-01-01T00:40:00Z", duration="4m", rate_hz=1)
    events = pa.concat_tables([waterways.table(run, unit) for unit in waterways.units(run)]).unify_dictionaries()
    put(lake, "first", events.slice(0, 120))
    silver.promote(lake, DATASETS["waterways"])
    gold.bring_up(lake, GOLD["county_activity"])
    (name,) = [path.name for path in Path(lake.lake.silver("waterways")).glob("*.parquet")]
    put(lake, "second", events.slice(120))
    silver.promote(lake, DATASETS["waterways"])
    rewritten(lake, name)
    gold.bring_up(lake, GOLD["county_activity"])
    assert told(rows(lake, "county_activity")) == counted(
        [(r["county"], r["waterbody_name"], r["event_time"]) for r in events.to_pylist()], 300, 60
    )

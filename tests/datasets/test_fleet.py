"""Fleet rules over a plain Spark window: what is refused, what is not, and exactly the faults that were injected."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from pydantic import ValidationError
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from jobs.datasets.fleet import DATASET, STATUSES, FleetSettings, clean, jumps, rules
from jobs.lake import quality
from jobs.lake.cli import Context
from sim import fleet as simulator
from sim.faults import FaultParameters, dirty
from tests.lake.conftest import Floor, counts

START = datetime(2026, 1, 5, 8, tzinfo=UTC)
ARRIVED = START + timedelta(hours=1)
COLUMNS = "robot_id string, site_id string, event_time timestamp, latitude double, longitude double, battery_v float"
METRE = math.degrees(1 / 6_371_008.8)  # degrees of latitude


def jump(settings: FleetSettings) -> Column:
    """The dataset's only check of neighbours, over a plain window."""
    (check,) = jumps(settings, Window.partitionBy("robot_id").orderBy("event_time"))
    return check


def good(name: str, **other: object) -> tuple[object, ...]:
    row = {"site_id": "albany", "event_time": START, "latitude": 42.6, "longitude": -73.7, "battery_v": 48.0}
    return (name, *(row | {"status": "idle"} | other).values())


def refusals(rows: DataFrame, settings: FleetSettings) -> dict[str, list[str]]:
    checked = clean(rows.withColumn("_arrived_at", F.lit(ARRIVED)))
    found = checked.select("robot_id", quality.all_reasons(rules(settings)).alias("reasons")).collect()
    return {row.robot_id: [reason.split(":")[0] for reason in row.reasons] for row in found}


def test_rules__say_what_is_wrong_and_leave_the_rest(spark: SparkSession):
    rows = [
        good("good"),
        good("no status, battery or site", status=None, battery_v=None, site_id=None),
        good("untidy", status=" Working ", site_id=" "),
        good("poles", latitude=-90.0, longitude=180.0),
        good("equator", latitude=0.0),
        good("clock a little fast", event_time=ARRIVED + timedelta(seconds=299)),
        good("tomorrow", event_time=ARRIVED + timedelta(seconds=301)),
        good("long ago", event_time=datetime(1999, 12, 31, tzinfo=UTC)),
        good("north of the pole", latitude=90.01),
        good("nowhere", latitude=0.0, longitude=0.0),
        good("NaN", longitude=math.nan),
        good("infinite", battery_v=math.inf),
        good("12 V", battery_v=12.0),
        good("charger gone mad", battery_v=60.5),
        good("dancing", status="dancing"),
        good("two reasons", status="", latitude=-91.0, battery_v=0.0),
    ]
    assert refusals(spark.createDataFrame(rows, f"{COLUMNS}, status string"), FleetSettings()) == {
        "good": [],
        "no status, battery or site": [],
        "untidy": [],
        "poles": [],
        "equator": [],
        "clock a little fast": [],
        "tomorrow": ["in_future event_time"],
        "long ago": ["out_of_range event_time"],
        "north of the pole": ["out_of_range latitude"],
        "nowhere": ["out_of_range latitude"],
        "NaN": ["not_finite longitude"],
        "infinite": ["not_finite battery_v"],
        "12 V": ["out_of_range battery_v"],
        "charger gone mad": ["out_of_range battery_v"],
        "dancing": ["unknown_value status"],
        "two reasons": ["out_of_range latitude", "out_of_range battery_v"],
    }


def test_promote__instants_that_stand_for_none_are_refused_row_by_row(lake: Context):
    """The last second of SQL, the first of .NET: neighbours are looked for as far as the calendar goes."""
    floor = Floor(lake, DATASET, FleetSettings())

    def fixes(*times: datetime) -> pa.Table:
        count = len(times)
        when = pa.array(times, pa.timestamp("us", "UTC"))
        place = {"latitude": [42.6] * count, "longitude": [-73.7] * count}
        return pa.table({"robot_id": ["a"] * count, "event_time": when, **place})

    first, second = (datetime(2026, 1, 1, 0, 0, seconds, tzinfo=UTC) for seconds in (0, 1))
    floor.promote(floor.put("a.parquet", fixes(first)))
    ends = [datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)]
    entry = floor.promote(floor.put("b.parquet", fixes(first, *ends, second)), number=1)
    assert counts(entry) == (4, 1, 1, 2)
    reason = "out_of_range event_time: not within 2000-01-01 to 2100-01-01"
    assert [(row, reasons[0]) for _, row, reasons in floor.refused] == [(1, reason), (2, reason)]


def test_clean__trims_and_knows_empty_text(spark: SparkSession):
    rows = spark.createDataFrame(
        [good("a", status=" WORKING", site_id=" x "), good("b", status=" ", site_id="")], f"{COLUMNS}, status string"
    )
    assert [(r.site_id, r.status) for r in clean(rows).orderBy("robot_id").collect()] == [
        ("x", "working"),
        (None, None),
    ]


# Tracks as metres north of a start, a fix each 5 s; at 5 m/s and 10 m of error, 35 m can be reached, and 60 m in 10 s.
TRACKS: dict[str, tuple[Sequence[int], set[int]]] = {
    "a walk": ((0, 10, 20, 30, 40), set()),
    "one fix": ((0,), set()),
    "two fixes apart: either may be wrong": ((0, 5_000), set()),
    "amid": ((0, 5, 5_000, 10, 15), {2}),
    "amid three": ((0, 5_000, 10), {1}),
    "first": ((5_000, 0, 5, 10), {0}),
    "last": ((0, 5, 10, 5_000), {3}),
    "second": ((0, 5_000, 5, 10), {1}),
    "last but one": ((0, 5, 5_000, 10), {2}),
    "two in a row, each its own way": ((0, 5, 5_000, -5_000, 10, 15), {2, 3}),
    "a good one between two": ((0, 5, 5_000, 10, -5_000, 15, 20), {2, 4}),
    "carried away: both ends hold together": ((0, 5, 10, 5_000, 5_005, 5_010), set()),
    "within reach of the one after the next": ((0, 0, 59, 0, 0), set()),
    "beyond it": ((0, 0, 61, 0, 0), {2}),
}


def test_jumps__by_hand(spark: SparkSession):
    rows = [
        good(name, event_time=START + timedelta(seconds=5 * n), latitude=42.6 + metres * METRE)
        for name, (track, _) in TRACKS.items()
        for n, metres in enumerate(track)
    ]
    table = spark.createDataFrame(rows, f"{COLUMNS}, status string").repartition(3)
    found = table.withColumn("reason", jump(FleetSettings())).where("reason IS NOT NULL").collect()
    assert {row.reason.split()[0] for row in found} == {"jump"}
    refused: dict[str, set[int]] = {name: set() for name in TRACKS}
    for row in found:
        refused[row.robot_id].add((row.event_time.replace(tzinfo=UTC) - START) // timedelta(seconds=5))
    assert refused == {name: wrong for name, (_, wrong) in TRACKS.items()}


def test_jumps__time_makes_room_and_the_settings_count(spark: SparkSession):
    minutes = [0, 1, 30, 31]  # 29 minutes at 5 m/s are 8.7 km
    rows = [
        good("ferry", event_time=START + timedelta(minutes=m), latitude=42.6 + km * 1_000 * METRE)
        for m, km in zip(minutes, (0, 0, 8, 0), strict=True)
    ]
    table = spark.createDataFrame(rows, f"{COLUMNS}, status string")
    assert [count_jumps(table, FleetSettings(speed_limit_m_s=speed)) for speed in (5, 4, 200)] == [0, 1, 0]


def count_jumps(table: DataFrame, settings: FleetSettings) -> int:
    return table.select(jump(settings).alias("reason")).where("reason IS NOT NULL").count()


def test_faults__exactly_the_injected_rows_are_refused(spark: SparkSession):
    """Three seeds, 6 % of the rows; other seeds are other robots, so that one Spark job judges all."""
    files, records = [], []
    for seed in (1, 2, 3):
        params = simulator.FleetParameters(seed=seed, entities=9)
        (unit,) = simulator.units(params)
        kinds = ("jump", "unknown_value", "future", "nan", "infinity", "out_of_range", "late", "out_of_order")
        faults = FaultParameters(seed=seed, rows=0.06, kinds=kinds)
        spoiled = dirty(simulator.table(params, unit), f"unit-{seed}", faults, simulator.FAULTS)
        files += [file.content.cast(plain_text(file.content.schema)) for file in spoiled.files]
        records += spoiled.records.to_pylist()
    table = clean(spark.createDataFrame(pa.concat_tables(files)).withColumn("_arrived_at", F.lit(ARRIVED)))
    judged = table.withColumn("reasons", quality.all_reasons(rules(FleetSettings()))).repartition(2, "robot_id")
    valid = judged.where(F.size("reasons") == 0)
    jumped = valid.withColumn("reasons", F.array(jump(FleetSettings()))).where("reasons[0] IS NOT NULL")
    refused = judged.where(F.size("reasons") > 0).unionByName(jumped).collect()
    expected = [record for record in records if record["expected"] != "accepted"]
    assert Counter(f"refused:{reason.split()[0]}" for row in refused for reason in row.reasons) == Counter(
        record["expected"] for record in expected
    )
    ahead = timedelta(days=365)  # one from the future has another instant than the record
    found = {(r.robot_id, r.event_time.replace(tzinfo=UTC)) for r in refused}
    present = {instant for instant in found if instant[1] < START + ahead}
    assert present == {
        (record["robot_id"], datetime.fromisoformat(record["event_time"]))
        for record in expected
        if record["kind"] != "future"
    }
    assert sum(record["kind"] == "jump" for record in records) > 100


def plain_text(schema: pa.Schema) -> pa.Schema:
    return pa.schema([(f.name, pa.string() if pa.types.is_dictionary(f.type) else f.type) for f in schema])


def test_dataset__has_what_the_simulator_makes():
    params = simulator.FleetParameters(entities=1)
    rows = simulator.table(params, simulator.units(params)[0])
    assert DATASET.schema.names == rows.column_names
    assert simulator.STATUSES == STATUSES
    assert simulator.FAULTS.key == DATASET.key
    settings = FleetSettings()
    assert simulator.FAULTS.measured["battery_v"] == (settings.lowest_voltage, settings.highest_voltage)
    assert {f.name for f in DATASET.schema if f.nullable} == {"site_id", "battery_v", "status"}
    assert all(f.metadata["comment"] for f in DATASET.schema)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("speed_limit_m_s", {"speed_limit_m_s": 0}),
        ("position_error_m", {"position_error_m": -1}),
        ("future_tolerance_seconds", {"future_tolerance_seconds": -1}),
        ("highest_voltage", {"lowest_voltage": 50, "highest_voltage": 40}),
        ("latest", {"latest": "1999-01-01T00:00:00Z"}),
        ("earliest", {"earliest": "2000-01-01T00:00:00"}),
    ],
)
def test_settings__nonsense_is_refused_by_name(field: str, values: dict):
    with pytest.raises(ValidationError) as refusal:
        FleetSettings.model_validate(values)
    (detail,) = refusal.value.errors()
    assert (detail["loc"] or detail["msg"].removeprefix("Value error, ").split())[0] == field

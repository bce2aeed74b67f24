"""Fleet status: against plain Python, the simulator's truth and a real bus track; step by step equals a rebuild."""

from __future__ import annotations

import csv
import gzip
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession

from jobs.datasets.fleet import DATASET
from jobs.features import fleet_status
from jobs.features.fleet_status import KEY, SCHEMA, STATUSES, TABLE, FleetStatusSettings
from jobs.lake.tables import ALL, Grouped
from sim import fleet as simulator

BUS = Path(__file__).parents[1] / "data" / "fleet" / "liverpool_bus_route14_outbound.csv.gz"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = datetime(2026, 1, 5, 8, tzinfo=UTC)
Row = dict[str, Any]


def second(n: float) -> datetime:
    return START + timedelta(seconds=n)


def silver(spark: SparkSession, rows: Iterable[Row] | pa.Table) -> DataFrame:
    if isinstance(rows, pa.Table):
        return spark.createDataFrame(rows.cast(pa.schema([(f.name, plain(f.type)) for f in rows.schema])))
    return spark.createDataFrame([tuple(row[n] for n in DATASET.schema.names) for row in rows], DATASET.schema)


def plain(kind: pa.DataType) -> pa.DataType:
    return pa.string() if pa.types.is_dictionary(kind) else kind


def computed(held: DataFrame, new: DataFrame, settings: FleetStatusSettings) -> pd.DataFrame:
    """What the table's own functions make of new rows, by key."""
    assert isinstance(TABLE.how, Grouped)
    inputs = {"silver/fleet": held}
    told = TABLE.how.compute(inputs, TABLE.how.touched(new, inputs, settings), settings)
    assert [(f.name, f.dataType) for f in told.schema] == [(f.name, f.dataType) for f in SCHEMA]
    rows = told.toPandas()
    assert not rows.duplicated(list(KEY)).any()
    return rows.set_index(list(KEY)).sort_index()


def haversine(a: Row, b: Row) -> float:
    """By the chord between two points of a sphere."""

    def point(row: Row) -> np.ndarray:
        y, x = math.radians(row["latitude"]), math.radians(row["longitude"])
        return np.array([math.cos(y) * math.cos(x), math.cos(y) * math.sin(x), math.sin(y)])

    return 2 * 6_371_008.8 * math.asin(float(np.linalg.norm(point(a) - point(b))) / 2)


# By plain Python

SQUARE = ((10.0, 20.0), (10.0, 20.01), (10.01, 20.01), (10.01, 20.0))  # about 1.1 km, with robots by its east side
SETTINGS = FleetStatusSettings(window_seconds=120, max_gap_seconds=30, min_step_m=2, sites={"square": SQUARE})


def expected(rows: Sequence[Row], settings: FleetStatusSettings) -> dict[tuple[str, datetime], Row]:
    """The table, one fix after another; the slope by a regression with a column for each status."""
    tracks: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["event_time"]):
        tracks[row["robot_id"]].append(row)
    length = timedelta(seconds=settings.window_seconds)
    windows: dict[tuple[str, datetime], list[tuple[Row, Row | None]]] = defaultdict(list)
    for robot, track in tracks.items():
        for before, row in zip([None, *track], track, strict=False):
            start = EPOCH + (row["event_time"] - EPOCH) // length * length
            gone = before and (row["event_time"] - before["event_time"]).total_seconds()
            known = before if gone and gone <= settings.max_gap_seconds else None
            windows[robot, start].append((row, known))
            windows[ALL, start].append((row, known))
    found = {key: summed(steps, settings) for key, steps in windows.items()}
    for (robot, start), row in found.items():
        if robot == ALL:
            each = [other for key, other in found.items() if key[0] != ALL and key[1] == start]
            left = [other["minutes_left"] for other in each if other["minutes_left"] is not None]
            row.update(robots=len(each), battery_slope_v_h=None, minutes_left=min(left, default=None))
            row.update(dict.fromkeys(("site_id", "last_latitude", "last_longitude", "last_status")))
        row["window_end"] = start + length
    return found


def summed(steps: list[tuple[Row, Row | None]], settings: FleetStatusSettings) -> Row:
    covered = metres = top = 0.0
    shares, outside, faults, charges = dict.fromkeys(STATUSES, 0.0), [], 0, 0
    for row, before in steps:
        faults += row["status"] == "fault" and (before is None or before["status"] != "fault")
        charges += row["status"] == "charging" and (before is None or before["status"] != "charging")
        known_site = row["site_id"] in settings.sites
        if before is None:
            outside += [0.0] * known_site
            continue
        seconds = (row["event_time"] - before["event_time"]).total_seconds()
        way = haversine(before, row)
        way = way if way >= settings.min_step_m else 0.0
        covered, metres, top = covered + seconds, metres + way, max(top, way / seconds)
        if before["status"]:
            shares[before["status"]] += seconds
        in_square = 10 <= before["latitude"] < 10.01 and 20 <= before["longitude"] < 20.01
        if known_site:
            outside.append(0.0 if in_square or before["site_id"] not in settings.sites else seconds)
    told = sum(shares.values())
    last = max((row for row, _ in steps), key=lambda row: row["event_time"])
    volts = [row["battery_v"] for row, _ in steps if row["battery_v"] is not None]
    slope, level = line_of([row for row, _ in steps])
    is_falling = slope is not None and slope < 0 and last["status"] != "charging"
    return {
        "site_id": last["site_id"],
        "robots": 1,
        "samples": len(steps),
        "covered_seconds": covered,
        "distance_m": metres,
        "mean_speed_m_s": metres / covered if covered else None,
        "top_speed_m_s": top if covered else None,
        **{f"{status}_share": shares[status] / told if told else None for status in STATUSES},
        "battery_mean_v": np.mean(volts) if volts else None,
        "battery_min_v": min(volts, default=None),
        "battery_slope_v_h": slope,
        "minutes_left": 60 * max(level - settings.empty_voltage, 0) / -slope if slope and is_falling else None,
        "outside_seconds": sum(outside) if outside else None,
        "faults": faults,
        "charges": charges,
        "last_seen": last["event_time"],
        **{f"last_{name}": last[name] for name in ("latitude", "longitude", "status")},
    }


def line_of(rows: list[Row]) -> tuple[float | None, float]:
    """Slope, and level at the last reading, of parallel lines: one for each status, site and time between charges."""
    groups: dict[tuple[object, ...], list[tuple[float, float]]] = defaultdict(list)
    charges, last = 0, None
    for row in sorted(rows, key=lambda row: row["event_time"]):
        charges += row["status"] == "charging"
        if row["status"] != "charging" and row["battery_v"] is not None:
            hours = (row["event_time"] - START).total_seconds() / 3_600
            last = (row["status"], row["site_id"], charges)
            groups[last].append((hours, row["battery_v"]))
    if not any(len(group) > 1 for group in groups.values()):
        return None, math.nan
    names = list(groups)
    lines = [[hours, *(float(key == name) for name in names)] for key in names for hours, _ in groups[key]]
    values = [volts for key in names for _, volts in groups[key]]
    found = np.linalg.lstsq(np.array(lines), np.array(values), rcond=None)[0]
    return float(found[0]), float(found[0] * groups[last][-1][0] + found[1 + names.index(last)])


def wanderers(count: int = 3, fixes: int = 120) -> list[Row]:
    """Robots that report at odd times, with gaps, pauses, nulls, and off the square at times."""
    rng = np.random.default_rng(11)
    waits, odds = [0.25, 3.0, 7.5, 29.999, 30.0, 30.001, 400.0], [0.2, 0.3, 0.3, 0.05, 0.05, 0.05, 0.05]
    rows = []
    for robot in range(count):
        time, latitude, longitude, volts, status = 0.0, 10.005, 20.0098, 50.0 + robot, "idle"
        for n in range(fixes):
            time += float(rng.choice(waits, p=odds))
            if rng.random() < 0.6:
                latitude += float(rng.normal(0, 4e-5))
                longitude += float(rng.normal(0, 4e-4))
            if rng.random() < 0.2:
                status = str(rng.choice(STATUSES))
            volts += 0.05 if status == "charging" else -0.01
            reading = volts + (0.3 if status == "idle" else 0.0) + float(rng.normal(0, 0.003))
            rows.append(
                {
                    "robot_id": f"robot-{robot}",
                    "site_id": [None, "square", "elsewhere"][robot % 3] if n % 50 else "square",
                    "event_time": second(time),
                    "latitude": latitude,
                    "longitude": longitude,
                    "battery_v": None if rng.random() < 0.05 else float(np.float32(round(reading, 4))),
                    "status": None if rng.random() < 0.05 else status,
                }
            )
    return rows


def test_compute__equals_plain_python(spark: SparkSession):
    rows = wanderers()
    told = computed(silver(spark, rows).repartition(3), silver(spark, rows), SETTINGS)
    wanted = expected(rows, SETTINGS)
    assert {(robot, start.replace(tzinfo=UTC)) for robot, start in told.index} == set(wanted)
    assert len(wanted) > 50
    filled: dict[str, int] = defaultdict(int)
    for (robot, start), row in told.iterrows():
        hoped = wanted[robot, start.replace(tzinfo=UTC)]
        for name, value in hoped.items():
            found = row[name]
            place = f"{robot} {start} {name}"
            if value is None:
                assert pd.isna(found), place
            elif isinstance(value, datetime):
                assert found.replace(tzinfo=UTC) == value, place
            elif isinstance(value, str):
                assert found == value, place
            else:
                filled[name] += bool(value)
                # The slope counts time in millionths of a window, of which the shortest step here has 2,000.
                tolerance = 1e-3 if name in ("battery_slope_v_h", "minutes_left") else 2e-6
                assert found == pytest.approx(value, rel=tolerance, abs=2e-6), place
    assert min(filled.values()) >= 10, filled


def window(row: Row) -> int:
    return (row["event_time"] - EPOCH) // timedelta(seconds=SETTINGS.window_seconds)


def test_compute__step_by_step_equals_a_rebuild(spark: SparkSession):
    """Late rows in many places; the last one ends its window, so that the step after it is in another."""
    rows = sorted(wanderers(), key=lambda row: (row["event_time"], row["robot_id"]))
    track = [row for row in rows if row["robot_id"] == "robot-0"]
    edge = next(
        row
        for row, after in pairwise(track)
        if window(row) < window(after) and after["event_time"] - row["event_time"] < timedelta(seconds=10)
    )
    late = [row for n, row in enumerate(rows) if (n % 17 == 0 or n in (1, 2)) and row is not edge]
    kept = [row for row in rows if row not in late and row is not edge]
    steps = [kept[:100], kept[100:], late, [edge]]
    told: pd.DataFrame | None = None
    for n, new in enumerate(steps):
        held = silver(spark, [row for step in steps[: n + 1] for row in step])
        found = computed(held.repartition(2, "latitude"), silver(spark, new), SETTINGS)
        told = found if told is None else pd.concat([told[~told.index.isin(found.index)], found]).sort_index()
    everything = silver(spark, rows)
    rebuilt = computed(everything.repartition(3), everything, SETTINGS)
    pd.testing.assert_frame_equal(told, rebuilt, check_exact=True)


def test_touched__the_windows_of_a_row_and_of_the_step_after_it(spark: SparkSession):
    row = wanderers(1, 1)[0]

    def starts(moment: float, settings: FleetStatusSettings) -> list[float]:
        found = fleet_status.touched(silver(spark, [row | {"event_time": second(moment)}]), settings).collect()
        return sorted(r.window_us / 1e6 - START.timestamp() for r in found)

    assert starts(10, SETTINGS) == [0]
    assert starts(89.9, SETTINGS) == [0]
    assert starts(90, SETTINGS) == [0, 120]
    assert starts(0, FleetStatusSettings(window_seconds=60, max_gap_seconds=150)) == [0, 60, 120]


def test_compute__reads_only_what_the_windows_need(spark: SparkSession):
    """From the largest gap before the window to its end, as literals: Delta leaves out files by them."""
    rows = wanderers(1, 40)
    windows = fleet_status.touched(silver(spark, rows[:1]), SETTINGS)
    plan = fleet_status.compute(silver(spark, rows), windows, SETTINGS)._jdf.queryExecution().optimizedPlan().toString()
    (condition,) = [line for line in plan.splitlines() if "Filter" in line and "event_time" in line]
    assert f">= {second(-30):%Y-%m-%d %H:%M:%S}" in condition
    assert f"< {second(120):%Y-%m-%d %H:%M:%S}" in condition


# Against the simulator's truth


def test_compute__agrees_with_the_simulated_truth(spark: SparkSession):
    params = simulator.FleetParameters(seed=5, entities=6, duration="4h", outside_chance=0.1, fault_chance=0.05)
    table = pa.concat_tables([simulator.table(params, unit) for unit in simulator.units(params)]).unify_dictionaries()
    rows = silver(spark, table)
    told = computed(rows, rows, FleetStatusSettings()).reset_index()
    robots = told[told.robot_id != ALL]
    truth = simulator.truth(params).to_pandas().groupby("robot_id").sum(numeric_only=True)
    each = robots.groupby("robot_id").sum(numeric_only=True)
    np.testing.assert_allclose(each.covered_seconds, truth.seconds, atol=5)
    np.testing.assert_allclose(each.distance_m, truth.distance_m, rtol=0.05)
    np.testing.assert_allclose(each.outside_seconds, truth.outside_seconds, rtol=0.05, atol=20)
    for status in STATUSES:
        seconds = (robots[f"{status}_share"] * robots.covered_seconds).groupby(robots.robot_id).sum()
        np.testing.assert_allclose(seconds / 14_400, truth[f"{status}_seconds"] / 14_400, atol=0.01)
    assert truth.outside_seconds.min() > 100
    assert abs(each.faults.sum() - truth.faults.sum()) <= 2
    assert truth.faults.sum() > 5
    assert each.charges.sum() == pytest.approx(truth.charges.sum(), abs=2)
    assert robots.top_speed_m_s.max() < 2.3
    fleet = told[told.robot_id == ALL]
    assert len(fleet) == 48
    assert fleet.robots.tolist() == [6] * 48
    assert fleet.distance_m.sum() == pytest.approx(robots.distance_m.sum())
    assert fleet.faults.sum() == robots.faults.sum()
    # Where a robot is left alone for a window, voltage falls by 1 to 8 V/h, and never rises.
    at_work = robots[(robots.charging_share == 0) & (robots.working_share + robots.moving_share > 0.9)]
    assert len(at_work) > 50
    assert at_work.battery_slope_v_h.between(-9, -0.4).all()
    assert robots[robots.last_status == "charging"].minutes_left.isna().all()


def test_compute__minutes_left_are_those_until_the_voltage_is_reached(spark: SparkSession):
    """Compared with when the simulated voltage comes down to the level, whatever the robot does until then."""
    params = simulator.FleetParameters(seed=9, entities=4, duration="4h", fault_chance=0, outside_chance=0)
    table = pa.concat_tables([simulator.table(params, unit) for unit in simulator.units(params)]).unify_dictionaries()
    rows = silver(spark, table)
    settings = FleetStatusSettings(window_seconds=900, empty_voltage=49.0)
    told = computed(rows, rows, settings).reset_index()
    readings = table.to_pandas()
    readings["event_time"] = readings.event_time.dt.tz_localize(None)
    errors = []
    for row in told[(told.robot_id != ALL) & told.minutes_left.between(10, 40)].itertuples():
        after = readings[(readings.robot_id.astype(str) == row.robot_id) & (readings.event_time >= row.last_seen)]
        low = after[(after.battery_v <= settings.empty_voltage)].event_time.min()
        if pd.notna(low) and "charging" not in set(after[after.event_time < low].status):
            errors.append(row.minutes_left - (low - row.last_seen).total_seconds() / 60)
    assert len(errors) >= 4
    assert np.median(np.abs(errors)) < 10


def test_settings__sites_are_those_of_the_simulator():
    assert FleetStatusSettings().sites == simulator.SITES
    assert STATUSES == simulator.STATUSES


# Against a real track


def bus_track() -> list[Row]:
    with gzip.open(BUS, "rt", encoding="utf-8") as file:
        return [
            {
                "robot_id": line["vehicle_id"],
                "site_id": None,
                "event_time": datetime.fromisoformat(line["timestamp"]).replace(tzinfo=UTC),
                "latitude": float(line["latitude"]),
                "longitude": float(line["longitude"]),
                "battery_v": None,
                "status": None,
            }
            for line in csv.DictReader(file)
        ]


def test_compute__a_real_bus_track(spark: SparkSession):
    track = bus_track()
    assert len(track) == 1_533
    rows = silver(spark, track)
    settings = FleetStatusSettings(max_gap_seconds=120, min_step_m=0)
    told = computed(rows, rows, settings).reset_index()
    buses = told[told.robot_id != ALL]
    each = buses.groupby("robot_id").sum(numeric_only=True)
    pauses = 0
    for bus, metres in each.distance_m.items():
        fixes = sorted((row for row in track if row["robot_id"] == bus), key=lambda row: row["event_time"])
        steps = [(b["event_time"] - a["event_time"], haversine(a, b)) for a, b in pairwise(fixes)]
        counted = [way for time, way in steps if time <= timedelta(seconds=120)]
        pauses += len(steps) - len(counted)
        assert metres == pytest.approx(sum(counted), rel=1e-6)
        # The way back to the first stop, 5 to 9 km in one step, is in no window.
        assert metres < sum(way for _, way in steps) - 150
    assert pauses == 9
    assert each.samples.sum() == 1_533
    assert 10 < buses.top_speed_m_s.max() < 16
    assert each.distance_m.sum() / each.covered_seconds.sum() == pytest.approx(5, abs=2)
    unknown = [name for name in SCHEMA.names if name.endswith("_share") or name.startswith("battery")]
    assert told[[*unknown, "minutes_left", "outside_seconds", "last_status"]].isna().all(axis=None)


def test_compute__the_fleet_has_every_bus_of_a_window(spark: SparkSession):
    track = bus_track()
    rows = silver(spark, track)
    told = computed(rows, rows, FleetStatusSettings(max_gap_seconds=120)).reset_index()
    fleet = told[told.robot_id == ALL].set_index("window_start")
    frame = pd.DataFrame(track)
    by_window = frame.groupby(frame.event_time.dt.tz_localize(None).dt.floor("5min"))
    assert fleet.robots.to_dict() == by_window.robot_id.nunique().to_dict()
    assert fleet.samples.to_dict() == by_window.size().to_dict()


# Definition


def test_schema__documented():
    assert all(field.metadata["comment"] for field in SCHEMA)
    assert set(TABLE.look) <= set(SCHEMA.names)
    assert SCHEMA.names[:2] == list(KEY)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("window_seconds", {"window_seconds": 0}),
        ("max_gap_seconds", {"max_gap_seconds": 0}),
        ("min_step_m", {"min_step_m": -1}),
        ("empty_voltage", {"empty_voltage": 0}),
        ("sites", {"sites": {"a": [[0, 0], [1, 1]]}}),
        ("sites", {"sites": {"a": [[0, 0], [1, 1], [91, 0]]}}),
    ],
)
def test_settings__nonsense_is_refused_by_name(field: str, values: dict):
    with pytest.raises(ValidationError) as refusal:
        FleetStatusSettings.model_validate(values)
    assert {detail["loc"][0] for detail in refusal.value.errors()} == {field}

"""Simulated robots: the same bytes, plausible motion and batteries, truth as the rows show it, faults as recorded."""

from __future__ import annotations

import math
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import ValidationError

from sim import fleet
from sim.base import Unit, write
from sim.faults import FaultParameters, dirty
from sim.fleet import FAULTS, SIMULATOR, SITES, STATUSES, FleetParameters, open_circuit_v, table, truth, units
from sim.writers import LocalWriter

METRES_PER_DEGREE = 6_371_008.8 * math.pi / 180
DAY = {"seed": 7, "entities": 6, "duration": "24h"}
QUIET = {"gps_noise_m": 0, "voltage_noise_v": 0}


def frame(**values: object) -> pd.DataFrame:
    params = FleetParameters.model_validate(values)
    rows = pa.concat_tables([table(params, unit) for unit in units(params)]).unify_dictionaries().to_pandas()
    for name in ("robot_id", "site_id", "status"):
        rows[name] = rows[name].astype(str)
    return rows.sort_values(["robot_id", "event_time"], ignore_index=True)


@pytest.fixture(scope="module")
def day() -> pd.DataFrame:
    return frame(**DAY)


@pytest.fixture(scope="module")
def quiet_day() -> pd.DataFrame:
    return frame(**DAY, **QUIET)


def metres(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Steps north and east, by robot; NaN for the first."""
    steps = rows.groupby("robot_id")[["latitude", "longitude"]].diff() * METRES_PER_DEGREE
    return steps.latitude, steps.longitude * np.cos(np.radians(rows.latitude))


def is_outside(rows: pd.DataFrame) -> np.ndarray:
    """By angles: seen from inside, the corners go once around."""
    angle = np.zeros(len(rows))
    for site, corners in SITES.items():
        here = (rows.site_id == site).to_numpy()
        scale = math.cos(math.radians(corners[0][0]))
        towards = [
            (lon - rows.longitude[here]) * scale + 1j * (lat - rows.latitude[here])
            for lat, lon in (*corners, corners[0])
        ]
        turns = [np.angle(after / before) for before, after in pairwise(towards)]
        angle[here] = np.abs(sum(turns))
    return angle < math.pi


# Motion


def test_table__robots_drive_at_a_walking_pace_and_stand_when_they_do_not_drive(quiet_day: pd.DataFrame):
    north, east = metres(quiet_day)
    speed = np.hypot(north, east) / 5
    assert speed.max() <= 1.81
    before = quiet_day.groupby("robot_id").status.shift()
    both_driving = (quiet_day.status == "moving") & (before == "moving")
    assert speed[both_driving].mean() == pytest.approx(1.25, abs=0.15)
    assert speed[(quiet_day.status != "moving") & (before == quiet_day.status)].max() < 0.01


def test_table__a_drive_has_a_bend(quiet_day: pd.DataFrame):
    north, east = metres(quiet_day)
    heading = np.arctan2(east, north)
    status = quiet_day.groupby("robot_id").status
    amid = (quiet_day.status == "moving") & (status.shift() == "moving") & (status.shift(2) == "moving")
    turn = np.abs((heading.diff()[amid] + np.pi) % (2 * np.pi) - np.pi)
    assert 0.05 < (turn > 0.1).mean() < 0.5


def test_table__robots_leave_the_site_now_and_then_or_never(quiet_day: pd.DataFrame):
    assert 0.002 < is_outside(quiet_day).mean() < 0.05
    assert not is_outside(frame(**DAY, **QUIET, outside_chance=0)).any()
    assert is_outside(frame(**DAY, **QUIET, outside_chance=1))[quiet_day.status == "working"].mean() > 0.3


def test_table__noise_is_in_metres_per_axis(quiet_day: pd.DataFrame):
    noisy = frame(**DAY, gps_noise_m=2.5)
    north = (noisy.latitude - quiet_day.latitude) * METRES_PER_DEGREE
    east = (noisy.longitude - quiet_day.longitude) * METRES_PER_DEGREE * np.cos(np.radians(noisy.latitude))
    for error in (north, east):
        assert error.mean() == pytest.approx(0, abs=0.05)
        assert error.std() == pytest.approx(2.5, rel=0.02)


def test_table__robots_share_the_sites_in_turn(day: pd.DataFrame):
    assert day.groupby("site_id").robot_id.nunique().to_dict() == dict.fromkeys(SITES, 2)
    assert set(day.groupby("robot_id").site_id.nunique()) == {1}
    for site, rows in day.groupby("site_id"):
        middle = np.mean(SITES[str(site)], axis=0)
        assert (rows[["latitude", "longitude"]] - middle).abs().to_numpy().max() < 0.003


# Status


def runs(rows: pd.DataFrame) -> list[tuple[str, int, int]]:
    """Status, first row and number of rows of each run, by robot; those that the record cuts are left out."""
    found = []
    for _, robot in rows.groupby("robot_id"):
        place = int(robot.index[0])
        lengths = [(status, len(list(group))) for status, group in groupby(robot.status)]
        for status, length in lengths:
            found.append((status, place, length))
            place += length
        found = [run for run in found if run[1] != robot.index[0] and run[1] + run[2] != robot.index[-1] + 1]
    return found


def test_table__status_follows_the_work(day: pd.DataFrame):
    after = {status: set() for status in STATUSES}
    for robot in (group for _, group in day.groupby("robot_id")):
        order = [status for status, _ in groupby(robot.status)]
        for a, b in pairwise(order):
            after[a].add(b)
    # A wait or a drive can be shorter than the time between two fixes, and so not be seen.
    assert after["charging"] == {"idle"}
    assert "charging" not in after["idle"] | after["fault"]
    assert after["moving"] >= {"working", "charging", "idle"}
    assert after["idle"] <= {"moving", "working", "fault"}


@pytest.mark.parametrize(("status", "mean"), [("working", 300), ("fault", 300)])
def test_table__stays_last_as_long_as_their_distribution_says(status: str, mean: float):
    rows = frame(**DAY | {"entities": 30}, fault_chance=0.1)
    lengths = np.array([5 * length for name, _, length in runs(rows) if name == status])
    assert len(lengths) > 200
    assert lengths.mean() == pytest.approx(mean, rel=0.15)
    assert lengths.std() == pytest.approx(mean / math.sqrt(3 if status == "working" else 2), rel=0.2)


def test_table__no_breakdowns_where_none_are_asked_for():
    rows = frame(**DAY, fault_chance=0)
    assert set(rows.status) == {"idle", "moving", "working", "charging"}


def test_table__a_task_has_one_breakdown_at_most():
    rows = frame(**DAY, fault_chance=1)
    counts = pd.Series([status for status, _, _ in runs(rows)]).value_counts()
    # All tasks break down, and 85 % of them have work.
    assert counts["fault"] / counts["working"] == pytest.approx(1 / 0.85, rel=0.05)


# Battery


@pytest.mark.parametrize(("charge", "volts"), [(0.0, 34.50), (0.1, 47.77), (0.5, 49.44), (1.0, 53.34)])
def test_open_circuit_v__is_that_of_thirteen_cells(charge: float, volts: float):
    # By hand from equation 3 of Chen and Rincon-Mora, 2006.
    assert open_circuit_v(np.array([charge]))[0] == pytest.approx(volts, abs=0.01)


def test_table__the_battery_falls_at_work_and_recovers_on_charge(quiet_day: pd.DataFrame):
    volts = quiet_day.battery_v.to_numpy().astype(float)
    assert 46 < volts.min() < 48.5
    assert 53.5 < volts.max() <= 54.61
    charges = works = 0
    for status, first, length in runs(quiet_day):
        course = volts[first : first + length]
        if status == "charging":
            charges += 1
            assert 40 < length * 5 / 60 < 75
            assert (np.diff(course) >= -0.011).all()
            assert volts[first - 1] < 49
            assert course[0] > volts[first - 1] + 1.5
            assert course[-1] > 53.5
            assert np.ptp(course[-140:]) < 0.011  # constant voltage
        elif status == "working" and length > 20:
            works += 1
            assert course[-1] < course[0]
            assert (np.diff(course) <= 0.011).all()
    assert charges >= 30
    assert works > 300


def test_table__load_makes_the_voltage_sag(quiet_day: pd.DataFrame):
    """From waiting (60 W) to driving (300 W) the current rises by 5 A, and 5 A x 0.08 ohm are 0.4 V."""
    before = quiet_day.groupby("robot_id").status.shift()
    starts = (before == "idle") & (quiet_day.status == "moving")
    drops = quiet_day.battery_v.diff()[starts]
    assert drops.between(-0.62, -0.25).all()
    assert drops.mean() == pytest.approx(-0.4, abs=0.05)


# Truth


def test_truth__is_what_four_fixes_a_second_show():
    asked = {"seed": 3, "entities": 30, "start": "2026-03-01T01:20:00Z", "duration": "2h", "outside_chance": 0.2}
    asked |= {"fault_chance": 0.1}
    rows = frame(**asked, **QUIET, rate_hz=4)
    told = truth(FleetParameters.model_validate(asked)).to_pandas()
    assert len(told) == 90
    assert told.groupby("robot_id").seconds.sum().unique() == pytest.approx([7_200])
    north, east = metres(rows)
    rows["step"], rows["outside"] = np.hypot(north, east), is_outside(rows) / 4
    for status in STATUSES:
        rows[status] = (rows.status == status) / 4
    before = rows.groupby("robot_id").status.shift()
    rows["faults"] = (rows.status == "fault") & (before != "fault") & before.notna()
    rows["charges"] = (rows.status == "charging") & (before != "charging") & before.notna()
    rows["hour"] = rows.event_time.dt.floor("h")
    seen = rows.groupby(["robot_id", "hour"]).sum(numeric_only=True)
    told = told.set_index(["robot_id", "hour"]).sort_index()
    assert told.outside_seconds.sum() > 600
    assert told.faults.sum() > 30
    assert told.charges.sum() >= 10
    np.testing.assert_allclose(told.distance_m, seen.step, rtol=0.003, atol=0.5)
    np.testing.assert_allclose(told.outside_seconds, seen.outside, atol=1)
    for status in STATUSES:
        np.testing.assert_allclose(told[f"{status}_seconds"], seen[status], atol=5)
    assert told.faults.tolist() == seen.faults.tolist()
    assert told.charges.tolist() == seen.charges.tolist()
    assert told[[f"{status}_seconds" for status in STATUSES]].sum(axis=1).to_numpy() == pytest.approx(told.seconds)


# The same bytes, the right shape, the refusals


def test_table__columns_have_the_types_of_the_contract():
    params = FleetParameters(entities=2, duration="10m")
    rows = table(params, units(params)[0])
    text = "dictionary<values=string, indices=int32, ordered=0>"
    assert {field.name: str(field.type) for field in rows.schema} == {
        "robot_id": text,
        "site_id": text,
        "event_time": "timestamp[us, tz=UTC]",
        "latitude": "double",
        "longitude": "double",
        "battery_v": "float",
        "status": text,
    }
    assert rows.num_rows == 2 * 120
    assert all(column.null_count == 0 for column in rows.columns)


def test_write__the_third_hour_alone_has_the_bytes_of_the_whole_run(tmp_path: Path):
    whole = FleetParameters(entities=3, seed=7, duration="5h")
    third = FleetParameters(entities=3, seed=7, start="2026-01-01T02:00:00Z", duration="1h")
    list(write(SIMULATOR, whole, LocalWriter(tmp_path / "whole")))
    list(write(SIMULATOR, whole, LocalWriter(tmp_path / "reverse"), units(whole)[::-1]))
    list(write(SIMULATOR, third, LocalWriter(tmp_path / "third")))
    files = {
        name: {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.parquet")}
        for name in ("whole", "reverse", "third")
    }
    assert len(files["whole"]) == 5
    assert files["reverse"] == files["whole"]
    assert len(files["third"]) == 1
    assert files["third"].items() <= files["whole"].items()
    assert "year=2026/month=01/day=01/hour=02/robots-00000-00002-20260101T02" in str(*files["third"])


def test_table__costs_only_the_shifts_that_its_hour_touches(monkeypatch: pytest.MonkeyPatch):
    opened = []
    plain = fleet.generator
    monkeypatch.setattr(fleet, "generator", lambda *key: (opened.append(key), plain(*key))[1])
    params = FleetParameters(entities=40, start="2026-05-05T00:00:00Z", duration="1h")
    table(params, units(params)[0])
    # One for each robot, one for its noise, and one or two shifts: a quarter of the robots change within an hour.
    assert 120 <= len(opened) <= 140


def test_table__part_of_an_hour_is_cut_from_the_whole():
    whole = frame(entities=2, seed=5, duration="1h", rate_hz=1)
    part = frame(entities=2, seed=5, start="2026-01-01T00:20:10.5Z", end="2026-01-01T00:31:00Z", rate_hz=1)
    inside = whole[whole.event_time.between(part.event_time.min(), part.event_time.max())]
    assert len(part) == 2 * 649
    pd.testing.assert_frame_equal(part, inside.reset_index(drop=True))


def test_table__a_robot_is_the_same_among_few_or_many_and_another_by_seed():
    few, many, other = (frame(entities=n, seed=seed) for n, seed in ((3, 1), (130, 1), (3, 2)))
    pd.testing.assert_frame_equal(few, many[many.robot_id.isin(few.robot_id)].reset_index(drop=True))
    assert many.robot_id.nunique() == 130
    assert not set(few.robot_id) & set(other.robot_id)


def test_units__hold_many_robots_and_a_bounded_number_of_rows():
    params = FleetParameters(entities=250, duration="2h")
    assert [unit.entity for unit in units(params)] == [0, 1, 2, 0, 1, 2]
    assert table(params, units(params)[0]).num_rows == 72_000
    fast = FleetParameters(entities=9, duration="1h", rate_hz=10)
    assert len(units(fast)) == 5
    assert table(fast, units(fast)[0]).num_rows == 72_000


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("entities", {"entities": 0}),
        ("rate_hz", {"rate_hz": 0}),
        ("rate_hz", {"rate_hz": 1_000}),
        ("gps_noise_m", {"gps_noise_m": -1}),
        ("outside_chance", {"outside_chance": 1.5}),
        ("fault_chance", {"fault_chance": -0.1}),
        ("duration", {"duration": "0s"}),
        ("duration", {"duration": "1h", "end": "2026-01-02T00:00:00Z"}),
        ("end", {"end": "2025-01-01T00:00:00Z"}),
        ("speed", {"speed": 1}),
    ],
)
def test_parameters__nonsense_is_refused_by_name(field: str, values: dict):
    with pytest.raises(ValidationError) as refusal:
        FleetParameters.model_validate(values)
    (detail,) = refusal.value.errors()
    assert (detail["loc"] or detail["msg"].removeprefix("Value error, ").split())[0] == field


# Faults of its own


def spoiled(kind: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Clean rows, the file with faults of one kind, and the record."""
    params = FleetParameters(entities=5, seed=2)
    clean = table(params, Unit("x", 0, units(params)[0].start, units(params)[0].stop))
    unit = dirty(clean, "x", FaultParameters(seed=4, rows=0.05, kinds=(kind,)), FAULTS)
    (file,) = unit.files
    assert isinstance(file.content, pa.Table)
    assert file.content.schema == clean.schema
    return clean.to_pandas(), file.content.to_pandas(), unit.records.to_pandas()


def test_faults__a_jump_is_of_kilometres_and_stays_on_the_globe():
    clean, found, records = spoiled("jump")
    north = (found.latitude - clean.latitude) * METRES_PER_DEGREE / 1_000
    east = (found.longitude - clean.longitude) * METRES_PER_DEGREE * np.cos(np.radians(clean.latitude)) / 1_000
    away = np.hypot(north, east)
    assert (away > 0).sum() == len(records) == 180
    assert away[away > 0].between(10, 201).all()
    assert set(records.expected) == {"refused:jump"}
    same = [name for name in clean if name not in ("latitude", "longitude")]
    pd.testing.assert_frame_equal(found[same], clean[same])


def test_faults__the_future_is_decades_away_and_each_row_keeps_an_instant_of_its_own():
    clean, found, records = spoiled("future")
    ahead = found.event_time - clean.event_time
    moved = ahead > pd.Timedelta(0)
    assert moved.sum() == len(records) == 180
    assert ahead[moved].nunique() == 1
    assert pd.Timedelta(days=39 * 365) < ahead.max() < pd.Timedelta(days=41 * 365)
    assert not found.duplicated(["robot_id", "event_time"]).any()
    assert set(records.expected) == {"refused:in_future"}


def test_faults__a_status_that_is_none():
    clean, found, records = spoiled("unknown_value")
    strange = ~found.status.isin(STATUSES)
    assert strange.sum() == len(records) == 180
    assert (found.status.astype(str)[~strange] == clean.status.astype(str)[~strange]).all()
    assert set(records.expected) == {"refused:unknown_value"}

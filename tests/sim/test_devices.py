"""Simulated stations: their physics, their two versions, and messages that say what the rows say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sim.base import write
from sim.devices import CLOCKS, NO_VERSION, SIMULATOR, V1, V2, DeviceParameters, encode, table, truth, units
from sim.faults import FaultParameters, dirty, expected_refusals
from sim.writers import LocalWriter

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
TIMESTAMP = pa.timestamp("us", tz="UTC")


def params(**values: object) -> DeviceParameters:
    return DeviceParameters.model_validate({"seed": 7, "duration": "6h", **values})


def rows_of(run: DeviceParameters) -> pa.Table:
    return pa.concat_tables([table(run, unit) for unit in units(run)])


def frame(run: DeviceParameters) -> pd.DataFrame:
    rows = rows_of(run).to_pandas()
    names = rows.select_dtypes("category").columns
    return rows.astype(dict.fromkeys(names, object)).sort_values(["device_id", "event_time"], ignore_index=True)


@pytest.fixture(scope="module")
def week() -> pd.DataFrame:
    return frame(params(entities=40, duration="7d", interval_seconds=300, rollout_days=3))


@pytest.fixture(scope="module")
def stations() -> pd.DataFrame:
    return truth(params(entities=40, duration="7d", interval_seconds=300, rollout_days=3)).to_pandas()


# What the stations measure


def test_table__columns_and_types():
    run = params(entities=3)
    text = pa.dictionary(pa.int16(), pa.string())
    numbers = ("temperature", "humidity", "battery_level", "latitude", "longitude", "pressure", "kept")
    assert {field.name: field.type for field in table(run, units(run)[0]).schema} == {
        "device_id": text,
        "event_time": TIMESTAMP,
        **dict.fromkeys(numbers, pa.float64()),
        "firmware_version": text,
        "schema_version": pa.int8(),
        "clock": text,
        "utc_offset": pa.int16(),
        "arrived_at": TIMESTAMP,
    }


def test_table__values_are_valid_and_rounded_as_sensors_do(week: pd.DataFrame):
    for name, low, high, decimals in (
        ("temperature", -40, 60, 2),
        ("humidity", 1, 100, 1),
        ("battery_level", 20, 100, 1),
        ("pressure", 950, 1070, 1),
        ("latitude", -90, 90, 5),
        ("longitude", -180, 180, 5),
    ):
        values = week[name].dropna().to_numpy()
        assert values.min() >= low
        assert values.max() <= high
        assert all(len(repr(v).partition(".")[2]) <= decimals for v in values[:5_000].tolist())


def test_table__temperature_has_a_daily_cycle_that_is_warmest_at_three_in_the_afternoon(stations: pd.DataFrame):
    run = params(entities=40, duration="30d", interval_seconds=1800)
    rows = frame(run).merge(stations[["device_id", "longitude"]], on="device_id", suffixes=("", "_true"))
    time = rows.event_time.astype("datetime64[us, UTC]").astype("int64") / 3.6e9
    angle = 2 * np.pi * ((time + rows.longitude_true / 15) % 24) / 24
    warmest = []
    for _, group in rows.groupby("device_id"):
        turn = angle[group.index]
        phasor = np.mean((group.temperature - group.temperature.mean()) * np.exp(1j * turn))
        assert 1 < 2 * abs(phasor) < 8
        warmest.append(np.angle(phasor) * 24 / (2 * np.pi) % 24)
    assert np.mean(warmest) == pytest.approx(15, abs=0.3)


def test_table__neighbouring_samples_are_alike_and_humidity_falls_when_it_warms(week: pd.DataFrame):
    steps = week.groupby("device_id")[["temperature", "pressure"]].diff().abs()
    assert steps.temperature.quantile(0.99) < 1.5
    assert steps.pressure.quantile(0.99) < 1
    correlation = [group.temperature.corr(group.humidity) for _, group in week.groupby("device_id")]
    assert max(correlation) < -0.5


def test_table__humidity_is_that_of_a_dew_point():
    # By the tables of moist air: 10 degC dew point at 20 degC is 52.5 % humidity; the station's own dew point is
    # what the inverse of the formula gives, and it changes slowly.
    rows = frame(params(entities=1, duration="1d", interval_seconds=600, noise_scale=0, gap_share=0))
    rows = rows[rows.humidity < 100]
    x = np.log(rows.humidity / 100) + 17.625 * rows.temperature / (243.04 + rows.temperature)
    dew_point = 243.04 * x / (17.625 - x)
    assert dew_point.diff().abs().max() < 0.5
    assert (dew_point < rows.temperature).all()


def test_table__battery_falls_slowly_and_recharges(week: pd.DataFrame):
    levels = week[week.schema_version == V2].groupby("device_id").battery_level
    steps = levels.diff().dropna()
    assert (steps > -0.2).mean() > 0.99  # at most 80 % in 5 days: 0.06 % in five minutes
    assert (steps <= 0).mean() > 0.95
    assert steps.max() > 2  # 80 % in three hours


# Versions


def test_table__the_version_follows_the_rollout(week: pd.DataFrame, stations: pd.DataFrame):
    rollout = week.device_id.map(stations.set_index("device_id").rollout)
    assert (week.schema_version == np.where(week.event_time >= rollout, V2, V1)).all()
    only_v2 = ["battery_level", "firmware_version", "latitude", "longitude", "pressure"]
    assert week.loc[week.schema_version == V1, only_v2].isna().all(axis=None)
    assert week.loc[week.schema_version == V2, only_v2].notna().all(axis=None)
    assert week[["temperature", "humidity"]].notna().all(axis=None)
    assert 20 < stations.rollout.notna().sum() < 40
    assert stations.rollout.dropna().between(START, START + timedelta(days=3)).all()


def test_table__a_day_as_it_comes_shows_both_versions():
    assert set(frame(params(entities=8, duration="1d")).schema_version) == {V1, V2}


def test_table__none_or_all_are_updated():
    assert set(frame(params(entities=5, rollout_share=0)).schema_version) == {V1}
    assert set(frame(params(entities=5, rollout_share=1, rollout_days=0)).schema_version) == {V2}


def test_table__clocks(week: pd.DataFrame, stations: pd.DataFrame):
    clock = week.device_id.map(stations.set_index("device_id").clock)
    assert (week.clock == np.where(week.schema_version == V2, "iso", clock)).all()
    assert set(stations.clock) == {"seconds", "milliseconds"}
    micro = week.event_time.astype("datetime64[us, UTC]").astype("int64")
    assert (micro % 1_000 == 0).all()
    assert (micro[clock == "seconds"] % 1_000_000 == 0).all()
    assert stations.utc_offset.nunique() > 5
    assert (week.utc_offset == week.device_id.map(stations.set_index("device_id").utc_offset)).all()


# Time


def test_table__every_station_sends_once_an_interval_but_in_its_gaps(week: pd.DataFrame, stations: pd.DataFrame):
    gaps = {row.device_id: [(g["start"], g["stop"]) for g in row.gaps] for row in stations.itertuples()}
    assert sum(map(len, gaps.values())) == pytest.approx(0.2 * 7 * 40, rel=0.4)
    assert all(start < stop <= start + 6 * HOUR for spans in gaps.values() for start, stop in spans)
    for device, group in week.groupby("device_id"):
        first = group.event_time.iloc[0]
        expected = pd.date_range(first, START + timedelta(days=7), freq="300s", unit="us")
        silent = [any(start <= t < stop for start, stop in gaps[device]) for t in expected]
        assert first < START + timedelta(seconds=300) or any(start == START for start, _ in gaps[device])
        # The last one may still be on its way when the run ends.
        assert group.event_time.tolist() in (
            expected[~np.array(silent)].tolist(),
            expected[~np.array(silent)][:-1].tolist(),
        )


def test_table__messages_arrive_later_most_of_them_soon(week: pd.DataFrame):
    delay = (week.arrived_at - week.event_time).dt.total_seconds()
    assert delay.min() > 0
    assert delay.median() == pytest.approx(2, rel=0.05)
    assert delay.mean() == pytest.approx(2 * math.exp(0.5), rel=0.05)  # of a lognormal with sigma 1
    assert delay.max() <= 600
    slow = frame(params(entities=20, delay_seconds=60))
    assert (slow.arrived_at - slow.event_time).max() == timedelta(seconds=600)


def test_table__what_was_measured_before_the_run_is_not_in_it():
    rows = frame(params(entities=20, delay_seconds=60, start=START + HOUR))
    assert START + HOUR <= rows.event_time.min() < START + HOUR + timedelta(seconds=10)
    earlier = frame(params(entities=20, delay_seconds=60, start=START))
    assert (earlier[earlier.arrived_at >= START + HOUR].event_time < START + HOUR).any()


def test_table__a_unit_is_what_arrives_in_its_hour_in_order():
    run = params(entities=20, delay_seconds=60)
    for unit in units(run):
        arrived = table(run, unit)["arrived_at"].to_pandas()
        assert arrived.is_monotonic_increasing
        assert (arrived.dt.floor("h") == arrived.iloc[0].floor("h")).all()
    assert len(units(run)) == 6


def test_table__a_longer_run_and_more_stations_agree_where_they_meet():
    short = frame(params(entities=3, duration="90m"))
    longer = frame(params(entities=300, duration="3h"))
    ids = set(short.device_id)
    common = longer[longer.device_id.isin(ids) & (longer.arrived_at < START + 1.5 * HOUR)].reset_index(drop=True)
    pd.testing.assert_frame_equal(short, common)
    assert longer.device_id.nunique() == 300
    other = frame(params(entities=3, duration="90m", seed=8))
    assert not ids & set(other.device_id)


def test_write__same_bytes_in_any_order_and_any_part(tmp_path: Path):
    run = params(entities=300, duration="2h30m", start="2026-01-01T00:30:00Z")
    for name, asked in (("whole", None), ("reverse", units(run)[::-1]), ("part", units(run)[1:2])):
        list(write(SIMULATOR, run, LocalWriter(tmp_path / name), asked))
    files = {
        name: {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.parquet")}
        for name in ("whole", "reverse", "part")
    }
    assert len(files["whole"]) == 2 * 3
    assert files["reverse"] == files["whole"]
    assert files["part"].items() <= files["whole"].items()


def test_write__files_lie_by_the_hour_of_arrival(tmp_path: Path):
    run = params(entities=5, duration="2h")
    written = list(write(SIMULATOR, run, LocalWriter(tmp_path)))
    assert [file.key.rpartition("/")[0] for file in written] == [
        "bronze/devices/year=2026/month=01/day=01/hour=00",
        "bronze/devices/year=2026/month=01/day=01/hour=01",
    ]
    assert {field.name: str(field.type) for field in pq.read_schema(tmp_path / written[0].key)} == {
        "payload": "string",
        "source_file": "dictionary<values=string, indices=int16, ordered=0>",
        "source_offset": "int64",
        "arrived_at": "timestamp[us, tz=UTC]",
    }


def test_units__a_partial_hour_has_a_name_of_its_own():
    whole = [unit.name for unit in units(params(entities=8, duration="2h"))]
    assert whole == ["devices-00001-00008-20260101T00", "devices-00001-00008-20260101T01"]
    partial = [unit.name for unit in units(params(entities=8, duration="90m"))]
    assert partial[0] == whole[0]
    assert partial[1] != whole[1]


def test_table__nothing_arrives_in_a_millisecond():
    run = params(entities=1, duration="0.001s", interval_seconds=3600)
    assert [encode(table(run, unit), "f").num_rows for unit in units(run)] == [0]


# Messages


def flat(**columns: list[Any]) -> pa.Table:
    """Rows of version 1, seconds, at 2026-01-01T00:00:00Z, except for the columns given."""
    count = len(next(iter(columns.values())))
    nothing = pa.nulls(count, pa.float64())
    usual = {
        "device_id": pa.array(["d1"] * count),
        "event_time": pa.array([START] * count, TIMESTAMP),
        "temperature": pa.array([21.5] * count),
        "humidity": pa.array([40.0] * count),
        "battery_level": nothing,
        "firmware_version": pa.nulls(count, pa.string()),
        "latitude": nothing,
        "longitude": nothing,
        "pressure": nothing,
        "schema_version": pa.array([V1] * count, pa.int8()),
        "clock": pa.array(["seconds"] * count),
        "utc_offset": pa.array([0] * count, pa.int16()),
        "kept": pa.array([1.0] * count),
        "arrived_at": pa.array([START + HOUR] * count, TIMESTAMP),
    }
    return pa.table(
        usual
        | {
            name: pa.array(values, usual[name].type if name != "temperature" else None)
            for name, values in columns.items()
        }
    )


def payloads(rows: pa.Table) -> list[str]:
    texts: list[str] = encode(rows, "f")["payload"].to_pylist()
    return texts


def test_encode__version_1():
    assert payloads(flat(clock=["seconds", "milliseconds"])) == [
        '{"device_id":"d1","timestamp":1767225600,"temperature":21.5,"humidity":40}',
        '{"device_id":"d1","timestamp":1767225600000,"temperature":21.5,"humidity":40}',
    ]


def test_encode__version_2():
    [text] = payloads(
        flat(
            schema_version=[V2],
            clock=["iso"],
            utc_offset=[-210],
            battery_level=[87.3],
            firmware_version=["2.0.1"],
            latitude=[47.56123],
            longitude=[-52.71],
            pressure=[1013.2],
        )
    )
    assert text == (
        '{"device_id":"d1","timestamp":"2025-12-31T20:30:00.000-03:30","readings":{"temperature":21.5},"humidity":40,'
        '"battery_level":87.3,"firmware_version":"2.0.1","location":{"lat":47.56123,"lon":-52.71},"pressure":1013.2}'
    )


def test_encode__values_that_are_no_numbers():
    [nan, up, down] = payloads(flat(temperature=[math.nan, math.inf, -math.inf], schema_version=[V1, V1, V2]))
    assert ['"temperature":NaN,' in nan, '"temperature":Infinity,' in up] == [True, True]
    assert '"readings":{"temperature":-Infinity},' in down
    assert math.isnan(json.loads(nan)["temperature"])
    words = flat(temperature=["n/a", 'a"b\\\n\u00e4'], schema_version=[V1, V2])
    assert [json.loads(text).get("temperature") for text in payloads(words)] == ["n/a", None]
    assert json.loads(payloads(words)[1])["readings"] == {"temperature": 'a"b\\\n\u00e4'}


def test_encode__no_value_no_field():
    nulls = payloads(flat(temperature=[None, None], schema_version=[V1, V2], humidity=[None, 40.0]))
    missing = payloads(flat(schema_version=[V1, V2]).drop_columns(["temperature"]))
    assert [json.loads(text) for text in nulls] == [
        {"device_id": "d1", "timestamp": 1767225600},
        {"device_id": "d1", "timestamp": 1767225600, "readings": {}, "humidity": 40},
    ]
    assert [json.loads(text) for text in missing] == [
        {"device_id": "d1", "timestamp": 1767225600, "humidity": 40},
        {"device_id": "d1", "timestamp": 1767225600, "readings": {}, "humidity": 40},
    ]


def test_encode__a_message_of_no_version():
    [strange, good] = payloads(flat(schema_version=[NO_VERSION, V1]))
    assert json.loads(strange) == {"id": "d1", "t": 1767225600, "v": 21.5}
    assert json.loads(good)["temperature"] == 21.5


@pytest.mark.parametrize("kept", [0.0, 1e-9, 0.3, 0.99, 1 - 1e-12])
def test_encode__a_message_cut_short_is_no_json(kept: float):
    whole, torn = payloads(flat(kept=[1.0, kept]))
    assert whole.startswith(torn)
    assert 0 < len(torn) < len(whole)
    with pytest.raises(json.JSONDecodeError):
        json.loads(torn)


def test_encode__offsets_are_those_of_lines_in_a_file():
    rows = rows_of(params(entities=20, duration="2h"))
    coded = encode(rows, "unit-1")
    source = "".join(f"{text}\n" for text in coded["payload"].to_pylist()).encode()
    for text, offset in zip(coded["payload"].to_pylist(), coded["source_offset"].to_pylist(), strict=True):
        assert source[offset : offset + len(text) + 1] == f"{text}\n".encode()
    assert set(coded["source_file"].to_pylist()) == {"unit-1.jsonl"}
    assert coded["arrived_at"] == rows["arrived_at"]


def _expected(row: dict[str, Any]) -> dict[str, Any]:
    """What json.loads is to give for a row, put together field by field."""
    time, clock = row["event_time"], row["clock"]
    since = (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    message: dict[str, Any] = {"device_id": row["device_id"]}
    if clock == "iso":
        message["timestamp"] = time
    else:
        message["timestamp"] = since // (1_000_000 if clock == "seconds" else 1_000)
    measured = {} if row["temperature"] is None else {"temperature": row["temperature"]}
    message |= {"readings": measured} if row["schema_version"] == V2 else measured
    message |= {name: row[name] for name in ("humidity", "battery_level", "firmware_version", "pressure")}
    place = {"lat": row["latitude"], "lon": row["longitude"]}
    message["location"] = {name: value for name, value in place.items() if value is not None} or None
    return {name: value for name, value in message.items() if value is not None}


def _loaded(text: str) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(text)
    if isinstance(message["timestamp"], str):
        message["timestamp"] = datetime.fromisoformat(message["timestamp"])
    return message


def test_encode__says_what_the_rows_say():
    rows = rows_of(params(entities=30, duration="4h", rollout_days=0.2))
    assert set(rows["schema_version"].to_pylist()) == {V1, V2}
    assert set(rows["clock"].to_pylist()) == set(CLOCKS)
    assert [_loaded(text) for text in payloads(rows)] == [_expected(row) for row in rows.to_pylist()]
    offsets = dict(
        zip(
            truth(params(entities=30))["device_id"].to_pylist(),
            truth(params(entities=30))["utc_offset"].to_pylist(),
            strict=True,
        )
    )
    for text in payloads(rows):
        message = _loaded(text)
        if isinstance(message["timestamp"], datetime):
            assert message["timestamp"].utcoffset() == timedelta(minutes=offsets[message["device_id"]])


_numbers = st.none() | st.floats(allow_nan=False, width=64)
_millis = st.integers(0, 4_102_444_800_000).map(
    lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
)


@st.composite
def _rows(draw: st.DrawFn) -> pa.Table:
    count = draw(st.integers(1, 6))

    def many(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=count, max_size=count))

    times, clocks = many(_millis), many(st.sampled_from(CLOCKS))
    columns = {
        "device_id": many(st.text()),
        "event_time": [t.replace(microsecond=0) if c == "seconds" else t for t, c in zip(times, clocks, strict=True)],
        "clock": clocks,
        "utc_offset": many(st.integers(-12 * 60, 14 * 60)),
        "schema_version": many(st.sampled_from([V1, V2])),
        "temperature": many(draw(st.sampled_from([_numbers, st.none() | st.text()]))),
        "firmware_version": many(st.none() | st.text()),
        **{name: many(_numbers) for name in ("humidity", "battery_level", "latitude", "longitude", "pressure")},
    }
    rows = flat(**columns)
    return rows.drop_columns(draw(st.lists(st.sampled_from(["temperature", "humidity", "pressure"]), unique=True)))


@given(_rows())
@settings(deadline=None)
def test_encode__any_rows_round_trip(rows: pa.Table):
    filled = [{"temperature": None, "humidity": None, "pressure": None} | row for row in rows.to_pylist()]
    assert [_loaded(text) for text in payloads(rows)] == [_expected(row) for row in filled]


# Faults


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_faults__each_message_has_the_fault_that_the_record_says(seed: int):
    run = params(entities=100, duration="1h", start="2026-01-01T12:00:00Z")
    [unit] = units(run)
    clean = table(run, unit)
    spoiled = dirty(clean, unit.name, FaultParameters(seed=seed, rows=0.2), SIMULATOR.faults)
    sent = [text for name, rows in _tables(spoiled.files) for text in encode(rows, name)["payload"].to_pylist()]
    found = dict.fromkeys(
        ("unparsable", "unknown_schema", "in_future", "not_finite", "wrong_type", "missing", "out_of_range"), 0
    )
    for text in sent:
        for kind in _complaints(text):
            found[kind] += 1
    expected = expected_refusals(spoiled.records)
    expected.pop("conflicting_duplicate")
    assert found == expected
    assert min(found.values()) > 50
    assert len(sent) == clean.num_rows + sum(
        spoiled.records["kind"].to_pylist().count(k) for k in ("duplicate", "conflict")
    )


def _tables(files: list[Any]) -> Iterator[tuple[str, pa.Table]]:
    return ((file.name, file.content) for file in files if isinstance(file.content, pa.Table))


def _complaints(text: str) -> list[str]:
    """What an honest reader objects to in a message, told from the issue's words on the two versions."""
    try:
        message = json.loads(text)
    except json.JSONDecodeError:
        return ["unparsable"]
    if "device_id" not in message:
        assert set(message) == {"id", "t", "v"}
        return ["unknown_schema"]
    is_v2 = bool(set(message) & {"readings", "battery_level", "firmware_version", "location", "pressure"})
    time = message["timestamp"]
    instant = datetime.fromisoformat(time).timestamp() if isinstance(time, str) else time / (1000 if time > 1e11 else 1)
    wrong = ["in_future"] if instant > datetime(2026, 1, 2, tzinfo=UTC).timestamp() else []
    temperature = (message["readings"] if is_v2 else message).get("temperature")
    for value, low, high in ((temperature, -40, 85), (message.get("humidity"), 0, 100)):
        if value is None:
            wrong.append("missing")
        elif isinstance(value, str):
            wrong.append("wrong_type")
        elif not math.isfinite(value):
            wrong.append("not_finite")
        elif not low <= value <= high:
            wrong.append("out_of_range")
    return wrong


def test_faults__bronze_of_a_dirty_run_is_messages(tmp_path: Path):
    run = params(entities=50, duration="2h")
    faults = FaultParameters(seed=1, rows=0.1, files=1.0)
    written = list(write(SIMULATOR, run, LocalWriter(tmp_path), faults=faults))
    readable = [file for file in written if file.rows]
    names = {name for file in readable for name in pq.read_schema(tmp_path / file.key).names}
    assert names == {"payload", "source_file", "source_offset", "arrived_at"}
    assert len(readable) > 4
    assert len(written) == len(readable) + 2


# Parameters


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("entities", {"entities": 0}),
        ("interval_seconds", {"interval_seconds": 0}),
        ("interval_seconds", {"interval_seconds": 90_000}),
        ("rollout_share", {"rollout_share": 1.1}),
        ("rollout_days", {"rollout_days": -1}),
        ("milliseconds_share", {"milliseconds_share": -0.1}),
        ("delay_seconds", {"delay_seconds": 0}),
        ("delay_seconds", {"delay_seconds": 61}),
        ("gap_share", {"gap_share": 2}),
        ("noise_scale", {"noise_scale": -1}),
        ("duration", {"duration": "0s"}),
        ("duration", {"duration": "40000d"}),
        ("start", {"start": "1970-01-01T00:00:00Z"}),
        ("rate_hz", {"rate_hz": 100}),
    ],
)
def test_parameters__nonsense_is_refused_by_name(field: str, values: dict[str, object]):
    with pytest.raises(ValidationError) as refusal:
        DeviceParameters.model_validate(values)
    (detail,) = refusal.value.errors()
    assert (detail["loc"] or detail["msg"].removeprefix("Value error, ").split())[0] == field

"""Weather stations that send telemetry as JSON, while a second version of their messages rolls out.

Version 1 has ``device_id``, ``timestamp``, ``temperature`` and ``humidity``. Version 2 nests the temperature in
``readings`` and adds ``battery_level``, ``firmware_version``, ``location`` and ``pressure``. A station sends version 1
until the instant of its own update. A field without a value is left out.

The stations stand outdoors in ten cities. Temperature is the site's mean, a daily cycle that is warmest three hours
after the sun is highest, and weather: random numbers at fixed knots, joined by a cubic B-spline, so that it is smooth
and any piece of it can be computed alone. Humidity follows from the temperature and a dew point that changes as slowly
as the weather (Magnus formula, with the constants of O. A. Alduchov and R. E. Eskridge, "Improved Magnus form
approximation of saturation vapor pressure", J. Appl. Meteor. 35, 1996). Pressure is reduced to sea level. There are no
seasons. Amplitudes are engineering choices.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sim.accelerometer import Duration, Instant
from sim.base import Parameters, Simulator, Unit
from sim.faults import Altered, FaultSchema
from sim.randomness import entity_id, generator

NAME = "devices"
DEVICES_PER_BLOCK = 256  # they share random streams, and a file; changing it changes every value
V1, V2, NO_VERSION = 1, 2, 0
CLOCKS = ("seconds", "milliseconds", "iso")  # how a timestamp is written: numbers since 1970, or text with an offset
FIRMWARE = ("2.0.0", "2.0.1", "2.1.0")
LONGEST_DELAY = timedelta(minutes=10)  # a message that did not get through by then is given up

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SECOND, _MINUTE, _HOUR, _DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000  # in microseconds
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIMESTAMP = pa.timestamp("us", tz="UTC")


class Site(NamedTuple):
    """A city: degrees north and east, minutes its standard time is ahead of UTC, annual mean in degC."""

    latitude: float
    longitude: float
    utc_offset: int
    mean: float


SITES = (
    Site(21.31, -157.86, -600, 25),  # Honolulu
    Site(39.74, -104.99, -420, 11),  # Denver
    Site(40.71, -74.01, -300, 13),  # New York
    Site(47.56, -52.71, -210, 5),  # St. John's
    Site(-23.55, -46.63, -180, 20),  # Sao Paulo
    Site(51.51, -0.13, 0, 11),  # London
    Site(52.52, 13.41, 60, 10),  # Berlin
    Site(28.61, 77.21, 330, 25),  # Delhi
    Site(27.72, 85.32, 345, 18),  # Kathmandu
    Site(35.68, 139.69, 540, 16),  # Tokyo
)
_SITE = {field: np.array([getattr(site, field) for site in SITES]) for field in Site._fields}


class DeviceParameters(Parameters):
    """What to simulate; an entity is a station.

    Attributes:
        start: First instant, inclusive. Without a time zone it is taken as UTC.
        duration: For how long messages are collected, as a timedelta or as "90s", "10m", "1h30m", "2d". One that
            arrives later is not part of the run.
        interval_seconds: Between two messages of a station.
        rollout_share: Share of the stations that are updated to version 2; the others stay with version 1.
        rollout_days: They are updated at random within so many days of ``start``; 0 is at once.
        milliseconds_share: Share of the stations whose version 1 sends milliseconds; the others send seconds.
        delay_seconds: Median of a message's way, which is lognormal and ten minutes at most.
        gap_share: Share of a station's days on which it is silent for some hours, and what it measured then is lost.
        noise_scale: Multiplies the noise of every sensor.
    """

    # Not the start: the rollout counts from it.
    extent: ClassVar[frozenset[str]] = frozenset({"entities", "duration"})

    start: Instant = datetime(2026, 1, 1, tzinfo=UTC)
    duration: Duration = timedelta(days=1)
    interval_seconds: int = Field(default=60, ge=1, le=86_400)
    rollout_share: float = Field(default=0.8, ge=0, le=1)
    rollout_days: float = Field(default=1.0, ge=0, le=36_500)
    milliseconds_share: float = Field(default=0.5, ge=0, le=1)
    delay_seconds: float = Field(default=2.0, gt=0, le=60)
    gap_share: float = Field(default=0.2, ge=0, le=1)
    noise_scale: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _check_span(self) -> Self:
        # Whoever reads a number has to tell seconds from milliseconds by its size.
        if not datetime(1990, 1, 1, tzinfo=UTC) <= self.start < datetime(2200, 1, 1, tzinfo=UTC):
            raise ValueError(f"start {self.start.isoformat()} is not within 1990 to 2199")
        if self.duration > timedelta(days=36_500):
            raise ValueError(f"duration {self.duration} is longer than a hundred years")
        return self

    @property
    def start_us(self) -> int:
        """First instant in microseconds since 1970."""
        return (self.start - _EPOCH) // _MICROSECOND

    @property
    def stop_us(self) -> int:
        """The instant the run ends before, in microseconds since 1970."""
        return (self.start + self.duration - _EPOCH) // _MICROSECOND


@dataclass(frozen=True)
class Devices:
    """A block of stations as drawn from the seed; every array has one value for each of them.

    Attributes:
        ids: Their names.
        site: Index of `SITES`.
        latitude: Degrees north.
        longitude: Degrees east.
        utc_offset: Minutes their local clocks are ahead of UTC.
        clock: Index of `CLOCKS`, for version 1.
        phase: Time of the first sample since 1970, in microseconds; whole seconds or milliseconds, as the clock has.
        rollout: When version 2 starts, in microseconds since 1970; a time never reached if it does not.
        firmware: Index of `FIRMWARE`, for version 2.
        mean: Of the temperature, in degC.
        amplitude: Of its daily cycle, in K.
        dew_point: In degC.
        period: From one recharge of the battery to the next, in microseconds.
        charged: A time at which the battery was full, in microseconds since 1970.
    """

    ids: list[str]
    site: Ints
    latitude: Floats
    longitude: Floats
    utc_offset: Ints
    clock: Ints
    phase: Ints
    rollout: Ints
    firmware: Ints
    mean: Floats
    amplitude: Floats
    dew_point: Floats
    period: Ints
    charged: Ints


NEVER = np.iinfo(np.int64).max


@lru_cache(maxsize=8)  # every hour of a block needs them
def draw_devices(params: DeviceParameters, block: int) -> Devices:
    """Draw a whole block of stations, the same whatever else is asked for."""
    stream = generator(params.seed, NAME, "devices", block)
    count = DEVICES_PER_BLOCK
    site = stream.integers(len(SITES), size=count)
    latitude, longitude = (_SITE[name][site] + stream.normal(0, 0.05, count) for name in ("latitude", "longitude"))
    clock = (stream.random(count) < params.milliseconds_share).astype(np.int64)
    step = np.where(clock == 1, 1_000, _SECOND)
    interval = params.interval_seconds * _SECOND
    phase = (stream.random(count) * interval).astype(np.int64) // step * step
    updated = stream.random(count) < params.rollout_share
    rollout = params.start_us + (stream.random(count) * params.rollout_days * _DAY).astype(np.int64)
    mean = _SITE["mean"][site] + stream.normal(0, 1.5, count)
    return Devices(
        ids=[entity_id(params.seed, NAME, block * count + number) for number in range(count)],
        site=site,
        latitude=latitude.round(5),
        longitude=longitude.round(5),
        utc_offset=_SITE["utc_offset"][site],
        clock=clock,
        phase=phase,
        rollout=np.where(updated, rollout, NEVER),
        firmware=stream.integers(len(FIRMWARE), size=count),
        mean=mean,
        amplitude=stream.uniform(2, 6, count),
        dew_point=mean - stream.uniform(3, 9, count),
        period=(stream.uniform(5, 20, count) * _DAY).astype(np.int64),
        charged=(stream.random(count) * 20 * _DAY).astype(np.int64),
    )


def draw_gaps(params: DeviceParameters, block: int, day: int) -> tuple[Ints, Ints]:
    """When each station of a block is silent on a day, counted from 1970.

    Returns:
        First microsecond of its gap and the one after its last, within the day; equal if it has none.
    """
    hit, place, length = generator(params.seed, NAME, "gaps", block, day).random((3, DEVICES_PER_BLOCK))
    lasts = np.where(hit < params.gap_share, (1 + 5 * length) * _HOUR, 0).astype(np.int64)
    first = day * _DAY + (place * (_DAY - lasts)).astype(np.int64)
    return first, first + lasts


def units(params: DeviceParameters) -> list[Unit]:
    """Blocks of 256 stations and the hours in which their messages arrive, clipped to the run."""
    found = []
    for hour in range(params.start_us // _HOUR, -(-params.stop_us // _HOUR)):
        first, last = max(hour * _HOUR, params.start_us), min((hour + 1) * _HOUR, params.stop_us)
        label = f"{_EPOCH + timedelta(hours=hour):%Y%m%dT%H}"
        if last - first < _HOUR:
            label += f"-{first - hour * _HOUR:010d}-{last - hour * _HOUR:010d}"
        for block in range(-(-params.entities // DEVICES_PER_BLOCK)):
            stop = min((block + 1) * DEVICES_PER_BLOCK, params.entities)
            name = f"devices-{block * DEVICES_PER_BLOCK + 1:05d}-{stop:05d}-{label}"
            found.append(Unit(name, block, first, last))
    return found


def table(params: DeviceParameters, unit: Unit) -> pa.Table:
    """Simulate what arrives of one block within a time.

    Args:
        params: The run's parameters.
        unit: One of ``units(params)``, or any range of microseconds since 1970 of one block.

    Returns:
        In order of arrival: ``device_id`` (dictionary-encoded string), ``event_time`` (timestamp in microseconds, UTC),
        ``temperature`` (degC), ``humidity`` (%), ``battery_level`` (%), ``firmware_version`` (dictionary-encoded
        string), ``latitude``, ``longitude`` (degrees), ``pressure`` (hPa), ``schema_version`` (int8), ``clock``
        (dictionary-encoded string, see `CLOCKS`), ``utc_offset`` (int16, minutes), ``kept`` (the share of the message
        that gets through: 1), ``arrived_at`` (timestamp). What version 1 lacks is null in its rows. Numbers are
        float64, rounded as the sensor rounds them.
    """
    devices = draw_devices(params, unit.entity)
    interval = params.interval_seconds * _SECOND
    longest = LONGEST_DELAY // _MICROSECOND
    first, last = (unit.start - longest) // interval - 1, unit.stop // interval + 1
    noise = _per_sample(params, unit.entity, first, last)
    times = np.arange(first, last)[:, None] * interval + devices.phase
    delay = params.delay_seconds * 1_000 * np.exp(noise[:, 3])
    arrived = times + np.clip(np.rint(delay).astype(np.int64), 1, longest // 1_000) * 1_000
    here = (arrived >= unit.start) & (arrived < unit.stop) & (times >= params.start_us)
    here[:, params.entities - unit.entity * DEVICES_PER_BLOCK :] = False
    for day in range(int(times[0].min()) // _DAY, int(times[-1].max()) // _DAY + 1):
        begins, ends = draw_gaps(params, unit.entity, day)
        here &= (times < begins) | (times >= ends)
    sample, device = np.nonzero(here)
    order = np.lexsort((device, arrived[sample, device]))
    sample, device = sample[order], device[order]
    time = times[sample, device]
    temperature, humidity, pressure = _weather(params, devices, unit.entity, device, time, noise[sample, :3, device].T)
    is_v2 = time >= devices.rollout[device]
    is_v1 = ~is_v2

    def only_v2(values: Floats) -> pa.Array:
        return pa.array(values, mask=is_v1)

    return pa.table(
        {
            "device_id": _dictionary(device, devices.ids),
            "event_time": _instants(time),
            "temperature": temperature,
            "humidity": humidity,
            "battery_level": only_v2(_battery(devices, device, time)),
            "firmware_version": _dictionary(devices.firmware[device], FIRMWARE, is_v1),
            "latitude": only_v2(devices.latitude[device]),
            "longitude": only_v2(devices.longitude[device]),
            "pressure": only_v2(pressure),
            "schema_version": np.where(is_v2, V2, V1).astype(np.int8),
            "clock": _dictionary(np.where(is_v2, CLOCKS.index("iso"), devices.clock[device]), CLOCKS),
            "utc_offset": devices.utc_offset[device].astype(np.int16),
            "kept": np.ones(len(time)),
            "arrived_at": _instants(arrived[sample, device]),
        }
    )


def _per_sample(params: DeviceParameters, block: int, first: int, last: int) -> Floats:
    """Independent normal numbers of each sample, shape (samples, 4, stations): three sensors and the delay."""
    shape = (4, DEVICES_PER_BLOCK)
    return np.stack(
        [generator(params.seed, NAME, "sample", block, n).standard_normal(shape) for n in range(first, last)]
    )


def _weather(
    params: DeviceParameters, devices: Devices, block: int, device: Ints, time: Ints, noise: Floats
) -> tuple[Floats, Floats, Floats]:
    """Temperature, humidity and pressure as the sensors round them."""

    def smooth(name: str, hours: float) -> Floats:
        return _smooth(params, name, block, device, time, int(hours * _HOUR))

    day = 2 * np.pi * ((time % _DAY) / _DAY + devices.longitude[device] / 360 - 15 / 24)
    air = (
        devices.mean[device]
        + devices.amplitude[device] * np.cos(day)
        + 3 * smooth("front", 6)
        + 0.3 * smooth("gust", 1 / 6)
    )
    dew_point = devices.dew_point[device] + 1.5 * smooth("dew", 6)
    saturation = 100 * np.exp(_magnus(dew_point) - _magnus(air))
    sensors = noise * params.noise_scale
    return (
        (air + 0.05 * sensors[0]).round(2) + 0.0,  # not -0.0
        np.clip(saturation + 0.5 * sensors[1], 1, 100).round(1),
        (1013.25 + 8 * smooth("pressure", 12) + 0.05 * sensors[2]).round(1),
    )


def _magnus(celsius: Floats) -> Floats:
    """Logarithm of the saturation vapour pressure over water, less a constant."""
    exponent: Floats = 17.625 * celsius / (243.04 + celsius)
    return exponent


def _smooth(params: DeviceParameters, name: str, block: int, device: Ints, time: Ints, step: int) -> Floats:
    """A smooth random course of each station, of mean 0 and standard deviation about 1, at given times."""
    if not len(time):
        return np.zeros(0)
    knot, rest = np.divmod(time, step)
    first, last = int(knot.min()) - 1, int(knot.max()) + 3
    knots = np.stack(
        [generator(params.seed, NAME, name, block, k).standard_normal(DEVICES_PER_BLOCK) for k in range(first, last)]
    )
    at, x = knot - first, rest / step
    # The four pieces of the uniform cubic B-spline. The root of their squares' sum is 0.69 on average.
    weights = ((1 - x) ** 3, 3 * x**3 - 6 * x**2 + 4, -3 * x**3 + 3 * x**2 + 3 * x + 1, x**3)
    course: Floats = sum(weight * knots[at + i - 1, device] for i, weight in enumerate(weights)) / (6 * 0.69)
    return course


def _battery(devices: Devices, device: Ints, time: Ints) -> Floats:
    """Charge in %: falls from 100 to 20 and is full again within three hours."""
    period = devices.period[device]
    used = (time - devices.charged[device]) % period
    charging = 3 * _HOUR
    falling = 100 - 80 * used / (period - charging)
    rising = 100 - 80 * (period - used) / charging
    level: Floats = np.maximum(falling, rising).round(1)
    return level


def _instants(microseconds: Ints) -> pa.Array:
    return pa.array(microseconds).cast(_TIMESTAMP)


def _dictionary(codes: Ints, values: Any, mask: NDArray[np.bool_] | None = None) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int16), mask=mask), pa.array(values, pa.string()))


def truth(params: DeviceParameters) -> pa.Table:
    """Describe every station of a run.

    Returns:
        ``device_id``, ``rollout`` (timestamp from which it sends version 2, null if never), ``clock`` (of version 1),
        ``utc_offset`` (int16, minutes), ``interval_seconds`` (int32), ``latitude``, ``longitude`` (float64, degrees)
        and ``gaps`` (list of struct start, stop: timestamps, start included, stop not; clipped to the run).
    """
    rows = []
    days = range(params.start_us // _DAY, (params.stop_us - 1) // _DAY + 1)
    for block in range(-(-params.entities // DEVICES_PER_BLOCK)):
        devices = draw_devices(params, block)
        spans = np.array([draw_gaps(params, block, day) for day in days]).clip(params.start_us, params.stop_us)
        for place in range(min(DEVICES_PER_BLOCK, params.entities - block * DEVICES_PER_BLOCK)):
            rollout = int(devices.rollout[place])
            rows.append(
                {
                    "device_id": devices.ids[place],
                    "rollout": None if rollout == NEVER else rollout,
                    "clock": CLOCKS[devices.clock[place]],
                    "utc_offset": int(devices.utc_offset[place]),
                    "interval_seconds": params.interval_seconds,
                    "latitude": float(devices.latitude[place]),
                    "longitude": float(devices.longitude[place]),
                    "gaps": [
                        {"start": start, "stop": stop} for start, stop in spans[:, :, place].tolist() if start < stop
                    ],
                }
            )
    gap = pa.struct({"start": _TIMESTAMP, "stop": _TIMESTAMP})
    schema = pa.schema(
        {
            "device_id": pa.string(),
            "rollout": _TIMESTAMP,
            "clock": pa.string(),
            "utc_offset": pa.int16(),
            "interval_seconds": pa.int32(),
            "latitude": pa.float64(),
            "longitude": pa.float64(),
            "gaps": pa.list_(gap),
        }
    )
    return pa.Table.from_pylist(rows, schema=schema)


# --- Messages -----------------------------------------------------------------------------------------------


def encode(rows: pa.Table, name: str) -> pa.Table:
    """Put rows into messages, as a gateway would note them down one per line.

    Args:
        rows: As `table` gives them, spoiled or not: a column may be text, or missing.
        name: Name of the file they go to.

    Returns:
        ``payload`` (string, JSON), ``source_file`` (dictionary-encoded string), ``source_offset`` (int64, bytes),
        ``arrived_at`` (timestamp), and the strings ``year``, ``month``, ``day``, ``hour`` of the arrival. NaN and
        infinity are written as Python's json does: NaN, Infinity, -Infinity.
    """
    payload = _cut(_payloads(rows.combine_chunks()), rows["kept"].to_numpy())
    line_ends = np.cumsum(pc.binary_length(payload).to_numpy().astype(np.int64) + 1)
    arrived = rows["arrived_at"].combine_chunks().cast(pa.timestamp("us"))
    hours = pc.floor_temporal(arrived, unit="hour").dictionary_encode()
    hour_texts = hours.dictionary.cast(pa.string())  # 2026-01-01 00:00:00.000000
    places = {"year": (0, 4), "month": (5, 7), "day": (8, 10), "hour": (11, 13)}
    return pa.table(
        {
            "payload": payload,
            "source_file": _dictionary(np.zeros(rows.num_rows, np.int64), [f"{name}.jsonl"]),
            "source_offset": np.concatenate([np.zeros(1, np.int64), line_ends])[:-1],
            "arrived_at": rows["arrived_at"],
            **{part: pc.utf8_slice_codeunits(hour_texts, *place).take(hours.indices) for part, place in places.items()},
        }
    )


def _payloads(rows: pa.Table) -> pa.Array:
    """The message of each row."""
    version = rows["schema_version"].combine_chunks()
    temperature = _field("temperature", rows)
    nested = _object("readings", temperature.fill_null(""))
    place = _joined(_field("latitude", rows, "lat"), _field("longitude", rows, "lon"))
    timestamp = _text_timestamps(rows)
    known = _joined(
        _field("device_id", rows),
        pc.binary_join_element_wise('"timestamp":', timestamp, ""),
        pc.if_else(pc.equal(version, V2), nested, temperature),
        _field("humidity", rows),
        _field("battery_level", rows),
        _field("firmware_version", rows),
        pc.if_else(pc.equal(place, ""), None, _object("location", place)),
        _field("pressure", rows),
    )
    is_strange = pc.equal(version, NO_VERSION)
    if pc.any(is_strange).as_py():
        strange = _joined(
            _field("device_id", rows, "id"),
            pc.binary_join_element_wise('"t":', timestamp, ""),
            _field("temperature", rows, "v"),
        )
        known = pc.if_else(is_strange, strange, known)
    return pc.binary_join_element_wise("{", known, "}", "")


def _field(column: str, rows: pa.Table, name: str = "") -> pa.Array:
    """``"name":value`` of each row; null where there is no value. Sensors repeat themselves: each is written once."""
    if column not in rows.column_names:
        return pa.nulls(rows.num_rows, pa.string())
    values = rows[column].combine_chunks()
    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    texts = pc.binary_join_element_wise(f'"{name or column}":', _json(encoded.dictionary), "")
    return texts.take(encoded.indices)


def _json(values: pa.Array) -> pa.Array:
    """Text or floating-point numbers as JSON, numbers with as few digits as tell them apart from all others."""
    if not pa.types.is_floating(values.type):
        return pa.array([json.dumps(text) for text in values.to_pylist()], pa.string())
    texts = values.cast(pa.string())
    for spoken, written in (("nan", "NaN"), ("inf", "Infinity"), ("-inf", "-Infinity")):
        texts = pc.if_else(pc.equal(texts, spoken), written, texts)
    return texts


def _joined(*fields: pa.Array) -> pa.Array:
    """Fields with commas between them, those that are null left out; empty text if all are."""
    # Arrow 26 leaves out not only the nulls but the row, where all are null.
    first = pc.if_else(pc.is_null(pc.coalesce(*fields)), "", fields[0])
    return pc.binary_join_element_wise(first, *fields[1:], ",", null_handling="skip")


def _object(name: str, fields: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(f'"{name}":{{', fields, "}", "")


def _text_timestamps(rows: pa.Table) -> pa.Array:
    """Event times as each row's clock writes them."""
    clock = rows["clock"].combine_chunks().cast(pa.string())
    times = rows["event_time"].combine_chunks().cast(pa.int64())
    is_iso = pc.equal(clock, "iso")
    is_number = pc.invert(is_iso)
    unit = pc.if_else(pc.equal(clock, "seconds"), _SECOND, 1_000)
    numbers = pc.divide(times, unit).filter(is_number).cast(pa.string())
    texts = _iso_8601(times.filter(is_iso), rows["utc_offset"].combine_chunks().filter(is_iso))
    # Both kinds end to end, and then in the order of the rows.
    place = np.argsort(np.argsort(is_iso.to_numpy(zero_copy_only=False), kind="stable"), kind="stable")
    return pa.concat_arrays([numbers, texts]).take(pa.array(place))


def _iso_8601(times: pa.Array, utc_offset: pa.Array) -> pa.Array:
    """Quoted local times to the millisecond, such as ``"2026-01-01T01:00:00.000+01:00"``."""
    offset = utc_offset.dictionary_encode()
    zones = pa.array([f'{_zone(minutes)}"' for minutes in offset.dictionary.to_pylist()], pa.string())
    ahead = pc.multiply(offset.dictionary.cast(pa.int64()), _MINUTE).take(offset.indices)
    local = pc.divide(pc.add(times, ahead), 1_000).cast(pa.timestamp("ms")).cast(pa.string())
    local = pc.binary_replace_slice(local, start=10, stop=11, replacement="T")
    return pc.binary_join_element_wise('"', local, zones.take(offset.indices), "")


def _zone(minutes: int) -> str:
    hours, rest = divmod(abs(minutes), 60)
    return f"{'-' if minutes < 0 else '+'}{hours:02d}:{rest:02d}"


def _cut(payloads: pa.Array, kept: Floats) -> pa.Array:
    """Payloads of which a share is kept, from the left. Without its last brace, no object is JSON."""
    short = kept < 1
    if not short.any():
        return payloads
    texts = payloads.filter(pa.array(short)).to_pylist()
    cut = [text[: max(1, int(share * len(text)))] for text, share in zip(texts, kept[short], strict=True)]
    return pc.replace_with_mask(payloads, pa.array(short), pa.array(cut, pa.string()))


# --- Faults -------------------------------------------------------------------------------------------------


def _future(rows: pa.Table, _schema: FaultSchema, _rng: np.random.Generator) -> Altered:
    """A clock that is 1,024 weeks ahead, as when a GPS week number is taken to have overflowed once too often."""
    column = rows.column_names.index("event_time")
    later = pc.add(rows["event_time"], timedelta(weeks=1_024))
    return rows.set_column(column, rows.schema.field(column), later), ["event_time"] * rows.num_rows


def _unknown_schema(rows: pa.Table, _schema: FaultSchema, _rng: np.random.Generator) -> Altered:
    """A message that has the fields of no version."""
    column = rows.column_names.index("schema_version")
    return rows.set_column(column, rows.schema.field(column), pa.array([NO_VERSION] * rows.num_rows, pa.int8())), None


def _torn_payload(rows: pa.Table, _schema: FaultSchema, rng: np.random.Generator) -> Altered:
    """A message whose end got lost."""
    column = rows.column_names.index("kept")
    return rows.set_column(column, rows.schema.field(column), pa.array(rng.uniform(0, 1, rows.num_rows))), None


FAULTS = FaultSchema(
    key=("device_id", "event_time"),
    # Only what both versions have: a row of version 1 would be good whatever became of its pressure.
    measured={"temperature": (-60.0, 85.0), "humidity": (0.0, 100.0)},
    own={"future": _future, "unknown_schema": _unknown_schema, "torn_payload": _torn_payload},
)

SIMULATOR = Simulator(
    name=NAME,
    parameters=DeviceParameters,
    partition_by=("year", "month", "day", "hour"),
    units=units,
    table=table,
    truth=truth,
    faults=FAULTS,
    encode=encode,
)

"""New York State's list of places to fish, replayed as a stream of events for as long as is asked for.

A feed goes through the 546 rows of the file in a random order, then through them again in another. Event n since 1970
has a time, a row and an identity of its own that follow from the seed, the feed and n alone, so any part of a stream
equals that part of the whole.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sim.accelerometer import Clock, Duration, Instant
from sim.base import Parameters, Simulator, Unit
from sim.faults import Altered, FaultSchema
from sim.randomness import generator

NAME = "waterways"
FILE = "Recommended_Fishing_Rivers_And_Streams.csv.gz"
COLUMNS: Mapping[str, str] = {
    "Waterbody Name": "waterbody_name",
    "Fish Species Present at Waterbody": "fish_species",
    "Comments": "comments",
    "Special Regulations on Waterbody": "special_regulations",
    "County": "county",
    "Types of Public Access": "access_types",
    "Public Fishing Access Owner": "fishing_access_owner",
    "Waterbody Information": "information_url",
    "Longitude": "longitude",
    "Latitude": "latitude",
    "Location": "location",
}
"""Header of the file -> column of bronze, in the file's order."""
MEASURED = ("longitude", "latitude")
ROWS_PER_UNIT = 1_000_000

# A box around the state and its waters, to 0.01 degrees: U.S. Census Bureau, TIGER/Line state boundaries.
LONGITUDES = (-79.77, -71.77)
LATITUDES = (40.47, 45.02)

_BLOCK = 16_384  # events that share a stream of identities; changing it changes every identity
_HOUR_US = 3_600_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIMESTAMP = pa.timestamp("us", tz="UTC")
_FUTURE_US = (datetime(2090, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
_FUTURE_HOURS = 5 * 365 * 24

Numbers = NDArray[np.int64]


class WaterwaysParameters(Parameters):
    """What to replay.

    Attributes:
        entities: Feeds that replay the file side by side, each in its own order and with its own identities. One feed
            is the file as a stream; more of them are more events at the same instants.
        start: First instant, inclusive. Without a time zone it is taken as UTC.
        duration: How long, as a timedelta or as "90s", "10m", "1h30m", "2d".
        rate_hz: Events of a feed per second of event time, to a thousandth. Event n since 1970 happens at n / rate_hz
            seconds, rounded to a microsecond.
    """

    extent: ClassVar[frozenset[str]] = frozenset({"entities", "start", "duration"})

    entities: int = Field(default=1, ge=1)
    start: Instant = datetime(2026, 1, 1, tzinfo=UTC)
    duration: Duration = timedelta(minutes=10)
    rate_hz: float = Field(default=10.0, ge=0.001, le=100_000)

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if self.start < _EPOCH:
            raise ValueError(f"start {self.start.isoformat()} is before 1970, from where events are counted")
        return self

    @property
    def span_us(self) -> tuple[int, int]:
        """First instant and the one after the last, in microseconds since 1970."""
        return (self.start - _EPOCH) // _MICROSECOND, (self.start + self.duration - _EPOCH) // _MICROSECOND


@dataclass(frozen=True)
class Listings:
    """The rows of the file.

    Attributes:
        texts: Column -> its texts, dictionary-encoded; null where the file has nothing.
        coordinates: Column -> degrees, float64.
        counties: The county of each row.
    """

    texts: Mapping[str, pa.DictionaryArray]
    coordinates: Mapping[str, NDArray[np.float64]]
    counties: tuple[str, ...]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.counties)


@cache
def listings() -> Listings:
    """Read the file that is part of the package, from a zip as well."""
    packed = resources.files("sim").joinpath("data", NAME, FILE).read_bytes()
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(packed).decode(), newline="")))
    columns = {name: [row[header] or None for row in rows] for header, name in COLUMNS.items()}
    return Listings(
        texts={
            name: pa.array(values, pa.string()).dictionary_encode()
            for name, values in columns.items()
            if name not in MEASURED
        },
        coordinates={name: np.array(columns[name], dtype=np.float64) for name in MEASURED},
        counties=tuple(row["County"] for row in rows),
    )


def replayed_rows(params: WaterwaysParameters, feed: int, first: int, stop: int) -> Numbers:
    """Which row of the file each event is, int64 of shape (stop - first,): a permutation of all rows per pass."""
    count = len(listings())
    passes = range(first // count, -(-stop // count))
    orders = [generator(params.seed, NAME, "order", feed, number).permutation(count) for number in passes]
    skipped = first - passes.start * count
    rows: Numbers = np.concatenate([np.zeros(0, np.int64), *orders])[skipped : skipped + stop - first]
    return rows


def event_ids(params: WaterwaysParameters, feed: int, first: int, times_us: Numbers) -> pa.Array:
    """Identities of consecutive events: UUIDs of version 7 (RFC 9562), which sort as their events happen.

    48 bits are the milliseconds since 1970 and 12 the fraction of one; 62 bits are random, and follow from the seed,
    the feed and the event's number.

    Args:
        params: The run's parameters.
        feed: The feed.
        first: Number of the first event.
        times_us: Times of the events, microseconds since 1970, shape (n,).

    Returns:
        Lower-case text of length n.
    """
    count = len(times_us)
    blocks = range(first // _BLOCK, -(-(first + count) // _BLOCK))
    drawn = [
        generator(params.seed, NAME, "identity", feed, block).integers(2**62, size=_BLOCK, dtype=np.uint64)
        for block in blocks
    ]
    skipped = first - blocks.start * _BLOCK
    random = np.concatenate([np.zeros(0, np.uint64), *drawn])[skipped : skipped + count]
    milliseconds, micros = np.divmod(times_us, 1_000)
    high = (milliseconds << 16) | (7 << 12) | (micros * 4096 // 1_000)
    halves = np.column_stack([high.astype(np.uint64), random | np.uint64(1 << 63)])
    return _uuid_text(halves.astype(">u8").view(np.uint8).reshape(count, 16))


_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint16)  # two digits of each byte
_GROUPS = ((0, 8), (9, 13), (14, 18), (19, 23), (24, 36))  # where a UUID has its digits, between hyphens


def _uuid_text(identities: NDArray[np.uint8]) -> pa.Array:
    """Identities of shape (n, 16) as text, 8-4-4-4-12 hexadecimal digits."""
    count = len(identities)
    digits = _HEX[identities].view(np.uint8).reshape(count, 32)
    text = np.full((count, 36), ord("-"), np.uint8)
    for hyphens, (start, stop) in enumerate(_GROUPS):
        text[:, start:stop] = digits[:, start - hyphens : stop - hyphens]
    offsets = np.arange(count + 1, dtype=np.int32) * 36
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(text))


def units(params: WaterwaysParameters) -> list[Unit]:
    """One unit per feed and piece of an hour, clipped to the span; a whole piece has the same name in every run.

    An hour is cut into as many equal pieces as it takes for one of them to hold a million events at most.
    """
    clock = Clock.at(params.rate_hz)
    length = _piece_us(params.rate_hz)
    start, stop = params.span_us
    found = []
    for piece in range(start // length, -(-stop // length)):
        whole = (clock.first_at(piece * length), clock.first_at((piece + 1) * length))
        first, last = max(whole[0], clock.first_at(start)), min(whole[1], clock.first_at(stop))
        label = f"{_EPOCH + piece * length * _MICROSECOND:%Y%m%dT%H%M%S}"
        if (first, last) != whole:
            label += f"-{first - whole[0]:07d}-{last - whole[0]:07d}"
        if first < last:
            found += [Unit(f"feed-{feed:05d}-{label}", feed, first, last) for feed in range(params.entities)]
    return found


def _piece_us(rate_hz: float) -> int:
    """The longest whole part of an hour, in whole seconds, that holds at most ROWS_PER_UNIT events."""
    parts = next(n for n in range(1, 3_601) if 3_600 % n == 0 and rate_hz * 3_600 / n <= ROWS_PER_UNIT)
    return _HOUR_US // parts


def table(params: WaterwaysParameters, unit: Unit) -> pa.Table:
    """Replay one unit.

    Args:
        params: The run's parameters.
        unit: One of ``units(params)``, or any range of events of one feed.

    Returns:
        ``event_id`` (string), ``event_time`` (timestamp in microseconds, UTC), the columns of the file in its order:
        texts (dictionary-encoded) as they are there and null where there is none, ``longitude`` and ``latitude``
        (float64, degrees). In time order.
    """
    source = listings()
    times = Clock.at(params.rate_hz).times(unit.start, unit.stop - unit.start)
    rows = replayed_rows(params, unit.entity, unit.start, unit.stop)
    places = pa.array(rows)

    def column(name: str) -> pa.Array:
        if name in source.texts:
            return source.texts[name].take(places)
        return pa.array(source.coordinates[name][rows])

    return pa.table(
        {
            "event_id": event_ids(params, unit.entity, unit.start, times),
            "event_time": pa.array(times).cast(_TIMESTAMP),
            **{name: column(name) for name in COLUMNS.values()},
        }
    )


def truth(params: WaterwaysParameters) -> pa.Table:
    """Count what was replayed, per county.

    Returns:
        ``county``, ``events`` (int64, of all feeds), ``start`` and ``stop`` (timestamp in microseconds, UTC: the span
        of the run, end excluded), ``rate_hz``; by county, those without an event left out.
    """
    clock = Clock.at(params.rate_hz)
    start, stop = params.span_us
    first, last = clock.first_at(start), clock.first_at(stop)
    counties, county_of = np.unique(listings().counties, return_inverse=True)
    size = len(listings())
    # Every whole pass has every row once: only the rows of the first and the last pass need their order.
    whole_first, whole_last = -(-first // size) * size, last // size * size
    whole = max(whole_last - whole_first, 0) // size
    ends = [(first, whole_first), (whole_last, last)] if whole_first <= whole_last else [(first, last)]
    counts = np.bincount(county_of) * whole * params.entities
    for feed in range(params.entities):
        for begin, end in ends:
            counts += np.bincount(county_of[replayed_rows(params, feed, begin, end)], minlength=len(counties))
    seen = counts > 0
    number = int(seen.sum())
    return pa.table(
        {
            "county": pa.array(counties[seen].tolist(), pa.string()),
            "events": pa.array(counts[seen].astype(np.int64)),
            "start": pa.array([start] * number, pa.int64()).cast(_TIMESTAMP),
            "stop": pa.array([stop] * number, pa.int64()).cast(_TIMESTAMP),
            "rate_hz": pa.array([params.rate_hz] * number, pa.float64()),
        }
    )


def _future(rows: pa.Table, _schema: FaultSchema, rng: np.random.Generator) -> Altered:
    """Put events into one hour, decades after any arrival, and yet of a year that a timestamp may well have."""
    hour_us = _FUTURE_US + int(rng.integers(_FUTURE_HOURS)) * _HOUR_US
    times = pa.array(hour_us + rng.integers(_HOUR_US, size=rows.num_rows)).cast(_TIMESTAMP)
    index = rows.column_names.index("event_time")
    return rows.set_column(index, rows.schema.field(index), times), ["event_time"] * rows.num_rows


FAULTS = FaultSchema(
    key=("event_id",),
    measured={"longitude": LONGITUDES, "latitude": LATITUDES},
    own={"future": _future},
)

SIMULATOR = Simulator(
    name=NAME,
    parameters=WaterwaysParameters,
    partition_by=("year", "month", "day", "hour"),
    units=units,
    table=table,
    truth=truth,
    faults=FAULTS,
)

"""Devices: IoT telemetry in two payload versions, told apart by which fields are present."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.datasets import telemetry
from jobs.lake import quality
from jobs.lake.sources import Parsed, SourceFile
from jobs.lake.tables import TRAITS, UNDECODABLE, Dataset, Decode, Ingest, column

Range = tuple[float, float]


class DeviceSettings(BaseModel):
    """Thresholds for device telemetry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature_range: Range = Field((-60.0, 85.0), description="degC: the range of common outdoor sensors")
    humidity_range: Range = Field((0.0, 100.0), description="% relative humidity")
    pressure_range: Range = Field((300.0, 1100.0), description="hPa: from 9,000 m up to below sea level")
    earliest: AwareDatetime = Field(datetime(2000, 1, 1, tzinfo=UTC), description="No reading is older")
    future_tolerance_seconds: float = Field(300.0, ge=0, description="How far a device's clock may be ahead")


def rules(settings: DeviceSettings) -> list[Column]:
    """A plausible instant, finite readings within their sensors' ranges, a place on Earth."""
    ranges = {
        "temperature": settings.temperature_range,
        "humidity": settings.humidity_range,
        "battery_level": (0.0, 100.0),
        "pressure": settings.pressure_range,
        "latitude": (-90.0, 90.0),
        "longitude": (-180.0, 180.0),
    }
    return [
        quality.not_before("event_time", settings.earliest),
        quality.not_in_future("event_time", timedelta(seconds=settings.future_tolerance_seconds)),
        *(quality.finite(name) for name in ranges),
        *(quality.in_range(name, low, high) for name, (low, high) in ranges.items()),
    ]


class Message:
    """The fields of one JSON object; notes which of them a version uses.

    Attributes:
        used: Fields asked for so far; an inner one as ``outer.inner``.
    """

    def __init__(self) -> None:
        self.used: set[str] = set()

    def text(self, name: str) -> Column:
        """A field as text; ``outer.inner`` is a field of an object. Null if it is not there."""
        self.used.add(name)
        outer, _, inner = name.partition(".")
        value = _field(outer)
        return F.try_variant_get(value, f"$.{inner}", "string") if inner else value.try_cast("string")

    @staticmethod
    def has(*names: str) -> Column:
        """Whether any of these fields is present, with a value or without."""
        return F.arrays_overlap(F.map_keys("_fields"), F.array(*(F.lit(name) for name in names)))


def _field(name: str) -> Column:
    return F.try_element_at("_fields", F.lit(name))


@dataclass(frozen=True)
class Version:
    """One make of message.

    Attributes:
        number: Its number in silver's ``schema_version``.
        is_sent: Whether a message is of this make, by the fields that it has.
        columns: Column of silver -> its text.
    """

    number: int
    is_sent: Column
    columns: dict[str, Column]


_ONLY_V2 = ("readings", "battery_level", "firmware_version", "location", "pressure")


def v1(message: Message) -> Version:
    """Temperature and humidity side by side."""
    return Version(
        1,
        message.has("temperature", "humidity") & ~message.has(*_ONLY_V2),
        {"temperature": message.text("temperature"), "humidity": message.text("humidity")},
    )


def v2(message: Message) -> Version:
    """Temperature among the readings; battery, firmware, place and pressure besides."""
    return Version(
        2,
        message.has("readings") | (message.has(*_ONLY_V2) & ~message.has("temperature")),
        {
            "temperature": message.text("readings.temperature"),
            "humidity": message.text("humidity"),
            "battery_level": message.text("battery_level"),
            "firmware_version": message.text("firmware_version"),
            "latitude": message.text("location.lat"),
            "longitude": message.text("location.lon"),
            "pressure": message.text("pressure"),
        },
    )


VERSIONS: tuple[Callable[[Message], Version], ...] = (v1, v2)
"""A new make of message is one function more; the newest comes last."""


def decode(rows: DataFrame, versions: Sequence[Callable[[Message], Version]] = VERSIONS) -> DataFrame:
    """Messages as rows of silver, what no version knows in ``extras``.

    Args:
        rows: Rows of bronze, with ``payload`` and ``arrived_at``.
        versions: The makes of message to tell apart.
    """
    told = []
    for version in versions:
        message = Message()
        message.used |= {"device_id", "timestamp"}
        told.append((version(message), frozenset(message.used)))
    number = F.coalesce(*(F.when(v.is_sent, F.lit(v.number)) for v, _ in told))
    names = dict.fromkeys(name for v, _ in told for name in v.columns)
    of_version = {
        name: F.coalesce(
            *(F.when(F.col("schema_version") == v.number, v.columns[name]) for v, _ in told if name in v.columns)
        )
        for name in names
    }
    extras = F.coalesce(*(F.when(F.col("schema_version") == v.number, _unused(used)) for v, used in told))
    common = Message()
    found = (
        _parsed(rows)
        .withColumn("schema_version", number)
        .withColumns(
            {
                "device_id": common.text("device_id"),
                "event_time": common.text("timestamp"),
                **of_version,
                "extras": F.when(F.size(extras) > 0, extras),
                "_arrived_at": F.coalesce("arrived_at", "_arrived_at"),
                UNDECODABLE: F.when(F.col("_fields").isNull(), F.lit("unparsable payload: not one JSON object")).when(
                    F.col("schema_version").isNull(), F.lit("unknown_schema payload: the fields of no known version")
                ),
            }
        )
    )
    return found.withColumn(TRAITS, _traits()).drop("_fields")


def _parsed(rows: DataFrame) -> DataFrame:
    """Add ``_fields``, the fields of the payload; null if it is anything but one JSON object.

    Spark reads the first value of a text and ignores what comes after it. So the payload is put into an array with a
    last element that it cannot hold, its own digest: what follows the object then spoils the array.
    """
    seal = F.md5(F.col("payload").cast("binary"))
    sealed = F.concat(F.lit("["), F.col("payload"), F.lit(',{"#":"'), seal, F.lit('"}]'))
    read = F.from_json(sealed, "array<map<string,variant>>", {"allowSingleQuotes": "false"})
    first, last = F.get("_read", F.lit(0)), F.get("_read", F.lit(1))
    whole = (F.size("_read") == 2) & (F.try_element_at(last, F.lit("#")).try_cast("string") == seal)
    repeats = F.size(F.array_distinct(F.map_keys(first))) < F.size(first)
    return rows.withColumn("_read", read).withColumn("_fields", F.when(whole & ~repeats, first)).drop("_read")


def _unused(used: frozenset[str]) -> Column:
    """The fields that a version does not use, as text; those of an object that it does use as ``outer.inner``."""
    outer = {name.partition(".")[0] for name in used}
    others = F.map_filter("_fields", lambda name, _: ~name.isin(*sorted(outer)))
    parts = [F.transform_values(others, _as_text)]
    for name in sorted({n.partition(".")[0] for n in used if "." in n}):
        known = sorted(n.partition(".")[2] for n in used if n.startswith(f"{name}."))
        inner = F.try_variant_get(_field(name), "$", "map<string,variant>")
        left = F.map_filter(F.coalesce(inner, F.create_map().cast("map<string,variant>")), _none_of(known))
        parts.append(F.transform_keys(F.transform_values(left, _as_text), _below(name)))
    return F.map_concat(*parts)


def _none_of(known: Sequence[str]) -> Callable[[Column, Column], Column]:
    return lambda name, _value: ~name.isin(*known)


def _below(outer: str) -> Callable[[Column, Column], Column]:
    return lambda name, _value: F.concat(F.lit(f"{outer}."), name)


def _as_text(_name: Column, value: Column) -> Column:
    return F.when(~F.is_variant_null(value), F.coalesce(value.try_cast("string"), F.to_json(value)))


def _traits() -> Column:
    """What a message shows: its version, and each field that its version does not know."""
    none, kind = F.lit(""), "array<struct<column:string,kind:string,before:string,after:string>>"
    version = F.struct(F.lit("payload"), F.lit("version"), none, F.concat(F.lit("V"), F.col("schema_version")))
    added = F.transform(
        F.coalesce(F.map_keys("extras"), F.array().cast("array<string>")),
        lambda name: F.struct(name, F.lit("added"), none, F.lit("extras")),
    )
    shown = F.concat(F.array(version).cast(kind), added.cast(kind))
    return F.when(F.col(UNDECODABLE).isNull(), shown).otherwise(F.array().cast(kind))


def parse(file: SourceFile, _beside: Sequence[SourceFile]) -> Iterator[Parsed]:
    """Messages of a file, as they arrived."""
    return telemetry.parse(file)


DATASET = Dataset(
    name="devices",
    schema=T.StructType(
        [
            column("device_id", T.StringType(), "The device", nullable=False),
            column(
                "event_time", T.TimestampType(), "When it was measured, by the device's clock", "UTC", nullable=False
            ),
            column("temperature", T.FloatType(), "Air temperature", "degC", nullable=False),
            column("humidity", T.FloatType(), "Relative humidity", "%", nullable=False),
            column("battery_level", T.FloatType(), "Charge of the battery; since V2", "%"),
            column("firmware_version", T.StringType(), "Firmware; since V2"),
            column("latitude", T.DoubleType(), "Place, north positive; since V2", "deg"),
            column("longitude", T.DoubleType(), "Place, east positive; since V2", "deg"),
            column("pressure", T.FloatType(), "Air pressure; since V2", "hPa"),
            column("schema_version", T.IntegerType(), "Version of the message, by its fields", nullable=False),
            column("extras", T.MapType(T.StringType(), T.StringType()), "Fields that the version does not know"),
            column("arrived_at", T.TimestampType(), "When the message arrived", "UTC"),
        ]
    ),
    key=("device_id", "event_time"),
    entity="device_id",
    settings=DeviceSettings,
    rules=rules,
    decode=Decode(
        bronze=T.StructType(
            [
                column("payload", T.StringType(), "The message as it arrived: JSON", nullable=False),
                column("source_file", T.StringType(), "The file or stream that it came in"),
                column("source_offset", T.LongType(), "Where in it", "bytes"),
                column("arrived_at", T.TimestampType(), "When it arrived", "UTC"),
            ]
        ),
        rows=decode,
    ),
    incidental=frozenset({"arrived_at"}),
    ingest=Ingest(
        partition_by=telemetry.PARTITION_BY,
        companions=lambda _name: (),
        is_companion=telemetry.is_companion,
        parse=parse,
    ),
)

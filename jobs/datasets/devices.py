"""Devices: IoT telemetry in two payload versions, told apart by which fields are present."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.functions import arrow_udf
from pyspark.sql.pandas.types import from_arrow_schema

from jobs.datasets import messages, telemetry
from jobs.datasets.messages import Version
from jobs.lake import quality
from jobs.lake.sources import Parsed, SourceFile
from jobs.lake.tables import UNDECODABLE, Dataset, Decode, Ingest, Tolerance, column

Range = tuple[float, float]
_SHOWN = 200


class DeviceSettings(BaseModel):
    """Thresholds for device telemetry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature_range: Range = Field((-60.0, 85.0), description="degC: the range of common outdoor sensors")
    humidity_range: Range = Field((0.0, 100.0), description="% relative humidity")
    pressure_range: Range = Field((300.0, 1100.0), description="hPa: from 9,000 m up to below sea level")
    earliest: AwareDatetime = Field(datetime(2000, 1, 1, tzinfo=UTC), description="No reading is older")
    future_tolerance_seconds: Tolerance = Field(300.0, description="How far a device's clock may be ahead")


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


COMMON = {"device_id": "device_id", "event_time": "timestamp"}
"""What is in the same place in every message."""

_ONLY_V2 = frozenset({"readings", "battery_level", "firmware_version", "location", "pressure"})

V1 = Version(
    1,
    lambda fields: bool(fields & {"temperature", "humidity"}) and not fields & _ONLY_V2,
    {"temperature": "temperature", "humidity": "humidity"},
)
"""Temperature and humidity side by side."""

V2 = Version(
    2,
    lambda fields: "readings" in fields or (bool(fields & _ONLY_V2) and "temperature" not in fields),
    {
        "temperature": "readings.temperature",
        "humidity": "humidity",
        "battery_level": "battery_level",
        "firmware_version": "firmware_version",
        "latitude": "location.lat",
        "longitude": "location.lon",
        "pressure": "pressure",
    },
)
"""Temperature among the readings; battery, firmware, place and pressure besides."""

VERSIONS = (V1, V2)
"""A new make of message is one more."""


def decode(rows: DataFrame, versions: Sequence[Version] = VERSIONS) -> DataFrame:
    """Messages as rows of silver, what no version knows in ``extras``.

    Args:
        rows: Rows of bronze, with ``payload`` and ``arrived_at``.
        versions: The makes of message to tell apart.
    """
    kind = from_arrow_schema(messages.schema(COMMON, versions))

    def read(payloads: pa.Array) -> pa.Array:
        return messages.decode(payloads, COMMON, versions)

    message = arrow_udf(read, kind)  # type: ignore[call-overload]  # its stub forgets structs
    unparsable = F.when(~F.col("_message")["is_object"], F.lit("unparsable payload: not one JSON object"))
    unknown = F.when(F.col("schema_version").isNull(), F.lit("unknown_schema payload: the fields of no known version"))
    # Arithmetic fails with an instant that no calendar has, and so would whoever reads quarantine.
    possible = F.year("arrived_at").between(1, 9999)
    odd = F.when(~possible, F.lit("out_of_range arrived_at: not within the years 1 to 9999"))
    arrived = F.coalesce(F.when(possible, F.col("arrived_at")), "_arrived_at")
    return (
        rows.withColumn("_message", message("payload"))
        .withColumns({name: F.col("_message")[name] for name in kind.names if name != "is_object"})
        .withColumns({"_arrived_at": arrived, UNDECODABLE: F.coalesce(unparsable, unknown, odd)})
        .drop("_message")
    )


def traits() -> Column:
    """What a message shows of its make: its version, and each field that its version does not know."""

    def trait(name: Column, kind: str, after: Column) -> Column:
        return F.struct(
            name.alias("column"), F.lit(kind).alias("kind"), F.lit("").alias("before"), after.alias("after")
        )

    version = trait(F.lit("payload"), "version", F.concat(F.lit("V"), F.col("schema_version")))
    # A name may be as long as its message.
    unknown = F.transform(
        F.map_keys("extras"), lambda name: trait(F.substring(name, 1, _SHOWN), "added", F.lit("extras"))
    )
    return F.concat(F.array(version), F.coalesce(unknown, F.array()))


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
        traits=traits,
    ),
    incidental=frozenset({"arrived_at"}),
    ingest=Ingest(
        partition_by=telemetry.PARTITION_BY,
        companions=lambda _name: (),
        is_companion=telemetry.is_companion,
        parse=parse,
    ),
)

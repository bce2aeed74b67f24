"""Accelerometer: the body of a walking quadruped, three axes of specific force."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pyspark.sql import Column
from pyspark.sql import types as T

from jobs.lake import quality
from jobs.lake.tables import Dataset, column

AXES = ("ax", "ay", "az")


class AccelerometerSettings(BaseModel):
    """Thresholds for accelerometer rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    acceleration_limit: float = Field(156.9064, gt=0, description="m/s2 either way: 16 g, the range of common IMUs")
    earliest: AwareDatetime = Field(datetime(2000, 1, 1, tzinfo=UTC), description="No sample is older")
    latest: AwareDatetime = Field(datetime(2100, 1, 1, tzinfo=UTC), description="No sample is younger")


def rules(settings: AccelerometerSettings) -> list[Column]:
    """A plausible instant, three finite accelerations within the sensor's range."""
    limit = settings.acceleration_limit
    return [
        quality.between_times("event_time", settings.earliest, settings.latest),
        *(quality.finite(axis) for axis in AXES),
        *(quality.in_range(axis, -limit, limit) for axis in AXES),
    ]


DATASET = Dataset(
    name="accelerometer",
    schema=T.StructType(
        [
            column("sensor_id", T.StringType(), "The sensor, a UUID", nullable=False),
            column("event_time", T.TimestampType(), "When the sample was taken", "UTC", nullable=False),
            column("ax", T.FloatType(), "Specific force forward", "m/s2", nullable=False),
            column("ay", T.FloatType(), "Specific force to the left", "m/s2", nullable=False),
            column("az", T.FloatType(), "Specific force up", "m/s2", nullable=False),
        ]
    ),
    key=("sensor_id", "event_time"),
    entity="sensor_id",
    settings=AccelerometerSettings,
    rules=rules,
)

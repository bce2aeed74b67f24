"""Tides: levels of the sea at gauges."""

from __future__ import annotations

from pydantic import BaseModel, Field
from pyspark.sql import types as T

from jobs.lake import quality
from jobs.lake.tables import Dataset, column


class TideSettings(BaseModel):
    """Thresholds for tides."""

    level_limit_m: float = Field(20.0, gt=0, description="No level is farther from the mean")


DATASET = Dataset(
    name="tides",
    schema=T.StructType(
        [
            column("gauge_id", T.StringType(), "The gauge, a UUID", nullable=False),
            column("event_time", T.TimestampType(), "When", "UTC", nullable=False),
            column("level_m", T.DoubleType(), "Level above the mean", "m", nullable=False),
        ]
    ),
    key=("gauge_id", "event_time"),
    entity="gauge_id",
    settings=TideSettings,
    rules=lambda settings: [
        quality.finite("level_m"),
        quality.in_range("level_m", -settings.level_limit_m, settings.level_limit_m),
    ],
)

"""Fleet: positions, batteries and status of construction robots, or of anything else that reports where it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from pyspark.sql import Column, DataFrame, WindowSpec
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.lake import quality
from jobs.lake.geodesy import haversine_m
from jobs.lake.tables import Dataset, Neighbours, Tolerance, column

STATUSES = ("idle", "moving", "working", "charging", "fault")


class FleetSettings(BaseModel):
    """Thresholds for fleet rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    earliest: AwareDatetime = Field(datetime(2000, 1, 1, tzinfo=UTC), description="No fix is older")
    latest: AwareDatetime = Field(datetime(2100, 1, 1, tzinfo=UTC), description="No fix is younger")
    future_tolerance_seconds: Tolerance = Field(
        300.0, description="A fix may be so much later than its arrival: clocks are fast"
    )
    lowest_voltage: float = Field(30.0, ge=0, description="V; a 48 V pack is cut off well above")
    highest_voltage: float = Field(60.0, gt=0, description="V; a 48 V pack is charged to less")
    speed_limit_m_s: float = Field(
        5.0, gt=0, description="No robot is faster; a fix that would need it to be is a jump"
    )
    position_error_m: float = Field(10.0, ge=0, description="Two fixes may be so much farther apart: receivers err")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.earliest >= self.latest:
            raise ValueError(f"latest {self.latest:%Y-%m-%d} is not after earliest {self.earliest:%Y-%m-%d}")
        if self.lowest_voltage >= self.highest_voltage:
            raise ValueError(
                f"highest_voltage {self.highest_voltage:g} is not above lowest_voltage {self.lowest_voltage:g}"
            )
        return self


def rules(settings: FleetSettings) -> list[Column]:
    """A plausible instant that is not in the future, a place on the globe, a plausible voltage, a known status."""
    nowhere = (F.col("latitude") == 0) & (F.col("longitude") == 0)
    return [
        quality.between_times("event_time", settings.earliest, settings.latest),
        quality.not_in_future("event_time", timedelta(seconds=settings.future_tolerance_seconds)),
        *(quality.finite(name) for name in ("latitude", "longitude", "battery_v")),
        quality.in_range("latitude", -90, 90),
        quality.in_range("longitude", -180, 180),
        F.when(nowhere, F.lit("out_of_range latitude: 0 and longitude 0, which receivers without a fix report")),
        quality.in_range("battery_v", settings.lowest_voltage, settings.highest_voltage),
        quality.one_of("status", STATUSES),
    ]


def jumps(settings: FleetSettings, track: WindowSpec) -> list[Column]:
    """Refuse a fix that none of the two before and the two after can be reached from, or reach, within the speed limit.

    The second one on either side keeps a good fix between two jumps. At an end of the track, where there are fixes on
    one side only, the two on that side must agree with each other: of two fixes alone, either may be the wrong one.

    Args:
        settings: Speed limit and error of a position.
        track: The valid fixes of a robot in order of time.
    """
    here = F.struct("event_time", "latitude", "longitude")
    before, before_that = (F.lag(here, k).over(track) for k in (1, 2))
    after, after_that = (F.lead(here, k).over(track) for k in (1, 2))
    # Within an array each is computed once, and not each time that a formula names it.
    around = F.array(before, before_that, after, after_that)
    ends = F.array(*(F.struct(a.alias("a"), b.alias("b")) for a, b in ((before, before_that), (after, after_that))))
    alone = ~F.exists(around, lambda other: _agree(other, here, settings))
    both_sides = before.isNotNull() & after.isNotNull()
    at_an_end = F.exists(ends, lambda pair: _agree(pair["a"], pair["b"], settings))
    reason = f"jump position: not within {settings.speed_limit_m_s:g} m/s of the fixes around it"
    return [F.when(alone & (both_sides | at_an_end), F.lit(reason))]


def _agree(a: Column, b: Column, settings: FleetSettings) -> Column:
    """Whether a robot can have been at both fixes; not if one is not there."""
    seconds = F.abs(F.unix_micros(a["event_time"]) - F.unix_micros(b["event_time"])) / 1e6
    metres = haversine_m(a["latitude"], a["longitude"], b["latitude"], b["longitude"])
    return F.coalesce(metres <= seconds * settings.speed_limit_m_s + settings.position_error_m, F.lit(False))


def clean(rows: DataFrame) -> DataFrame:
    """Status in lower case; empty text is no status and no site."""
    trimmed = {name: F.nullif(F.trim(name), F.lit("")) for name in ("site_id", "status")}
    return rows.withColumns(trimmed | {"status": F.lower(trimmed["status"])})


DATASET = Dataset(
    name="fleet",
    schema=T.StructType(
        [
            column("robot_id", T.StringType(), "The robot, a UUID", nullable=False),
            column("site_id", T.StringType(), "The site it works on, where known"),
            column("event_time", T.TimestampType(), "When the position was taken", "UTC", nullable=False),
            column("latitude", T.DoubleType(), "North of the equator, WGS 84", "deg", nullable=False),
            column("longitude", T.DoubleType(), "East of Greenwich, WGS 84", "deg", nullable=False),
            column("battery_v", T.FloatType(), "Voltage at the battery's terminals, where known", "V"),
            column("status", T.StringType(), "idle, moving, working, charging or fault, where known"),
        ]
    ),
    key=("robot_id", "event_time"),
    entity="robot_id",
    settings=FleetSettings,
    rules=rules,
    clean=clean,
    neighbours=Neighbours(time="event_time", reach=timedelta(hours=1), checks=jumps),
)

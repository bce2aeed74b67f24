"""gold/fleet_status: per robot and window, and for the whole fleet: way, speed, work, battery, faults."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import reduce
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType, IntegerType, LongType, StringType, StructType, TimestampType

from jobs.lake import spans
from jobs.lake.geodesy import haversine_m, is_inside
from jobs.lake.tables import ALL, GoldTable, Grouped, column

SILVER: Final = "silver/fleet"
STATUSES: Final = ("idle", "moving", "working", "charging", "fault")
KEY: Final = ("robot_id", "window_start")

Corner = tuple[Annotated[float, Field(ge=-90, le=90)], Annotated[float, Field(ge=-180, le=180)]]
Corners = Annotated[tuple[Corner, ...], Field(min_length=3)]


class FleetStatusSettings(BaseModel):
    """What is tuned in ``fleet_status``.

    Attributes:
        window_seconds: Length of a window; windows are counted from 1970.
        max_gap_seconds: What lies between two fixes that are further apart in time is not known, and not counted.
        min_step_m: A shorter step between two fixes is taken as an error of the receiver, and the robot as at rest.
        empty_voltage: V; a battery is empty at or below it.
        sites: Corners of each site, as [latitude, longitude] in degrees, in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_seconds: int = Field(300, ge=1, le=86_400)
    max_gap_seconds: float = Field(60.0, gt=0, le=86_400)
    min_step_m: float = Field(1.5, ge=0)
    empty_voltage: float = Field(46.0, gt=0)
    sites: Mapping[str, Corners] = {
        "albany": (
            (42.62740, -73.76010),
            (42.62735, -73.75820),
            (42.62830, -73.75790),
            (42.62885, -73.75890),
            (42.62840, -73.76030),
        ),
        "buffalo": (
            (42.85540, -78.84160),
            (42.85530, -78.83960),
            (42.85620, -78.83930),
            (42.85680, -78.84020),
            (42.85650, -78.84150),
        ),
        "syracuse": (
            (43.06240, -76.17050),
            (43.06220, -76.16890),
            (43.06310, -76.16850),
            (43.06360, -76.16940),
            (43.06320, -76.17060),
        ),
    }

    @property
    def window_us(self) -> int:
        """Length of a window in microseconds."""
        return self.window_seconds * 1_000_000

    @property
    def max_gap_us(self) -> int:
        """Largest gap in microseconds."""
        return timedelta(seconds=self.max_gap_seconds) // timedelta(microseconds=1)


SCHEMA = StructType(
    [
        column("robot_id", StringType(), f"The robot, or {ALL} for the fleet.", nullable=False),
        column("window_start", TimestampType(), "Start of the window.", "UTC", nullable=False),
        column("window_end", TimestampType(), "End of the window, not in it.", "UTC", nullable=False),
        column("site_id", StringType(), "Where the robot was last said to work; null for the fleet."),
        column("robots", IntegerType(), "Robots that reported: 1, or those of the fleet.", "robot", nullable=False),
        column("samples", LongType(), "Fixes.", "fix", nullable=False),
        column("covered_seconds", DoubleType(), "Time of the steps counted: shares and means are of it.", "s"),
        column("distance_m", DoubleType(), "Way driven.", "m"),
        column("mean_speed_m_s", DoubleType(), "Way over time covered, rests included.", "m/s"),
        column("top_speed_m_s", DoubleType(), "Largest speed of a step.", "m/s"),
        *(
            column(f"{status}_share", DoubleType(), f"Share of the time of known status: {status}.", "1")
            for status in STATUSES
        ),
        column("battery_mean_v", DoubleType(), "Mean voltage.", "V"),
        column("battery_min_v", DoubleType(), "Least voltage.", "V"),
        column(
            "battery_slope_v_h",
            DoubleType(),
            "Change of voltage while not charging, at equal load; null for the fleet.",
            "V/h",
        ),
        column(
            "minutes_left",
            DoubleType(),
            "Until the battery is empty, from where its voltage ends, at this slope; null if it charges or does not "
            "fall. Of the fleet: until the first is.",
            "min",
        ),
        column("outside_seconds", DoubleType(), "Time off the site; null where the site is not known.", "s"),
        column("faults", LongType(), "Faults that began.", "fault", nullable=False),
        column("charges", LongType(), "Charges that began.", "charge", nullable=False),
        column("last_seen", TimestampType(), "Last fix.", "UTC", nullable=False),
        column("last_latitude", DoubleType(), "Its latitude; null for the fleet, as are the next two.", "deg"),
        column("last_longitude", DoubleType(), "Its longitude.", "deg"),
        column("last_status", StringType(), "Its status."),
    ]
)


def touched(new_rows: DataFrame, settings: FleetStatusSettings) -> DataFrame:
    """Name the windows that change when ``new_rows`` enter silver, for all robots: the fleet's row sums them up.

    A fix changes its own step, and the step of the fix after it, which is at most ``max_gap_seconds`` later.

    Returns:
        Distinct ``window_us``: start in microseconds since 1970.
    """
    first = _window_us(F.unix_micros("event_time"), settings)
    last = _window_us(F.unix_micros("event_time") + settings.max_gap_us, settings)
    windows = F.sequence(first, last, F.lit(settings.window_us))
    return new_rows.select(F.explode(windows).alias("window_us")).distinct()


def compute(silver: DataFrame, windows: DataFrame, settings: FleetStatusSettings) -> DataFrame:
    """Compute ``gold/fleet_status`` for the touched windows.

    A step leads from one fix of a robot to its next and belongs to the window of its end; for its duration, status
    and being off the site are those of its start. A step of more than ``max_gap_seconds`` does not count. Sums are of
    whole numbers (micrometres, microseconds), so that the result has the same bits however the rows are
    partitioned.

    Reads silver from ``max_gap_seconds`` before each run of touched windows, where steps begin, to its end.

    Args:
        silver: Fleet rows.
        windows: ``window_us`` of the windows to compute; see :func:`touched`.
        settings: Lengths, thresholds and sites.

    Returns:
        One row per robot and window that has fixes, and one per window for the fleet, as :data:`SCHEMA`.
    """
    starts = windows.distinct().toArrow()
    needed = [(s - settings.max_gap_us, s + settings.window_us) for s in sorted(starts["window_us"].to_pylist())]
    chosen = F.broadcast(silver.sparkSession.createDataFrame(starts, "window_us long"))
    rows = _steps(silver.where(spans.within("event_time", spans.joined(needed))), settings)
    robots = _per_robot(rows.join(chosen, "window_us", "left_semi"), settings)
    return _with_fleet(robots, settings)


def _window_us(microseconds: Column, settings: FleetStatusSettings) -> Column:
    return microseconds - F.pmod(microseconds, F.lit(settings.window_us))


def is_outside(settings: FleetStatusSettings) -> Column:
    """Whether a row's position is off its site; null if the site is not one of the settings'."""
    inside = F.lit(None).cast("boolean")
    for name, corners in settings.sites.items():
        here = is_inside(F.col("latitude"), F.col("longitude"), corners)
        inside = F.when(F.col("site_id") == name, here).otherwise(inside)
    return ~inside


def _steps(rows: DataFrame, settings: FleetStatusSettings) -> DataFrame:
    """Add to each fix the step that leads to it: microseconds, micrometres, and what began with it.

    ``step_us`` and ``step_um`` are null where no step counts. ``is_last``: of its robot, in its window.
    """
    track = Window.partitionBy("robot_id").orderBy("event_time")
    before = F.col("before")
    instant = F.unix_micros("event_time")
    us = instant - F.unix_micros(before["event_time"])
    metres = haversine_m(before["latitude"], before["longitude"], F.col("latitude"), F.col("longitude"))
    micrometres = F.when(metres >= settings.min_step_m, F.round(metres * 1e6).cast("long")).otherwise(0)
    counts = F.col("step_us").isNotNull()

    def begins(status: str) -> Column:
        already = F.coalesce(counts & (before["status"] == status), F.lit(False))
        return F.coalesce(F.col("status") == status, F.lit(False)) & ~already

    return (
        rows.withColumns({"outside": is_outside(settings), "window_us": _window_us(instant, settings)})
        .withColumns(
            {
                "before": F.lag(F.struct("event_time", "latitude", "longitude", "status", "outside")).over(track),
                "is_last": F.coalesce(F.lead("window_us").over(track) != F.col("window_us"), F.lit(True)),
            }
        )
        .withColumn("step_us", F.when(us <= settings.max_gap_us, us))
        .withColumns(
            {
                "step_um": F.when(counts, micrometres),
                "outside_us": F.when(
                    F.col("outside").isNotNull(), F.when(counts & before["outside"], F.col("step_us")).otherwise(0)
                ),
                "fault_begins": begins("fault").cast("long"),
                "charge_begins": begins("charging").cast("long"),
            }
        )
        # Between two charges; where the count begins does not matter, only where it changes.
        .withColumn("discharge", F.sum("charge_begins").over(track))
    )


def _per_robot(rows: DataFrame, settings: FleetStatusSettings) -> DataFrame:
    """Sum up each robot's windows; what is summed stays whole, for the fleet's sums."""
    parts = _per_status(rows, settings)
    slope = F.sum("time_volts").cast("double") / F.nullif(F.sum("time_time").cast("double"), F.lit(0.0))
    here = F.struct("last_us", "latitude", "longitude", "status", "site_id")
    summed = parts.groupBy("robot_id", "window_us").agg(
        *(F.sum(name).alias(name) for name in _SUMS),
        F.max("top_speed_m_s").alias("top_speed_m_s"),
        F.min("battery_min_v").alias("battery_min_v"),
        F.max(here).alias("last"),
        F.max(F.struct("drained_last", "drained_time", "drained_volts")).alias("drained"),
        slope.alias("slope"),
    )
    # The line's level at the last reading, in the status that it has then: less noisy than the reading.
    drained = F.col("drained")
    level = drained["drained_volts"] + F.col("slope") * (drained["drained_last"] - drained["drained_time"])
    left = F.greatest(level - settings.empty_voltage * _VOLT, F.lit(0.0)) / -F.col("slope")
    is_charging = F.coalesce(F.col("last.status") == "charging", F.lit(False))
    minutes = settings.window_seconds / _WINDOW / 60
    return summed.withColumns(
        {
            "minutes_left": F.when(~is_charging & (F.col("slope") < 0), left * minutes),
            "battery_slope_v_h": F.col("slope") / (_VOLT * minutes / 60),
        }
    )


def _per_status(rows: DataFrame, settings: FleetStatusSettings) -> DataFrame:
    """Sum up the parts of each robot's windows in which it has one status on one site, between two charges.

    Load makes the voltage sag. So while it drains, voltage is followed over time within each status: a level for each
    part, one slope for all. The sums of products are exact: time counts in millionths of a window and voltage in
    tenths of a millivolt, so that the longest windows stay within a long.
    """
    is_charging = F.coalesce(F.col("status") == "charging", F.lit(False))
    volts = F.round(F.col("battery_v").cast("double") * _VOLT).cast("long")
    drained = F.when(~is_charging, volts)
    since = (F.unix_micros("event_time") - F.col("window_us")) * (_WINDOW / settings.window_us)
    time = F.when(drained.isNotNull(), F.round(since).cast("long"))
    return rows.groupBy("robot_id", "window_us", "site_id", "status", "discharge").agg(
        F.count(F.lit(1)).alias("samples"),
        *(F.sum(name).alias(name) for name in ("step_us", "step_um", "outside_us")),
        F.sum("fault_begins").alias("faults"),
        F.sum("charge_begins").alias("charges"),
        F.count(volts).alias("volts_n"),
        F.sum(volts).alias("volts"),
        *(
            F.sum(F.when(F.col("before.status") == status, F.col("step_us"))).alias(f"{status}_us")
            for status in STATUSES
        ),
        F.max(F.col("step_um") / F.col("step_us")).alias("top_speed_m_s"),  # micrometres a microsecond
        F.min("battery_v").alias("battery_min_v"),
        F.max(F.unix_micros("event_time")).alias("last_us"),
        *(F.max(F.when(F.col("is_last"), F.col(name))).alias(name) for name in ("latitude", "longitude")),
        _centred(time, drained).cast("decimal(38,6)").alias("time_volts"),
        _centred(time, time).cast("decimal(38,6)").alias("time_time"),
        F.max(time).alias("drained_last"),
        F.mean(time).alias("drained_time"),
        F.mean(drained).alias("drained_volts"),
    )


_VOLT = 10_000  # tenths of a millivolt
_WINDOW = 1_000_000  # millionths
_SUMS = (
    *("samples", "step_us", "step_um", "outside_us", "faults", "charges", "volts_n", "volts"),
    *(f"{status}_us" for status in STATUSES),
)


def _centred(a: Column, b: Column) -> Column:
    """Sum of the products of two columns' departures from their means, as a double."""
    total_a, total_b = F.sum(a).cast("double"), F.sum(b).cast("double")
    return F.sum(a * b).cast("double") - total_a * total_b / F.nullif(F.count(a).cast("double"), F.lit(0.0))


def _with_fleet(robots: DataFrame, settings: FleetStatusSettings) -> DataFrame:
    """Add the fleet's rows, and turn sums into what the table says."""
    keys = F.explode(F.array("robot_id", F.lit(ALL)))
    summed = (
        robots.withColumn("key", keys)
        .groupBy("key", "window_us")
        .agg(
            F.count(F.lit(1)).alias("robots"),
            *(F.sum(name).alias(name) for name in _SUMS),
            F.max("top_speed_m_s").alias("top_speed_m_s"),
            F.min("battery_min_v").alias("battery_min_v"),
            F.min("minutes_left").alias("minutes_left"),
            F.max("battery_slope_v_h").alias("battery_slope_v_h"),
            F.max("last").alias("last"),
        )
    )
    of_robot = F.col("key") != ALL
    covered = F.coalesce(F.col("step_us"), F.lit(0)) / 1e6
    metres = F.coalesce(F.col("step_um"), F.lit(0)) / 1e6
    known = reduce(Column.__add__, (F.coalesce(F.col(f"{status}_us"), F.lit(0)) for status in STATUSES))
    columns = {
        "robot_id": F.col("key"),
        "window_start": F.timestamp_micros("window_us"),
        "window_end": F.timestamp_micros(F.col("window_us") + settings.window_us),
        "site_id": F.when(of_robot, F.col("last.site_id")),
        "covered_seconds": covered,
        "distance_m": metres,
        "mean_speed_m_s": metres / F.nullif(covered, F.lit(0.0)),
        **{
            f"{status}_share": F.coalesce(F.col(f"{status}_us"), F.lit(0)) / F.nullif(known, F.lit(0))
            for status in STATUSES
        },
        "battery_mean_v": F.col("volts") / F.nullif(F.col("volts_n"), F.lit(0)) / _VOLT,
        "battery_slope_v_h": F.when(of_robot, F.col("battery_slope_v_h")),
        "outside_seconds": F.col("outside_us") / 1e6,
        "last_seen": F.timestamp_micros("last.last_us"),
        **{f"last_{name}": F.when(of_robot, F.col(f"last.{name}")) for name in ("latitude", "longitude", "status")},
    }
    return summed.select(*(columns.get(f.name, F.col(f.name)).cast(f.dataType).alias(f.name) for f in SCHEMA))


TABLE = GoldTable(
    name="fleet_status",
    dataset="fleet",
    schema=SCHEMA,
    key=KEY,
    settings=FleetStatusSettings,
    how=Grouped(
        inputs=(SILVER,),
        touched=lambda new, _, settings: touched(new, settings),
        compute=lambda inputs, windows, settings: compute(inputs[SILVER], windows, settings),
        looks_back=lambda settings: timedelta(seconds=settings.max_gap_seconds),
    ),
    look=(
        "robot_id",
        "window_start",
        "site_id",
        "distance_m",
        "working_share",
        "battery_mean_v",
        "minutes_left",
        "outside_seconds",
        "faults",
    ),
)

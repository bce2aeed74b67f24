"""gold/county_activity: events per county, and of all counties, in windows that slide over event time."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.lake import spans
from jobs.lake.tables import ALL, GoldTable, Grouped, column

SILVER = "silver/waterways"
KEY = ("county", "window_start")
MOST_OVERLAPPING = 1_440

_SECOND = 1_000_000


class ActivitySettings(BaseModel):
    """Length and slide of the windows.

    Windows start at whole multiples of the slide since 1970-01-01 UTC and end, excluded, after their length. The
    length need not be a multiple of the slide: then events are in either of two numbers of windows, that of whole
    slides in the length or one more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_seconds: int = Field(300, ge=1, description="Length of a window")
    slide_seconds: int = Field(60, ge=1, description="A window starts every so often, counted from 1970-01-01 UTC")

    @model_validator(mode="after")
    def _check_slide(self) -> ActivitySettings:
        if self.slide_seconds > self.window_seconds:
            raise ValueError(
                f"slide_seconds {self.slide_seconds} is more than window_seconds {self.window_seconds}:"
                " events between two windows would not be counted"
            )
        if self.window_seconds > MOST_OVERLAPPING * self.slide_seconds:
            raise ValueError(
                f"slide_seconds {self.slide_seconds} puts an event into more than {MOST_OVERLAPPING:,} windows"
                f" of window_seconds {self.window_seconds}"
            )
        return self

    @property
    def window_us(self) -> int:
        """Length in microseconds."""
        return self.window_seconds * _SECOND

    @property
    def slide_us(self) -> int:
        """Slide in microseconds."""
        return self.slide_seconds * _SECOND

    @property
    def pane_us(self) -> int:
        """The longest stretch that every window has whole or not at all, in microseconds."""
        return gcd(self.window_us, self.slide_us)


def touched(new: DataFrame, inputs: Mapping[str, DataFrame], settings: ActivitySettings) -> DataFrame:
    """The windows that new events are in, by their ``start`` in microseconds since 1970.

    Of all counties: an event changes the row of its county and that for all of them, and to know the latter, the
    former are all counted.
    """
    panes = new.where("event_time IS NOT NULL").select(_pane(settings)).distinct()
    return panes.select(_starts(settings)).distinct()


def compute(inputs: Mapping[str, DataFrame], touched: DataFrame, settings: ActivitySettings) -> DataFrame:
    """Count the events of the touched windows.

    Events are counted once per pane, county and waterbody, and panes are then added up to windows. Of silver, only the
    spans of time that touched windows cover are read; to know them, one small job runs here and now.

    Args:
        inputs: Silver rows of waterways; those without an event time do not count.
        touched: Windows to compute, as :func:`touched` names them.
        settings: Length and slide.

    Returns:
        One row per touched window and county with events in it, as :data:`SCHEMA`.
    """
    panes = (
        inputs[SILVER]
        .where(_within_touched(touched, settings))
        .groupBy("county", "waterbody_name", _pane(settings))
        .agg(F.count(F.lit(1)).alias("events"))
    )
    return (
        panes.withColumn("start", _starts(settings))
        .withColumn("county", F.explode(F.array("county", F.lit(ALL))))
        .groupBy("county", "start", "waterbody_name")
        .agg(F.sum("events").alias("events"))
        .groupBy("county", "start")
        .agg(F.sum("events").alias("events"), F.count(F.lit(1)).alias("waterbodies"))
        .join(touched, "start", "left_semi")
        .select(
            "county",
            F.timestamp_micros("start").alias("window_start"),
            F.timestamp_micros(F.col("start") + settings.window_us).alias("window_end"),
            "events",
            "waterbodies",
            (F.col("events") * 60.0 / settings.window_seconds).alias("events_per_minute"),
        )
    )


def _pane(settings: ActivitySettings) -> Column:
    """Start of the pane that an event is in, in microseconds since 1970."""
    instant = F.unix_micros("event_time")
    return (instant - F.pmod(instant, F.lit(settings.pane_us))).alias("pane")


def _starts(settings: ActivitySettings) -> Column:
    """One row for every window that has a pane, with the ``start`` of the window."""
    pane, slide = F.col("pane"), F.lit(settings.slide_us)
    last = pane - F.pmod(pane, slide)
    # The first window that ends after the pane has begun: the smallest multiple of the slide above pane - length.
    ended = pane - settings.window_us
    first = ended - F.pmod(ended, slide) + slide
    return F.explode(F.sequence(first, last, slide)).alias("start")


def _within_touched(touched: DataFrame, settings: ActivitySettings) -> str:
    """A condition on event time that holds in all touched windows, and in little else.

    Stretches of time as long as a window, or an hour if that is longer, are joined where they meet. If there are too
    many, such as for a late event in every month of a year, those closest to each other are joined as well.
    """
    stretch = max(settings.window_us, 3_600 * _SECOND)
    number = F.call_function("div", F.col("start") - F.pmod(F.col("start"), F.lit(stretch)), F.lit(stretch))
    numbers = sorted(row[0] for row in touched.select(number).distinct().collect())
    needed = [(n * stretch, (n + 1) * stretch + settings.window_us) for n in numbers]
    return spans.within("event_time", spans.joined(needed))


SCHEMA = T.StructType(
    [
        column("county", T.StringType(), f"The county, or {ALL} for all of them", nullable=False),
        column("window_start", T.TimestampType(), "Start of the window, included", "UTC", nullable=False),
        column("window_end", T.TimestampType(), "End of the window, excluded", "UTC", nullable=False),
        column("events", T.LongType(), "Events in the window; a window without any has no row", "1", nullable=False),
        column("waterbodies", T.LongType(), "Different names of waterbodies among them", "1", nullable=False),
        column("events_per_minute", T.DoubleType(), "events over the window's length", "1/min", nullable=False),
    ]
)

TABLE = GoldTable(
    name="county_activity",
    dataset="waterways",
    schema=SCHEMA,
    key=KEY,
    settings=ActivitySettings,
    how=Grouped(inputs=(SILVER,), touched=touched, compute=compute),
)

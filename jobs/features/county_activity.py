"""gold/county_activity: events per county, and of all counties, in windows that slide over event time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from jobs.features import sliding
from jobs.lake.tables import ALL, GoldTable, Windowed, column

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

    window_seconds: int = Field(300, ge=1, le=31_536_000, description="Length of a window")
    slide_seconds: int = Field(
        60, ge=1, le=31_536_000, description="A window starts every so often, counted from 1970-01-01 UTC"
    )

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

_ARROW_SCHEMA = to_arrow_schema(SCHEMA)


def activity(rows: pa.Table, settings: ActivitySettings, windows: Mapping[str, Sequence[tuple[int, int]]]) -> pa.Table:
    """Count the events of windows, county by county and of all counties.

    Args:
        rows: Silver rows of waterways that the windows can hold: event_time, county, waterbody_name.
        settings: Length and slide.
        windows: :data:`ALL` -> ranges of window numbers, in order; window ``k`` starts at ``k`` slides since 1970.

    Returns:
        One row per window and county with events in it, as :data:`SCHEMA`.
    """
    if not rows.num_rows:
        return _ARROW_SCHEMA.empty_table()
    counties, county = _coded(rows["county"])
    waterbodies, waterbody = _coded(rows["waterbody_name"])
    pane, length, slide = settings.pane_us, settings.window_us, settings.slide_us
    panes = rows["event_time"].cast(pa.int64()).to_numpy() // pane
    origin = panes.min()
    width = panes.max() - origin + 1  # of a waterbody
    of_county = len(waterbodies) * width

    occurrence, events = np.unique(county * of_county + waterbody * width + panes - origin, return_counts=True)
    anywhere, at = np.unique(occurrence % of_county, return_inverse=True)
    everywhere = np.zeros(len(anywhere), np.int64)
    np.add.at(everywhere, at, events)
    occurrence = np.concatenate([occurrence, anywhere + len(counties) * of_county])
    begin = (occurrence % width + origin) * pane
    found = sliding.count(
        occurrence // of_county,
        occurrence // width,
        (begin - length) // slide + 1,
        begin // slide,
        np.concatenate([events, everywhere]),
    )
    firsts, lasts = np.array(windows[ALL], np.int64).T
    run = np.searchsorted(firsts, found.window, "right") - 1
    asked = (run >= 0) & (found.window <= lasts[run])
    start = found.window[asked] * slide
    counted = found.events[asked]
    columns = {
        "county": pa.array([*counties, ALL], pa.string()).take(pa.array(found.group[asked])),
        "window_start": start,
        "window_end": start + length,
        "events": counted,
        "waterbodies": found.names[asked],
        "events_per_minute": counted * 60.0 / settings.window_seconds,
    }
    return pa.table([pa.array(columns[f.name], f.type) for f in _ARROW_SCHEMA], schema=_ARROW_SCHEMA)


def _coded(column: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Different texts, and the number among them of each row's."""
    encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)


TABLE = GoldTable(
    name="county_activity",
    dataset="waterways",
    schema=SCHEMA,
    key=KEY,
    settings=ActivitySettings,
    how=Windowed(
        "event_time",
        ("county", "waterbody_name"),
        window=lambda settings: (settings.window_us, settings.slide_us),
        kernel=activity,
    ),
)

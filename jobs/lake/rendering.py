"""The quality report as one HTML file that needs nothing else: no script, no font, no image, no network."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources

from jinja2 import Environment, StrictUndefined

from jobs.lake.reporting import FORMULA, SHARES, Facts, Series

UNKNOWN = "-"
_COLOURS = 7
_JOINER = "\u200d"  # in the middle of emoji


@dataclass(frozen=True)
class Made:
    """By what, from what and when a report was made."""

    lake: str
    run_id: str
    versions: str
    at: datetime


def page(reports: Sequence[Facts], made: Made) -> str:
    """The report as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "number": number,
        "compact": compact,
        "percent": percent,
        "score": score,
        "when": when,
        "duration": duration,
        "lateness": lateness,
        "short": short,
    }
    template = environment.from_string(resources.files("jobs.lake").joinpath("report.html.j2").read_text("utf-8"))
    totals: Counter[str] = Counter()
    for facts in reports:
        totals.update({reason.code: reason.rows + reason.files for reason in facts.reasons})
    # A reason has one colour in the whole page; the rare ones share grey.
    colours = {code: f"c{n}" if n < _COLOURS else "other" for n, (code, _) in enumerate(totals.most_common())}
    return template.render(
        reports=[facts for facts in reports if not facts.is_empty],
        empty=[facts.dataset for facts in reports if facts.is_empty],
        made=made,
        formula=FORMULA,
        shares=SHARES,
        colours=colours,
        stack=stack,
        edge=edge,
        step=step,
    )


def number(value: float | None) -> str:
    """A count with separators."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def compact(value: float) -> str:
    """A count in few characters, never more than there are."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= factor:
            scaled = value / (1e3 if unit == "k" else factor)
            return f"{_floor(scaled, 1 if scaled < 100 else 0):g} {unit}"
    return f"{value:,.0f}"


def percent(value: float | None) -> str:
    """A share in percent; 100 % and 0 % mean all and none."""
    if value is None:
        return UNKNOWN
    if 0 < value < 0.0001:
        return "< 0.01 %"
    return f"{_floor(100 * value, 2):g} %"


def score(value: float | None) -> str:
    """A score with a decimal; 100 means 100."""
    return UNKNOWN if value is None else f"{_floor(value, 1):g}"


def _floor(value: float, decimals: int) -> float:
    # 28.999999999999996 is 29 that went through binary, and 99.99 is not 100.
    scale = 10.0**decimals
    return math.floor(value * scale + 1e-9) / scale


def when(value: datetime | None) -> str:
    """An instant to the second, in UTC."""
    return UNKNOWN if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def duration(value: timedelta | float | None) -> str:
    """A length of time, for people: two digits or so of the largest unit that fits."""
    if value is None:
        return UNKNOWN
    seconds = abs(value.total_seconds() if isinstance(value, timedelta) else value)
    for length, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def lateness(seconds: float) -> str:
    """How much later, in words; a clock that is fast makes it earlier."""
    return f"{duration(seconds)} {'after' if seconds >= 0 else 'before'}"


def short(value: object, most: int = 48) -> str:
    """A name from data, made safe to look at: nothing invisible, and its middle left out if it is long."""
    text = str(value)
    if len(text) > most:
        half = (most - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    return "".join(c if c.isprintable() or c == _JOINER else "·" for c in text)


def edge(series: Series, position: int) -> str:
    """The value at the left edge of a bin; of the bin after the last, the right edge of the last."""
    value = series.start + series.step * position
    if not series.is_time:
        return number(value)
    try:
        instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value)
    except OverflowError:
        return "beyond the year 9999"
    if series.step >= 86400 * 1_000_000:
        return f"{instant:%Y-%m-%d}"
    return f"{instant:%Y-%m-%d %H:%M}" if series.step >= 60 * 1_000_000 else f"{instant:%Y-%m-%d %H:%M:%S}"


def step(series: Series) -> str:
    """The width of a bin, in words."""
    if not series.is_time:
        return f"{series.step:,} {series.over}" if series.step > 1 else series.over
    seconds = series.step // 1_000_000
    for length, unit in ((365 * 86400, "year"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds % length == 0:
            count = seconds // length
            return unit if count == 1 else f"{count:,} {unit}s"
    raise AssertionError(seconds)


@dataclass(frozen=True)
class Block:
    """A rectangle of a bar; a bar's width and the plot's height are 1 and 100."""

    x: int
    y: float
    height: float
    count: int
    colour: str
    label: str


def stack(series: Sequence[tuple[Series, str, str]]) -> tuple[int, list[Block]]:
    """Bars of one or more series over the same bins, each bar the sum of its blocks.

    Args:
        series: (counts, name, colour), the lowest first.

    Returns:
        The tallest bar's count, and the blocks.
    """
    sums = [sum(counts) for counts in zip(*(s.counts for s, _, _ in series), strict=True)]
    peak = max(sums, default=0)
    blocks = []
    for x in range(len(sums)):
        top = 100.0
        for counts, name, colour in series:
            count = counts.counts[x]
            if count:
                height = max(100 * count / peak, 1.5)  # one row among millions is still seen
                top -= height
                label = f"{edge(counts, x)}: {count:,}" + (f" {name}" if name else "")
                blocks.append(Block(x, max(top, 0.0), height, count, colour, label))
    return peak, blocks

"""Spans of time: to look something up in them, or as conditions by which Delta leaves out files."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from pyspark.sql.types import DataType, DateType

Span = tuple[int, int]
"""Begin and end, the end excluded, in microseconds since 1970."""

MOST = 16  # each is a condition, and few are quick to plan
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def joined(spans: Sequence[Span], most: int = MOST, near: int = 0) -> list[Span]:
    """Join spans that meet, and then those with the smallest gaps between them until at most ``most`` are left.

    Args:
        spans: In the order of their begin and of their end.
        most: How many may be left, at least 1.
        near: Spans with a gap of no more than this are joined as well.
    """
    gaps = [later[0] - earlier[1] for earlier, later in pairwise(spans)]
    widest = sorted(range(len(gaps)), key=lambda place: -gaps[place])[: most - 1]
    apart = sorted(place for place in widest if gaps[place] > near)
    begins = [0, *(place + 1 for place in apart)]
    ends = [*apart, len(spans) - 1]
    return [(spans[first][0], spans[last][1]) for first, last in zip(begins, ends, strict=True) if spans]


def first_after(spans: Sequence[Span], instant: int) -> Span | None:
    """The first span that ends after an instant, in microseconds since 1970; None if there is none.

    Args:
        spans: In the order of their begin and of their end.
        instant: The instant.
    """
    place = bisect_right(spans, instant, key=lambda span: span[1])
    return spans[place] if place < len(spans) else None


def within(name: str, spans: Sequence[Span], kind: DataType | None = None) -> str:
    """A condition in SQL that is true of the values of a column in any of the spans, with nothing but literals.

    Args:
        name: The column.
        spans: Those that count.
        kind: Its type, an instant if it is not given; spans of a date begin and end at midnight.
    """
    write = _day if isinstance(kind, DateType) else _instant
    parts = [f"({name} >= {write(begin)} AND {name} < {write(end)})" for begin, end in spans]
    return " OR ".join(parts) or "false"


def _instant(microseconds: int) -> str:
    return f"TIMESTAMP '{(_EPOCH + timedelta(microseconds=microseconds)).isoformat()}'"


def _day(microseconds: int) -> str:
    return f"DATE '{(_EPOCH + timedelta(microseconds=microseconds)).date()}'"

"""Checks: functions that return a Column, null for a good row and the reason for a bad one.

A reason reads ``code column: detail``, and its first word is the code that refusals are counted by. It is the same
text for every row that fails the check, so refusals group by it; the row itself stands beside it in quarantine.
A constant also lets Spark reduce "has any reason" to the bare conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from pyspark.sql import Column
from pyspark.sql import functions as F

MOST_REASONS = 100
"""Of a row: silver can have thousands of columns, and a value in each be of the wrong type."""


def finite(name: str) -> Column:
    """Refuse NaN and infinities; null passes."""
    value = F.col(name)
    return F.when(value.isNotNull() & ~_is_finite(value), F.lit(f"not_finite {name}: NaN or infinite"))


def in_range(name: str, low: float, high: float) -> Column:
    """Refuse a number outside ``[low, high]``; null passes, and what is not finite is :func:`finite`'s to refuse."""
    value = F.col(name)
    outside = _is_finite(value) & ~value.between(low, high)
    return F.when(outside, F.lit(f"out_of_range {name}: not within {low:g} to {high:g}"))


def between_times(name: str, earliest: datetime, latest: datetime) -> Column:
    """Refuse an instant outside ``[earliest, latest)``; null passes."""
    value = F.col(name)
    outside = (value < F.lit(earliest)) | (value >= F.lit(latest))
    return F.when(outside, F.lit(f"out_of_range {name}: not within {earliest:%Y-%m-%d} to {latest:%Y-%m-%d}"))


def not_before(name: str, earliest: datetime) -> Column:
    """Refuse an earlier instant; null passes."""
    return F.when(F.col(name) < F.lit(earliest), F.lit(f"out_of_range {name}: before {earliest:%Y-%m-%d}"))


def not_in_future(name: str, tolerance: timedelta, arrived: str = "_arrived_at") -> Column:
    """Refuse an instant later than its row's arrival and a tolerance for clocks that are fast; null passes.

    Args:
        name: Column of the instant.
        tolerance: How much later it may be.
        arrived: Column of the arrival; by default when the row's file was written.
    """
    ahead = F.col(name) > F.col(arrived) + F.lit(tolerance)
    return F.when(ahead, F.lit(f"in_future {name}: more than {tolerance.total_seconds():g} s after its arrival"))


def one_of(name: str, allowed: Sequence[str]) -> Column:
    """Refuse a value that is not listed; null passes."""
    unknown = ~F.col(name).isin(*allowed)
    return F.when(unknown, F.lit(f"unknown_value {name}: none of {', '.join(allowed)}"))


def matches(name: str, pattern: str, expected: str) -> Column:
    r"""Refuse text that does not match; null passes.

    Args:
        name: Column of text.
        pattern: Java regular expression, anchored with ``\A`` and ``\z``: ``$`` would let a final newline through.
        expected: What the pattern stands for, for the reader of the reason.
    """
    return F.when(~F.col(name).rlike(pattern), F.lit(f"unknown_value {name}: not {expected}"))


def _is_finite(value: Column) -> Column:
    number = value.cast("double")
    return ~F.isnan(number) & (F.abs(number) != float("inf"))


def any_reason(checks: Sequence[Column]) -> Column:
    """Whether any check fails: cheap, for the pass that only has to tell good rows from bad."""
    return F.coalesce(*checks, F.lit(None).cast("string")).isNotNull()


def no_reasons() -> Column:
    """The failures of a row that has none."""
    return F.array().cast("array<string>")


def all_reasons(checks: Sequence[Column]) -> Column:
    """All failures of a row, as an array of text."""
    return F.array_compact(F.array(*checks)) if checks else no_reasons()


def bounded(reasons: Column) -> Column:
    """The first :data:`MOST_REASONS`, and after them one that says that there are more."""
    more = F.lit(f"more_reasons row: more than {MOST_REASONS}")
    few = F.slice(reasons, 1, MOST_REASONS + 1)
    return F.transform(few, lambda reason, place: F.when(place < MOST_REASONS, reason).otherwise(more))

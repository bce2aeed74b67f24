"""Checks: functions that return a Column, null for a good row and the reason for a bad one.

A reason reads ``code column: detail``; its first word is the code that refusals are counted by.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pyspark.sql import Column
from pyspark.sql import functions as F

MISTYPED = "_mistyped"
"""Column added by the promotion: array of (column, reason) for values that could not be conformed to their type."""


def required(name: str) -> Column:
    """Refuse a row without a value; one whose value is of a wrong type says only that."""
    mistyped = F.coalesce(F.array_contains(F.col(f"{MISTYPED}.column"), name), F.lit(False))
    return F.when(F.col(name).isNull() & ~mistyped, F.lit(f"missing {name}: no value"))


def finite(name: str) -> Column:
    """Refuse NaN and infinities; null passes."""
    value = F.col(name)
    return F.when(value.isNotNull() & ~_is_finite(value), _reason("not_finite", name, value))


def in_range(name: str, low: float, high: float) -> Column:
    """Refuse a number outside ``[low, high]``; null passes, and what is not finite is :func:`finite`'s to refuse."""
    value = F.col(name)
    outside = _is_finite(value) & ~value.between(low, high)
    return F.when(outside, _reason("out_of_range", name, value, f" is outside {low:g} to {high:g}"))


def between_times(name: str, earliest: datetime, latest: datetime) -> Column:
    """Refuse an instant outside ``[earliest, latest)``; null passes."""
    value = F.col(name)
    outside = (value < F.lit(earliest)) | (value >= F.lit(latest))
    bounds = f" is outside {earliest:%Y-%m-%d} to {latest:%Y-%m-%d}"
    return F.when(outside, _reason("out_of_range", name, value, bounds))


def one_of(name: str, allowed: Sequence[str]) -> Column:
    """Refuse a value that is not listed; null passes."""
    value = F.col(name)
    return F.when(~value.isin(*allowed), _reason("unknown_value", name, value, f" is none of {', '.join(allowed)}"))


def matches(name: str, pattern: str, expected: str) -> Column:
    r"""Refuse text that does not match; null passes.

    Args:
        name: Column of text.
        pattern: Java regular expression, anchored with ``\A`` and ``\z``: ``$`` would let a final newline through.
        expected: What the pattern stands for, for the reader of the reason.
    """
    value = F.col(name)
    return F.when(~value.rlike(pattern), _reason("unknown_value", name, value, f" is not {expected}"))


def _is_finite(value: Column) -> Column:
    number = value.cast("double")
    return ~F.isnan(number) & (F.abs(number) != float("inf"))


def _reason(code: str, name: str, value: Column, rest: str = "") -> Column:
    # Bounded: a reason is for reading, and the row itself stands beside it.
    return F.concat(F.lit(f"{code} {name}: "), F.substring(value.cast("string"), 1, 100), F.lit(rest))


def is_refused(rules: Sequence[Column]) -> Column:
    """Whether any check fails: cheap, for the pass that only has to tell good rows from bad."""
    return (F.size(F.col(MISTYPED)) > 0) | F.coalesce(*rules, F.lit(None).cast("string")).isNotNull()


def reasons(rules: Sequence[Column]) -> Column:
    """All failures of a row, as an array of text."""
    return F.concat(F.col(f"{MISTYPED}.reason"), F.array_compact(F.array(*rules)))

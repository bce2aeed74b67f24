"""The checks: what each refuses, what it lets pass, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pyspark.sql import Column, SparkSession
from pyspark.sql import types as T

from jobs.lake import quality

NAN, INF = float("nan"), float("inf")


def check(spark: SparkSession, checks: Sequence[Column], kind: T.DataType, values: Sequence[Any]) -> list[list[str]]:
    """The reasons for each value of column ``x``; ``any_reason`` must agree with them."""
    rows = spark.createDataFrame([(value,) for value in values], T.StructType([T.StructField("x", kind)]))
    found = rows.select(quality.all_reasons(checks), quality.any_reason(checks)).collect()
    assert [refused for _, refused in found] == [bool(reasons) for reasons, _ in found]
    return [reasons for reasons, _ in found]


@pytest.mark.parametrize("kind", [T.FloatType(), T.DoubleType()])
def test_finite(spark: SparkSession, kind: T.DataType):
    why = "not_finite x: NaN or infinite"
    assert check(spark, [quality.finite("x")], kind, [1.5, None, NAN, INF, -INF]) == [
        [],
        [],
        [why],
        [why],
        [why],
    ]


def test_in_range__ends_are_in_and_what_is_not_finite_is_not_its_affair(spark: SparkSession):
    values = [-2.0, 2.5, None, NAN, INF, -INF, 2.75, -3.0]
    why = "out_of_range x: not within -2 to 2.5"
    found = check(spark, [quality.in_range("x", -2, 2.5)], T.DoubleType(), values)
    assert found == [[]] * 6 + [[why], [why]]


def test_in_range__whole_numbers(spark: SparkSession):
    found = check(spark, [quality.in_range("x", 1, 10)], T.ShortType(), [1, 10, None, 0, 11])
    assert found == [[]] * 3 + [["out_of_range x: not within 1 to 10"]] * 2


def test_between_times__the_end_is_not_in(spark: SparkSession):
    last = datetime(2000, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    before, first, end = (datetime(y, 1, 1, tzinfo=UTC) for y in (1999, 2000, 2001))
    rule = quality.between_times("x", first, end)
    why = ["out_of_range x: not within 2000-01-01 to 2001-01-01"]
    assert check(spark, [rule], T.TimestampType(), [before, first, last, end, None]) == [why, [], [], why, []]


def test_one_of__as_it_is_written(spark: SparkSession):
    why = ["unknown_value x: none of train, test"]
    found = check(
        spark, [quality.one_of("x", ["train", "test"])], T.StringType(), ["train", "Train", "test ", "", None]
    )
    assert found == [[], why, why, why, []]


def test_matches__all_of_it(spark: SparkSession):
    rule = quality.matches("x", r"\AFD00[1-4]\z", "FD001 to FD004")
    why = ["unknown_value x: not FD001 to FD004"]
    found = check(spark, [rule], T.StringType(), ["FD001", "FD005", "FD001\n", "xFD001", None])
    assert found == [[], why, why, why, []]


def test_all_reasons__every_fault_has_its_own(spark: SparkSession):
    rules = [quality.in_range("x", 0, 1), quality.in_range("x", 10, 20), quality.finite("x")]
    assert check(spark, rules, T.DoubleType(), [5.0, 0.5, NAN, None]) == [
        ["out_of_range x: not within 0 to 1", "out_of_range x: not within 10 to 20"],
        ["out_of_range x: not within 10 to 20"],
        ["not_finite x: NaN or infinite"],
        [],
    ]


@hypothesis_settings(max_examples=5, deadline=None)
@given(st.lists(st.floats(width=32) | st.none(), min_size=20, max_size=100))
def test_rules__any_float_gets_one_reason_or_none(spark: SparkSession, values: list[float | None]):
    found = check(spark, [quality.finite("x"), quality.in_range("x", -1, 1)], T.FloatType(), values)
    expected = [
        []
        if value is None or -1 <= value <= 1
        else ["not_finite x: NaN or infinite"]
        if value != value or abs(value) == INF
        else ["out_of_range x: not within -1 to 1"]
        for value in values
    ]
    assert found == expected

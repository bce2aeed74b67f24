"""Spans of time: few that cover many, as conditions that Spark evaluates."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql.types import DateType

from jobs.lake.spans import Span, first_after, joined, within


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), max_size=12).map(
        lambda pairs: sorted((begin, begin + 9) for begin, _ in pairs)
    ),
    st.integers(1, 5),
)
def test_joined__covers_all_in_few_spans(spans: list[tuple[int, int]], most: int):
    found = joined(spans, most)
    assert len(found) <= most
    inside = {n for begin, end in spans for n in range(begin, end)}
    covered = [n for begin, end in found for n in range(begin, end)]
    assert inside <= set(covered)
    assert len(covered) == len(set(covered))
    assert {begin for begin, _ in found} <= {begin for begin, _ in spans}


def test_joined__the_widest_gaps_stay():
    spans = [(0, 1), (1, 2), (5, 6), (106, 107), (110, 111)]
    assert joined(spans, 9) == [(0, 2), (5, 6), (106, 107), (110, 111)]
    assert joined(spans, 2) == [(0, 6), (106, 111)]
    assert joined(spans, 1) == [(0, 111)]
    assert joined([], 3) == []


@pytest.mark.parametrize(("instant", "found"), [(-5, (0, 10)), (9, (0, 10)), (10, (5, 12)), (12, (20, 30)), (30, None)])
def test_first_after__a_span_ends_before_its_end(instant: int, found: Span | None):
    assert first_after([(0, 10), (5, 12), (20, 30)], instant) == found


@pytest.mark.parametrize(("near", "left"), [(0, 3), (2, 3), (3, 2), (4, 1)])
def test_joined__those_near_each_other(near: int, left: int):
    assert len(joined([(0, 1), (4, 5), (9, 10)], near=near)) == left


DAY = 86_400_000_000


@pytest.mark.parametrize(
    ("spans", "found"),
    [
        ([], []),
        ([(0, 1)], [0]),
        ([(1, DAY)], [1, DAY - 1]),
        ([(-1, 1), (DAY, DAY + 500_001)], [-1, 0, DAY, DAY + 500_000]),
    ],
)
def test_within__instants(spark: SparkSession, spans: list[Span], found: list[int]):
    micros = [-1, 0, 1, DAY - 1, DAY, DAY + 500_000, DAY + 500_001]
    rows = spark.createDataFrame([(n,) for n in micros], "n long").selectExpr("n", "timestamp_micros(n) AS time")
    assert [row.n for row in rows.where(within("time", spans)).collect()] == found


def test_within__days(spark: SparkSession):
    rows = spark.createDataFrame([(date(2026, 1, day),) for day in (1, 2, 3, 4)], "day date")
    begin = int(datetime(2026, 1, 2, tzinfo=UTC).timestamp()) * 1_000_000
    found = rows.where(within("day", [(begin, begin + 2 * DAY)], DateType())).collect()
    assert [row.day.day for row in found] == [2, 3]

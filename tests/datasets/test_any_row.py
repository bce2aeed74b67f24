"""Whatever values a row has, the rules pass it or say why not: no exception, no NaN, no instant out of bounds."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from docs.generate import REFUSALS
from jobs.catalog import DATASETS
from jobs.lake.cli import Context
from jobs.lake.conform import conform
from jobs.lake.judging import Judge

Row = dict[str, Any]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ARRIVED = datetime(2026, 1, 1, 12, tzinfo=UTC)
UUID = "123e4567-e89b-12d3-a456-426614174000"


def micros(instant: datetime) -> int:
    return (instant - EPOCH) // timedelta(microseconds=1)


NOON = micros(ARRIVED)
GOOD: dict[str, Row] = {
    "accelerometer": {"sensor_id": UUID, "event_time": NOON, "ax": 0.5, "ay": -0.5, "az": 9.75},
    "devices": {"device_id": "d-1", "event_time": NOON, "temperature": 21.5, "humidity": 40.0, "schema_version": 1},
    "fleet": {"robot_id": UUID, "event_time": NOON, "latitude": 42.5, "longitude": -73.75, "battery_v": 48.0},
    "turbofan": {
        "subset": "FD001",
        "split": "train",
        "unit_number": 1,
        "cycle": 1,
        **{f"setting_{n}": 0.5 for n in range(1, 4)},
        **{f"sensor_{n}": 100.0 for n in range(1, 22)},
    },
    "waterways": {
        "event_id": UUID,
        "event_time": NOON,
        "county": "Essex",
        "waterbody_name": "Ausable River",
        "longitude": -73.75,
        "latitude": 44.25,
    },
}
"""A row of each dataset that passes; instants in microseconds, and what is not named is null."""

TEXTS = [
    *(
        "",
        " ",
        "\t\n",
        "\0",
        "\x1b[31m",
        "\ufeff",
        "\u202eabc",
        "e\u0301",
        "😀",
        "İstanbul",
        "a" * 100_000,
        " " * 100_000,
    ),
    *("None", "null", "NaN", "(all)", "🐟 Creek", "  st.  lawrence ", "FD001\n", "SIM", "test", " Working ", "FAULT"),
    *(UUID.upper(), f"{UUID}\n"),
]
text = st.sampled_from(TEXTS) | st.text(max_size=8)
VALUES: dict[T.DataType, st.SearchStrategy[Any]] = {
    T.StringType(): text,
    T.ShortType(): st.integers(-(2**15), 2**15 - 1) | st.integers(-1, 9),
    T.IntegerType(): st.integers(-(2**31), 2**31 - 1),
    T.FloatType(): st.floats(width=32) | st.floats(-200, 200, width=32),
    T.DoubleType(): st.floats() | st.floats(-200, 200),
    T.TimestampType(): st.integers(-(2**63), 2**63 - 1),
    T.MapType(T.StringType(), T.StringType()): st.dictionaries(text, text | st.none(), max_size=2).map(
        lambda entries: [*entries.items()]
    ),
}
"""Type -> all that a column of it may hold, and often something of a likely size, as Arrow takes it."""


@st.composite
def rows(draw: st.DrawFn, schema: T.StructType, good: Row, instants: list[int]) -> list[Row]:
    """The good row, and many with any values, or none, in a few of its columns."""
    near = st.sampled_from(instants)
    column = st.sampled_from(schema.fields).flatmap(
        lambda field: st.tuples(
            st.just(field.name),
            VALUES[field.dataType] | st.none() | (near if field.dataType == T.TimestampType() else st.nothing()),
        )
    )
    spoilt = draw(st.lists(st.lists(column, min_size=1, max_size=3), min_size=100, max_size=100))
    return [good, *(good | dict(columns) for columns in spoilt)]


def ends(thresholds: Any) -> tuple[int, int]:
    """The first and the last instant that the rules may let pass, in microseconds."""
    first = micros(thresholds.earliest) if hasattr(thresholds, "earliest") else -(2**63)
    last = micros(thresholds.latest) - 1 if hasattr(thresholds, "latest") else 2**63 - 1
    if hasattr(thresholds, "future_tolerance_seconds"):
        last = min(last, micros(ARRIVED + timedelta(seconds=thresholds.future_tolerance_seconds)))
    return first, last


def judged(lake: Context, name: str, drawn: list[Row]) -> list[Row]:
    """The rows as a promotion judges each by itself, in their order; instants in microseconds, which may be any."""
    # Messages are text; what is drawn here is what they were decoded to.
    dataset = replace(DATASETS[name], decode=None)
    kinds = to_arrow_schema(dataset.schema)
    table = pa.table({f.name: pa.array([row.get(f.name) for row in drawn], f.type) for f in kinds})
    table = table.append_column("_arrival", pa.array(range(len(drawn)), pa.int64()))
    arrived = T.StructType([T.StructField(f.name, f.dataType) for f in dataset.schema])
    told = lake.spark.createDataFrame(table, T.StructType([*arrived, T.StructField("_arrival", T.LongType())]))
    told = told.withColumn("_arrived_at", F.lit(ARRIVED))
    fitted = conform(told, arrived, dataset.schema, {}, {}, ["_arrival", "_arrived_at"])
    judge = Judge(lake.spark, lake.lake, dataset, lake.settings.datasets[name], lake.settings.silver)
    checked = judge.check(fitted, dataset.schema).select(
        *(F.unix_micros(f.name).alias(f.name) if f.dataType == T.TimestampType() else f.name for f in dataset.schema),
        *("_arrival", "_refused", "_why"),
    )
    found: list[Row] = checked.toArrow().sort_by("_arrival").to_pylist()
    return found


@pytest.mark.parametrize("name", DATASETS)
@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # to shrink takes Spark many minutes; the assertion names the row
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_rules__any_row_passes_whole_or_is_refused_with_reasons(lake: Context, name: str, data: st.DataObject) -> None:
    dataset = DATASETS[name]
    first, last = ends(lake.settings.datasets[name])
    near = [edge + step for edge in (first, last) for step in (-1, 0, 1) if abs(edge + step) < 2**63]
    drawn = data.draw(rows(dataset.schema, GOOD[name], near))
    told = judged(lake, name, drawn)
    assert [row["_arrival"] for row in told] == [*range(len(drawn))]
    assert told[0]["_why"] == []
    for before, row in zip(drawn, told, strict=True):
        assert row["_refused"] == bool(row["_why"]), before
        for reason in row["_why"]:
            code, column = re.fullmatch(r"(\w+) (\w+): .+", reason).groups()  # type: ignore[union-attr]
            assert code in REFUSALS, reason
            assert column in dataset.schema.names, reason
        if row["_refused"]:
            continue
        for field in dataset.schema:
            value = row[field.name]
            assert field.nullable or value is not None, before
            if isinstance(field.dataType, T.NumericType) and value is not None:
                assert math.isfinite(value), before
            if not isinstance(field.dataType, T.StringType | T.MapType):
                assert value == before.get(field.name), before
        assert None not in [row[column] for column in dataset.key], before
        if row.get("event_time") is not None:
            assert first <= row["event_time"] <= last, before

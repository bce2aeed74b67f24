"""Names and types: a value arrives as it was sent, or is refused; it never changes in silence."""

from __future__ import annotations

import ast
import re
import struct
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.lake import conform
from jobs.lake.conform import MISFIT, MISFITS, Drift, drift_of, extra_fields, match_names, spark_schema

NAN, INF = float("nan"), float("inf")
BYTE, SHORT, INT, LONG = T.ByteType(), T.ShortType(), T.IntegerType(), T.LongType()
FLOAT, DOUBLE, TEXT, TIME = T.FloatType(), T.DoubleType(), T.StringType(), T.TimestampType()
NTZ, DATE, BOOL = T.TimestampNTZType(), T.DateType(), T.BooleanType()
DECIMAL = T.DecimalType(20, 2)
NEW_YEAR = 1_767_225_600  # 2026-01-01T00:00:00Z, seconds since the epoch


def convert(
    spark: SparkSession, kind: T.DataType, to: T.DataType, values: Sequence[Any], *, nanoseconds: bool = False
) -> list[Any]:
    """The values as ``to``; instants as microseconds since the epoch. A cast said to be exact must be."""
    rows = spark.createDataFrame([(v,) for v in values], T.StructType([T.StructField("x", kind)]))
    value, exact = conform.convert(F.col("x"), kind, to, nanoseconds=nanoseconds)
    assert rows.select(value.alias("x")).schema["x"].dataType == to
    found = [row[0] for row in rows.select(F.unix_micros(value) if to == TIME else value).collect()]
    if exact:
        assert [v is None for v in found] == [v is None for v in values]
    return found


@pytest.mark.parametrize(
    ("kind", "to", "cases"),
    [
        (SHORT, LONG, {7: 7, -32768: -32768, None: None}),
        (INT, LONG, {2**31 - 1: 2**31 - 1}),
        (INT, SHORT, {32767: 32767, -32768: -32768, 32768: None, -32769: None, 2**31 - 1: None, None: None}),
        (LONG, INT, {2**31: None, -(2**31): -(2**31), 2**63 - 1: None}),
        (LONG, BYTE, {127: 127, 128: None, 256: None}),
        (LONG, DOUBLE, {2**53: 2.0**53, 2**53 + 1: None, -(2**53) - 1: None, 2**54: 2.0**54, 2**63 - 1: None}),
        (LONG, FLOAT, {2**24: 2.0**24, 2**24 + 1: None, 2**63 - 1: None, -(2**63): -(2.0**63)}),
        (INT, FLOAT, {-3: -3.0, 2**24: 2.0**24, 2**24 + 1: None, 2**31 - 1: None, -(2**31): -(2.0**31)}),
        (INT, DOUBLE, {2**31 - 1: 2147483647.0, None: None}),
        (SHORT, FLOAT, {32767: 32767.0}),
        (FLOAT, DOUBLE, {0.5: 0.5, INF: INF, None: None}),
        (DOUBLE, FLOAT, {0.1: struct.unpack("f", struct.pack("f", 0.1))[0], INF: INF, -INF: -INF, None: None}),
        (DOUBLE, FLOAT, {3.4e38: struct.unpack("f", struct.pack("f", 3.4e38))[0], 3.5e38: None, -1e300: None}),
        (DOUBLE, INT, {3.0: 3, -0.0: 0, 3.5: None, 2.0**31: None, NAN: None, INF: None, None: None}),
        (DOUBLE, SHORT, {32767.0: 32767, 32768.0: None, 65536.0: None, 1e300: None}),
        (DOUBLE, LONG, {2.0**53: 2**53, 0.5: None, 2.0**63: None, -(2.0**63): -(2**63), NAN: None}),
        (FLOAT, SHORT, {12.0: 12, 12.25: None, NAN: None}),
        (DECIMAL, FLOAT, {Decimal("1.50"): 1.5, None: None}),
        (DECIMAL, INT, {Decimal("7.00"): 7, Decimal("7.50"): None, Decimal("99999999999.00"): None}),
        (DECIMAL, DOUBLE, {Decimal("0.10"): 0.1, Decimal("123456789012345678.91"): None}),
        (T.DecimalType(20, 0), LONG, {Decimal(2**63 - 1): 2**63 - 1, Decimal(2**63): None}),
        (TEXT, FLOAT, {"1.5": 1.5, " 1.5 ": 1.5, "-2": -2.0, "n/a": None, "": None, "1,5": None, "1.5.1": None}),
        (TEXT, FLOAT, {"NaN": "nan", "1e39": None, "-1e39": None, None: None}),
        (TEXT, INT, {"42": 42, " -7\t": -7, "1.5": None, "2147483648": None, "0x10": None, "": None}),
        (TEXT, SHORT, {"32767": 32767, "32768": None}),
        (TEXT, DOUBLE, {"1e3": 1000.0, "1e400": None, "1_000": None, "1.5f": None, "1d": None}),
        (TEXT, DECIMAL, {"1.2": Decimal("1.20"), " -1.23 ": Decimal("-1.23"), "1.239": None, "1e2": Decimal("100.00")}),
        (TEXT, DECIMAL, {"123456789012345678.91": Decimal("123456789012345678.91"), "1234567890123456789": None}),
        (TEXT, DECIMAL, {"x": None, "NaN": None, None: None}),
        (TEXT, DATE, {"2026-01-05": date(2026, 1, 5), " 2026-1-5 ": date(2026, 1, 5), "2026-02-30": None}),
        (TEXT, DATE, {"2026-01-05 23:59": None, "2026-01-05T00:00:00Z": None, "2026-01": None, "today": None}),
        (TEXT, BOOL, {"true": True, " FALSE ": False, "y": None, "1": None, "t": None, "": None}),
        (BOOL, FLOAT, {True: None, None: None}),
        (BOOL, INT, {True: None}),
        (T.BinaryType(), FLOAT, {b"1.5": None}),
        (T.BinaryType(), TEXT, {b"abc": None}),
        (INT, TEXT, {42: "42"}),
        (BOOL, TEXT, {True: "true"}),
        (BOOL, TIME, {True: None}),
        (TEXT, TEXT, {" as is ": " as is ", "": ""}),
        (FLOAT, FLOAT, {INF: INF, None: None}),
    ],
)  # fmt: skip
def test_convert__number(spark: SparkSession, kind: T.DataType, to: T.DataType, cases: dict[Any, Any]):
    found = convert(spark, kind, to, [*cases])
    found = ["nan" if isinstance(v, float) and v != v else v for v in found]
    assert dict(zip(cases, found, strict=True)) == cases


def test_convert__not_a_number_stays_so(spark: SparkSession):
    assert str(convert(spark, DOUBLE, FLOAT, [NAN])) == "[nan]"


def test_convert__nested_never_becomes_a_number(spark: SparkSession):
    assert convert(spark, T.StructType([T.StructField("a", INT)]), FLOAT, [(1,)]) == [None]
    assert convert(spark, T.ArrayType(INT), FLOAT, [[1]]) == [None]
    assert convert(spark, T.ArrayType(INT), TEXT, [[1]]) == [None]


def test_convert__text_never_becomes_nested(spark: SparkSession):
    nested = (T.ArrayType(TEXT), T.MapType(TEXT, TEXT), T.StructType([T.StructField("a", TEXT)]))
    assert [convert(spark, TEXT, kind, ["x", None]) for kind in nested] == [[None, None]] * 3


def test_convert__a_column_of_nothing_but_null(spark: SparkSession):
    rows = spark.range(2).select(F.lit(None).alias("x"))
    value, exact = conform.convert(F.col("x"), T.NullType(), FLOAT)
    assert exact
    assert [r[0] for r in rows.select(value).collect()] == [None, None]


def test_convert__text_to_instant(spark: SparkSession):
    cases = {
        "2026-01-01T00:00:00Z": NEW_YEAR * 10**6,
        "2026-01-01T01:00:00+01:00": NEW_YEAR * 10**6,
        "2025-12-31 19:00:00-05:00": NEW_YEAR * 10**6,
        "2026-01-01T00:00:00": NEW_YEAR * 10**6,
        "2026-01-01 00:00:00.123456": NEW_YEAR * 10**6 + 123456,
        " 2026-01-01T00:00:00.5Z ": NEW_YEAR * 10**6 + 500000,
        "2026-01-01": NEW_YEAR * 10**6,
        "1969-12-31T23:59:59.999999Z": -1,
        "2026-02-30T00:00:00Z": None,
        "01/02/2026 00:00:00": None,
        "12:30:00": None,
        "T12:30": None,
        "now": None,
        "today": None,
        "1767225600": NEW_YEAR * 10**6,
        " 1767225600.25 ": NEW_YEAR * 10**6 + 250_000,
        "1767225600123": NEW_YEAR * 10**6 + 123_000,
        "1767225600123456": NEW_YEAR * 10**6 + 123_456,
        "1767225600123456789": NEW_YEAR * 10**6 + 123_456,
        "2026": None,
        "20260101": None,
        "20260101123000": None,
        "-1767225600": None,
        "1767225600x": None,
        "": None,
        None: None,
    }
    assert dict(zip(cases, convert(spark, TEXT, TIME, [*cases]), strict=True)) == cases


@pytest.mark.parametrize(("kind", "python"), [(LONG, int), (DOUBLE, float), (T.DecimalType(20, 0), Decimal)])
def test_convert__epoch_in_any_unit(spark: SparkSession, kind: T.DataType, python: type):
    arrived = [python(NEW_YEAR * unit) for unit in (1, 10**3, 10**6, 10**9)]
    assert convert(spark, kind, TIME, [*arrived, None]) == [NEW_YEAR * 10**6] * 4 + [None]


def test_convert__epoch_keeps_every_digit(spark: SparkSession):
    assert convert(spark, INT, TIME, [NEW_YEAR]) == [NEW_YEAR * 10**6]
    millis = [NEW_YEAR * 1000 + ms for ms in (1, 123, 999)]
    assert convert(spark, LONG, TIME, millis) == [ms * 1000 for ms in millis]
    micros = [NEW_YEAR * 10**6 + us for us in (1, 123457, 999999)]
    assert convert(spark, LONG, TIME, micros) == micros
    nanos = [NEW_YEAR * 10**9 + us * 1000 for us in (0, 1, 16, 123456, 999999)]
    assert convert(spark, LONG, TIME, nanos) == [ns // 1000 for ns in nanos]


def test_convert__epoch_seconds_with_a_fraction(spark: SparkSession):
    fractions = [f / 10**6 for f in (10, 123456, 250000, 999999)]
    found = convert(spark, DOUBLE, TIME, [NEW_YEAR + f for f in fractions])
    assert found == [NEW_YEAR * 10**6 + round(f * 10**6) for f in fractions]
    exact = [Decimal(NEW_YEAR) + Decimal(str(f)) for f in (0.25, 0.999999)]
    assert convert(spark, T.DecimalType(20, 6), TIME, exact) == [NEW_YEAR * 10**6 + us for us in (250_000, 999_999)]


def test_convert__epoch_that_is_no_instant(spark: SparkSession):
    assert convert(spark, DOUBLE, TIME, [NAN, INF, -INF, 1e300]) == [None] * 4


def test_convert__epoch_of_any_size_is_no_crash(spark: SparkSession):
    extremes = [2**63 - 1, -(2**63), 10**17, -(10**17), 0, -1]
    assert convert(spark, LONG, TIME, extremes) == [
        9_223_372_036_854_775, -9_223_372_036_854_776, 10**14, -(10**14), 0, -1_000_000,
    ]  # fmt: skip


def test_convert__nanoseconds_are_cut_to_the_microsecond_below(spark: SparkSession):
    cases = {
        0: 0,
        999: 0,
        1000: 1,
        1500: 1,
        -1: -1,
        -1000: -1,
        -1001: -2,
        NEW_YEAR * 10**9 + 16_000: NEW_YEAR * 10**6 + 16,
    }
    assert convert(spark, LONG, TIME, [*cases], nanoseconds=True) == [*cases.values()]


@hypothesis_settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=20, max_size=200))
@example([-(2**63), 2**63 - 1])
@example([NEW_YEAR * 10**9 + k * 10_000_000 for k in range(100)])
def test_convert__nanoseconds_of_any_size(spark: SparkSession, nanos: list[int]):
    assert convert(spark, LONG, TIME, nanos, nanoseconds=True) == [n // 1000 for n in nanos]


def test_convert__nanoseconds_are_no_number(spark: SparkSession):
    assert convert(spark, LONG, FLOAT, [5], nanoseconds=True) == [None]
    assert convert(spark, LONG, LONG, [5], nanoseconds=True) == [None]


def test_convert__clock_without_a_zone_is_utc(spark: SparkSession):
    assert convert(spark, NTZ, TIME, [datetime(2026, 1, 1, 0, 0, 0, 7), None]) == [NEW_YEAR * 10**6 + 7, None]
    assert convert(spark, DATE, TIME, [date(2026, 1, 1), None]) == [NEW_YEAR * 10**6, None]


def test_convert__a_day_that_no_instant_is_in(spark: SparkSession):
    """Seconds that were called days, say: Spark has such a day, and a long has no microseconds for it."""
    days = [0, 106_751_991, 106_751_992, NEW_YEAR, 2**31 - 1, -106_751_991, -106_751_992, -(2**31), None]
    rows = spark.createDataFrame([(day,) for day in days], "n int").select(F.date_from_unix_date("n").alias("x"))
    value, exact = conform.convert(F.col("x"), DATE, TIME)
    found = [row[0] for row in rows.select(F.unix_micros(value)).collect()]
    last = 106_751_991 * 86_400_000_000
    assert found == [0, last, None, None, None, -last, None, None, None]
    assert not exact


@hypothesis_settings(max_examples=5, deadline=None)
@given(st.lists(st.floats() | st.integers(-40000, 40000).map(float), min_size=20, max_size=100))
def test_convert__a_double_is_a_short_or_refused(spark: SparkSession, values: list[float]):
    found = convert(spark, DOUBLE, SHORT, values)
    assert found == [int(v) if abs(v) < 40000 and v == int(v) and -32768 <= v <= 32767 else None for v in values]


@hypothesis_settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-(2**31), 2**31), min_size=20, max_size=100))
def test_convert__a_long_is_a_double_or_refused(spark: SparkSession, values: list[int]):
    assert convert(spark, LONG, DOUBLE, values) == [float(v) if int(float(v)) == v else None for v in values]


# --- names ----------------------------------------------------------------------------------------------------


def test_match_names__spelling_then_case_then_alias():
    aliases = {"Sensor": "sensor_id", "identifier": "sensor_id"}
    assert match_names(["sensor_id", "SENSOR_ID", "sensor"], ["sensor_id"], aliases) == {"sensor_id": "sensor_id"}
    assert match_names(["SENSOR", "Sensor_ID"], ["sensor_id"], aliases) == {"sensor_id": "Sensor_ID"}
    assert match_names(["SENSOR"], ["sensor_id", "ax"], aliases) == {"sensor_id": "SENSOR"}
    assert match_names(["other"], ["sensor_id"], aliases) == {}


def test_extra_fields__what_stands_for_nothing_declared():
    declared = T.StructType([T.StructField("ax", FLOAT), T.StructField("sensor_id", TEXT)])
    arrived = T.StructType([T.StructField(n, INT) for n in ("AX", "Temperature", "sensor")])
    assert [f.name for f in extra_fields(arrived, declared, {"sensor": "sensor_id"})] == ["Temperature"]


def test_extra_fields__nothing_but_null_is_no_column_yet():
    arrived = spark_schema(pa.schema([("a", pa.null()), ("b", pa.int32())]))
    assert [f.name for f in extra_fields(arrived, T.StructType([]), {})] == ["b"]


def test_extra_fields__nanoseconds_become_an_instant():
    arrived = spark_schema(pa.schema([("at", pa.timestamp("ns", "UTC"))]))
    assert [(f.name, f.dataType) for f in extra_fields(arrived, T.StructType([]), {})] == [("at", TIME)]


def test_extra_fields__a_name_that_delta_cannot_hold_is_mended():
    arrived = spark_schema(pa.schema([(name, pa.int32()) for name in ("temp (°C)", "a.b", "c`d", "e.*", "*")]))
    assert [f.name for f in extra_fields(arrived, T.StructType([]), {})] == ["temp__°C_", "a_b", "c_d", "e__", "_"]
    assert match_names(["temp (°C)"], ["temp__°C_"], {}) == {"temp__°C_": "temp (°C)"}


@pytest.mark.parametrize(
    ("kind", "spark_type"),
    [
        (pa.uint8(), SHORT),
        (pa.uint16(), INT),
        (pa.uint32(), LONG),
        (pa.uint64(), T.DecimalType(20, 0)),
        (pa.dictionary(pa.int8(), pa.string()), TEXT),
        (pa.large_string(), TEXT),
        (pa.timestamp("ms", "UTC"), TIME),
        (pa.timestamp("us"), NTZ),
        (pa.timestamp("ns"), LONG),
        (pa.date32(), DATE),
        (pa.list_(pa.int32()), T.ArrayType(INT)),
    ],
)
def test_spark_schema__type(kind: pa.DataType, spark_type: T.DataType):
    assert spark_schema(pa.schema([("x", kind)]))["x"].dataType == spark_type


@pytest.mark.parametrize(
    "kind",
    [
        pa.float16(),
        pa.time64("us"),
        pa.duration("us"),
        pa.decimal256(50, 2),
        pa.list_(pa.null()),
        pa.list_(pa.timestamp("ns")),
        pa.struct([("at", pa.timestamp("ns", "UTC"))]),
        pa.struct([("for", pa.duration("us"))]),
        pa.struct([]),
        pa.struct([("a b", pa.int32())]),
        pa.struct([("a", pa.int32()), ("A", pa.int32())]),
        pa.map_(pa.string(), pa.list_(pa.struct([("a=b", pa.int32())]))),
    ],
    ids=str,
)
def test_spark_schema__what_spark_or_delta_cannot_hold_is_refused_by_name(kind: pa.DataType):
    with pytest.raises(TypeError, match="column odd has type"):
        spark_schema(pa.schema([("ok", pa.int32()), ("odd", kind)]))


@pytest.mark.parametrize(
    "names",
    [("ax", "AX"), ("ax", "ax"), ("a b", "a_b"), ("id", "\u0131d"), ("id", "\u0130d"), ("ks", "\u212a\u017f")],
)
def test_spark_schema__columns_that_silver_cannot_tell_apart_are_refused(names: tuple[str, str]):
    with pytest.raises(TypeError, match=f"{names[0]}.*{names[1]}"):
        spark_schema(pa.schema([(name, pa.int32()) for name in names]))


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("_source_row", "_source_row"),
        ("_Row", "_row"),
        ("_METADATA", "_metadata"),
        (" row", "_row"),
        (" source_file", "_source_file"),
        (" arrived_at", "_arrived_at"),
        (" entity", "_entity"),
        (" Event_Time", "_event_time"),
        (".row", "_row"),
        ("=wanted", "_wanted"),
        ("_odd", "_odd"),
        ("_message", "_message"),
        ("_tmp_metadata_row_index", "_tmp_metadata_row_index"),
        ("_path_site", "_path_site"),
        (" PATH site", "_path_site"),
        ("", ""),
    ],
)
def test_spark_schema__names_that_the_promotion_keeps_are_refused_however_they_are_spelled(name: str, kept: str):
    with pytest.raises(TypeError, match=f"a column is named '{name}': the promotion keeps '{kept}' for itself"):
        spark_schema(pa.schema([("ok", pa.int32()), (name, pa.int32())]))


HANDLERS = ("conform", "intake", "judging", "quality", "quarantine", "replaying", "rivals", "tables")
"""Modules of the lake that a file's columns pass through; they do through those of the datasets as well."""


def test_reserved__has_every_column_that_is_added_to_those_of_a_file():
    jobs = Path(conform.__file__).parents[1]
    modules = [*(jobs / "lake" / f"{name}.py" for name in HANDLERS), *(jobs / "datasets").glob("*.py")]
    texts = [node.value for path in modules for node in ast.walk(ast.parse(path.read_text())) if is_text(node)]
    named = {found[0] for text in texts if (found := re.match(r"_[a-z][a-z_]*[a-z]\b", text))}
    assert named | {"_tmp_metadata_row_index"} == conform.RESERVED


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


# --- conform --------------------------------------------------------------------------------------------------


def test_conform__names_types_path_and_what_does_not_fit(spark: SparkSession):
    target = T.StructType([T.StructField(n, k) for n, k in [("id", TEXT), ("n", SHORT), ("x", FLOAT), ("site", INT)]])
    arrived = T.StructType([T.StructField(n, k) for n, k in [("ID", TEXT), ("N", INT), ("keep", TEXT)]])
    rows = spark.createDataFrame([("a", 1, "k"), ("b", 70000, "l")], arrived)
    found = conform.conform(rows, arrived, target, {}, {"site": F.lit("06"), "n": F.lit("9")}, ["keep"])
    assert found.columns == ["id", "n", "x", "site", MISFIT, MISFITS, "keep"]
    assert [tuple(row) for row in found.collect()] == [
        ("a", 1, None, 6, False, [], "k"),
        ("b", None, None, 6, True, ["wrong_type n: no smallint"], "l"),
    ]


def test_conform__missing_where_there_must_be_a_value(spark: SparkSession):
    """A value of a wrong type is there: it is not missing as well."""
    target = T.StructType([T.StructField(n, INT, nullable=False) for n in ("a", "b", "c")])
    arrived = T.StructType([T.StructField("a", TEXT), T.StructField("b", INT)])
    rows = spark.createDataFrame([("1", 2), ("x", 2), (None, None)], arrived)
    found = conform.conform(rows, arrived, target, {}, {}, [])
    assert [row[MISFITS] for row in found.collect()] == [
        ["missing c: no value"],
        ["wrong_type a: no int", "missing c: no value"],
        ["missing a: no value", "missing b: no value", "missing c: no value"],
    ]


def test_conform__nothing_that_could_fail(spark: SparkSession):
    schema = T.StructType([T.StructField("id", TEXT)])
    (row,) = conform.conform(spark.createDataFrame([("a",)], schema), schema, schema, {}, {}, []).collect()
    assert tuple(row) == ("a", False, [])


def test_conform__a_wrong_value_in_the_path_and_none(spark: SparkSession):
    schema = T.StructType([T.StructField("site", INT, nullable=False)])
    rows = spark.createDataFrame([("x",), (None,)], "_path_site string")
    found = conform.conform(rows, T.StructType([]), schema, {}, {"site": F.col("_path_site")}, [])
    assert [tuple(row) for row in found.collect()] == [
        (None, True, ["wrong_type site: no int"]),
        (None, True, ["missing site: no value"]),
    ]


# --- drift ----------------------------------------------------------------------------------------------------


def test_drift_of():
    declared = T.StructType([
        T.StructField("id", TEXT, nullable=False),
        T.StructField("event_time", TIME, nullable=False),
        T.StructField("x", FLOAT, nullable=False),
        T.StructField("hour", INT, nullable=False),
        T.StructField("note", TEXT),
    ])  # fmt: skip
    arrived = spark_schema(pa.schema([("ID", pa.string()), ("event_time", pa.timestamp("ns")), ("extra", pa.int32())]))
    assert drift_of(arrived, declared, {}, ["hour"]) == [
        Drift("id", "renamed", "id", "ID"),
        Drift("event_time", "retyped", "timestamp", "timestamp_ns"),
        Drift("x", "missing", "float", ""),
        Drift("extra", "added", "", "int"),
    ]


def test_drift_of__none():
    declared = T.StructType([T.StructField("id", TEXT, nullable=False), T.StructField("note", TEXT)])
    assert drift_of(T.StructType([T.StructField("id", TEXT)]), declared, {}, []) == []


assert datetime(2026, 1, 1, tzinfo=UTC).timestamp() == NEW_YEAR

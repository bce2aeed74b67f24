"""Names and types: what arrived becomes what silver declares, and nothing becomes null in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_type

from jobs.lake.quality import MISTYPED

_WIDTH = {T.ByteType: 8, T.ShortType: 16, T.IntegerType: 32, T.LongType: 64}
_EXACT_IN = {T.FloatType: 24, T.DoubleType: 53}  # bits of the significand
_NANOSECONDS = "nanoseconds"


@dataclass(frozen=True)
class Drift:
    """A difference between a file's schema and silver's.

    Attributes:
        column: The column, as silver names it.
        kind: ``added``, ``retyped``, ``missing`` or ``renamed``.
        before: What silver declares.
        after: What the file has.
    """

    column: str
    kind: str
    before: str
    after: str


def spark_schema(schema: pa.Schema) -> T.StructType:
    """The schema that Spark reads a Parquet file with, from the file's own.

    Nanosecond timestamps are read as integers (Spark has none) and marked so.

    Raises:
        TypeError: A column has a type that Spark cannot read; the message names it.
    """
    fields = []
    for field in schema:
        metadata = {}
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_timestamp(kind) and kind.unit == "ns":
            spark_type: T.DataType = T.LongType()
            metadata = {_NANOSECONDS: True}
        elif kind in _UNSIGNED:
            spark_type = _UNSIGNED[kind]
        else:
            try:
                spark_type = from_arrow_type(kind, prefer_timestamp_ntz=True)
            except Exception as error:  # PySpark's own error class differs between releases
                raise TypeError(f"column {field.name} has type {field.type}, which Spark cannot read") from error
        fields.append(T.StructField(field.name, spark_type, True, metadata))
    return T.StructType(fields)


_UNSIGNED: dict[pa.DataType, T.DataType] = {
    pa.uint8(): T.ShortType(),
    pa.uint16(): T.IntegerType(),
    pa.uint32(): T.LongType(),
    pa.uint64(): T.DecimalType(20, 0),
}


def match_names(arrived: Sequence[str], declared: Sequence[str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Declared name -> arrived name: the same spelling first, then without case, then a declared alias."""
    folded = {name.casefold(): name for name in reversed(arrived)}
    matched = {}
    for name in declared:
        spellings = [name.casefold(), *(a.casefold() for a, of in aliases.items() if of == name)]
        found = name if name in arrived else next((folded[s] for s in spellings if s in folded), None)
        if found is not None:
            matched[name] = found
    return matched


def extra_fields(arrived: T.StructType, declared: T.StructType, aliases: Mapping[str, str]) -> list[T.StructField]:
    """The arrived columns that stand for none that is declared."""
    taken = set(match_names(arrived.names, declared.names, aliases).values())
    known = {name.casefold() for name in declared.names}
    extras = [f for f in arrived if f.name not in taken and f.name.casefold() not in known]
    return [
        T.StructField(f.name, T.TimestampType() if _NANOSECONDS in f.metadata else f.dataType) for f in extras
    ]


def conform(
    rows: DataFrame,
    arrived: T.StructType,
    target: T.StructType,
    aliases: Mapping[str, str],
    from_path: Mapping[str, Column],
    keep: Sequence[str],
) -> DataFrame:
    """Rename and cast to ``target``, with every value that could not be cast noted in :data:`MISTYPED`.

    Args:
        rows: Rows as read, with the columns of ``arrived``.
        arrived: Schema of the file.
        target: Columns of silver.
        aliases: Other spellings of silver's names.
        from_path: Values that stand in the file's path, for columns the file does not have.
        keep: Further columns of ``rows`` to pass through.
    """
    matched = match_names(arrived.names, target.names, aliases)
    columns, failures = [], []
    for field in target:
        if field.name in matched:
            source = arrived[matched[field.name]]
            raw, kind = F.col(f"`{source.name}`"), source.dataType
            value, exact = convert(raw, kind, field.dataType, nanoseconds=_NANOSECONDS in source.metadata)
        elif field.name in from_path:
            raw = from_path[field.name]
            value, exact = convert(raw, T.StringType(), field.dataType)
        else:
            raw, value, exact = F.lit(None), F.lit(None).cast(field.dataType), True
        columns.append(value.alias(field.name))
        if not exact:
            failed = raw.isNotNull() & value.isNull()
            failures.append(F.when(failed, _mistyped(field, raw)))
    none = F.array().cast("array<struct<column:string,reason:string>>")
    noted = F.array_compact(F.array(*failures)) if failures else none
    return rows.select(*columns, noted.alias(MISTYPED), *keep)


def _mistyped(field: T.StructField, raw: Column) -> Column:
    text = F.substring(F.to_json(F.struct(raw.alias(field.name))), 1, 100)
    reason = F.concat(F.lit(f"wrong_type {field.name}: "), text, F.lit(f" is no {field.dataType.simpleString()}"))
    return F.struct(F.lit(field.name).alias("column"), reason.alias("reason"))


def convert(raw: Column, kind: T.DataType, to: T.DataType, *, nanoseconds: bool = False) -> tuple[Column, bool]:
    """A column cast without loss, and whether the cast can never fail.

    A value that cannot be represented becomes null, which the caller tells from a null that arrived. Decimal
    fractions are the one exception: a double is rounded to a declared float, because a measurement has that
    precision; only an overflow fails.
    """
    if nanoseconds:
        micros = (raw - F.pmod(raw, F.lit(1000))) / 1000
        return (F.timestamp_micros(micros.cast("long")), True) if isinstance(to, T.TimestampType) else (_null(to), False)
    if kind == to:
        return raw, True
    if isinstance(kind, T.NullType):
        return _null(to), True
    if isinstance(kind, T.StringType):
        return F.trim(raw).try_cast(to), False
    if isinstance(to, T.StringType) and isinstance(kind, T.AtomicType) and not isinstance(kind, T.BinaryType):
        return raw.cast(to), True
    if isinstance(to, T.TimestampType):
        if isinstance(kind, T.TimestampNTZType | T.DateType):
            return raw.cast(to), True
        return (_from_epoch(raw), False) if isinstance(kind, T.NumericType) else (_null(to), False)
    if isinstance(kind, T.NumericType) and isinstance(to, T.NumericType):
        return _convert_number(raw, kind, to)
    return _null(to), False


def _convert_number(raw: Column, kind: T.NumericType, to: T.NumericType) -> tuple[Column, bool]:
    bits = _WIDTH.get(type(kind), 65)
    if isinstance(kind, T.FloatType) and isinstance(to, T.DoubleType):
        return raw.cast(to), True
    if isinstance(kind, T.FractionalType) and isinstance(to, T.FloatType):
        cast = raw.cast(to)
        overflow = (F.abs(cast) == float("inf")) & (F.abs(raw.cast("double")) != float("inf"))
        return F.when(~overflow, cast), False
    if bits <= _EXACT_IN.get(type(to), 0) or bits <= _WIDTH.get(type(to), 0):
        return raw.cast(to), True
    cast = raw.try_cast(to)
    return F.when(cast.cast(kind) == raw, cast), False


def _from_epoch(raw: Column) -> Column:
    """A number as an instant: seconds, milliseconds, microseconds or nanoseconds, told apart by their size.

    Each unit's range covers the years 1973 to 5138, which the next one's does not overlap.
    """
    size = F.abs(raw.cast("double"))
    scale = F.when(size < 1e11, 1e6).when(size < 1e14, 1e3).when(size < 1e17, 1.0).otherwise(1e-3)
    return F.timestamp_micros((raw * scale).try_cast("long"))


def _null(to: T.DataType) -> Column:
    return F.lit(None).cast(to)


def drift_of(arrived: T.StructType, declared: T.StructType, aliases: Mapping[str, str], in_path: Sequence[str]) -> list[Drift]:
    """How a file's schema differs from silver's, column by column."""
    matched = match_names(arrived.names, declared.names, aliases)
    found = []
    for field in declared:
        source = matched.get(field.name)
        expected = field.dataType.simpleString()
        if source is None:
            if field.name not in in_path and not field.nullable:
                found.append(Drift(field.name, "missing", expected, ""))
            continue
        kind = "timestamp_ns" if _NANOSECONDS in arrived[source].metadata else arrived[source].dataType.simpleString()
        if kind != expected:
            found.append(Drift(field.name, "retyped", expected, kind))
        if source != field.name:
            found.append(Drift(field.name, "renamed", field.name, source))
    extras = extra_fields(arrived, declared, aliases)
    return found + [Drift(f.name, "added", "", f.dataType.simpleString()) for f in extras]

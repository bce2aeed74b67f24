"""Names and types: what arrived becomes what silver declares, and nothing becomes null in silence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_type

from jobs.lake import quality
from jobs.lake.sources import MAX_COLUMNS

_WIDTH: dict[type[T.DataType], int] = {T.ByteType: 8, T.ShortType: 16, T.IntegerType: 32, T.LongType: 64}
_EXACT_IN: dict[type[T.DataType], int] = {T.FloatType: 24, T.DoubleType: 53}  # bits of the significand
_MOST_DAYS = (2**63 - 1) // 86_400_000_000  # since the epoch: a long has no microseconds for a later day
_NANOSECONDS = "nanoseconds"
_INF = float("inf")
_LONGEST_NAME = 255  # characters of a column's name, which stands in reasons and in the books
_LONGEST_TYPE = 1_000  # characters of a type there

RESERVED = frozenset(
    f"_{name}"
    for name in (
        *("metadata", "tmp_metadata_row_index"),  # Spark's
        *("row", "arrival", "arrived_at", "source_file", "source_row", "uri", "order"),
        *("misfit", "misfits", "refused", "verdict", "why", "implausible", "undecodable", "entity", "event_time"),
        *("wanted", "message", "odd"),
    )
)
"""Every column that a promotion or a dataset adds to those of a file, or that Spark does: no file may bring one."""

_REFUSED = r" ,;{}()\n\t="  # by Delta, in a name at any depth
_WITHIN = re.compile(f"[{_REFUSED}]")
_UNHOLDABLE = re.compile(f"[{_REFUSED}.`*]")  # or what Spark reads as syntax
_NO_DECIMAL = "fFdDxX"  # 1.5f, 1.5d and 0x1p3 are numbers to Java
_NOT_FINITE = r"(?i)\A\s*[+-]?(nan|inf(inity)?)\s*\z"
# Seconds, milli-, micro- or nanoseconds of the years 2001 to 2286: other lengths may be years or dates like 20260101.
_EPOCH = r"\A\s*[0-9]{10}([0-9]{3}){0,3}(\.[0-9]+)?\s*\z"
_DATE = r"\A\s*[0-9]{4,6}-[0-9]{1,2}-[0-9]{1,2}\s*\z"
_BOOLEAN = r"(?i)\A\s*(true|false)\s*\z"
_DATE_FIRST = r"\A\s*[0-9]{4,6}-[0-9]{1,2}-[0-9]"


MOST_DRIFT = MAX_COLUMNS
"""Differences of one batch that are recorded: all that a single file can bring."""


@dataclass(frozen=True)
class Drift:
    """A difference between a file's schema and silver's.

    Attributes:
        column: The column, as silver names it.
        kind: ``added``, ``retyped``, ``missing`` or ``renamed``; of messages, ``version``.
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
        TypeError: Spark cannot read or Delta cannot hold a column, or not tell it from another; it is named.
    """
    fields = []
    names: dict[str, str] = {}
    for field in schema:
        name = folded(field.name)
        if name in RESERVED or name.startswith("_path_") or not name:
            raise TypeError(f"a column is named '{field.name}': the promotion keeps '{name}' for itself")
        if len(name) > _LONGEST_NAME:
            raise TypeError(f"a column's name has {len(name):,} characters; at most {_LONGEST_NAME} are taken in")
        if name in names:
            raise TypeError(f"columns {names[name]} and {field.name} would be one in silver")
        names[name] = field.name
        metadata = {}
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if not _is_storable(kind):
            raise TypeError(f"column {field.name} has type {field.type}, which silver cannot hold")
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


def _is_storable(kind: pa.DataType) -> bool:
    """Whether Spark reads a type and Delta holds it; what only the top level can have is converted there."""
    nested = pa.types.is_nested(kind)
    return _is_nameable(kind) and not any(
        pa.types.is_time(leaf)
        or pa.types.is_duration(leaf)
        or (pa.types.is_decimal(leaf) and leaf.precision > 38)
        or (nested and pa.types.is_null(leaf))
        or (nested and pa.types.is_timestamp(leaf) and (leaf.unit == "ns" or leaf.tz is None))
        for leaf in _leaves(kind)
    )


def _is_nameable(kind: pa.DataType) -> bool:
    """Whether Delta holds the names within a type, and Spark can tell them from each other."""
    within = [kind.field(index) for index in range(kind.num_fields)] if pa.types.is_nested(kind) else []
    return len({folded(field.name) for field in within}) == len(within) and all(
        not _WITHIN.search(field.name) and _is_nameable(field.type) for field in within
    )


def _leaves(kind: pa.DataType) -> Iterator[pa.DataType]:
    if not pa.types.is_nested(kind):
        yield kind
    elif kind.num_fields == 0:
        yield pa.null()
    else:
        for index in range(kind.num_fields):
            yield from _leaves(kind.field(index).type)


_UNSIGNED: dict[pa.DataType, T.DataType] = {
    pa.uint8(): T.ShortType(),
    pa.uint16(): T.IntegerType(),
    pa.uint32(): T.LongType(),
    pa.uint64(): T.DecimalType(20, 0),
}


def match_names(arrived: Sequence[str], declared: Sequence[str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Declared name -> arrived name: the same spelling first, then without case, then a declared alias."""
    spelled = {folded(name): name for name in reversed(arrived)}
    matched = {}
    for name in declared:
        spellings = [folded(name), *(folded(a) for a, of in aliases.items() if of == name)]
        found = name if name in arrived else next((spelled[s] for s in spellings if s in spelled), None)
        if found is not None:
            matched[name] = found
    return matched


def extra_fields(arrived: T.StructType, declared: T.StructType, aliases: Mapping[str, str]) -> list[T.StructField]:
    """The arrived columns that stand for none that is declared, as silver would hold them.

    A name is mended where Delta could not hold it. A column without any value has no type yet and is none.
    """
    taken = set(match_names(arrived.names, declared.names, aliases).values())
    extras = [f for f in arrived if f.name not in taken and not isinstance(f.dataType, T.NullType)]
    return [T.StructField(_UNHOLDABLE.sub("_", f.name), _held_as(f)) for f in extras]


def _held_as(field: T.StructField) -> T.DataType:
    is_instant = _NANOSECONDS in field.metadata or isinstance(field.dataType, T.TimestampNTZType)
    return T.TimestampType() if is_instant else field.dataType


def folded(name: str) -> str:
    """What is the same for two spellings of a name that silver, or Spark, cannot tell apart."""
    # To Java, Turkish has no i's of its own.
    return _UNHOLDABLE.sub("_", name).upper().replace("\u0130", "I").casefold()


def leaves(kind: T.DataType) -> int:
    """How many columns a type takes in Parquet, which has one for each value within."""
    match kind:
        case T.StructType():
            return sum(leaves(field.dataType) for field in kind)
        case T.ArrayType():
            return leaves(kind.elementType)
        case T.MapType():
            return leaves(kind.keyType) + leaves(kind.valueType)
    return 1


def quoted(name: str) -> str:
    """A column's name as Spark takes it, whatever letters it has."""
    return "`" + name.replace("`", "``") + "`"


MISFIT, MISFITS = "_misfit", "_misfits"
"""Columns that :func:`conform` adds: whether the row does not fit silver's columns, and the reasons."""


def conform(
    rows: DataFrame,
    arrived: T.StructType,
    target: T.StructType,
    aliases: Mapping[str, str],
    from_path: Mapping[str, Column],
    keep: Sequence[str],
) -> DataFrame:
    """Rename and cast to ``target``, and note what does not fit.

    A value that cannot be cast is ``wrong_type``; no value in a column that is not nullable is ``missing``.

    Args:
        rows: Rows as read, with the columns of ``arrived``.
        arrived: Schema of the file.
        target: Columns of silver.
        aliases: Other spellings of silver's names.
        from_path: Values that stand in the file's path, for columns the file does not have.
        keep: Further columns of ``rows`` to pass through.
    """
    matched = match_names(arrived.names, target.names, aliases)
    columns, checks = [], []
    for field in target:
        if field.name in matched:
            source = arrived[matched[field.name]]
            raw = F.col(quoted(source.name))
            value, exact = convert(raw, source.dataType, field.dataType, nanoseconds=_NANOSECONDS in source.metadata)
        elif field.name in from_path:
            raw = from_path[field.name]
            value, exact = convert(raw, T.StringType(), field.dataType)
        else:
            raw, value, exact = F.lit(None), _null(field.dataType), True
        columns.append(value.alias(field.name))
        if not exact:
            mistyped = raw.isNotNull() & value.isNull()
            checks.append(F.when(mistyped, F.lit(f"wrong_type {field.name}: no {_told(field.dataType)}")))
        if not field.nullable:
            checks.append(F.when(raw.isNull(), F.lit(f"missing {field.name}: no value")))
    misfit = quality.any_reason(checks)
    reasons = F.when(misfit, quality.all_reasons(checks)).otherwise(quality.no_reasons())  # few rows have any
    return rows.select(*columns, misfit.alias(MISFIT), reasons.alias(MISFITS), *keep)


def convert(raw: Column, kind: T.DataType, to: T.DataType, *, nanoseconds: bool = False) -> tuple[Column, bool]:
    """A column cast without loss, and whether the cast can never fail.

    A value that cannot be represented becomes null, which the caller tells from a null that arrived. Decimal
    fractions are the one exception: a double is rounded to a declared float, because a measurement has that
    precision; only an overflow fails.
    """
    if nanoseconds:
        return (F.timestamp_micros(_micros(raw)), True) if isinstance(to, T.TimestampType) else (_null(to), False)
    if kind == to:
        return raw, True
    if isinstance(kind, T.NullType):
        return _null(to), True
    if isinstance(kind, T.StringType):
        return _parse(raw, to) if isinstance(to, T.AtomicType) else _null(to), False
    if isinstance(to, T.StringType) and isinstance(kind, T.AtomicType) and not isinstance(kind, T.BinaryType):
        return raw.cast(to), True
    if isinstance(to, T.TimestampType):
        if isinstance(kind, T.TimestampNTZType):
            return raw.cast(to), True
        if isinstance(kind, T.DateType):
            return F.when(F.unix_date(raw).between(-_MOST_DAYS, _MOST_DAYS), raw.cast(to)), False
        return (_from_epoch(raw, kind), False) if isinstance(kind, T.NumericType) else (_null(to), False)
    if isinstance(kind, T.NumericType) and isinstance(to, T.NumericType):
        return _convert_number(raw, kind, to)
    return _null(to), False


def _convert_number(raw: Column, kind: T.NumericType, to: T.NumericType) -> tuple[Column, bool]:
    bits = _WIDTH.get(type(kind), 65)
    if isinstance(kind, T.FloatType) and isinstance(to, T.DoubleType):
        return raw.cast(to), True
    if isinstance(kind, T.FractionalType) and isinstance(to, T.FloatType):
        cast = raw.cast(to)
        overflow = (F.abs(cast) == _INF) & (F.abs(raw.cast("double")) != _INF)
        return F.when(~overflow, cast), False
    if bits <= _EXACT_IN.get(type(to), 0) or bits <= _WIDTH.get(type(to), 0):
        return raw.cast(to), True
    cast = raw.try_cast(to)
    exact = cast.try_cast(kind) == raw
    # 2^63 is no long, and yet becomes the largest one, which in turn becomes 2^63.
    if isinstance(kind, T.LongType):
        exact &= cast < 2.0**63
    elif isinstance(to, T.LongType) and type(kind) in _EXACT_IN:
        exact &= raw < 2.0**63
    return F.when(exact, cast), False


def _parse(text: Column, to: T.DataType) -> Column:
    """Text as Spark casts it, but for what only Spark reads in it: 12:30 as today, 1.5f as 1.5, 1e999 as infinity.

    Nor is anything lost: a time of day of a date, digits of a decimal. A boolean is "true" or "false".
    """
    value = F.trim(text).try_cast(to)
    if isinstance(to, T.TimestampType):
        digits = F.trim(text)
        whole, fraction = (_from_epoch(digits.try_cast(kind), kind) for kind in (T.LongType(), T.DoubleType()))
        return F.when(text.rlike(_DATE_FIRST), value).when(text.rlike(_EPOCH), F.coalesce(whole, fraction))
    if isinstance(to, T.FloatType | T.DoubleType):
        # Bytes that are looked for take a tenth of the time of a pattern, which few texts need.
        is_decimal = ~reduce(or_, (text.contains(letter) for letter in _NO_DECIMAL))
        return F.when(F.abs(value) < _INF, F.when(is_decimal, value)).when(text.rlike(_NOT_FINITE), value)
    if isinstance(to, T.DecimalType):
        return F.when(value == F.trim(text).try_cast(T.DecimalType(38, 38 - (to.precision - to.scale))), value)
    if isinstance(to, T.DateType | T.BooleanType):
        return F.when(text.rlike(_DATE if isinstance(to, T.DateType) else _BOOLEAN), value)
    return value


def _micros(nanos: Column) -> Column:
    """Whole microseconds, rounded down: by whole numbers, because a double has too few digits for nanoseconds."""
    return F.call_function("div", nanos, F.lit(1000)) - (nanos % 1000 < 0).cast("int")


def _from_epoch(raw: Column, kind: T.NumericType) -> Column:
    """A number as an instant: seconds, milliseconds, microseconds or nanoseconds, told apart by their size.

    Each unit's range covers the years 1973 to 5138, which the next one's does not overlap.
    """
    size = F.abs(raw.cast("double"))
    if isinstance(kind, T.FloatType | T.DoubleType) or (isinstance(kind, T.DecimalType) and kind.scale):
        scale = F.when(size < 1e11, 1e6).when(size < 1e14, 1e3).when(size < 1e17, 1.0).otherwise(1e-3)
        return F.timestamp_micros(F.rint(raw * scale).try_cast("long"))
    whole = raw.try_cast("long")
    micros = F.when(size < 1e11, F.try_multiply(whole, F.lit(10**6))).when(
        size < 1e14, F.try_multiply(whole, F.lit(1000))
    )
    return F.timestamp_micros(micros.when(size < 1e17, whole).otherwise(_micros(whole)))


def _null(to: T.DataType) -> Column:
    return F.lit(None).cast(to)


def drift_of(
    arrived: T.StructType, declared: T.StructType, aliases: Mapping[str, str], in_path: Sequence[str]
) -> list[Drift]:
    """How a file's schema differs from silver's, column by column."""
    matched = match_names(arrived.names, declared.names, aliases)
    found = []
    for field in declared:
        source = matched.get(field.name)
        expected = _told(field.dataType)
        if source is None:
            if field.name not in in_path and not field.nullable:
                found.append(Drift(field.name, "missing", expected, ""))
            continue
        kind = "timestamp_ns" if _NANOSECONDS in arrived[source].metadata else _told(arrived[source].dataType)
        if kind != expected:
            found.append(Drift(field.name, "retyped", expected, kind))
        if source != field.name:
            found.append(Drift(field.name, "renamed", field.name, source))
    extras = extra_fields(arrived, declared, aliases)
    return found + [Drift(f.name, "added", "", _told(f.dataType)) for f in extras]


def _told(kind: T.DataType) -> str:
    """A type as the books have it: one with columns within can be of any length."""
    return kind.simpleString()[:_LONGEST_TYPE]

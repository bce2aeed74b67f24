"""Dirt from a seed: spoils a share of rows and files, and records exactly what was done to which."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

from sim import writers
from sim.errors import ParameterError
from sim.randomness import generator
from sim.writers import Writer, Written, as_table, iso_8601

RowKind = Literal[
    "duplicate",
    "conflict",
    "late",
    "out_of_order",
    "nan",
    "infinity",
    "out_of_range",
    "wrong_type",
    "missing_field",
]
OwnKind = Literal["future", "jump", "unknown_value", "unknown_schema", "torn_payload"]
FileKind = Literal["torn", "empty"]
_AnyRowKind = RowKind | OwnKind
Kind = _AnyRowKind | FileKind

ROW_KINDS: tuple[RowKind, ...] = get_args(RowKind)
OWN_KINDS: tuple[OwnKind, ...] = get_args(OwnKind)
FILE_KINDS: tuple[FileKind, ...] = get_args(FileKind)
EXPECTED: Mapping[Kind, str] = {
    "duplicate": "duplicate",
    "conflict": "refused:conflicting_duplicate",
    "late": "accepted",
    "out_of_order": "accepted",
    "nan": "refused:not_finite",
    "infinity": "refused:not_finite",
    "out_of_range": "refused:out_of_range",
    "wrong_type": "refused:wrong_type",
    "missing_field": "refused:missing",
    "future": "refused:in_future",
    "jump": "refused:jump",
    "unknown_value": "refused:unknown_value",
    "unknown_schema": "refused:unknown_schema",
    "torn_payload": "refused:unparsable",
    "torn": "refused:unreadable_file",
    "empty": "refused:unreadable_file",
}
"""What a promotion is to make of each kind: accept it, count a duplicate, or refuse it with this code."""

_IN_PLACE: tuple[RowKind, ...] = ("nan", "infinity", "out_of_range")
_MOVED: tuple[RowKind, ...] = ("late", "wrong_type", "missing_field")
_NOT_NUMBERS = ("n/a", "error", "--", "?")
_TORN_ROWS = 1_000  # of the copy that is cut short
_RECORD_COLUMNS = ("unit", "kind", "file", "column", "expected")

Rows = NDArray[np.int64]
Altered = tuple[pa.Table, list[str] | None]  # the rows with their fault, and the column that has it in each
Alteration = Callable[[pa.Table, "FaultSchema", np.random.Generator], Altered]


@dataclass(frozen=True)
class FaultSchema:
    """What may be spoiled in a dataset.

    Attributes:
        key: Columns that identify a row; never spoiled.
        measured: Floating-point columns that may be spoiled, each with its valid range, ends included.
        optional: Measured columns that a file may lack without any row of it being refused.
        own: Kinds of fault that only some datasets can have, each with the function that spoils rows in place:
            (rows, this schema, random stream) -> (rows spoiled, the column spoiled in each or None). The types of
            the columns stay.
    """

    key: tuple[str, ...]
    measured: Mapping[str, tuple[float, float]]
    optional: frozenset[str] = frozenset()
    own: Mapping[OwnKind, Alteration] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could not be spoiled to a known end."""
        for name, (low, high) in self.measured.items():
            if not (math.isfinite(high - low) and low < high):
                raise ParameterError(f"{name} cannot be spoiled", why=f"its range is {low} to {high}")
        wrong = {*self.key} & {*self.measured, *_RECORD_COLUMNS}
        if wrong or not self.key or not self.measured:
            raise ParameterError(
                f"no faults for key {self.key} and measured columns {tuple(self.measured)}",
                why=f"{', '.join(wrong)} cannot be part of a key" if wrong else "both are needed",
            )


class FaultParameters(BaseModel):
    """How much dirt, and of which kinds.

    Attributes:
        seed: Everything random follows from it.
        rows: Share of the rows to spoil, over all kinds.
        files: Share of the units that get a torn or an empty file as well.
        kinds: Kinds of fault to make, as far as the dataset can have them.
        weights: Relative frequency of a kind, 1 where not given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = 0
    rows: float = Field(default=0.01, ge=0, le=1)
    files: float = Field(default=0.0, ge=0, le=1)
    kinds: tuple[Kind, ...] = (*ROW_KINDS, *OWN_KINDS, *FILE_KINDS)
    weights: dict[Kind, PositiveFloat] = {}

    @model_validator(mode="after")
    def _kinds_agree(self) -> FaultParameters:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError("kinds names each kind once, and at least one")
        if strangers := set(self.weights) - set(self.kinds):
            raise ValueError(f"weights has {', '.join(sorted(strangers))}, which kinds does not have")
        return self


@dataclass(frozen=True)
class DirtyFile:
    """One file of a dirty unit.

    Attributes:
        name: File name without suffix.
        content: Its rows, or its bytes where it is no table.
    """

    name: str
    content: pa.Table | bytes


@dataclass(frozen=True)
class DirtyUnit:
    """A unit's files, to be written in this order, and the record of what is wrong with them.

    Attributes:
        files: The main file, named as the unit, then its companions. Their names, with suffix, sort in the
            same order, so that a conflicting row arrives after the one it contradicts even within a second.
        records: One row per fault: unit, kind, file (its name with suffix), the key columns as text (null for
            a fault of a file), the column spoiled (null if none), and what is expected (see `EXPECTED`).
    """

    files: list[DirtyFile]
    records: pa.Table


@dataclass(frozen=True)
class _Fault:
    """Faults of one kind in one file.

    Attributes:
        kind: Their kind.
        file: Name of the file, without suffix.
        places: Where in the clean table their rows are.
        clean: The rows as they were.
        content: The rows as they are in the file, or the bytes of the file.
        columns: The column spoiled in each row.
    """

    kind: Kind
    file: str
    places: Rows
    clean: pa.Table
    content: pa.Table | bytes
    columns: list[str] | None = None


def dirty(table: pa.Table, unit_name: str, parameters: FaultParameters, schema: FaultSchema) -> DirtyUnit:
    """Spoil a share of a unit's rows.

    A row gets at most one fault, and gives a promotion one reason at most. Of n rows, n x ``rows`` are
    spoiled; the fraction is rounded up or down by a draw, so that the share holds over many small units, and
    so it is for each kind. The last row is always left alone: rows out of order need one to stand behind.

    - duplicate: an exact copy, at the end of the file or in a companion.
    - conflict: a copy with another, valid, value, in a companion that comes after the file.
    - late: moved to a companion.
    - out_of_order: moved behind a row that it came before.
    - nan, infinity, out_of_range: one value replaced.
    - wrong_type: moved to a companion in which a measured column is text and no number.
    - missing_field: moved to a companion that lacks a measured column.
    - the dataset's own kinds: spoiled in place, as its schema says.
    - torn, empty: another file, of Parquet cut short or of nothing.

    Args:
        table: The rows, all of them valid and with different keys.
        unit_name: Name of the unit; with the seed it determines every draw.
        parameters: How much, and of which kinds.
        schema: What may be spoiled.

    Raises:
        ParameterError: The table lacks a column of the schema, or a measured column is not floating-point.
    """
    _check(table, parameters, schema)
    table = table.combine_chunks()
    rng = generator(parameters.seed, "faults", unit_name)
    faults = _file_faults(table, unit_name, parameters, rng)
    for kind, file, places in _placed(_draw(table.num_rows, parameters, schema, rng), unit_name, rng):
        clean = table.take(places)
        content, columns = (_ALTER | dict(schema.own))[kind](clean, schema, rng)
        faults.append(_Fault(kind, file, places, clean, content, columns))
    main = DirtyFile(unit_name, _main_file(table, faults, unit_name, rng))
    companions = [DirtyFile(fault.file, fault.content) for fault in faults if fault.file != unit_name]
    return DirtyUnit(
        files=[main, *sorted(companions, key=lambda file: file.name)],
        records=pa.concat_tables([_no_records(schema), *(_records(fault, unit_name, schema) for fault in faults)]),
    )


def write_dirty(
    writer: Writer,
    prefix: str,
    unit: DirtyUnit,
    partition_by: Sequence[str],
    encode: Callable[[pa.Table, str], pa.Table] = lambda rows, _name: rows,
) -> list[Written]:
    """Write a dirty unit's files in order, torn and empty ones beside the main file.

    Args:
        writer: Where to write.
        prefix: Where below the root of the lake, such as ``bronze/accelerometer``.
        unit: What `dirty` made.
        partition_by: Hive partition columns, as for the clean unit.
        encode: (rows of a file, its name) -> what bronze holds of them.

    Returns:
        Every file written; a torn or empty one has no rows.
    """
    written: list[Written] = []
    for file in unit.files:
        if isinstance(file.content, bytes):
            folder = written[0].key.rpartition("/")[0] if written else prefix
            key = f"{folder}/{file.name}.parquet"
            writer.put(key, file.content)
            written.append(Written(key, 0, len(file.content)))
        else:
            rows = encode(file.content, file.name)
            written += writer.write(rows, prefix, name=file.name, partition_by=partition_by)
    return written


def expected_refusals(records: pa.Table) -> dict[str, int]:
    """Count what a promotion is to refuse, by code. ``unreadable_file`` counts files, the others rows."""
    counts = Counter(records["expected"].to_pylist())
    return {text.removeprefix("refused:"): n for text, n in sorted(counts.items()) if text.startswith("refused:")}


def expected_duplicates(records: pa.Table) -> int:
    """Count the rows that a promotion is to drop as duplicates."""
    return Counter(records["expected"].to_pylist())["duplicate"]


def _check(table: pa.Table, parameters: FaultParameters, schema: FaultSchema) -> None:
    if absent := [name for name in (*schema.key, *schema.measured) if name not in table.column_names]:
        raise ParameterError(f"the table lacks {', '.join(absent)}", remedy="give the dataset's own fault schema")
    if exact := [name for name in schema.measured if not pa.types.is_floating(table.schema.field(name).type)]:
        raise ParameterError(f"{', '.join(exact)} cannot be NaN", remedy="measure in float32 or float64")
    if "missing_field" in parameters.kinds and schema.optional >= set(schema.measured):
        raise ParameterError("missing_field cannot be made", why="every measured column is optional")


# --- Which rows ---------------------------------------------------------------------------------------------


def _draw(
    count: int, parameters: FaultParameters, schema: FaultSchema, rng: np.random.Generator
) -> dict[_AnyRowKind, Rows]:
    """Draw the rows of every kind, ascending; no row has two."""
    possible: list[_AnyRowKind] = [*ROW_KINDS, *(kind for kind in OWN_KINDS if kind in schema.own)]
    kinds = [kind for kind in possible if kind in parameters.kinds]
    total = min(int(parameters.rows * count + rng.random()), count - 1)
    if not kinds or total < 1:
        return {}
    share = np.cumsum([parameters.weights.get(kind, 1.0) for kind in kinds])
    # One random offset for all borders: each kind gets its share, rounded up or down, and the sum is exact.
    borders = np.floor(total * (share / share[-1])[:-1] + rng.random()).astype(np.int64)
    chosen = rng.choice(count - 1, total, replace=False)
    return {kind: np.sort(rows) for kind, rows in zip(kinds, np.split(chosen, borders), strict=True)}


def _placed(
    drawn: Mapping[_AnyRowKind, Rows], unit_name: str, rng: np.random.Generator
) -> Iterator[tuple[_AnyRowKind, str, Rows]]:
    """Yield kind, file and rows of what was drawn: of the duplicates, about half stay in the main file."""
    for kind, rows in drawn.items():
        stays = np.full(len(rows), kind in (*_IN_PLACE, *OWN_KINDS, "out_of_order"))
        if kind == "duplicate":
            stays = rng.random(len(rows)) < 0.5
        # "_" sorts after the "." of the main file's suffix, where "-" would sort before it.
        for file, part in ((unit_name, rows[stays]), (f"{unit_name}_{kind}", rows[~stays])):
            if len(part):
                yield kind, file, part


def _file_faults(
    table: pa.Table, unit_name: str, parameters: FaultParameters, rng: np.random.Generator
) -> list[_Fault]:
    hit, which, cut = rng.random(3)
    kinds = [kind for kind in FILE_KINDS if kind in parameters.kinds]
    if not kinds or hit >= parameters.files:
        return []
    share = np.cumsum([parameters.weights.get(kind, 1.0) for kind in kinds])
    kind = kinds[int(np.searchsorted(share / share[-1], which, side="right"))]
    body = writers.encode(as_table(table.slice(0, _TORN_ROWS)), "parquet").to_pybytes() if kind == "torn" else b""
    torn = body[: int(len(body) * (0.1 + 0.8 * cut))]  # without a Parquet file's end, where its schema is
    return [_Fault(kind, f"{unit_name}_{kind}", np.zeros(0, np.int64), table.slice(0, 0), torn)]


# --- What becomes of them -----------------------------------------------------------------------------------


def _main_file(table: pa.Table, faults: list[_Fault], unit_name: str, rng: np.random.Generator) -> pa.Table:
    """Return the main file: rows that stay, spoiled ones in place, some elsewhere, copies at the end."""
    if not any(len(fault.places) for fault in faults):
        return table
    spoiled = [fault for fault in faults if fault.kind in (*_IN_PLACE, *OWN_KINDS)]
    source = np.arange(table.num_rows)
    source[_places(spoiled)] = table.num_rows + np.arange(len(_places(spoiled)))
    displaced = _places(fault for fault in faults if fault.kind == "out_of_order")
    moved = _places(fault for fault in faults if fault.kind in _MOVED)
    staying = np.delete(np.arange(table.num_rows), np.concatenate([displaced, moved]))
    copies = _places(fault for fault in faults if fault.kind == "duplicate" and fault.file == unit_name)
    rows = np.concatenate([source[_behind(staying, displaced, rng)], copies])
    return pa.concat_tables([table, *(fault.content for fault in spoiled)]).combine_chunks().take(rows)


def _places(faults: Iterable[_Fault]) -> Rows:
    return np.concatenate([np.zeros(0, np.int64), *(fault.places for fault in faults)])


def _behind(staying: Rows, displaced: Rows, rng: np.random.Generator) -> Rows:
    """Put each displaced row behind some staying row that it came before."""
    after = rng.integers(np.searchsorted(staying, displaced), len(staying))
    return np.insert(staying, after + 1, displaced)


def _nothing(rows: pa.Table, _schema: FaultSchema, _rng: np.random.Generator) -> Altered:
    return rows, None


def _conflict(rows: pa.Table, schema: FaultSchema, rng: np.random.Generator) -> Altered:
    def other(value: Any, low: Any, high: Any) -> Any:
        # A little towards the middle: different in float32, and valid under any range that holds the reading.
        step = np.minimum(np.maximum(np.abs(value) / 1_000, (high - low) / 1e6), (high - low) / 4)
        return np.where(value < (low + high) / 2, value + step, value - step)

    return _replace(rows, schema, rng, other)


def _nan(rows: pa.Table, schema: FaultSchema, rng: np.random.Generator) -> Altered:
    return _replace(rows, schema, rng, lambda value, _low, _high: np.full(len(value), np.nan))


def _infinity(rows: pa.Table, schema: FaultSchema, rng: np.random.Generator) -> Altered:
    sign = rng.choice([-1.0, 1.0], rows.num_rows)
    return _replace(rows, schema, rng, lambda _value, _low, _high: sign * np.inf)


def _out_of_range(rows: pa.Table, schema: FaultSchema, rng: np.random.Generator) -> Altered:
    above = rng.random(rows.num_rows) < 0.5
    beyond = rng.uniform(0.5, 1.5, rows.num_rows)

    def outside(_value: Any, low: Any, high: Any) -> Any:
        return np.where(above, high + beyond * (high - low), low - beyond * (high - low))

    return _replace(rows, schema, rng, outside)


def _wrong_type(rows: pa.Table, schema: FaultSchema, rng: np.random.Generator) -> Altered:
    name = str(rng.choice(list(schema.measured)))
    texts = pa.array(rng.choice(_NOT_NUMBERS, rows.num_rows).tolist(), pa.string())
    return rows.set_column(rows.column_names.index(name), name, texts), [name] * rows.num_rows


def _missing_field(rows: pa.Table, schema: FaultSchema, rng: np.random.Generator) -> Altered:
    name = str(rng.choice([name for name in schema.measured if name not in schema.optional]))
    return rows.drop_columns([name]), [name] * rows.num_rows


_ALTER: dict[_AnyRowKind, Alteration] = {
    "duplicate": _nothing,
    "conflict": _conflict,
    "late": _nothing,
    "out_of_order": _nothing,
    "nan": _nan,
    "infinity": _infinity,
    "out_of_range": _out_of_range,
    "wrong_type": _wrong_type,
    "missing_field": _missing_field,
}


def _replace(
    rows: pa.Table, schema: FaultSchema, rng: np.random.Generator, change: Callable[[Any, Any, Any], Any]
) -> Altered:
    """Replace one measured value of each row, in a column drawn for it, by ``change(value, low, high)``."""
    names = list(schema.measured)
    picked = rng.integers(len(names), size=rows.num_rows)
    for place in np.unique(picked):
        name = names[place]
        low, high = schema.measured[name]
        mask = picked == place
        column = rows[name].combine_chunks()
        middle = (low + high) / 2
        values = pc.fill_null(column.cast(pa.float64()), middle).to_numpy()
        new = change(values, low, high)[mask].astype(column.type.to_pandas_dtype())
        column = pc.replace_with_mask(column, pa.array(mask), pa.array(new, column.type))
        index = rows.column_names.index(name)
        rows = rows.set_column(index, rows.schema.field(index), column)
    return rows, [names[place] for place in picked]


# --- The record of it ---------------------------------------------------------------------------------------


def _no_records(schema: FaultSchema) -> pa.Table:
    names = ("unit", "kind", "file", *schema.key, "column", "expected")
    return pa.schema([(name, pa.string()) for name in names]).empty_table()


def _records(fault: _Fault, unit_name: str, schema: FaultSchema) -> pa.Table:
    whole_file = fault.kind in FILE_KINDS
    count = 1 if whole_file else fault.clean.num_rows
    keys = {name: [None] if whole_file else _text(fault.clean[name].combine_chunks()) for name in schema.key}
    columns: dict[str, Any] = {
        "unit": [unit_name] * count,
        "kind": [fault.kind] * count,
        "file": [f"{fault.file}.parquet"] * count,
        **keys,
        "column": fault.columns or [None] * count,
        "expected": [EXPECTED[fault.kind]] * count,
    }
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _text(values: pa.Array) -> pa.Array:
    """Return key values as text; times as ISO 8601 in UTC, to the microsecond."""
    return iso_8601(values) if pa.types.is_timestamp(values.type) else values.cast(pa.string())

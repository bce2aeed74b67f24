"""What a dataset and a gold table are: the two definitions that every module of theirs fills in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field
from pyspark.sql import Column, DataFrame, WindowSpec
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import DataType, DateType, StructField, StructType, TimestampType

from jobs.lake.sources import Parsed, SourceFile

ALL = "(all)"
"""Stands in the key of a gold row that sums up all entities."""
Tolerance = Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)]
"""How far a clock may be wrong, in seconds: a setting of a dataset."""


class NoSettings(BaseModel):
    """For a dataset or table that has nothing to set."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def column(name: str, kind: DataType, comment: str, unit: str = "", *, nullable: bool = True) -> StructField:
    """A column of a table, with what the documentation says of it."""
    return StructField(name, kind, nullable, {"comment": comment, "unit": unit})


def documented_schema(schema: pa.Schema) -> StructType:
    """An Arrow schema whose fields carry ``comment`` and ``unit`` as metadata, as Spark's."""
    fields = []
    for arrow, spark in zip(schema, from_arrow_schema(schema), strict=True):
        said = {key.decode(): value.decode() for key, value in (arrow.metadata or {}).items()}
        fields.append(column(spark.name, spark.dataType, said.get("comment", ""), said.get("unit", "")))
    return StructType(fields)


@dataclass(frozen=True)
class Ingest:
    """How files of a dataset become bronze.

    Attributes:
        partition_by: Hive partition columns of bronze.
        companions: File name -> names of files that complete it, looked for beside it.
        is_companion: File name -> whether it only completes others; ``FileRefusedError`` for a foreign name.
        parse: (file, companions found) -> its rows in bounded pieces; ``FileRefusedError`` for a foreign content.
    """

    partition_by: tuple[str, ...]
    companions: Callable[[str], Sequence[str]]
    is_companion: Callable[[str], bool]
    parse: Callable[[SourceFile, Sequence[SourceFile]], Iterator[Parsed]]


UNDECODABLE = "_undecodable"
"""Column of decoded messages: why one cannot be decoded."""


@dataclass(frozen=True)
class Decode:
    """How messages become rows, for a dataset whose bronze holds them as they were sent.

    Attributes:
        bronze: Columns of bronze.
        rows: Rows of bronze -> the same rows with silver's columns, as text where a cast may fail; with
            :data:`UNDECODABLE` (text, ``code column: detail``, null for a good message).
        traits: () -> column of what a row shows of its message's make: an array of ``column``, ``kind``, ``before`` and
            ``after``, as drift records them.
    """

    bronze: StructType
    rows: Callable[[DataFrame], DataFrame]
    traits: Callable[[], Column]


@dataclass(frozen=True)
class Neighbours:
    """Checks of a row against the valid rows of its entity just before and after it in time.

    Attributes:
        time: The column that orders them, one of the key.
        reach: How far back and ahead in silver neighbours are looked for.
        checks: (settings, window) -> checks, for ``F.lag`` and ``F.lead`` over a window of the entity's valid rows in
            order of time.
    """

    time: str
    reach: timedelta
    checks: Callable[[Any, WindowSpec], list[Column]]


@dataclass(frozen=True)
class Dataset:
    """One kind of sensor data, from bronze to silver.

    Attributes:
        name: Folder name under ``bronze``, ``silver`` and ``quarantine``.
        schema: Columns of silver; one that is not nullable must have a value in every row.
        key: Columns that identify a row.
        entity: The column that says whose row it is; its rows stay together in a file if it is one of ``key``.
        settings: Thresholds, set under ``datasets.<name>`` in the configuration.
        rules: settings -> checks (:mod:`jobs.lake.quality`) of values that are there; that they are, ``schema`` says.
        clean: Conformed rows -> rows as silver wants them; for trimming, normalising, deriving. Not for columns of
            the key: which part of silver a batch could repeat is told from the files' own key ranges.
        aliases: Other spellings of a column's name, compared without case.
        ingest: How files become bronze; None if the dataset has no files of its own.
        decode: How messages become rows; None if bronze holds rows already.
        neighbours: Checks that need the rows before and after; None if there are none.
        incidental: Columns that do not make two rows with one key differ, such as the time of arrival.
    """

    name: str
    schema: StructType
    key: tuple[str, ...]
    entity: str
    rules: Callable[[Any], list[Column]]
    settings: type[BaseModel] = NoSettings
    clean: Callable[[DataFrame], DataFrame] = lambda rows: rows
    aliases: Mapping[str, str] = field(default_factory=dict)
    ingest: Ingest | None = None
    decode: Decode | None = None
    neighbours: Neighbours | None = None
    incidental: frozenset[str] = frozenset()

    @property
    def time(self) -> str | None:
        """The column of a row's instant; None if rows have none."""
        return "event_time" if "event_time" in self.schema.names else None


@dataclass(frozen=True)
class Windowed:
    """A gold table computed window by window from silver's files, without moving rows between JVM and Python.

    Attributes:
        time: Silver's column of the event time; rows without one are in no window.
        values: Further columns that the kernel needs.
        window: settings -> (length, hop) in microseconds; window ``k`` starts at ``k * hop`` since the epoch.
        kernel: (rows, settings, ranges of window numbers per entity) -> rows of the gold table.
        entity: Silver's column of the entity, if windows are of one each; else all rows are :data:`ALL`'s.
    """

    time: str
    values: tuple[str, ...]
    window: Callable[[Any], tuple[int, int]]
    kernel: Callable[[pa.Table, Any, Mapping[str, Sequence[tuple[int, int]]]], pa.Table]
    entity: str | None = None

    @property
    def place(self) -> tuple[str, ...]:
        """The columns that say which windows a row is in."""
        return (self.time,) if self.entity is None else (self.entity, self.time)


Touched = Callable[[DataFrame, Mapping[str, DataFrame], Any], DataFrame]


@dataclass(frozen=True)
class Grouped:
    """A gold table computed by Spark for the groups that new silver rows touch.

    Attributes:
        inputs: What it reads: ``silver/<dataset>``, ``gold/<table>`` of the same dataset, or ``truth/<name>``.
        touched: (new silver rows, inputs, settings) -> keys of the groups to compute anew.
        compute: (inputs, touched groups, settings) -> rows of the gold table.
        also: Further tables whose new rows set it going, each with its own ``touched``; they are inputs once they are
            there.
        looks_back: settings -> how long before a row's time the rows of silver begin that it is made of.
    """

    inputs: tuple[str, ...]
    touched: Touched
    compute: Callable[[Mapping[str, DataFrame], DataFrame, Any], DataFrame]
    also: Mapping[str, Touched] = field(default_factory=dict)
    looks_back: Callable[[Any], timedelta] = lambda settings: timedelta()


@dataclass(frozen=True)
class GoldTable:
    """A table of features or aggregates that follows the silver of one dataset.

    Attributes:
        name: Folder name under ``gold``.
        dataset: The dataset whose new rows set it going.
        schema: Its columns.
        key: Columns that identify a row.
        settings: Set under ``tables.<name>`` in the configuration.
        how: The computation.
        look: The columns that a first look shows.
    """

    name: str
    dataset: str
    schema: StructType
    key: tuple[str, ...]
    how: Windowed | Grouped
    settings: type[BaseModel] = NoSettings
    look: tuple[str, ...] = ()

    @property
    def time(self) -> str | None:
        """The column of the key that says when; None for a table that sums up all of time."""
        return next(
            (name for name in self.key if isinstance(self.schema[name].dataType, TimestampType | DateType)), None
        )

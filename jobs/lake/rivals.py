"""Which rows of a batch share their key with another: told from the key columns alone, without moving a row.

To compare all rows of a batch, Spark has to shuffle and sort them, which takes longer than everything else. But hardly
any has a rival. Where each entity has a file of its own, in order, as bronze has them that is written hour by hour and
sensor by sensor, the workers find those that do in the key columns (:func:`find`). Where the entity is no part of the
key, silver need not have an order, and a hash of the key tells (:func:`alike`). Only the rows found have to be
compared, and silver keeps the order that bronze has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.lake import intake
from jobs.lake.conform import match_names, spark_schema
from jobs.lake.delta import AddedFile, may_hold
from jobs.lake.intake import Probed
from jobs.lake.layout import Lake
from jobs.lake.session import on_workers
from jobs.lake.tables import Dataset

Int64 = npt.NDArray[np.int64]

_COMPARABLE = (T.TimestampType, T.DateType, T.LongType, T.IntegerType, T.ShortType, T.ByteType)
_MOST_ROWS = 1 << 25  # of one entity: what a worker takes into its memory
_MOST_RIVALS = 1 << 20  # what every task is told; with more of them there is little to gain


@dataclass(frozen=True)
class Part:
    """The keys of one file.

    Attributes:
        order: The file's place in the order of arrival.
        place: The file, as Arrow spells it.
        columns: The file's names of the key columns other than the entity.
    """

    order: int
    place: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """All files of one entity, and what silver may hold of it.

    Attributes:
        entity: The entity.
        parts: Its files in the batch.
        held: Files of silver that may have rows with its keys.
    """

    entity: str
    parts: tuple[Part, ...]
    held: tuple[str, ...]


def alike(rows: DataFrame, key: Sequence[str]) -> tuple[Int64, Int64] | None:
    """Find the rows whose key another one has, by a hash of it: few others have the same, and do no harm.

    Args:
        rows: Rows that arrive, and those that silver holds, with their ``_arrival``.
        key: Columns of the key.

    Returns:
        Places of those that arrive in the order of arrival, and the hashes; None if they are too many.
    """
    hashed = rows.select(hash_of(key).alias("hash"), "_arrival")
    shared = hashed.groupBy("hash").agg(F.count(F.lit(1)).alias("rows"), F.max("_arrival").alias("last"))
    found = shared.where((F.col("rows") > 1) & (F.col("last") != intake.HELD)).limit(_MOST_RIVALS + 1)
    hashes = found.select("hash").toArrow()["hash"].to_numpy()
    if len(hashes) > _MOST_RIVALS:
        return None
    if not len(hashes):
        return hashes, hashes
    places = having(hashed, F.col("hash"), hashes).where(F.col("_arrival") != intake.HELD).select("_arrival")
    told = places.limit(_MOST_RIVALS + 1).toArrow()["_arrival"].to_numpy()
    return None if len(told) > _MOST_RIVALS else (told, hashes)


def hash_of(key: Sequence[str]) -> Column:
    """A hash of the key."""
    return F.xxhash64(*key)


def having(rows: DataFrame, number: Column, wanted: Int64) -> DataFrame:
    """The rows of which a number, such as a hash or a place in the order of arrival, is one of a few."""
    few = rows.sparkSession.createDataFrame(pa.table({"_wanted": wanted}))
    return rows.join(F.broadcast(few), number == F.col("_wanted"), "left_semi")


def find(
    spark: SparkSession, lake: Lake, dataset: Dataset, readable: Sequence[Probed], held: Sequence[AddedFile]
) -> Int64 | None:
    """Find the rows whose key another row of the batch, or of silver, has.

    Args:
        spark: The session.
        lake: Where the files are.
        dataset: Whose rows they are.
        readable: Files in their order of arrival.
        held: Silver's files.

    Returns:
        Their places in the order of arrival. None if this layout does not tell: a file has several entities, or keys
        of another type than silver's; an entity's rows are not in order, or in several files; too many have a rival.
    """
    rest = [name for name in dataset.key if name != dataset.entity]
    comparable = rest and all(isinstance(dataset.schema[name].dataType, _COMPARABLE) for name in rest)
    if not comparable or dataset.entity not in dataset.key:
        return None
    groups = _groups(lake, dataset, readable, held, rest)
    if groups is None:
        return None
    filesystem, entity = lake.filesystem(), dataset.entity

    def look(group: Group) -> Int64 | None:
        return _rivals(filesystem, group, entity, rest)

    found = on_workers(spark, groups, look)
    told = [rivals for rivals in found if rivals is not None]
    if len(told) < len(found) or sum(map(len, told)) > _MOST_RIVALS:
        return None
    return np.concatenate(told)


def _groups(
    lake: Lake, dataset: Dataset, readable: Sequence[Probed], held: Sequence[AddedFile], rest: Sequence[str]
) -> list[Group] | None:
    """The files by entity; None if one holds several, or keys that only a conversion makes those of silver."""
    parts: dict[str, list[Part]] = defaultdict(list)
    rows: dict[str, int] = defaultdict(int)
    spans: dict[str, list[Mapping[str, tuple[Any, Any]]]] = defaultdict(list)
    for order, item in enumerate(readable):
        bounds = intake.key_bounds([item], lake, dataset)
        first, last = bounds.get(dataset.entity, (None, None))
        columns = _same_columns(item, dataset, rest)
        if first is None or first != last or columns is None:
            return None
        parts[first].append(Part(order, lake.arrow_path(item.file.path), columns))
        rows[first] += item.rows
        spans[first].append(bounds)
    if max(rows.values()) > _MOST_ROWS:
        return None
    return [
        Group(
            name,
            tuple(parts[name]),
            tuple(lake.arrow_path(f.path) for f in held if any(may_hold(f, bounds) for bounds in spans[name])),
        )
        for name in parts
    ]


def _same_columns(item: Probed, dataset: Dataset, wanted: Sequence[str]) -> tuple[str, ...] | None:
    """The file's names of these columns, if it has them all and in silver's own types."""
    assert item.schema is not None
    names, arrived = match_names(item.schema.names, wanted, dataset.aliases), spark_schema(item.schema)
    same = all(n in names and arrived[names[n]].dataType == dataset.schema[n].dataType for n in wanted)
    return tuple(names[n] for n in wanted) if same else None


def _rivals(filesystem: pafs.FileSystem, group: Group, entity: str, rest: Sequence[str]) -> Int64 | None:
    keys: list[pa.Table] = []
    arrivals: list[Int64] = []
    for part in group.parts:
        with filesystem.open_input_file(part.place) as source:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            table = file.read(columns=list(part.columns), use_threads=False)
        keys.append(table.select(part.columns).rename_columns(list(rest)))
        arrivals.append((np.int64(part.order) << intake.ROW_BITS) + np.arange(table.num_rows))
    if group.held:
        dataset = pads.dataset(list(group.held), filesystem=filesystem, format="parquet")
        table = dataset.to_table(columns=list(rest), filter=pc.field(entity) == group.entity, use_threads=False)
        keys.append(table)
        arrivals.append(np.full(table.num_rows, intake.HELD, np.int64))
    if any(column.null_count for table in keys for column in table.columns):
        return None
    try:
        columns = [np.concatenate([_numbers(table[name]) for table in keys]) for name in rest]
    except pa.ArrowInvalid:  # an instant that has no microseconds: Spark will name the file
        return None
    arrival = np.concatenate(arrivals)
    order = np.lexsort((arrival, *reversed(columns)))
    same = np.logical_and.reduce([np.diff(column[order]) == 0 for column in columns])
    again = np.r_[False, same] | np.r_[same, False]
    alone = arrival[order[~again]]
    alone = alone[alone != intake.HELD]
    if (np.diff(alone) < 0).any() or len(np.unique(alone >> intake.ROW_BITS)) > 1:
        return None
    rivals: Int64 = arrival[order[again & (arrival[order] != intake.HELD)]]
    return rivals


def _numbers(column: pa.ChunkedArray) -> Int64:
    """Whole numbers in the order of the values, the same for values that silver holds to be the same."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz))
    elif pa.types.is_date(column.type):
        column = column.cast(pa.date32()).cast(pa.int32())
    numbers: Int64 = column.cast(pa.int64()).to_numpy()
    return numbers

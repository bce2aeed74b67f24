"""From bronze files to rows: which files are new, what they hold, and their rows with conformed columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.lake.conform import MOST_DRIFT, Drift, conform, drift_of, extra_fields, match_names, quoted, spark_schema
from jobs.lake.diagnosis import cause, shortened
from jobs.lake.errors import StoreError
from jobs.lake.layout import Lake, hive_values
from jobs.lake.session import on_workers
from jobs.lake.sources import too_many
from jobs.lake.tables import Dataset

_BINARY_FILE = "path string, modificationTime timestamp, length long, content binary"
_MAGIC = b"PAR1"
_TAIL = 1 << 16  # bytes: holds the footer of nearly every file, so that one read does
_BLOCK = 1 << 23
_FEW = 16  # files whose footers are read before a job of Spark's would have started

ROW_BITS = 40
"""Bits of a row's number in its place in the order of arrival; its file's number is above them."""

HELD = -1
"""Place in the order of arrival of rows that silver holds: before any that arrives."""

PROVENANCE: Mapping[str, str] = {
    "_row": "string",
    "_arrival": "long",
    "_source_file": "string",
    "_source_row": "long",
    "_arrived_at": "timestamp",
}
"""Columns that travel with a row until it is written: itself as JSON, its place in the order of arrival, its file
relative to the lake, its number in that file, and when the file was written."""


@dataclass(frozen=True)
class Arrived:
    """A file that Spark's checkpoint has handed out.

    Attributes:
        path: Absolute path, or ``s3a://bucket/key``.
        bytes: Length; -1 if the file is gone.
        modified: Modification time, microseconds since the epoch.
    """

    path: str
    bytes: int
    modified: int

    @property
    def arrived_at(self) -> datetime:
        """The modification time."""
        return datetime.fromtimestamp(self.modified / 1e6, UTC)


@dataclass(frozen=True)
class Probed:
    """What a file's footer says.

    Attributes:
        file: The file.
        rows: Number of rows; 0 if it could not be read.
        schema: Its columns; None if it could not be read.
        bounds: Column -> (smallest, largest), where the footer has both.
        error: Why it could not be read; empty if it could.
    """

    file: Arrived
    rows: int = 0
    schema: pa.Schema | None = None
    bounds: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    error: str = ""


def oldest_first(files: Iterable[Arrived]) -> list[Arrived]:
    """Files in their order of arrival: of two rows with one key the one that arrived first is kept."""
    return sorted(files, key=lambda f: (f.modified, f.path))


def new_files(spark: SparkSession, folder: str, max_files: int) -> DataFrame:
    """A stream of the files under ``folder``; their content is never read.

    Spark's checkpoint hands out each file once, and names those of a batch (:mod:`jobs.lake.checkpoint`). Files are
    taken however old they are: Spark would by default leave out, in silence, what is a week older than the newest.
    """
    return (
        spark.readStream.format("binaryFile")
        .schema(_BINARY_FILE)
        .option("recursiveFileLookup", "true")
        .option("maxFilesPerTrigger", max_files)
        .option("maxFileAge", "36500d")
        .load(_literal(folder))
        .select("path")
    )


def probe(spark: SparkSession, lake: Lake, files: Sequence[Arrived], *, thorough: bool = False) -> list[Probed]:
    """Read every file's footer, on the workers unless they are few.

    Args:
        spark: The session.
        lake: Where the files are.
        files: What to read.
        thorough: Read the data pages as well, to find the file that broke a batch.
    """
    if len(files) <= _FEW and not thorough:
        return [*probe_here(lake, files)]
    filesystem, places = lake.filesystem(), {f.path: lake.arrow_path(f.path) for f in files}

    def probe_one(file: Arrived) -> Probed:
        return _probe(filesystem, places[file.path], file, thorough)

    return on_workers(spark, files, probe_one)


def probe_here(lake: Lake, files: Iterable[Arrived]) -> Iterator[Probed]:
    """Read every file's footer in this process, without Spark."""
    filesystem = lake.filesystem()
    for file in files:
        yield _probe(filesystem, lake.arrow_path(file.path), file, thorough=False)


def _probe(filesystem: pafs.FileSystem, place: str, file: Arrived, thorough: bool) -> Probed:
    if file.bytes <= 0:
        return Probed(file, error="the file is empty" if file.bytes == 0 else "the file is gone")
    try:
        source = filesystem.open_input_file(place)
    except FileNotFoundError:
        return Probed(file, error="the file is gone")
    with source:
        try:
            footer = _footer(source, file.bytes)
            source.seek(0)
            while thorough and source.read(_BLOCK):
                pass
        except OSError as error:
            raise StoreError(
                f"{file.path} cannot be read",
                why=cause(error, file.path),
                remedy="the batch was not promoted; run the same command again, or ./spark-submit.sh doctor",
            ) from error
        # What fails from here on is the file's fault: the store has given its bytes.
        try:
            metadata = pq.read_metadata(pa.BufferReader(footer))
            schema = _as_spark_reads(metadata.schema)
            if why := too_many(metadata.num_columns):
                raise ValueError(why)
            if thorough:
                for _ in pq.ParquetFile(source, page_checksum_verification=True).iter_batches():
                    pass
            spark_schema(schema)
            return Probed(file, metadata.num_rows, schema, _bounds(metadata))
        except (pa.ArrowException, OSError, TypeError, ValueError) as error:
            return Probed(file, error=shortened(error))


def _as_spark_reads(columns: pq.ParquetSchema) -> pa.Schema:
    """A file's columns. INT96, which Hive and Spark write for instants, Arrow takes for nanoseconds; Spark does not."""
    schema = columns.to_arrow_schema().remove_metadata()
    old = {columns.column(i).path for i in range(len(columns)) if columns.column(i).physical_type == "INT96"}
    return pa.schema([f.with_type(pa.timestamp("us", "UTC")) if f.name in old else f for f in schema])


def _footer(source: pa.NativeFile, size: int) -> bytes:
    """The end of a Parquet file, with all of its metadata, behind the four bytes that a Parquet file begins with."""
    tail: bytes = source.read_at(min(size, _TAIL), max(size - _TAIL, 0))
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if tail.endswith(_MAGIC) and len(tail) < length <= size:
        tail = source.read_at(length, size - length)
    return _MAGIC + tail


def _bounds(metadata: pq.FileMetaData) -> dict[str, tuple[Any, Any]]:
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    bounds = {}
    for index in range(metadata.num_columns if groups else 0):
        statistics = [group.column(index).statistics for group in groups]
        if all(s is not None and s.has_min_max for s in statistics):
            name = groups[0].column(index).path_in_schema
            # An instant beyond Python's calendar has no bounds; its row is for the rules to refuse.
            with suppress(ArithmeticError, ValueError, pa.ArrowException):
                bounds[name] = (min(s.min for s in statistics), max(s.max for s in statistics))
    return bounds


def evolved_schema(declared: T.StructType, probed: Iterable[Probed], aliases: Mapping[str, str]) -> T.StructType:
    """``declared`` with the columns that arrived and are not declared, in the order of their first arrival."""
    schema = declared
    for arrived in dict.fromkeys(file.schema for file in probed if file.schema is not None):
        schema = T.StructType([*schema, *extra_fields(spark_schema(arrived), schema, aliases)])
    return schema


def find_drift(declared: T.StructType, probed: Iterable[Probed], lake: Lake, dataset: Dataset) -> dict[Drift, str]:
    """Differences between the files' schemas and silver's, each with the first file that showed it.

    More are not looked for once there are more than are recorded.
    """
    found: dict[Drift, str] = {}
    for file in probed:
        if file.schema is not None and len(found) <= MOST_DRIFT:
            relative = lake.relative(file.file.path)
            in_path = list(hive_values(relative))
            for drift in drift_of(spark_schema(file.schema), declared, dataset.aliases, in_path):
                found.setdefault(drift, relative)
    return found


def read(
    spark: SparkSession, lake: Lake, dataset: Dataset, probed: Sequence[Probed], target: T.StructType
) -> DataFrame:
    """The rows of readable files, conformed to ``target``, with :data:`PROVENANCE`.

    Files of one schema are read together and with exactly that schema, so no file can spoil another's reading.

    Args:
        spark: The session.
        lake: Where the files are.
        dataset: Whose rows they are.
        probed: Readable files in their order of arrival.
        target: Columns of silver.
    """
    places = spark._jvm.org.apache.hadoop.fs.Path  # type: ignore[union-attr]
    in_path = sorted({k for p in probed for k in hive_values(lake.relative(p.file.path))} & set(target.names))
    by_schema: dict[pa.Schema, list[Probed]] = defaultdict(list)
    # Spelled as Spark's _metadata has them: percent-encoded.
    paths = [("" if lake.on_s3 else "file:") + places(item.file.path).toUri().toString() for item in probed]
    names = [path.rpartition("/")[2] for path in paths]
    # Every row's file is looked up, and a name is shorter than a path.
    told_by, told = ("file_name", names) if len({*names}) == len(names) else ("file_path", paths)
    records = []
    for order, (item, file) in enumerate(zip(probed, told, strict=True)):
        assert item.schema is not None
        by_schema[item.schema].append(item)
        relative = lake.relative(item.file.path)
        values = hive_values(relative)
        records.append((file, order, relative, item.file.arrived_at, *(values.get(k) for k in in_path)))
    files = spark.createDataFrame(
        records,
        T.StructType(
            [
                T.StructField("_uri", T.StringType()),
                T.StructField("_order", T.LongType()),
                T.StructField("_source_file", T.StringType()),
                T.StructField("_arrived_at", T.TimestampType()),
                *(T.StructField(f"_path_{k}", T.StringType()) for k in in_path),
            ]
        ),
    ).withColumn("_uri", _hashed("_uri"))
    parts = [
        _read_group(spark, schema, [p.file.path for p in group], files, told_by, dataset, target, in_path)
        for schema, group in by_schema.items()
    ]
    return reduce(DataFrame.unionByName, parts)


def _read_group(
    spark: SparkSession,
    schema: pa.Schema,
    paths: list[str],
    files: DataFrame,
    told_by: str,
    dataset: Dataset,
    target: T.StructType,
    in_path: Sequence[str],
) -> DataFrame:
    arrived = spark_schema(schema)
    # Hadoop takes [ ] { } * ? in a path for a pattern; these are names.
    rows = spark.read.schema(arrived).option("pathGlobFilter", "*").parquet(*(_literal(p) for p in paths))
    original = F.struct(
        *(F.col(quoted(name)) for name in arrived.names),
        *(F.col(f"_path_{k}").alias(k) for k in in_path if k not in arrived.names),
    )
    located = (
        rows.select("*", _hashed(f"_metadata.{told_by}"), F.col("_metadata.row_index").alias("_source_row"))
        .join(F.broadcast(files), "_uri")
        .withColumn("_row", F.to_json(original, {"ignoreNullFields": "false"}))
        .withColumn("_arrival", F.shiftleft(F.col("_order"), ROW_BITS) + F.col("_source_row"))
    )
    from_path = {k: F.col(f"_path_{k}") for k in in_path}
    return conform(located, arrived, target, dataset.aliases, from_path, list(PROVENANCE))


def _hashed(name: str) -> Column:
    """A file's name for the join that every row goes through: Spark finds a number five times faster than a text.

    If two of a batch's files ever had the same, their rows would be there twice, which the books refuse.
    """
    return F.xxhash64(name).alias("_uri")


def _literal(path: str) -> str:
    return "".join(f"\\{c}" if c in "[]{}*?\\" else c for c in path)


def key_bounds(probed: Sequence[Probed], lake: Lake, dataset: Dataset) -> dict[str, tuple[Any, Any]]:
    """Key column -> (smallest, largest) value in these files, for the columns where that is certain."""
    bounds = {}
    for name in dataset.key:
        ranges = [_bounds_of(p, name, lake, dataset) for p in probed]
        known = [r for r in ranges if r is not None]
        if known and len(known) == len(ranges):
            bounds[name] = (min(low for low, _ in known), max(high for _, high in known))
    return bounds


def _bounds_of(item: Probed, name: str, lake: Lake, dataset: Dataset) -> tuple[Any, Any] | None:
    assert item.schema is not None
    kind = dataset.schema[name].dataType
    source = match_names(item.schema.names, [name], dataset.aliases).get(name)
    if source is not None:
        return item.bounds.get(source) if spark_schema(item.schema)[source].dataType == kind else None
    value = hive_values(lake.relative(item.file.path)).get(name)
    return (value, value) if value is not None and isinstance(kind, T.StringType) else None

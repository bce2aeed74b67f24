"""Delta tables: how they are written, and what their log says without a JVM."""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from operator import and_
from typing import Any, NamedTuple, TypeVar

import deltalake
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from delta import exceptions
from delta.exceptions import captured  # noqa: F401  (imported, it makes PySpark raise what it defines)
from delta.tables import DeltaTable
from deltalake.exceptions import CommitFailedError
from pyspark.sql import DataFrame, DataFrameWriter, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DateType

from jobs.lake import diagnosis, leases, spans
from jobs.lake.errors import DataError, MachineError
from jobs.lake.layout import Lake

EXPIRY = "maintain/expiry"
"""Application of the commits that take expired rows out; their number is the first day kept, in days since 1970."""

_CONFLICTS: tuple[type[Exception], ...] = tuple(getattr(exceptions, name) for name in exceptions.__all__)
_FENCE = "lakehouse.fence"
_ATTEMPTS = 8
_FIRST_PAUSE = 0.2
_EPOCH = date(1970, 1, 1)
_HOUR = 3_600_000_000  # microseconds
_PREFIX = 32  # characters of a text that Delta's statistics keep
T = TypeVar("T")


@dataclass(frozen=True)
class Transaction:
    """Names a write, so that repeating it after a crash changes nothing.

    Attributes:
        application: Who writes, without spaces; numbers count up per application.
        number: Which write.
        note: What its commit tells besides, for the books; no part of the name.
    """

    application: str
    number: int
    note: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def tag(self) -> str:
        """The write's name in one word."""
        return f"{self.application}/{self.number}"

    @property
    def mark(self) -> str:
        """The write's mark in the table's history: its tag, and the note."""
        return f"{self.tag} {json.dumps(self.note)}" if self.note else self.tag


class Commit(NamedTuple):
    """What a commit brought.

    Attributes:
        version: The table's version.
        files: Data files with rows that were not in the table before.
        expiry: Whether it took expired rows out.
        removal: Whether it took other rows out, or changed some.
    """

    version: int
    files: list[AddedFile]
    expiry: bool = False
    removal: bool = False


@dataclass(frozen=True)
class AddedFile:
    """A data file of a table.

    Attributes:
        path: Absolute, as Spark spells it.
        bytes: Length.
        rows: Number of rows.
        low: Column -> smallest value, as the log has it.
        high: Column -> largest value.
    """

    path: str
    bytes: int
    rows: int
    low: dict[str, Any]
    high: dict[str, Any]


def open_table(lake: Lake, path: str, version: int | None = None) -> deltalake.DeltaTable | None:
    """The table's log, read without Spark; None if there is no table."""
    uri, options = lake.delta_uri(path), lake.delta_options()
    if not deltalake.DeltaTable.is_deltatable(uri, options):
        return None
    return deltalake.DeltaTable(uri, version=version, storage_options=options)


def scan(lake: Lake, path: str, version: int | None = None) -> ds.Dataset | None:
    """The table's rows, read without Spark; None if there is no table.

    Arrow's own client reads the files. That of ``deltalake`` is Python, which Arrow's threads call: one that is still
    to let go of a file when the process ends aborts it, exit code 134 and all (delta-io/delta-rs#2184).
    """
    table = open_table(lake, path, version)
    if table is None:
        return None
    return table.to_pyarrow_dataset(filesystem=pafs.SubTreeFileSystem(lake.arrow_path(path), lake.filesystem()))


def latest_version(lake: Lake, path: str) -> int | None:
    """The table's version, None if there is no table."""
    table = open_table(lake, path)
    return None if table is None else table.version()


def identity(lake: Lake, path: str) -> str | None:
    """What tells the table from any other that was ever in its place, None if there is no table."""
    table = open_table(lake, path)
    return None if table is None else str(table.metadata().id)


def version_before(lake: Lake, path: str, transaction: Transaction) -> int | None:
    """The version that a write builds on, the same when it is repeated: None if it makes the table.

    A repeated write must see the table as the first attempt saw it, or it would take its own rows for duplicates.

    Raises:
        DataError: The write was done so long ago that the log has forgotten it.
    """
    table = open_table(lake, path)
    if table is None:
        return None
    if not _has(table, transaction):
        return table.version()
    version = int(_recalled(lake, path, table, transaction)["version"])
    return version - 1 if version else None


def rows_of(lake: Lake, path: str, transaction: Transaction) -> int:
    """Rows that a write has appended; 0 if it has not.

    Raises:
        DataError: The write was done so long ago that the log has forgotten it.
    """
    table = open_table(lake, path)
    if table is None or not _has(table, transaction):
        return 0
    return int(_recalled(lake, path, table, transaction)["operationMetrics"]["numOutputRows"])


def _has(table: deltalake.DeltaTable, transaction: Transaction) -> bool:
    done = table.transaction_version(transaction.application)
    return done is not None and done >= transaction.number


def _recalled(lake: Lake, path: str, table: deltalake.DeltaTable, transaction: Transaction) -> dict[str, Any]:
    """The commit of a write that was done."""
    commit = commit_of(table, transaction)
    if commit is None:
        raise DataError(
            f"{lake.relative(path)} has no commit for {transaction.tag}",
            why="this run stopped half-way so long ago that the table's log, which has its rows, no longer tells which",
            remedy=lake.without_batch(transaction.application),
        )
    return commit


def commit_of(table: deltalake.DeltaTable, transaction: Transaction) -> dict[str, Any] | None:
    """The commit that a write made, as the table's history has it; None if it is not, or no longer, there."""
    return next((c for c in table.history() if c.get("userMetadata") == transaction.tag), None)


def transaction_of(commit: Mapping[str, Any]) -> Transaction:
    """The write that made a commit, by its mark."""
    tag, _, note = commit["userMetadata"].partition(" ")
    application, _, number = tag.rpartition("/")
    return Transaction(application, int(number), json.loads(note or "{}"))


def first_day_kept(lake: Lake, path: str) -> date | None:
    """The day before which rows were taken out of a table, None if none ever were."""
    days = progress(lake, path, EXPIRY)
    return None if days is None else _EPOCH + timedelta(days=days)


def expiry(first_kept: date) -> Transaction:
    """The write that takes out what is older than a day."""
    return Transaction(EXPIRY, (first_kept - _EPOCH).days)


@contextmanager
def holding(lake: Lake, *tables: str) -> Iterator[None]:
    """Be the one run that writes these tables, given below the lake (:mod:`jobs.lake.leases`).

    Raises:
        HeldError: Another run writes one of them.
        TakenOverError: Another run has taken over a table that this one held.
    """
    with leases.hold(lake, *tables, on_take_over=lambda table: _fence(lake, table)):
        leases.check(lake)
        try:
            yield
        except Exception as error:
            # Who took over may have changed files under this run; who loses a lease calls off Spark's work.
            if leases.succeeded(lake) or diagnosis.is_called_off(error):
                leases.check(lake)
            raise


def _fence(lake: Lake, table: str) -> None:
    """Change a property of a table that was taken over: what its last holder still has under way cannot be committed.

    Delta refuses a commit that was begun before the table's metadata changed.
    """
    opened = open_table(lake, f"{lake.uri}/{table}")
    if opened is not None:
        opened.alter.set_table_properties({_FENCE: secrets.token_hex(8)}, raise_if_not_exists=False)


def persist(lake: Lake, write: Callable[[], T], path: str) -> T:
    """Hold a table and carry out a write, again if the commit of another program came between: one that compacts, say.

    A write that names its transaction is done once, however often it is tried.

    Raises:
        HeldError: Another run writes the table.
        MachineError: Another commit came first each time.
        TakenOverError: Another run has taken over a table that this one held.
    """
    with holding(lake, lake.relative(path)):
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(random.uniform(0.25, 0.5) * _FIRST_PAUSE * 2**attempt)
                leases.check(lake)
            try:
                return write()
            except _CONFLICTS as error:
                conflict = error
    raise MachineError(
        f"{path} could not be written in {_ATTEMPTS} attempts",
        why=f"other runs write the same rows: {type(conflict).__name__}",
        remedy="wait until they are done, then run the same command again",
    ) from conflict


def progress(lake: Lake, path: str, application: str) -> int | None:
    """The number of the last write of ``application`` to a table, None if there is none."""
    table = open_table(lake, path)
    return None if table is None else table.transaction_version(application)


def next_transaction(lake: Lake, path: str, application: str) -> Transaction:
    """The write of ``application`` after the last one that a table has."""
    number = progress(lake, path, application)
    return Transaction(application, 0 if number is None else number + 1)


def has(lake: Lake, path: str, transaction: Transaction) -> bool:
    """Whether a table has a write already."""
    table = open_table(lake, path)
    return table is not None and _has(table, transaction)


def append(lake: Lake, rows: DataFrame, path: str, transaction: Transaction, rows_per_file: int = 0) -> bool:
    """Append once; a column that is new is added to the table.

    A repeated write is computed all the same, and thrown away: its counts are asked for, and Delta by itself would
    skip it, so that an ``Observation`` of its rows never came.

    Args:
        lake: The lake.
        rows: The new rows.
        path: The table.
        transaction: The write's name.
        rows_per_file: The most rows that a file may have; 0 for no bound.

    Returns:
        Whether it was done now, and not before.
    """
    writer = _write(rows, "append", transaction).options(mergeSchema=True, maxRecordsPerFile=rows_per_file)

    def write() -> bool:
        if has(lake, path, transaction):  # or a run that was taken for dead has done it since the last attempt
            rows.write.format("noop").mode("overwrite").save()
            return False
        leases.check(lake)  # once more: a store may have taken long to say so
        writer.save(path)
        return True

    return persist(lake, write, path)


def append_here(lake: Lake, rows: pa.Table, path: str, transaction: Transaction) -> None:
    """Append rows that are at hand, once, without a job of Spark's, which takes a second; it makes the table."""
    with holding(lake, lake.relative(path)):
        table = open_table(lake, path)
        if table is not None and _has(table, transaction):
            return
        # Who takes the table over from here on fences it, or makes it: either has this commit refused.
        leases.check(lake)
        try:
            deltalake.write_deltalake(
                lake.delta_uri(path) if table is None else table,
                rows,
                mode="error" if table is None else "append",
                schema_mode="merge",
                storage_options=lake.delta_options(),
                writer_properties=deltalake.WriterProperties(compression="ZSTD"),
                commit_properties=deltalake.CommitProperties(
                    # Else a table that was made meanwhile would be appended to.
                    max_commit_retries=0 if table is None else None,
                    app_transactions=[deltalake.Transaction(transaction.application, transaction.number)],
                ),
            )
        except CommitFailedError:
            # A store may have taken the commit, and its answer be lost: the next attempt then meets it.
            leases.check(lake)
            if not has(lake, path, transaction):
                raise


def overwrite(lake: Lake, rows: DataFrame, path: str, transaction: Transaction, only: str = "") -> None:
    """Make the table, or replace all of it, once.

    Args:
        lake: The lake.
        rows: The new rows.
        path: The table.
        transaction: The write's name.
        only: A condition in SQL on the rows that are replaced, and that all new ones meet; empty for all.
    """
    writer = _write(rows, "overwrite", transaction)
    # Delta refuses both at once.
    writer = writer.options(replaceWhere=only, mergeSchema=True) if only else writer.option("overwriteSchema", "true")
    persist(lake, lambda: writer.save(path), path)


def _write(rows: DataFrame, mode: str, transaction: Transaction) -> DataFrameWriter:
    return (
        rows.write.format("delta")
        .mode(mode)
        .option("txnAppId", transaction.application)
        .option("txnVersion", transaction.number)
        .option("userMetadata", transaction.mark)
    )


def upsert(lake: Lake, rows: DataFrame, path: str, key: Sequence[str], transaction: Transaction) -> None:
    """Replace the rows with the same key and insert the others, once.

    Args:
        lake: The lake.
        rows: New rows, unique by ``key``.
        path: The table, which exists.
        key: Columns that identify a row.
        transaction: The write's name.
    """
    same = reduce(and_, (F.col(f"held.{name}") == F.col(f"new.{name}") for name in key))
    merge = (
        DeltaTable.forPath(rows.sparkSession, path)
        .alias("held")
        .merge(rows.alias("new"), same)
        .whenMatchedUpdateAll()
        .whenNotMatchedInsertAll()
    )
    with in_transaction(rows.sparkSession, transaction):
        persist(lake, merge.execute, path)


def upsert_in_time(
    lake: Lake,
    rows: DataFrame,
    path: str,
    key: Sequence[str],
    time: str,
    transaction: Transaction,
    arrange: Callable[[DataFrame], DataFrame] = lambda rows: rows,
) -> None:
    """:func:`upsert` into a table whose key has a time, at a cost that does not grow with the table.

    MERGE has what it copies out of a file and what is new in one file. Where each write completes the last window of
    the one before, that file takes in all of history. Here the spans of time that new rows are in are replaced, by
    these rows and those with other keys that the table has there; the rest of a file that reaches into a span is
    written to a file of its own.

    Args:
        lake: The lake.
        rows: New rows, unique by ``key``; computed once.
        path: The table, which exists.
        key: Columns that identify a row.
        time: That of them which says when, an instant or a date.
        transaction: The write's name.
        arrange: Lays the rows out as files of the table.
    """
    spark = rows.sparkSession
    rows.persist()
    try:
        hours = _by_hour(rows, time)
        touched = spans.joined([(begin, end) for _, begin, end in hours], near=_HOUR)
        within = spans.within(time, touched, rows.schema[time].dataType)
        # Delta counts the rows that are written again with them as well.
        noted = replace(transaction, note={**transaction.note, "rows_written": sum(count for count, _, _ in hours)})

        def write() -> None:
            held = spark.read.format("delta").load(path).where(within).join(rows, list(key), "left_anti")
            both = arrange(rows.unionByName(held, allowMissingColumns=True))
            leases.check(lake)
            _write(both, "overwrite", noted).options(replaceWhere=within, mergeSchema=True).save(path)

        persist(lake, write, path)
    finally:
        rows.unpersist()


def _by_hour(rows: DataFrame, time: str) -> list[tuple[int, int, int]]:
    """Number of rows, first instant and end of the last, hour by hour."""
    instant = F.unix_micros(F.col(time).cast("timestamp"))
    least = _HOUR * 24 if isinstance(rows.schema[time].dataType, DateType) else 1
    found = rows.groupBy(F.date_trunc("hour", time)).agg(F.count(F.lit(1)), F.min(instant), F.max(instant) + least)
    return sorted(((count, begin, end) for _, count, begin, end in found.collect()), key=lambda hour: hour[1])


def rows_changed(commit: Mapping[str, Any]) -> int:
    """Rows that a commit wrote or replaced."""
    note, metrics = transaction_of(commit).note, commit.get("operationMetrics", {})
    if "rows_written" in note:
        return note["rows_written"]
    if "numTargetRowsInserted" in metrics:
        return int(metrics["numTargetRowsInserted"]) + int(metrics["numTargetRowsUpdated"])
    return int(metrics.get("numOutputRows", 0))


@contextmanager
def in_transaction(spark: SparkSession, transaction: Transaction) -> Iterator[None]:
    """Name the MERGE or DELETE within: it takes its transaction from the session rather than from an option."""
    names = {
        "spark.databricks.delta.write.txnAppId": transaction.application,
        "spark.databricks.delta.write.txnVersion": str(transaction.number),
        "spark.databricks.delta.commitInfo.userMetadata": transaction.mark,
    }
    with configured(spark, names):
        yield


@contextmanager
def configured(spark: SparkSession, values: Mapping[str, str]) -> Iterator[None]:
    """Have settings in the session while the block runs."""
    for name, value in values.items():
        spark.conf.set(name, value)
    try:
        yield
    finally:
        for name in values:
            spark.conf.unset(name)


def files(lake: Lake, path: str, version: int | None = None) -> list[AddedFile]:
    """All data files of a table at a version, or as it is now; none if there is no table."""
    table = open_table(lake, path, version)
    return [] if table is None else _files_of(table, path)


def _files_of(table: deltalake.DeltaTable, path: str) -> list[AddedFile]:
    actions = table.get_add_actions(flatten=False)
    return [
        AddedFile(
            f"{path}/{row['path']}",
            row["size_bytes"],
            row["num_records"],
            _present(row.get("min")),
            _present(row.get("max")),
        )
        for row in pa.table(actions).to_pylist()
    ]


def whole_files(lake: Lake, path: str, version: int | None = None) -> list[AddedFile]:
    """:func:`files`, of a table whose rows are what its files have: no more, no less, under the same names.

    Raises:
        DataError: Rows are deleted by vectors, columns have other names in the files, or are not in them.
    """
    table = open_table(lake, path, version)
    if table is None:
        return []
    features = table.protocol().reader_features or []
    configuration = table.metadata().configuration
    if "deletionVectors" in features:
        found, remedy = (
            "deletion vectors",
            (
                "set delta.enableDeletionVectors to false on the table, REORG TABLE ... APPLY (PURGE), then"
                " ALTER TABLE ... DROP FEATURE deletionVectors"
            ),
        )
    elif configuration.get("delta.columnMapping.mode", "none") != "none":
        found, remedy = "column mapping", "set delta.columnMapping.mode to none on the table, and rewrite it"
    elif table.metadata().partition_columns:
        found, remedy = "partitions", "rewrite the table without partitions: its files have statistics instead"
    else:
        return _files_of(table, path)
    raise DataError(
        f"{lake.relative(path)} has {found}",
        why="its files are read directly, and tables of the lake are made such that these have all rows and columns",
        remedy=remedy,
    )


def may_hold(file: AddedFile, bounds: Mapping[str, tuple[Any, Any]]) -> bool:
    """Whether a file could have rows within bounds, by the log's statistics.

    The log cuts times to milliseconds and long text to a prefix, so its largest values are taken generously.

    Args:
        file: The file.
        bounds: Column -> (smallest, largest) value; an instant may be given in microseconds since the epoch.
    """
    return all(
        (name not in file.low or plain(file.low[name]) <= plain(largest))
        and (name not in file.high or _reaches(file.high[name], smallest))
        for name, (smallest, largest) in bounds.items()
    )


def _reaches(highest: Any, value: Any) -> bool:
    if isinstance(highest, datetime):
        return bool(plain(highest) + 1000 >= plain(value))
    return bool(highest >= (value[:_PREFIX] if isinstance(value, str) else value))


def plain(value: Any) -> Any:
    """An instant as microseconds since the epoch, anything else as it is."""
    if not isinstance(value, datetime):
        return value
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _present(values: dict[str, Any] | None) -> dict[str, Any]:
    return {k: v for k, v in (values or {}).items() if v is not None}


def commits(lake: Lake, path: str, after: int | None, upto: int) -> list[Commit] | None:
    """What the commits after ``after`` and up to ``upto`` brought, in order.

    Neither compaction nor expiry brings anything new, though both write files.

    Returns:
        The commits; None if the log no longer reaches back that far.
    """
    filesystem, found = lake.filesystem(), []
    for version in range(-1 if after is None else after, upto):
        place = f"{lake.arrow_path(path)}/_delta_log/{version + 1:020d}.json"
        try:
            with filesystem.open_input_stream(place) as stream:
                actions = [json.loads(line) for line in stream.read().splitlines() if line.strip()]
        except FileNotFoundError:
            return None
        expired = any(a["txn"]["appId"] == EXPIRY for a in actions if "txn" in a)
        adds = [a["add"] for a in actions if "add" in a and a["add"]["dataChange"] and not expired]
        removed = not expired and any(a["remove"]["dataChange"] for a in actions if "remove" in a)
        found.append(Commit(version + 1, [_added(path, add) for add in adds], expired, removed))
    return found


def _added(path: str, add: dict[str, Any]) -> AddedFile:
    statistics = json.loads(add.get("stats") or "{}")
    return AddedFile(
        f"{path}/{add['path']}",
        add["size"],
        statistics.get("numRecords", 0),
        statistics.get("minValues", {}),
        statistics.get("maxValues", {}),
    )

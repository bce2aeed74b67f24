"""Quarantine: every refused row and file with its reasons, until the rules let it pass."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import reduce

import pyarrow.compute as pc
from delta.tables import DeltaTable
from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.lake import delta
from jobs.lake.delta import Transaction
from jobs.lake.intake import Probed
from jobs.lake.judging import REFUSAL
from jobs.lake.layout import Lake
from jobs.lake.tables import column

SCHEMA = T.StructType(
    [
        column("row", T.StringType(), "The row as it arrived, as JSON; null for a whole file"),
        column("reasons", T.ArrayType(T.StringType()), "All reasons: `code column: detail`"),
        column("source_file", T.StringType(), "The file, relative to the lake; a source file as it was named"),
        column("source_row", T.LongType(), "The row's number in the file, from 0; a line's, from 1"),
        column("arrived_at", T.TimestampType(), "When its file was written, or the message arrived", "UTC"),
        column("entity", T.StringType(), "The row's entity, if it has one"),
        column("event_time", T.TimestampType(), "The row's instant, if it has one", "UTC"),
        column("batch_id", T.StringType(), "The transaction that refused it"),
        column("quarantined_at", T.TimestampType(), "When it was refused", "UTC"),
        column("attempts", T.IntegerType(), "How often it was tried"),
    ]
)


def append(
    lake: Lake, dataset: str, refused: Sequence[DataFrame], transaction: Transaction, *, read_again: bool = False
) -> tuple[int, int]:
    """Put refused rows, and files, into quarantine once.

    Args:
        lake: The lake.
        dataset: Whose quarantine it is.
        refused: What is refused, as :data:`REFUSAL`.
        transaction: The write's name.
        read_again: Whether some of it may have been refused before: that is not put there again.

    Returns:
        How many rows (not whole files) were put there, and how many had been before.
    """
    path, found, written = lake.quarantine(dataset), Observation(), Observation()
    rows = _rows(reduce(DataFrame.unionByName, refused), transaction).observe(found, F.count("row").alias("rows"))
    base = delta.version_before(lake, path, transaction) if read_again else None
    if base is not None:
        spark = rows.sparkSession
        held = spark.read.format("delta").option("versionAsOf", base).load(path).select("source_file", "source_row")
        rows = rows.alias("new").join(held.alias("held"), _same_place("new"), "left_anti")
    # One file, but not by one task: to find the few rows that are refused, all of the batch is read again.
    observed = rows.repartition(1).observe(written, F.count("row").alias("rows"))
    delta.append(lake, observed, path, transaction)
    put = int(written.get["rows"])
    return put, int(found.get["rows"]) - put


def count(lake: Lake, dataset: str, transaction: Transaction) -> int:
    """How many rows (not whole files) a write has put into quarantine."""
    path = lake.quarantine(dataset)
    if not delta.has(lake, path, transaction):
        return 0
    before = delta.version_before(lake, path, transaction)
    there = delta.scan(lake, path, 0 if before is None else before + 1)
    assert there is not None
    mine = (pc.field("batch_id") == transaction.tag) & pc.field("source_row").is_valid()
    return int(there.count_rows(filter=mine))


def _same_place(other: str) -> Column:
    """Whether a row of another table has the place of one that is held."""
    return (F.col("held.source_file") == F.col(f"{other}.source_file")) & F.col("held.source_row").eqNullSafe(
        F.col(f"{other}.source_row")
    )


def _rows(refused: DataFrame, transaction: Transaction) -> DataFrame:
    """Refused rows with the columns of quarantine."""
    named = refused.select(
        F.col("_row").alias("row"),
        F.col("_why").alias("reasons"),
        *(F.col(name).alias(name.removeprefix("_")) for name in REFUSAL if name not in ("_row", "_why")),
    )
    return named.withColumns(
        {
            "batch_id": F.lit(transaction.tag),
            "quarantined_at": F.lit(datetime.now(UTC)),
            "attempts": F.lit(1),
        }
    ).select(*SCHEMA.names)


def refused(spark: SparkSession, rows: Sequence[tuple[object, ...]]) -> DataFrame:
    """Refused rows from Python, with the columns of :data:`REFUSAL` in their order."""
    return spark.createDataFrame(rows, ", ".join(f"{name} {kind}" for name, kind in REFUSAL.items()))


def files(spark: SparkSession, lake: Lake, probed: Sequence[Probed]) -> list[DataFrame]:
    """The files that cannot be read, as refused."""
    rows = [
        (None, [f"unreadable_file file: {p.error}"], lake.relative(p.file.path), None, p.file.arrived_at, None, None)
        for p in probed
        if p.error
    ]
    return [refused(spark, rows)] if rows else []


def settle(spark: SparkSession, lake: Lake, dataset: str, outcomes: DataFrame, transaction: Transaction) -> None:
    """Bring quarantine up to what came of another try, once.

    Args:
        spark: The session.
        lake: The lake.
        dataset: Whose quarantine it is.
        outcomes: What was tried, as :data:`REFUSAL`, each row and file once; without reasons if it passed.
        transaction: The write's name.
    """
    tried = _rows(outcomes, transaction).alias("tried")
    passed = F.size("tried.reasons") == 0
    path = lake.quarantine(dataset)
    merge = (
        DeltaTable.forPath(spark, path)
        .alias("held")
        .merge(tried, _same_place("tried"))
        .whenMatchedDelete(passed)
        .whenMatchedUpdate(set={"reasons": F.col("tried.reasons"), "attempts": F.col("held.attempts") + 1})
        # Of a file that was read when it was promoted only rows are here, and nothing is to bring in all of it again.
        .whenNotMatchedInsertAll(~passed & F.col("tried.row").isNotNull())
    )
    with delta.in_transaction(spark, transaction):
        delta.persist(lake, merge.execute, path)

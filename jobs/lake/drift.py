"""The record of every change of schema that was seen, once each."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.lake import delta
from jobs.lake.conform import Drift
from jobs.lake.delta import Transaction
from jobs.lake.layout import Lake
from jobs.lake.tables import column

SCHEMA = T.StructType(
    [
        column("dataset", T.StringType(), "The dataset"),
        column("column", T.StringType(), "The column, as silver names it"),
        column("kind", T.StringType(), "added, retyped, renamed, missing, or version: messages of another make"),
        column("before", T.StringType(), "What silver declares"),
        column("after", T.StringType(), "What the file has"),
        column("source_file", T.StringType(), "The first file that showed it, relative to the lake"),
        column("batch_id", T.StringType(), "The transaction that saw it"),
        column("seen_at", T.TimestampType(), "When it was seen", "UTC"),
    ]
)


def record(spark: SparkSession, lake: Lake, dataset: str, found: Mapping[Drift, str], transaction: Transaction) -> None:
    """Write the differences that were not seen before, each with the first file that showed it."""
    if not found:
        return
    known = set()
    if delta.latest_version(lake, lake.drift) is not None:
        seen = spark.read.format("delta").load(lake.drift).where(F.col("dataset") == dataset)
        known = {Drift(*row) for row in seen.select("column", "kind", "before", "after").collect()}
    now = datetime.now(UTC)
    rows = [
        (dataset, d.column, d.kind, d.before, d.after, file, transaction.tag, now)
        for d, file in found.items()
        if d not in known
    ]
    if rows:
        delta.append(lake, spark.createDataFrame(rows, SCHEMA).coalesce(1), lake.drift, transaction)

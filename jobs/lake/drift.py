"""The record of every change of schema that was seen, once each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

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


def record(lake: Lake, dataset: str, found: Mapping[Drift, str], transaction: Transaction) -> None:
    """Write the differences that were not seen before, each with the first file that showed it."""
    table = delta.open_table(lake, lake.drift) if found else None
    known = set()
    if table is not None:
        names = [f.name for f in fields(Drift)]
        seen = table.to_pyarrow_dataset().to_table(names, filter=pc.field("dataset") == dataset)
        known = {Drift(**row) for row in seen.to_pylist()}
    now = datetime.now(UTC)
    rows = [
        {"dataset": dataset, **asdict(d), "source_file": file, "batch_id": transaction.tag, "seen_at": now}
        for d, file in found.items()
        if d not in known
    ]
    if rows:
        delta.append_here(lake, pa.Table.from_pylist(rows, to_arrow_schema(SCHEMA)), lake.drift, transaction)

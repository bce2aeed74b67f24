"""The record of every change of schema that was seen, once each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from jobs.lake import delta
from jobs.lake.conform import MOST_DRIFT, Drift
from jobs.lake.delta import Transaction
from jobs.lake.layout import Lake
from jobs.lake.tables import column

_MORE = Drift("(any)", "more", "", f"more than {MOST_DRIFT:,} in one batch")

SCHEMA = T.StructType(
    [
        column("dataset", T.StringType(), "The dataset"),
        column("column", T.StringType(), "The column, as silver names it"),
        column(
            "kind",
            T.StringType(),
            "added, retyped, renamed, missing, version: messages of another make, or more: not all of a batch are told",
        ),
        column("before", T.StringType(), "What silver declares"),
        column("after", T.StringType(), "What the file has"),
        column("source_file", T.StringType(), "The first file that showed it, relative to the lake"),
        column("batch_id", T.StringType(), "The transaction that saw it"),
        column("seen_at", T.TimestampType(), "When it was seen", "UTC"),
    ]
)


def record(lake: Lake, dataset: str, found: Mapping[Drift, str], transaction: Transaction) -> None:
    """Write the differences that were not seen before, each with the first file that showed it.

    Of a batch :data:`MOST_DRIFT` are, and instead of the others one row that says so.
    """
    told = dict(islice(found.items(), MOST_DRIFT))
    if len(found) > MOST_DRIFT:
        told[_MORE] = next(islice(found.values(), MOST_DRIFT, None))
    known, now = _known(lake, dataset, told), datetime.now(UTC)
    rows = [
        {"dataset": dataset, **asdict(d), "source_file": file, "batch_id": transaction.tag, "seen_at": now}
        for d, file in told.items()
        if d not in known
    ]
    if rows:
        # Not by the batch's own transaction: a repetition may see what its first attempt did not.
        once = delta.next_transaction(lake, lake.drift, f"drift/{dataset}")
        delta.append_here(lake, pa.Table.from_pylist(rows, to_arrow_schema(SCHEMA)), lake.drift, once)


def _known(lake: Lake, dataset: str, found: Mapping[Drift, str]) -> set[Drift]:
    """Those of the differences that are recorded."""
    told = delta.scan(lake, lake.drift) if found else None
    if told is None:
        return set()
    names = [f.name for f in fields(Drift)]
    asked = (pc.field("dataset") == dataset) & pc.field("column").isin({d.column for d in found})
    batches = told.to_batches(columns=names, filter=asked)
    return found.keys() & (Drift(**row) for batch in batches for row in batch.to_pylist())

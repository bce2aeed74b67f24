"""The books: what every batch of every run read, wrote and refused, and that nothing is missing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from jobs import VERSION
from jobs.lake import delta
from jobs.lake.errors import BooksError
from jobs.lake.layout import Lake
from jobs.lake.tables import column

DONE, NOTHING_NEW = "done", "nothing new"

SCHEMA = T.StructType(
    [
        column("run_id", T.StringType(), "The run: one command, from start to end"),
        column("stage", T.StringType(), "simulate, ingest, silver, replay, gold or maintain"),
        column("dataset", T.StringType(), "The dataset, or the gold table; of maintain the table, as silver/devices"),
        column("batch_id", T.StringType(), "The transaction that the row is about"),
        column("outcome", T.StringType(), "done, or nothing new"),
        column("started_at", T.TimestampType(), "Start of the batch", "UTC"),
        column("seconds", T.DoubleType(), "Duration of the batch", "s"),
        column("files", T.LongType(), "Files read"),
        column("files_quarantined", T.LongType(), "Files refused whole, whose rows nobody could count"),
        column("rows_read", T.LongType(), "Rows in the footers of the files read"),
        column("rows_written", T.LongType(), "Rows that the stage wrote"),
        column("rows_duplicate", T.LongType(), "Rows equal to one that is already there"),
        column("rows_quarantined", T.LongType(), "Rows refused, each in quarantine with its reasons"),
        column("rows_expired", T.LongType(), "Rows taken out because they were older than their table keeps"),
        column("bytes_read", T.LongType(), "Length of the files read", "bytes"),
        column("versions", T.StringType(), "Versions of the suite, Spark and Delta"),
    ]
)


def versions() -> str:
    """The versions that a table may one day have to be explained by."""
    return f"suite {VERSION}, spark {metadata.version('pyspark')}, delta {metadata.version('delta-spark')}"


@dataclass(frozen=True)
class Entry:
    """One row of the books; the columns are those of :data:`SCHEMA`."""

    run_id: str
    stage: str
    dataset: str
    batch_id: str
    started_at: datetime
    seconds: float
    outcome: str = DONE
    files: int = 0
    files_quarantined: int = 0
    rows_read: int = 0
    rows_written: int = 0
    rows_duplicate: int = 0
    rows_quarantined: int = 0
    rows_expired: int = 0
    bytes_read: int = 0
    versions: str = field(default_factory=versions)

    def check(self) -> Entry:
        """Return self if every row read is accounted for.

        Raises:
            BooksError: It is not.
        """
        accounted = self.rows_written + self.rows_duplicate + self.rows_quarantined
        if self.rows_read != accounted:
            raise BooksError(
                f"the books of {self.stage} {self.dataset} do not balance: {self.rows_read:,} rows read,"
                f" {accounted:,} accounted for",
                why=f"{self.rows_written:,} written + {self.rows_duplicate:,} duplicates"
                f" + {self.rows_quarantined:,} quarantined in batch {self.batch_id}",
                remedy="nothing was marked as done; run the same command again, and report this if it stays",
            )
        return self


@dataclass(frozen=True)
class Batch:
    """A batch that is under way.

    Attributes:
        run_id: The run.
        stage: What it does.
        dataset: What with.
        started_at: Since when.
    """

    run_id: str
    stage: str
    dataset: str
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _clock: float = field(default_factory=time.monotonic)

    def entry(self, transaction: delta.Transaction | str, **counts: Any) -> Entry:
        """Its row of the books, now that it has ended.

        Args:
            transaction: What it wrote, or what stands for that.
            counts: Files, rows and bytes, as :class:`Entry` has them.
        """
        tag = transaction if isinstance(transaction, str) else transaction.tag
        seconds = round(time.monotonic() - self._clock, 3)
        return Entry(self.run_id, self.stage, self.dataset, tag, self.started_at, seconds, **counts)


def record(lake: Lake, entries: Sequence[Entry], transaction: delta.Transaction) -> None:
    """Write rows of the books, once."""
    rows = pa.Table.from_pylist([asdict(entry) for entry in entries], to_arrow_schema(SCHEMA))
    delta.append_here(lake, rows, lake.ledger, transaction)


def booked(lake: Lake, transaction: delta.Transaction, *counts: str) -> int:
    """Sum of some counts of a transaction, as the books have it; 0 if they do not."""
    there = delta.scan(lake, lake.ledger)
    if there is None:
        return 0
    found = there.to_table([*counts], filter=pc.field("batch_id") == transaction.tag)
    return sum(pc.sum(found[name]).as_py() or 0 for name in counts)


def applications(lake: Lake, stage: str, dataset: str) -> set[str]:
    """Applications of the transactions by which a stage has brought a dataset in."""
    there = delta.scan(lake, lake.ledger)
    if there is None:
        return set()
    mine = (pc.field("stage") == stage) & (pc.field("dataset") == dataset) & (pc.field("outcome") == DONE)
    batches = there.to_table(["batch_id"], filter=mine)["batch_id"].unique().to_pylist()
    return {batch.rpartition("/")[0] for batch in batches}


def totals(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """The closing table: a row per stage and dataset."""
    summed: dict[tuple[str, str], dict[str, Any]] = {}
    counted = [f.name for f in fields(Entry) if f.name.startswith(("files", "rows", "seconds"))]
    for entry in entries:
        row = summed.setdefault(
            (entry.stage, entry.dataset),
            {
                "stage": entry.stage,
                "dataset": entry.dataset,
                **dict.fromkeys(counted, 0),
                "outcome": NOTHING_NEW,
            },
        )
        for name in counted:
            row[name] += getattr(entry, name)
        if entry.outcome != NOTHING_NEW:
            row["outcome"] = entry.outcome
    return list(summed.values())

"""Bronze to silver, one batch at a time: probe, read, conform, check, deduplicate, write, record."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pyspark.sql import SparkSession

from jobs.lake import delta, drift, intents, ledger, quarantine, sifting
from jobs.lake.config import SilverSettings
from jobs.lake.delta import Transaction
from jobs.lake.errors import DataError
from jobs.lake.intake import Arrived, Probed
from jobs.lake.intents import Intent
from jobs.lake.judging import Judge
from jobs.lake.layout import Lake
from jobs.lake.tables import Dataset


@dataclass(frozen=True)
class Promotion:
    """Promotes batches of one dataset.

    Attributes:
        spark: The session.
        lake: The lake.
        dataset: What is promoted.
        thresholds: The dataset's settings.
        bounds: Bounds of a batch.
        run_id: The run, for the books.
        read_again: Whether another stream has read bronze before: its checkpoint was removed. What that one refused is
            in quarantine, and counts as duplicate.
    """

    spark: SparkSession
    lake: Lake
    dataset: Dataset
    thresholds: Any
    bounds: SilverSettings
    run_id: str
    read_again: bool = False

    def promote(self, files: Sequence[Arrived], transaction: Transaction) -> ledger.Entry:
        """Promote a batch of files; repeated with the same transaction it changes nothing.

        What was begun is finished as it was begun, whatever has become of the settings and the files meanwhile.

        Raises:
            BooksError: A row is unaccounted for.
            DataError: What was begun cannot be repeated.
        """
        batch = self._batch()
        last = intents.read(self.lake, "silver", self.dataset.name)
        if last and last.transaction.application != transaction.application:
            self._book_left(last)
        begun = last if last and last.transaction == transaction and self._has_committed(transaction) else None
        thresholds = begun.settings(self.lake, self.dataset) if begun else self.thresholds
        probed, counts = replace(self, thresholds=thresholds)._write_readable(files, transaction, begun)
        entry = batch.entry(
            transaction,
            files=len(files),
            files_quarantined=sum(bool(p.error) for p in probed),
            rows_read=sum(p.rows for p in probed),
            bytes_read=sum(f.bytes for f in files),
            **counts,
        ).check()
        ledger.record(self.lake, [entry], transaction)
        return entry

    def _batch(self) -> ledger.Batch:
        return ledger.Batch(self.run_id, "silver", self.dataset.name)

    def _has_committed(self, transaction: Transaction) -> bool:
        return intents.has_committed(self.lake, "silver", self.dataset.name, transaction)

    def _book_left(self, begun: Intent) -> None:
        """Book a batch of another stream that was stopped before it was booked, if its checkpoint was then removed.

        Its files come again, and what it has written counts as duplicates of that. Once the tables' logs have forgotten
        its commits nobody can tell how much that is; the report then shows rows as missing.
        """
        transaction, name = begun.transaction, self.dataset.name
        if delta.has(self.lake, self.lake.ledger, transaction) or not self._has_committed(transaction):
            return
        try:
            written = delta.rows_of(self.lake, self.lake.silver(name), transaction)
            refused = quarantine.count(self.lake, name, transaction)
        except DataError:
            written = refused = 0
        entry = self._batch().entry(
            transaction,
            files_quarantined=len(begun.refused),
            rows_read=written + refused,
            rows_written=written,
            rows_quarantined=refused,
        )
        ledger.record(self.lake, [entry], transaction)

    def _write_readable(
        self, files: Sequence[Arrived], transaction: Transaction, begun: Intent | None
    ) -> tuple[list[Probed], dict[str, int]]:
        """Write all but the files that cannot be read."""
        intent = begun or Intent(transaction, self.thresholds.model_dump(mode="json"))
        base = delta.version_before(self.lake, self.lake.silver(self.dataset.name), transaction)
        return sifting.write(
            self.judge,
            intent.in_order(self.lake, files),
            base,
            partial(intents.take, self.lake, "silver", self.dataset.name, intent),
            lambda probed: self._write(probed, transaction, base),
        )

    def _write(self, probed: Sequence[Probed], transaction: Transaction, base: int | None) -> dict[str, int]:
        """Write silver, quarantine and drift; return the counts for the books."""
        readable = [p for p in probed if not p.error and p.rows]
        refused = quarantine.files(self.spark, self.lake, probed)
        counts = {"rows_written": 0, "rows_duplicate": 0, "rows_quarantined": 0}
        silver, is_new = self.lake.silver(self.dataset.name), False
        with ExitStack() as stack:
            if readable:
                judged = stack.enter_context(closing(self.judge.judge(readable, base)))
                drift.record(self.lake, self.dataset.name, judged.drift, transaction)
                is_new = delta.append(self.lake, judged.fresh(), silver, transaction, self.bounds.rows_per_file)
                found = judged.counts()
                counts |= {"rows_written": found["fresh"], "rows_duplicate": found["duplicate"]}
                refused += judged.refusals()
            if not is_new:
                intents.compare(self.lake, silver, transaction, counts["rows_written"])
            if refused:
                counts["rows_quarantined"], before = quarantine.append(
                    self.lake, self.dataset.name, refused, transaction, read_again=self.read_again
                )
                counts["rows_duplicate"] += before
        return counts

    @property
    def judge(self) -> Judge:
        """Decides on each row."""
        return Judge(self.spark, self.lake, self.dataset, self.thresholds, self.bounds)

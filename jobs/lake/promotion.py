"""Bronze to silver, one batch at a time: probe, read, conform, check, deduplicate, write, record."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from jobs.lake import delta, diagnosis, drift, ledger, quarantine
from jobs.lake.config import SilverSettings
from jobs.lake.delta import Transaction
from jobs.lake.errors import MachineError
from jobs.lake.intake import Arrived, Probed
from jobs.lake.judging import Judge
from jobs.lake.layout import Lake
from jobs.lake.tables import Dataset

_FAILED_FILE = re.compile(r"FAILED_READ_FILE\S* Encountered error while reading file (\S+)\.\s")


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

        Raises:
            BooksError: A row is unaccounted for.
        """
        started, clock = datetime.now(UTC), time.monotonic()
        ordered = sorted(files, key=lambda f: (f.modified, f.path))
        probed, counts = self._write_readable(ordered, transaction)
        entry = ledger.Entry(
            run_id=self.run_id,
            stage="silver",
            dataset=self.dataset.name,
            batch_id=transaction.tag,
            started_at=started,
            seconds=round(time.monotonic() - clock, 3),
            files=len(files),
            files_quarantined=sum(bool(p.error) for p in probed),
            rows_read=sum(p.rows for p in probed),
            bytes_read=sum(f.bytes for f in files),
            rows_written=counts["rows_written"],
            rows_duplicate=counts["rows_duplicate"],
            rows_quarantined=counts["rows_quarantined"],
        ).check()
        ledger.record(self.lake, [entry], transaction)
        return entry

    def _write_readable(
        self, files: Sequence[Arrived], transaction: Transaction
    ) -> tuple[list[Probed], dict[str, int]]:
        """Write all but the files that cannot be read, in spite of a sound footer; they are refused as well."""
        base = delta.version_before(self.lake, self.lake.silver(self.dataset.name), transaction)
        probed, read_through = self.judge.probe(files, base), False
        while True:
            try:
                return probed, self._write(probed, transaction)
            except (PySparkException, Py4JJavaError) as error:  # PySpark translates only some of its own
                if isinstance(diagnosis.told(error), MachineError):
                    raise
                failed, known = _FAILED_FILE.search(str(error)), probed
                if not read_through:
                    probed, read_through = self.judge.probe(files, base, thorough=True), True
                    if failed or probed != known:
                        continue
                if failed is None:
                    raise
                # Arrow can read all of it, and Spark could not twice.
                name = self.lake.relative(unquote(failed[1]))
                broken = [i for i, p in enumerate(probed) if not p.error and self.lake.relative(p.file.path) == name]
                if not broken:
                    raise
                probed[broken[0]] = Probed(probed[broken[0]].file, error="Spark cannot read the file")

    def _write(self, probed: Sequence[Probed], transaction: Transaction) -> dict[str, int]:
        """Write silver, quarantine and drift; return the counts for the books."""
        readable = [p for p in probed if not p.error and p.rows]
        refused = quarantine.files(self.spark, self.lake, probed)
        counts = {"rows_written": 0, "rows_duplicate": 0, "rows_quarantined": 0}
        with ExitStack() as stack:
            if readable:
                silver = self.lake.silver(self.dataset.name)
                base = delta.version_before(self.lake, silver, transaction)
                judged = stack.enter_context(closing(self.judge.judge(readable, base)))
                drift.record(self.lake, self.dataset.name, judged.drift, transaction)
                delta.append(self.lake, judged.fresh(), silver, transaction, self.bounds.rows_per_file)
                found = judged.counts()
                counts |= {"rows_written": found["fresh"], "rows_duplicate": found["duplicate"]}
                refused += judged.refusals()
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

"""The way back from quarantine: refused rows and files through the rules as they are now."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.lake import delta, drift, ledger, quarantine
from jobs.lake.checkpoint import arrived
from jobs.lake.config import SilverSettings
from jobs.lake.delta import Transaction
from jobs.lake.intake import Probed
from jobs.lake.judging import Judge, Judged
from jobs.lake.layout import Lake
from jobs.lake.tables import Dataset


@dataclass(frozen=True)
class Selection:
    """Which refused rows and files are tried again.

    Attributes:
        reason: Code that is among their reasons; empty for any.
        since: Refused at this instant or later; None for ever.
    """

    reason: str = ""
    since: datetime | None = None

    def among(self, rows: DataFrame) -> DataFrame:
        """The selected rows of quarantine."""
        if self.reason:
            rows = rows.where(F.exists("reasons", lambda text: F.split_part(text, F.lit(" "), F.lit(1)) == self.reason))
        return rows if self.since is None else rows.where(F.col("quarantined_at") >= F.lit(self.since))


@dataclass(frozen=True)
class Replay:
    """Tries refused rows of one dataset again.

    Rows are read anew from their files in bronze, which never change: as they arrived, to the last bit.

    Attributes:
        spark: The session.
        lake: The lake.
        dataset: Whose rows they are.
        thresholds: The dataset's settings.
        bounds: Bounds of a batch.
        run_id: The run, for the books.
        selection: What is tried.
    """

    spark: SparkSession
    lake: Lake
    dataset: Dataset
    thresholds: Any
    bounds: SilverSettings
    run_id: str
    selection: Selection

    @property
    def path(self) -> str:
        """The dataset's quarantine."""
        return self.lake.quarantine(self.dataset.name)

    def plan(self) -> dict[str, int]:
        """How many rows would be tried, would pass, repeat what is there, or stay; nothing is written."""
        totals = dict.fromkeys(("tried", "pass", "duplicates", "stay", "files_stay"), 0)
        for names in self._batches():
            probed, judged = self._judge(names, self._silver_version())
            totals["files_stay"] += sum(bool(p.error) for p in probed)
            if judged is not None:
                judged.fresh().write.format("noop").mode("overwrite").save()
                entry = _counted(judged)
                for total, field in (("pass", "written"), ("duplicates", "duplicate"), ("stay", "quarantined")):
                    totals[total] += entry[f"rows_{field}"]
                totals["tried"] += sum(entry.values())
                judged.close()
        return totals

    def untried(self) -> int:
        """Selected lines that ``ingest`` refused: bronze does not have them, and their files are elsewhere."""
        return 0 if self._version() is None else self._selected().where(f"NOT {_IN_BRONZE}").count()

    def replay(self) -> Iterator[ledger.Entry]:
        """Try again, a transaction at a time; what passes moves to silver, the rest stays with one more attempt.

        Silver is written first, then the books, then quarantine. A crash in between leaves rows in both tables; the
        same command then finishes the transaction, and any other finds them to be duplicates.
        """
        for names in self._batches():
            started, clock = datetime.now(UTC), time.monotonic()
            version = self._version()
            assert version is not None
            transaction = Transaction(self.application, version)
            silver = self.lake.silver(self.dataset.name)
            probed, judged = self._judge(names, delta.version_before(self.lake, silver, transaction))
            counts = dict.fromkeys(("rows_written", "rows_duplicate", "rows_quarantined"), 0)
            if judged is not None:
                drift.record(self.lake, self.dataset.name, judged.drift, transaction)
                delta.append(self.lake, judged.fresh(), silver, transaction, self.bounds.rows_per_file)
                counts = _counted(judged)
            entry = ledger.Entry(
                run_id=self.run_id,
                stage="replay",
                dataset=self.dataset.name,
                batch_id=transaction.tag,
                started_at=started,
                seconds=round(time.monotonic() - clock, 3),
                files=len(probed),
                files_quarantined=sum(bool(p.error) for p in probed),
                rows_read=sum(counts.values()),
                bytes_read=sum(p.file.bytes for p in probed),
                rows_written=counts["rows_written"],
                rows_duplicate=counts["rows_duplicate"],
                rows_quarantined=counts["rows_quarantined"],
            ).check()
            ledger.record(self.lake, [entry], transaction)
            self._settle(probed, judged, transaction)
            if judged is not None:
                judged.close()
            yield entry

    @property
    def application(self) -> str:
        """The transactions' application: the same command over the same quarantine is a repetition."""
        texts = (repr(self.selection), repr(self.thresholds))
        return f"replay/{self.dataset.name}/{hashlib.sha256(chr(10).join(texts).encode()).hexdigest()[:12]}"

    def _version(self) -> int | None:
        return delta.latest_version(self.lake, self.path)

    def _silver_version(self) -> int | None:
        return delta.latest_version(self.lake, self.lake.silver(self.dataset.name))

    def _selected(self) -> DataFrame:
        return self.selection.among(self.spark.read.format("delta").load(self.path))

    def _batches(self) -> Iterator[list[str]]:
        """The files of what is selected, as many at a time as a promotion would take."""
        if self._version() is None:
            return
        names = self._selected().where(_IN_BRONZE).select("source_file").distinct().orderBy("source_file").collect()
        size = self.bounds.max_files_per_batch
        for start in range(0, len(names), size):
            yield [row[0] for row in names[start : start + size]]

    def _judge(self, names: Sequence[str], base: int | None) -> tuple[list[Probed], Judged | None]:
        """Probe the files of a batch and judge their selected rows; None if no file can be read."""
        files = sorted(arrived(self.lake, names), key=lambda f: (f.modified, f.path))
        judge = Judge(self.spark, self.lake, self.dataset, self.thresholds, self.bounds)
        probed = judge.probe(files, base, thorough=True)
        readable = [p for p in probed if not p.error and p.rows]
        if not readable:
            return probed, None
        return probed, judge.judge(readable, base, self._wanted(names))

    def _wanted(self, names: Sequence[str]) -> Any:
        """The rows of files that were refused whole, and the single rows of others."""
        selected = self._selected().where(F.col("source_file").isin(*names))
        single = selected.where("row IS NOT NULL").select(
            F.col("source_file").alias("_source_file"), F.col("source_row").alias("_source_row")
        )
        whole = [row[0] for row in selected.where("row IS NULL").select("source_file").distinct().collect()]

        def wanted(rows: DataFrame) -> DataFrame:
            is_whole = F.col("_source_file").isin(*whole) if whole else F.lit(False)
            some = rows.where(~is_whole).join(single.distinct(), ["_source_file", "_source_row"], "left_semi")
            return rows.where(is_whole).unionByName(some) if whole else some

        return wanted

    def _settle(self, probed: Sequence[Probed], judged: Judged | None, transaction: Transaction) -> None:
        """Take out of quarantine what passed, count an attempt of the rest, and add the rows of files now read."""
        outcomes = quarantine.files(self.spark, self.lake, probed)
        read: list[tuple[object, ...]] = [
            (None, [], self.lake.relative(p.file.path), None, None, None, None) for p in probed if not p.error
        ]
        if read:
            outcomes.append(quarantine.refused(self.spark, read))
        if judged is not None:
            outcomes.append(judged.verdicts())
        quarantine.settle(
            self.spark, self.lake, self.dataset.name, reduce(DataFrame.unionByName, outcomes), transaction
        )


_IN_BRONZE = "source_file LIKE 'bronze/%'"


def _counted(judged: Judged) -> dict[str, int]:
    found = judged.counts()
    refused = found["refused"] + found["conflict"] + found["implausible"]
    return {
        "rows_written": found["fresh"],
        "rows_duplicate": found["duplicate"],
        "rows_quarantined": refused,
    }

"""The way back from quarantine: refused rows and files through the rules as they are now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial, reduce
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from jobs.lake import delta, drift, intents, ledger, quarantine, sifting
from jobs.lake.checkpoint import arrived
from jobs.lake.config import SilverSettings
from jobs.lake.delta import Transaction
from jobs.lake.errors import DataError
from jobs.lake.intake import Probed
from jobs.lake.intents import Intent
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

    @property
    def told(self) -> dict[str, str | None]:
        """What it is, for an intent."""
        return {"reason": self.reason, "since": self.since.isoformat() if self.since else None}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Selection:
        """That of an intent."""
        return cls(told["reason"], datetime.fromisoformat(told["since"]) if told["since"] else None)

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
            probed, counts = self._try_out(names)
            totals["files_stay"] += sum(bool(p.error) for p in probed)
            for total, field in (("pass", "written"), ("duplicates", "duplicate"), ("stay", "quarantined")):
                totals[total] += counts[f"rows_{field}"]
            totals["tried"] += sum(counts.values())
        return totals

    def _try_out(self, names: Sequence[str]) -> tuple[list[Probed], dict[str, int]]:
        """The files of a batch, and what would become of its rows."""
        base, version = delta.latest_version(self.lake, self._silver), self._version()
        with ExitStack() as stack:

            def attempt(probed: list[Probed]) -> dict[str, int]:
                judged = self._judged(stack, probed, names, version, base)
                if judged is not None:
                    judged.fresh().write.format("noop").mode("overwrite").save()
                return _counted(judged)

            files = arrived(self.lake, names)
            return sifting.write(self._judge, files, base, list, attempt, thorough=True)

    def untried(self) -> int:
        """Selected lines that ``ingest`` refused: bronze does not have them, and their files are elsewhere."""
        version = self._version()
        return 0 if version is None else self._selected(version).where(f"NOT {_IN_BRONZE}").count()

    def replay(self) -> Iterator[ledger.Entry]:
        """Try again, a transaction at a time; what passes moves to silver, the rest stays with one more attempt.

        Silver is written first, then the books, then quarantine. A crash in between leaves rows in both tables; the
        next replay, whatever it selects, first finishes what was begun, as it was begun.

        Raises:
            DataError: What was begun cannot be repeated.
        """
        begun, tried = intents.read(self.lake, "replay", self.dataset.name), list[str]()
        if begun and intents.is_half_done(self.lake, "replay", self.dataset.name, begun.transaction):
            thresholds, selection = begun.settings(self.lake, self.dataset), Selection.of(begun.details)
            as_begun = replace(self, thresholds=thresholds, selection=selection)
            yield as_begun._try(begun)
            tried = begun.details["files"] if as_begun == self else []
        yield from self._book_left()
        for names in self._batches(tried):
            details = {"files": names, "version": self._version(), **self.selection.told}
            transaction = Transaction(self._application, self._last() + 1)
            yield self._try(Intent(transaction, self.thresholds.model_dump(mode="json"), details=details))

    @property
    def _application(self) -> str:
        return f"replay/{self.dataset.name}"

    def _last(self) -> int:
        """The number of the last transaction that has committed something; -1 if there is none."""
        numbers = (delta.progress(self.lake, table, self._application) for table in (self._silver, self.lake.ledger))
        return max((number for number in numbers if number is not None), default=-1)

    def _batch(self) -> ledger.Batch:
        return ledger.Batch(self.run_id, "replay", self.dataset.name)

    def _book_left(self) -> Iterator[ledger.Entry]:
        """Book a batch that was stopped half-way, and that cannot be finished: its intent was removed.

        Its rows are in quarantine still, and come again. Those that it has let pass then count as duplicates, of
        themselves; so many are taken off here, that each row counts once. Once silver's log has forgotten the batch
        nobody can tell how many there are; the report then shows rows as missing.
        """
        number = self._last()
        left, once = Transaction(self._application, number), Transaction(f"{self._application}/left", number)
        if number < 0 or delta.has(self.lake, self.path, left) or delta.has(self.lake, self.lake.ledger, once):
            return
        batch, written = self._batch(), 0
        passed = ledger.booked(self.lake, left, "rows_written", "rows_duplicate")
        if not delta.has(self.lake, self.lake.ledger, left):
            with suppress(DataError):
                written = delta.rows_of(self.lake, self._silver, left)
        counts = {"rows_written": written, "rows_duplicate": -written - passed, "rows_quarantined": passed}
        entry = batch.entry(once, **counts).check()
        ledger.record(self.lake, [entry], once)
        yield entry

    def _try(self, intent: Intent) -> ledger.Entry:
        """Try what an intent says; if that was begun before, its files are taken as they were then."""
        batch, transaction = self._batch(), intent.transaction
        names, version = intent.details["files"], intent.details["version"]
        base = delta.version_before(self.lake, self._silver, transaction)
        with ExitStack() as stack:

            def attempt(probed: list[Probed]) -> Judged | None:
                judged = self._judged(stack, probed, names, version, base)
                is_new = judged is not None and self._append(judged, transaction)
                if not is_new:
                    intents.compare(self.lake, self._silver, transaction, _counted(judged)["rows_written"])
                return judged

            files = intent.in_order(self.lake, arrived(self.lake, names))
            taken = partial(intents.take, self.lake, "replay", self.dataset.name, intent)
            probed, judged = sifting.write(self._judge, files, base, taken, attempt, thorough=True)
            counts = _counted(judged)
            entry = batch.entry(
                transaction,
                files=len(probed),
                files_quarantined=sum(bool(p.error) for p in probed),
                rows_read=sum(counts.values()),
                bytes_read=sum(p.file.bytes for p in probed),
                **counts,
            ).check()
            ledger.record(self.lake, [entry], transaction)
            self._settle(probed, judged, transaction)
        return entry

    def _append(self, judged: Judged, transaction: Transaction) -> bool:
        """Append what passes to silver; return whether that was done now, and not before."""
        drift.record(self.lake, self.dataset.name, judged.drift, transaction)
        return delta.append(self.lake, judged.fresh(), self._silver, transaction, self.bounds.rows_per_file)

    def _version(self) -> int | None:
        return delta.latest_version(self.lake, self.path)

    @property
    def _silver(self) -> str:
        return self.lake.silver(self.dataset.name)

    def _selected(self, version: int | None) -> DataFrame:
        return self.selection.among(self.spark.read.format("delta").option("versionAsOf", version).load(self.path))

    def _batches(self, tried: Sequence[str] = ()) -> Iterator[list[str]]:
        """The files of what is selected and was not tried yet, as many at a time as a promotion would take."""
        version = self._version()
        if version is None:
            return
        files = self._selected(version).where(_IN_BRONZE).select("source_file").distinct().orderBy("source_file")
        names = [name for (name,) in files.collect() if name not in tried]
        size = self.bounds.max_files_per_batch
        for start in range(0, len(names), size):
            yield names[start : start + size]

    def _judged(
        self,
        stack: ExitStack,
        probed: Sequence[Probed],
        names: Sequence[str],
        version: int | None,
        base: int | None,
    ) -> Judged | None:
        """Judge the rows of a batch that a version of quarantine has; None if no file can be read.

        The stack closes what is judged.
        """
        readable = [p for p in probed if not p.error and p.rows]
        if not readable:
            return None
        return stack.enter_context(closing(self._judge.judge(readable, base, self._wanted(names, version))))

    @property
    def _judge(self) -> Judge:
        return Judge(self.spark, self.lake, self.dataset, self.thresholds, self.bounds)

    def _wanted(self, names: Sequence[str], version: int | None) -> Any:
        """The rows of files that were refused whole, and the single rows of others."""
        selected = self._selected(version).where(F.col("source_file").isin(*names))
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


def _counted(judged: Judged | None) -> dict[str, int]:
    """What became of the rows, for the books."""
    if judged is None:
        return dict.fromkeys(("rows_written", "rows_duplicate", "rows_quarantined"), 0)
    found = judged.counts()
    refused = found["refused"] + found["conflict"] + found["implausible"]
    return {
        "rows_written": found["fresh"],
        "rows_duplicate": found["duplicate"],
        "rows_quarantined": refused,
    }

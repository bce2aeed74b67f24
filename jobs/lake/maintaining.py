"""Care of a table: expired rows go, small files are joined, and files that it no longer needs are removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.lake import delta, ledger
from jobs.lake.config import MaintainSettings
from jobs.lake.delta import EXPIRY, Transaction
from jobs.lake.layout import Lake


@dataclass(frozen=True)
class Kept:
    """A table that is taken care of.

    Attributes:
        path: Below the lake.
        time: The column by which its rows grow old; None if they do not.
        keep_days: How many whole days are kept before today; None for all.
        cluster_by: Columns that its readers look for; rows that are alike in them can be put together.
        row: The column that is null where an entry stands for a whole file; None if all are rows.
    """

    path: str
    time: str | None = None
    keep_days: int | None = None
    cluster_by: tuple[str, ...] = ()
    row: str | None = None

    def first_kept(self, today: date) -> date | None:
        """The oldest day that is kept, in UTC; None if all are."""
        return None if self.keep_days is None else today - timedelta(days=self.keep_days)


@dataclass(frozen=True)
class Done:
    """What was done to a table.

    Attributes:
        files_joined: Files that compaction or clustering read.
        files_written: Files that it wrote instead.
        bytes_joined: Length of those that it read.
        files_removed: Files that nothing needed any more.
        bytes_freed: Their length.
    """

    files_joined: int = 0
    files_written: int = 0
    bytes_joined: int = 0
    files_removed: int = 0
    bytes_freed: int = 0


@dataclass(frozen=True)
class Care:
    """Takes care of the tables of a lake, one by one, while others read and write them.

    Compaction changes no row, and a conflicting commit of a promotion is waited for. What is removed has been out of
    the table for ``vacuum_hours``, so no reader needs it; a batch that is half done may, however old it is, and its
    tables are to be left alone (:func:`jobs.lake.intents.half_done`).

    Attributes:
        open_spark: Opens the session; to look none is needed.
        lake: The lake.
        settings: Sizes and times.
        run_id: The run, for the books.
        today: The day that ``keep_days`` count back from, in UTC.
    """

    open_spark: Callable[[], SparkSession]
    lake: Lake
    settings: MaintainSettings
    run_id: str
    today: date

    @property
    def spark(self) -> SparkSession:
        """The session."""
        return self.open_spark()

    def _path(self, table: Kept) -> str:
        return f"{self.lake.uri}/{table.path}"

    def look(self, table: Kept) -> dict[str, Any]:
        """What there is to do; nothing is written."""
        files = delta.files(self.lake, self._path(table))
        small = [f.bytes for f in files if f.bytes < self.settings.target_file_bytes // 2]
        removable = self._removable(table)
        return {
            "table": table.path,
            "files": len(files),
            "bytes": sum(f.bytes for f in files),
            "small_files": len(small),
            "small_bytes": sum(small),
            "keeps_from": table.first_kept(self.today),
            "rows_to_expire": self._rows_before(table, table.first_kept(self.today)),
            "files_to_remove": len(removable),
            "bytes_to_free": sum(removable.values()),
        }

    def _rows_before(self, table: Kept, first: date | None, version: int | None = None) -> int:
        """Rows of a version of a table that are older than a day; what stands for a whole file is none."""
        rows = delta.scan(self.lake, self._path(table), version)
        if rows is None or first is None:
            return 0
        kind = rows.schema.field(table.time).type
        oldest = pa.scalar(first if pa.types.is_date(kind) else datetime(first.year, first.month, first.day), kind)
        old = pc.field(table.time) < oldest
        return int(rows.count_rows(filter=old & pc.field(table.row).is_valid() if table.row else old))

    def expire(self, table: Kept) -> ledger.Entry | None:
        """Take out the rows that are older than the table keeps, and book them; None if there are none."""
        first = table.first_kept(self.today)
        if first is None or table.time is None or delta.latest_version(self.lake, self._path(table)) is None:
            return None
        self.book(table)
        batch = self._batch(table)
        path, too_old = self._path(table), F.col(table.time) < F.lit(first)
        with delta.in_transaction(self.spark, delta.expiry(first)):
            delta.persist(self.lake, lambda: DeltaTable.forPath(self.spark, path).delete(too_old), path)
        return self._book(table, batch)

    def book(self, table: Kept) -> ledger.Entry | None:
        """Book what a run has taken out that died before it could; None if the books have it."""
        return self._book(table, self._batch(table))

    def _batch(self, table: Kept) -> ledger.Batch:
        return ledger.Batch(self.run_id, "maintain", table.path)

    def _book(self, table: Kept, batch: ledger.Batch) -> ledger.Entry | None:
        """Book the table's last expiry by what its log says, unless the books have it."""
        path, application = self._path(table), f"{EXPIRY}/{table.path}"
        number = delta.progress(self.lake, path, EXPIRY)
        if number is None or delta.has(self.lake, self.lake.ledger, transaction := Transaction(application, number)):
            return None
        opened = delta.open_table(self.lake, path)
        commit = opened and delta.commit_of(opened, Transaction(EXPIRY, number))
        # Once the log has forgotten the commit nobody can tell; the report then shows rows as missing.
        expired = int(commit["operationMetrics"]["numDeletedRows"]) if commit else 0
        if commit and table.row:
            expired = self._rows_before(table, delta.first_day_kept(self.lake, path), commit["version"] - 1)
        entry = batch.entry(transaction, rows_expired=expired)
        ledger.record(self.lake, [entry], transaction)
        return entry

    def tidy(self, table: Kept, *, cluster: bool) -> tuple[Done, ledger.Entry] | None:
        """Join small files, or cluster all, and remove what nothing needs; None if there was nothing to do."""
        batch = self._batch(table)
        joined = self._join(table, cluster=cluster)
        removed = self._remove(table)
        done = Done(*joined, *removed)
        if done == Done():
            return None
        transaction = delta.next_transaction(self.lake, self.lake.ledger, f"maintain/tidy/{table.path}")
        entry = batch.entry(transaction, files=done.files_joined, bytes_read=done.bytes_joined)
        ledger.record(self.lake, [entry], transaction)
        return done, entry

    def _join(self, table: Kept, *, cluster: bool) -> tuple[int, int, int]:
        """Files read, files written and bytes read."""
        path = self._path(table)
        files = delta.files(self.lake, path)
        cluster = cluster and bool(table.cluster_by)
        if len(files) < 2 or (cluster and self._is_clustered(table)):
            return 0, 0, 0

        def join() -> Any:
            optimize = DeltaTable.forPath(self.spark, path).optimize()
            return optimize.executeZOrderBy(*table.cluster_by) if cluster else optimize.executeCompaction()

        with delta.configured(self.spark, self._sizes):
            found = delta.persist(self.lake, join, path).select("metrics.*").first()
        return found["numFilesRemoved"], found["numFilesAdded"], found["filesRemoved"]["totalSize"] or 0

    def _is_clustered(self, table: Kept) -> bool:
        """Whether nothing was written since the table was clustered."""
        opened = delta.open_table(self.lake, self._path(table))
        for commit in opened.history() if opened else []:
            if not commit["operation"].startswith("VACUUM"):
                return bool(commit["operationParameters"].get("zOrderBy", "[]") != "[]")
        return False

    @property
    def _sizes(self) -> dict[str, str]:
        """How Delta's OPTIMIZE is told what files are to be like."""
        target = self.settings.target_file_bytes
        return {
            "spark.databricks.delta.optimize.maxFileSize": str(target),
            "spark.databricks.delta.optimize.minFileSize": str(target // 2),
            # Readers prune row groups as well as files.
            "spark.databricks.io.skipping.mdc.sortWithinFiles": "true",
        }

    def _removable(self, table: Kept) -> dict[str, int]:
        """Files that the table has not needed for long enough, by their path within it, and their length."""
        opened = delta.open_table(self.lake, self._path(table))
        if opened is None:
            return {}
        names = opened.vacuum(self.settings.vacuum_hours, dry_run=True, full=True)
        infos = self.lake.filesystem().get_file_info([f"{self.lake.arrow_path(self._path(table))}/{n}" for n in names])
        return {name: info.size or 0 for name, info in zip(names, infos, strict=True)}

    def _remove(self, table: Kept) -> tuple[int, int]:
        """Files removed, and bytes freed."""
        removable = self._removable(table)
        if not removable:
            return 0, 0
        opened = delta.open_table(self.lake, self._path(table))
        assert opened is not None
        with delta.holding(self.lake, table.path):
            removed = opened.vacuum(self.settings.vacuum_hours, dry_run=False, full=True)
        return len(removed), sum(removable.get(name, 0) for name in removed)

"""Gold follows silver: only what new silver rows touch is computed, and the result equals a rebuild."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.fs as pafs
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from jobs.lake import delta, ledger, windowed
from jobs.lake.config import GoldSettings
from jobs.lake.delta import AddedFile, Commit, Transaction
from jobs.lake.layout import Lake
from jobs.lake.tables import GoldTable, Grouped, Windowed


@dataclass(frozen=True)
class Following:
    """Brings one gold table up to its silver.

    How far the table has come is in its own log: the number of its last transaction is the version of silver that
    it reflects, so data and progress cannot part. The transaction's application names the settings and the generation;
    when the settings change, the table is rebuilt. A rebuild begins a generation, for Delta never forgets how far a
    table had come by settings that it had before.

    Attributes:
        open_spark: Opens the session; to see what is pending none is needed.
        lake: The lake.
        table: What is computed.
        all_settings: Settings by gold table: those of tables it reads count as well.
        bounds: Bounds of a transaction.
        run_id: The run, for the books.
    """

    open_spark: Callable[[], SparkSession]
    lake: Lake
    table: GoldTable
    all_settings: Mapping[str, Any]
    bounds: GoldSettings
    run_id: str

    @property
    def spark(self) -> SparkSession:
        """The session."""
        return self.open_spark()

    @property
    def settings(self) -> Any:
        """The table's settings."""
        return self.all_settings[self.table.name]

    @property
    def path(self) -> str:
        """The gold table."""
        return self.lake.gold(self.table.name)

    @property
    def silver(self) -> str:
        """The silver table that is followed."""
        return f"silver/{self.table.dataset}"

    @property
    def followed(self) -> tuple[str, ...]:
        """The tables whose new rows set it going, silver first."""
        return (self.silver, *(self.table.how.also if isinstance(self.table.how, Grouped) else ()))

    @property
    def _generations(self) -> str:
        return f"gold/{self.table.name}/generation"

    def _generation(self) -> int:
        """How many times the table was begun anew."""
        return delta.progress(self.lake, self.path, self._generations) or 0

    def application(self, source: str) -> str:
        """The application of transactions that bring in a source now.

        It names the table, a digest of what it depends on, and the table's generation.
        """
        inputs = self.table.how.inputs if isinstance(self.table.how, Grouped) else ()
        read = [name.removeprefix("gold/") for name in inputs if name.startswith("gold/")]
        texts = [self.all_settings[name].model_dump_json() for name in (self.table.name, *read)]
        digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
        other = f"/{source}" if source != self.silver else ""
        return f"gold/{self.table.name}/{digest}/{self._generation()}{other}"

    def pending(self, *, rebuild: bool = False) -> list[AddedFile]:
        """The files whose rows the table does not reflect."""
        return [
            f for source in self.followed for commit in self._commits(source, rebuild=rebuild) for f in commit.files
        ]

    def _commits(self, source: str, *, rebuild: bool) -> list[Commit]:
        """What a source has and the table does not reflect, in order.

        Where rows have expired, a table that tells the time keeps what it has of them; one that sums up all of time
        is computed anew from those that are left.
        """
        path = self._place(source)
        upto = delta.latest_version(self.lake, path)
        if upto is None or self.missing_inputs():
            return []
        done = None if rebuild and source == self.silver else self._progress(source)
        if done is None:
            return [Commit(upto, delta.files(self.lake, path, upto))]
        commits = delta.commits(self.lake, path, done, upto)
        if commits is None or not self._exist(f for commit in commits for f in commit.files):
            return [Commit(upto, delta.files(self.lake, path, upto))]
        if self.table.time is None and any(commit.expiry for commit in commits):
            return [Commit(upto, delta.files(self.lake, path, upto), expiry=True)]
        return [commit for commit in commits if commit.files]

    def _progress(self, source: str) -> int | None:
        return delta.progress(self.lake, self.path, self.application(source))

    def _place(self, source: str) -> str:
        return f"{self.lake.uri}/{source}"

    def bring_up(self, *, rebuild: bool = False) -> Iterator[ledger.Entry]:
        """Compute what is pending, a transaction at a time."""
        yield from self._book(self._batch())  # of a run that died before it could
        for source in self.followed:
            yield from self._follow(source, rebuild=rebuild and source == self.silver)

    def _follow(self, source: str, *, rebuild: bool) -> Iterator[ledger.Entry]:
        commits = self._commits(source, rebuild=rebuild)
        outdated = source == self.silver and self._progress(source) is None
        fresh = rebuild or outdated or delta.latest_version(self.lake, self.path) is None
        fresh = fresh or any(commit.expiry for commit in commits)
        others = [other for other in self.followed if other != source] if fresh else []
        seen = {other: delta.latest_version(self.lake, self._place(other)) for other in others}
        for version, files in _batches(commits, self.bounds.max_bytes_per_batch):
            batch = self._batch()
            if fresh:
                self._begin_anew()
            read = {"rows_read": sum(f.rows for f in files), "bytes_read": sum(f.bytes for f in files)}
            transaction = Transaction(self.application(source), version, {"files": len(files), **read})
            self._bring_in(source, files, transaction, fresh=fresh)
            if fresh:
                self._reflect(seen)
            fresh = False
            yield from self._book(batch)

    def _begin_anew(self) -> None:
        """Begin a generation: from now on the table, if there is one, reflects nothing."""
        if delta.latest_version(self.lake, self.path) is not None:
            nothing = self._input(f"gold/{self.table.name}").limit(0)
            delta.append(self.lake, nothing, self.path, Transaction(self._generations, self._generation() + 1))

    def _last_batch(self) -> Mapping[str, Any] | None:
        """The last commit that brought rows of a source in, by whichever settings; None once the log forgot it."""
        opened, marked = delta.open_table(self.lake, self.path), f"gold/{self.table.name}/"
        # Nearly always it is the very last; to read the whole history takes a request for each commit.
        found = (c for most in (1, 16, None) for c in (opened.history(most) if opened else []))
        mine = (c for c in found if c.get("userMetadata", "").startswith(marked))
        return next((c for c in mine if delta.transaction_of(c).note), None)

    def _batch(self) -> ledger.Batch:
        return ledger.Batch(self.run_id, "gold", self.table.name)

    def _book(self, batch: ledger.Batch) -> Iterator[ledger.Entry]:
        """Book the last batch by what its commit tells, unless the books have it."""
        commit = self._last_batch()
        if commit is None:
            return
        transaction = delta.transaction_of(commit)
        if delta.has(self.lake, self.lake.ledger, transaction):
            return
        counts = {**transaction.note, "rows_written": delta.rows_changed(commit)}
        entry = batch.entry(transaction, **counts)
        ledger.record(self.lake, [entry], transaction)
        yield entry

    def _reflect(self, seen: Mapping[str, int | None]) -> None:
        """Note that a table made anew reflects these versions of further sources as well."""
        nothing = self._nothing(self.table.schema)
        for source, version in seen.items():
            if version is not None:
                delta.append(self.lake, nothing, self.path, Transaction(self.application(source), version))

    def _nothing(self, schema: StructType) -> DataFrame:
        return self.spark.createDataFrame([], schema)

    def _bring_in(self, source: str, files: Sequence[AddedFile], transaction: Transaction, *, fresh: bool) -> None:
        """Compute what these files touch and write it."""
        how, table = self.table.how, self.table
        if isinstance(how, Windowed):
            rows = self._windowed(how, files, transaction.number)
        else:
            rows = self._grouped(how, source, files)
        rows = rows.select(*table.schema.names)
        told = self._told_in_full()
        rows = rows.where(told) if told else rows
        if fresh:
            is_there = delta.latest_version(self.lake, self.path) is not None
            delta.overwrite(self.lake, self._arranged(rows), self.path, transaction, told if is_there else "")
        elif table.time:
            delta.upsert_in_time(self.lake, rows, self.path, table.key, table.time, transaction, self._arranged)
        else:
            delta.upsert(self.lake, self._arranged(rows), self.path, table.key, transaction)

    def _arranged(self, rows: DataFrame) -> DataFrame:
        """In the order of the key, in as few files as their size allows: a reader of one entity reads one place."""
        return rows.hint("rebalance", self.table.key[0]).sortWithinPartitions(*self.table.key)

    def _told_in_full(self) -> str:
        """Which rows silver can still tell in full, in SQL; empty for all.

        What gold has of the time before is kept: silver has no more than a part of it, or nothing.
        """
        first = delta.first_day_kept(self.lake, self._place(self.silver))
        return f"{self.table.time} >= '{first}'" if first and self.table.time else ""

    def _windowed(self, how: Windowed, files: Sequence[AddedFile], version: int) -> DataFrame:
        window = how.window(self.settings)
        touched = windowed.find_touched(self.spark, self.lake, files, how, window)
        rows, cores = sum(t.rows for t in touched), self.spark.sparkContext.defaultParallelism
        rounds = -(-rows // (cores * self.bounds.rows_per_task))
        size = -(-rows // (cores * max(rounds, 1)))  # so that the last round keeps all cores busy as well
        held = delta.whole_files(self.lake, self._place(self.silver), version)
        tasks = windowed.plan_tasks(touched, held, self.lake, how, window, max(size, 1))
        # Windows that new rows complete hold others as well: as many again are no reason to compute a task in parts.
        return windowed.compute(self.spark, self.lake, self.table, self.settings, tasks, 2 * self.bounds.rows_per_task)

    def _grouped(self, how: Grouped, source: str, files: Sequence[AddedFile]) -> DataFrame:
        schema = self._input(source).schema
        new = self.spark.read.schema(schema).parquet(*(f.path for f in files)) if files else self._nothing(schema)
        present = [name for name in how.also if self._is_there(name)]
        inputs = {name: self._input(name) for name in (*how.inputs, *present)}
        touched = how.also.get(source, how.touched)
        return how.compute(inputs, touched(new, inputs, self.settings), self.settings)

    def _input(self, name: str) -> DataFrame:
        kind, _, rest = name.partition("/")
        if kind == "truth":
            return self.spark.read.parquet(self.lake.truth(rest))
        return self.spark.read.format("delta").load(self._place(name))

    def missing_inputs(self) -> list[str]:
        """Inputs that are not there (yet): without them there is nothing to compute."""
        if isinstance(self.table.how, Windowed):
            return []
        return [name for name in self.table.how.inputs if not self._is_there(name)]

    def _is_there(self, name: str) -> bool:
        kind, _, rest = name.partition("/")
        if kind != "truth":
            return delta.latest_version(self.lake, self._place(name)) is not None
        folder = self.lake.arrow_path(self.lake.truth(rest))
        return bool(self.lake.filesystem().get_file_info(folder).type == pafs.FileType.Directory)

    def _exist(self, files: Iterable[AddedFile]) -> bool:
        """Whether VACUUM has left them all: compacted files stay readable until then."""
        infos = self.lake.filesystem().get_file_info([self.lake.arrow_path(f.path) for f in files])
        return all(info.type == pafs.FileType.File for info in infos)


def _batches(commits: Sequence[Commit], limit: int) -> Iterator[tuple[int, list[AddedFile]]]:
    """Join commits up to ``limit`` bytes; what was added counts up to the last version joined."""
    files: list[AddedFile] = []
    reached = -1
    for version, added, _ in commits:
        if files and sum(f.bytes for f in [*files, *added]) > limit:
            yield reached, files
            files = []
        files.extend(added)
        reached = version
    if files or any(commit.expiry for commit in commits):
        yield reached, files

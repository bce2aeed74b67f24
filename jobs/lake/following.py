"""Gold follows silver: only what new silver rows touch is computed, and the result equals a rebuild."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from functools import cached_property
from typing import Any

import pyarrow.fs as pafs
from pyspark.sql import DataFrame, SparkSession

from jobs.lake import delta, ledger, windowed
from jobs.lake.config import GoldSettings
from jobs.lake.delta import AddedFile, Commit, Transaction
from jobs.lake.layout import Lake
from jobs.lake.tables import GoldTable, Grouped, Windowed


@dataclass(frozen=True)
class Following:
    """Brings one gold table up to its silver.

    How far the table has come is in its own log: the number of its last transaction is the version of silver that
    it reflects, so data and progress cannot part. The transaction's application names the settings, the tables that are
    followed and the generation; when settings change, or a table that is followed was made anew, this one is computed
    anew. That begins a generation, for Delta never forgets how far a table had come by settings that it had before.

    Attributes:
        open_spark: Opens the session; to see what is pending none is needed.
        lake: The lake.
        table: What is computed.
        settings: The table's settings.
        bounds: Bounds of a transaction.
        run_id: The run, for the books.
        reads: Gold that it reads, as ``gold/<table>``, and what brings that up: it is not led further than they are.
    """

    open_spark: Callable[[], SparkSession]
    lake: Lake
    table: GoldTable
    settings: Any
    bounds: GoldSettings
    run_id: str
    reads: Mapping[str, Following] = field(default_factory=dict)

    @property
    def spark(self) -> SparkSession:
        """The session."""
        return self.open_spark()

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

    @property
    def _made_by(self) -> list[str]:
        """The settings that the table depends on: its own, and those of gold that it reads."""
        return [self.settings.model_dump_json(), *(text for gold in self.reads.values() for text in gold._made_by)]

    def application(self, source: str) -> str:
        """The application of transactions that bring in a source now.

        It names the table, a digest of what it depends on, and the table's generation.
        """
        other = f"/{source}" if source != self.silver else ""
        return f"gold/{self.table.name}/{self._digest}/{self._generation()}{other}"

    @cached_property
    def _digest(self) -> str:
        """A digest of what the table depends on, found out once: it takes a look at each table that is followed.

        Such a table counts by its identity: one that was removed and made anew has versions of the same numbers, and
        other rows. Gold that is read counts by the first day that it keeps: what has expired there is not in what is
        made of it.
        """
        followed = [str(delta.identity(self.lake, self._place(name))) for name in self.followed]
        kept = [str(delta.first_day_kept(self.lake, self._place(name))) for name in self.reads]
        return hashlib.sha256("\n".join([*self._made_by, *followed, *kept]).encode()).hexdigest()[:12]

    @property
    def reached(self) -> int | None:
        """The version of silver that the table reflects; None if there is none, by the settings of now."""
        return self._progress(self.silver)

    def pending(self, *, rebuild: bool = False) -> list[AddedFile]:
        """The files whose rows the table does not reflect."""
        _, new = self._pending(rebuild=rebuild)
        return [f for commits in new.values() for commit in commits for f in commit.files]

    def _pending(self, *, rebuild: bool) -> tuple[bool, dict[str, list[Commit]]]:
        """Whether the table is to be computed anew, and what it does not reflect of each source that is there."""
        upto = {source: version for source in self.followed if (version := self._upto(source)) is not None}
        if self.silver not in upto or self.missing_inputs():
            return False, {}
        new = {source: self._new(source, version) for source, version in upto.items()}
        told = {source: commits for source, commits in new.items() if commits is not None}
        if rebuild or len(told) < len(new):
            return True, {source: [self._all(source, version)] for source, version in upto.items()}
        return False, told

    def _upto(self, source: str) -> int | None:
        """The version of a source that the table can be brought up to; None if there is none yet.

        Rows of silver that gold has yet to see would count as taken in here, and be missing for good.
        """
        versions = [delta.latest_version(self.lake, self._place(source))]
        if source == self.silver:
            versions += [gold.reached for gold in self.reads.values()]
        return None if None in versions else min(version for version in versions if version is not None)

    def _new(self, source: str, upto: int) -> list[Commit] | None:
        """What a source has and the table does not reflect, in order; None if the table is to be computed anew.

        So it is where rows were taken out, for nothing tells which groups they were of. Only of those that have expired
        a table that tells the time keeps what it has.
        """
        done = self._progress(source)
        if done is None:
            return None if source == self.silver else [self._all(source, upto)]
        commits = delta.commits(self.lake, self._place(source), done, upto)
        if commits is None or not self._exist(f for commit in commits for f in commit.files):
            return None
        if any(commit.removal or (commit.expiry and self.table.time is None) for commit in commits):
            return None
        return [commit for commit in commits if commit.files]

    def _all(self, source: str, upto: int) -> Commit:
        """All that a source has, counted up to a version.

        Of a version that gold has reached the files may be gone by now. What is newer comes again once gold has it.
        """
        return Commit(upto, delta.files(self.lake, self._place(source), None if self.reads else upto))

    def _progress(self, source: str) -> int | None:
        return delta.progress(self.lake, self.path, self.application(source))

    def _place(self, source: str) -> str:
        return f"{self.lake.uri}/{source}"

    def bring_up(self, *, rebuild: bool = False) -> Iterator[ledger.Entry]:
        """Compute what is pending, a transaction at a time.

        A table that is computed anew is overwritten by what silver has; what other sources have is then brought in.
        """
        yield from self._book(self._batch())  # of a run that died before it could
        anew, new = self._pending(rebuild=rebuild)
        for source, commits in new.items():
            fresh = anew and source == self.silver
            for version, files in _batches(commits, self.bounds.max_bytes_per_batch):
                if not files and not fresh:
                    continue
                batch = self._batch()
                if fresh:
                    self._begin_anew()
                read = {"rows_read": sum(f.rows for f in files), "bytes_read": sum(f.bytes for f in files)}
                transaction = Transaction(self.application(source), version, {"files": len(files), **read})
                self._bring_in(source, files, transaction, fresh=fresh)
                yield from self._book(batch)

    def _begin_anew(self) -> None:
        """Begin a generation that nobody knows: from now on the table, if there is one, reflects nothing.

        The books know those of a table that was removed. What is made in its place must not be taken for booked.
        """
        is_there = delta.latest_version(self.lake, self.path) is not None
        applications = ledger.applications(self.lake, "gold", self.table.name)
        booked = [int(number) for name in applications for number in name.split("/")[3:4] if number.isdigit()]
        if is_there or booked:
            nothing = self._input(f"gold/{self.table.name}").limit(0) if is_there else self._nothing()
            number = max([self._generation(), *booked]) + 1
            delta.append(self.lake, nothing, self.path, Transaction(self._generations, number))

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

    def _nothing(self) -> DataFrame:
        return self.spark.createDataFrame([], self.table.schema)

    def _bring_in(self, source: str, files: Sequence[AddedFile], transaction: Transaction, *, fresh: bool) -> None:
        """Compute what these files touch and write it."""
        how, table = self.table.how, self.table
        if not files:
            rows = self._nothing()
        elif isinstance(how, Windowed):
            rows = self._windowed(how, files)
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
        if first is None or self.table.time is None:
            return ""
        looks_back = self.table.how.looks_back(self.settings) if isinstance(self.table.how, Grouped) else timedelta()
        since = datetime.combine(first, time()) + looks_back
        return f"{self.table.time} >= '{since if looks_back else first}'"

    def _windowed(self, how: Windowed, files: Sequence[AddedFile]) -> DataFrame:
        window = how.window(self.settings)
        touched = windowed.find_touched(self.spark, self.lake, files, how, window)
        if not touched:  # rows may have no time, as those of a list
            return self._nothing()
        rows, cores = sum(t.rows for t in touched), self.spark.sparkContext.defaultParallelism
        rounds = -(-rows // (cores * self.bounds.rows_per_task))
        size = -(-rows // (cores * max(rounds, 1)))  # so that the last round keeps all cores busy as well
        # As silver is now: of an older version files may be gone. What is newer touches its windows once more.
        held = delta.whole_files(self.lake, self._place(self.silver))
        tasks = windowed.plan_tasks(touched, held, self.lake, how, window, max(size, 1))
        # Windows that new rows complete hold others as well: as many again are no reason to compute a task in parts.
        return windowed.compute(self.spark, self.lake, self.table, self.settings, tasks, 2 * self.bounds.rows_per_task)

    def _grouped(self, how: Grouped, source: str, files: Sequence[AddedFile]) -> DataFrame:
        new = self.spark.read.schema(self._input(source).schema).parquet(*(f.path for f in files))
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
        """Inputs that are not there (yet, by the settings of now): without them there is nothing to compute."""
        if isinstance(self.table.how, Windowed):
            return []
        return [name for name in self.table.how.inputs if not self._is_there(name)]

    def _is_there(self, name: str) -> bool:
        if name in self.reads:
            return self.reads[name].reached is not None
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
    for commit in commits:
        if files and sum(f.bytes for f in [*files, *commit.files]) > limit:
            yield reached, files
            files = []
        files.extend(commit.files)
        reached = commit.version
    if commits:
        yield reached, files

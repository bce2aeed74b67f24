"""Window by window over silver's files: Spark hands out file names, each worker reads and computes.

Moving rows between the JVM and Python costs several times what a spectrum does. So the rows never enter the JVM:
a task is told which files to read, for which entities and windows, and returns finished rows of the gold table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from jobs.lake.delta import AddedFile, may_hold, plain
from jobs.lake.layout import Lake
from jobs.lake.session import on_workers
from jobs.lake.spans import Span, first_after
from jobs.lake.tables import ALL, GoldTable, Windowed

Range = tuple[int, int]
"""First and last number of a run of windows."""

_LONG = 1 << 12  # rows of a run that is worth a slice of its own
_MOST_WINDOWS = 1 << 16  # of an entity in one task: each may become a row, or several, however few rows it has


@dataclass(frozen=True)
class Touched:
    """Windows that rows of one entity, or of all together, fall into, in one file.

    Attributes:
        file: The file.
        entity: The entity, or :data:`ALL`.
        rows: The entity's rows in the file.
        windows: Runs of window numbers, in order, apart from each other.
    """

    file: str
    entity: str
    rows: int
    windows: tuple[Range, ...]


@dataclass(frozen=True)
class Task:
    """What one worker computes.

    Attributes:
        files: Files to read.
        windows: Entity -> runs of window numbers.
    """

    files: tuple[str, ...]
    windows: Mapping[str, tuple[Range, ...]]


def find_touched(
    spark: SparkSession, lake: Lake, files: Sequence[AddedFile], how: Windowed, window: tuple[int, int]
) -> list[Touched]:
    """Which windows the rows of new files fall into; reads two columns, on the workers."""
    filesystem, places = lake.filesystem(), [lake.arrow_path(f.path) for f in files]

    def touch(place: str) -> list[Touched]:
        return _touch(filesystem, place, how, window)

    return [item for found in on_workers(spark, places, touch) for item in found]


def _touch(filesystem: pafs.FileSystem, place: str, how: Windowed, window: tuple[int, int]) -> list[Touched]:
    entity, time, (length, hop) = how.entity, how.time, window
    numbers: dict[str, list[npt.NDArray[np.int64]]] = defaultdict(list)
    rows: dict[str, int] = defaultdict(int)
    with filesystem.open_input_file(place) as source:
        file = pq.ParquetFile(source, read_dictionary=[entity] if entity else [], page_checksum_verification=True)
        for batch in file.iter_batches(1 << 20, columns=list(how.place)):
            known = batch.filter(pc.is_valid(batch.column(time))) if batch.column(time).null_count else batch
            names = known.column(entity).dictionary.to_pylist() if entity else [ALL]
            codes = np.asarray(known.column(entity).indices) if entity else np.zeros(known.num_rows, np.int8)
            last = np.asarray(known.column(time).cast(pa.int64())) // hop
            starts = _begins(codes, last)
            counts = np.diff(np.r_[starts, len(codes)])
            for code in np.unique(codes[starts]):
                mine = codes[starts] == code
                numbers[names[code]].append(np.unique(last[starts[mine]]))
                rows[names[code]] += int(counts[mine].sum())
    reach = -(-length // hop) - 1  # earlier windows that a row falls into as well
    return [
        Touched(place, name, rows[name], _runs(np.unique(np.concatenate(found)), reach))
        for name, found in numbers.items()
    ]


def _begins(*columns: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Where runs of equal rows begin; rows are in order nearly always, so they shrink a window's rows to one."""
    changed = reduce(np.logical_or, (column[1:] != column[:-1] for column in columns))
    return np.flatnonzero(np.r_[True, changed][: len(columns[0])])


def _runs(numbers: npt.NDArray[np.int64], reach: int) -> tuple[Range, ...]:
    """Runs of the windows ``[n - reach, n]`` of sorted numbers ``n``."""
    breaks = np.flatnonzero(np.diff(numbers) > reach + 1)
    firsts = numbers[np.r_[0, breaks + 1]] - reach
    lasts = numbers[np.r_[breaks, len(numbers) - 1]]
    return tuple(zip(firsts.tolist(), lasts.tolist(), strict=True))


def merge_runs(runs: Iterable[Range]) -> tuple[Range, ...]:
    """Join runs that overlap or adjoin."""
    merged: list[Range] = []
    for first, last in sorted(runs):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def plan_tasks(
    touched: Sequence[Touched],
    held: Sequence[AddedFile],
    lake: Lake,
    how: Windowed,
    window: tuple[int, int],
    rows: int,
) -> list[Task]:
    """Share the touched windows out over tasks of about ``rows`` rows.

    Entities that are in the same new files share tasks, so a file is read about once. A task also reads the files
    of ``held`` that could hold rows of its windows by the log's statistics: those of a window that straddles two
    files, or that late rows fall into.
    """
    entities_of: dict[str, set[str]] = defaultdict(set)
    of_entity: dict[str, list[Touched]] = defaultdict(list)
    for item in touched:
        entities_of[item.file].add(item.entity)
        of_entity[item.entity].append(item)
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in of_entity:  # in the order of the files, so that the entities of a task lie together there
        groups[tuple(sorted({t.file for t in of_entity[name]}))].append(name)
    tasks = []
    for names in groups.values():
        chunk: dict[str, tuple[Range, ...]] = {}
        size = 0
        for name in names:
            runs = merge_runs(run for t in of_entity[name] for run in t.windows)
            for part, count in _split(runs, sum(t.rows for t in of_entity[name]), rows):
                if chunk and (size + count > rows or name in chunk):
                    tasks.append(chunk)
                    chunk, size = {}, 0
                chunk[name] = part
                size += count
        tasks.append(chunk)
    return [Task(_files_for(chunk, held, entities_of, lake, how, window), chunk) for chunk in tasks]


def _split(runs: tuple[Range, ...], count: int, limit: int) -> Iterator[tuple[tuple[Range, ...], int]]:
    """Cut one entity's windows into parts of at most ``limit`` rows, as far as rows are spread evenly."""
    total = sum(last - first + 1 for first, last in runs)
    parts = max(-(-count // limit), -(-total // _MOST_WINDOWS))
    size = -(-total // parts)
    part: list[Range] = []
    room = size
    for first, last in runs:
        start = first
        while last - start + 1 > room:
            if room:
                part.append((start, start + room - 1))
                start += room
            yield tuple(part), count // parts
            part, room = [], size
        part.append((start, last))
        room -= last - start + 1
    if part:
        yield tuple(part), count // parts


def _files_for(
    windows: Mapping[str, tuple[Range, ...]],
    held: Sequence[AddedFile],
    entities_of: Mapping[str, set[str]],
    lake: Lake,
    how: Windowed,
    window: tuple[int, int],
) -> tuple[str, ...]:
    """Files to read: of those whose entities are known the ones that have any of these, of the others what may."""
    spans, wanted = _spans(windows, window), _entities(windows, how)
    places = []
    for file in held:
        span = first_after(spans, plain(file.low.get(how.time, spans[0][0])))
        if span is not None and may_hold(file, {how.time: (span[0], span[1] - 1), **wanted}):
            places.append(lake.arrow_path(file.path))
    return tuple(p for p in places if p not in entities_of or not entities_of[p].isdisjoint(windows))


def _spans(windows: Mapping[str, tuple[Range, ...]], window: tuple[int, int]) -> list[Span]:
    """Stretches of time that windows of any entity cover, in order."""
    length, hop = window
    runs = merge_runs(run for of_entity in windows.values() for run in of_entity)
    return [(first * hop, last * hop + length) for first, last in runs]


def _entities(windows: Mapping[str, tuple[Range, ...]], how: Windowed) -> dict[str, tuple[str, str]]:
    """The first and last of the entities, by their column; nothing where windows are of all together."""
    return {} if how.entity is None else {how.entity: (min(windows), max(windows))}


def compute(
    spark: SparkSession, lake: Lake, table: GoldTable, settings: Any, tasks: Sequence[Task], most: int
) -> DataFrame:
    """Rows of a gold table, one Spark task per :class:`Task`; no worker holds more than ``most`` rows of silver."""
    assert isinstance(table.how, Windowed)
    how, filesystem, window = table.how, lake.filesystem(), table.how.window(settings)

    def work(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                for part, rows in read_parts(filesystem, tasks[number], how, window, most):
                    yield from how.kernel(rows, settings, part.windows).to_batches()

    numbers = spark.createDataFrame(
        spark.sparkContext.parallelize([(i,) for i in range(len(tasks))], len(tasks)), "n int"
    )
    return numbers.mapInArrow(work, table.schema)


def read_parts(
    filesystem: pafs.FileSystem, task: Task, how: Windowed, window: tuple[int, int], most: int
) -> Iterator[tuple[Task, pa.Table]]:
    """A task and its rows; in parts, as far as there are windows, where it has more than ``most`` rows.

    Tasks are planned by new rows. How many rows silver has had in the same windows shows when they are read: one in a
    hundred may be new where rows come out of quarantine.
    """
    halves, read, count = _halves(task), [], 0
    for part in _read(filesystem, task, how, window):
        read.append(part)
        count += part.num_rows
        if count > most and len(halves) > 1:
            read.clear()
            for half in halves:
                yield from read_parts(filesystem, half, how, window, most)
            return
    yield task, pa.concat_tables(read)


def _halves(task: Task) -> list[Task]:
    """A task in two: its entities, or the windows of its only one; as it is if it has a single window."""
    names = list(task.windows)
    if len(names) > 1:
        middle = len(names) // 2
        parts = [{name: task.windows[name] for name in some} for some in (names[:middle], names[middle:])]
    else:
        parts = [{name: part} for name in names for part, _ in _split(task.windows[name], 2, 1)]
    return [Task(task.files, part) for part in parts]


def read_task(filesystem: pafs.FileSystem, task: Task, how: Windowed, window: tuple[int, int]) -> pa.Table:
    """The rows that a task's windows can hold, in whatever order the files have; text comes as a dictionary."""
    return pa.concat_tables(_read(filesystem, task, how, window))


def _read(filesystem: pafs.FileSystem, task: Task, how: Windowed, window: tuple[int, int]) -> Iterator[pa.Table]:
    """The rows of :func:`read_task`, row group by row group.

    Arrow's own scan copies every row that a filter lets through. Here whole runs of rows are kept, since silver has an
    entity's rows together and in order of time.
    """
    columns = [*how.place, *how.values]
    spans, entities = _spans(task.windows, window), _entities(task.windows, how)
    choose = _chooser(task.windows, how, window)
    for place in task.files:
        with filesystem.open_input_file(place) as source:
            file = pq.ParquetFile(source, read_dictionary=columns, pre_buffer=True, page_checksum_verification=True)
            yield file.schema_arrow.empty_table().select(columns)
            for number in range(file.num_row_groups):
                if not _may_have(file.metadata.row_group(number), how.time, spans, entities):
                    continue
                found = file.read_row_group(number, how.place, use_threads=False).combine_chunks()
                wanted = choose(found)
                if wanted.any():
                    rest = file.read_row_group(number, how.values, use_threads=False).combine_chunks()
                    for name in how.values:
                        found = found.append_column(rest.schema.field(name), rest[name])
                    yield _kept(found, wanted)


def _chooser(
    windows: Mapping[str, tuple[Range, ...]], how: Windowed, window: tuple[int, int]
) -> Callable[[pa.Table], npt.NDArray[np.bool_]]:
    """What tells which rows the windows of their own entity can hold.

    Entity and window make one number, so that all runs are in one order and a row is looked up in it.
    """
    length, hop = window
    reach = -(-length // hop) - 1  # later hops that a window lasts into
    origin = min(runs[0][0] for runs in windows.values())
    width = max(runs[-1][1] for runs in windows.values()) + reach + 1 - origin
    starts = {name: order * width - origin for order, name in enumerate(windows)}
    runs = [(starts[name] + first, starts[name] + last + reach) for name in windows for first, last in windows[name]]
    firsts, lasts = np.array(runs, np.int64).T

    def choose(rows: pa.Table) -> npt.NDArray[np.bool_]:
        number = rows[how.time].cast(pa.int64()).to_numpy() // hop
        wanted: npt.NDArray[np.bool_] = (number >= origin) & (number < origin + width)
        if how.entity is None:
            number += starts[ALL]
        elif rows.num_rows:
            entity = rows[how.entity].chunk(0)
            names, codes = entity.dictionary.to_pylist(), entity.indices.to_numpy()
            wanted &= np.array([name in starts for name in names], np.bool_)[codes]
            number += np.array([starts.get(name, 0) for name in names], np.int64)[codes]
        begins = _begins(number)
        found = number[begins]
        inside = np.searchsorted(firsts, found, "right") > np.searchsorted(lasts, found)  # more have begun than ended
        wanted &= np.repeat(inside, np.diff(begins, append=len(number)))
        return wanted

    return choose


def _may_have(
    group: pq.RowGroupMetaData, time: str, spans: Sequence[Span], entities: Mapping[str, tuple[str, str]]
) -> bool:
    """Whether a row group's statistics leave room for rows of these entities in any of these spans."""
    for index in range(group.num_columns):
        column = group.column(index)
        name, found = column.path_in_schema, column.statistics
        if found is None or not found.has_min_max:
            continue
        smallest, largest = plain(found.min), plain(found.max)
        if name == time:
            span = first_after(spans, smallest)
            outside = span is None or largest < span[0]
        else:
            low, high = entities.get(name, (smallest, largest))
            outside = smallest > high or largest < low
        if outside:
            return False
    return True


def _kept(rows: pa.Table, wanted: npt.NDArray[np.bool_]) -> pa.Table:
    """The rows wanted: as slices where they are long runs and most of the rows, whose memory stays; else copied."""
    count = int(np.count_nonzero(wanted))
    if count == len(wanted):
        return rows
    borders = np.flatnonzero(np.diff(wanted, prepend=False, append=False)).reshape(-1, 2)
    if 2 * count < len(wanted) or len(borders) * _LONG > count:
        return rows.filter(pa.array(wanted))
    return pa.concat_tables(rows.slice(start, end - start) for start, end in borders.tolist())

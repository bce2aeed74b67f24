"""A task of windows reads the files that can hold their rows, and no others; of these its own rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow.fs import LocalFileSystem

from jobs.lake import windowed
from jobs.lake.cli import Context
from jobs.lake.delta import AddedFile
from jobs.lake.layout import Lake
from jobs.lake.tables import ALL, Windowed
from jobs.lake.windowed import (
    Range,
    Task,
    Touched,
    find_touched,
    merge_runs,
    plan_tasks,
    read_parts,
    read_task,
)

SECOND = 1_000_000
LAKE = Lake.parse("/lake")
HOW = Windowed("at", (), lambda _: (10 * SECOND, 10 * SECOND), lambda rows, *_: rows, entity="id")


def file(name: str, entities: tuple[str, str], seconds: tuple[float, float]) -> AddedFile:
    """A file by its statistics."""
    low, high = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=s) for s in seconds)
    return AddedFile(f"/lake/{name}", 1, 100, {"id": entities[0], "at": low}, {"id": entities[1], "at": high})


def plan(touched: list[Touched], *held: AddedFile, rows: int = 1000) -> list[Task]:
    """The tasks, with windows of ten seconds."""
    return plan_tasks(touched, held, LAKE, HOW, (10 * SECOND, 10 * SECOND), rows)


def test_plan_tasks__of_new_files_those_that_have_the_entity_whatever_their_statistics_span():
    held = [file("1", ("a", "z"), (0, 9)), file("2", ("b", "y"), (0, 9))]
    touched = [Touched("/lake/1", "a", 50, ((0, 0),)), Touched("/lake/1", "z", 50, ((0, 0),))]
    touched += [Touched("/lake/2", "b", 50, ((0, 0),)), Touched("/lake/2", "y", 50, ((0, 0),))]
    assert plan(touched, *held) == [
        Task(("/lake/1",), {"a": ((0, 0),), "z": ((0, 0),)}),
        Task(("/lake/2",), {"b": ((0, 0),), "y": ((0, 0),)}),
    ]


def test_plan_tasks__of_earlier_files_those_that_could_have_a_row_of_the_window():
    new = file("new", ("b", "d"), (10, 12))
    held = {
        "in the window": file("1", ("a", "z"), (12, 15)),
        "up to its first instant": file("2", ("a", "z"), (0, 10)),
        "a millisecond is cut off": file("3", ("a", "z"), (0, 9.9995)),
        "before": file("4", ("a", "z"), (0, 9)),
        "from its end on": file("5", ("a", "z"), (20, 30)),
        "other entities": file("6", ("e", "z"), (12, 15)),
        "without statistics": AddedFile("/lake/7", 1, 100, {}, {}),
    }
    (task,) = plan([Touched("/lake/new", "c", 3, ((1, 1),))], new, *held.values())
    assert task.files == ("/lake/new", "/lake/1", "/lake/2", "/lake/3", "/lake/7")


def test_plan_tasks__the_log_keeps_32_characters_of_a_text():
    name = "x" * 40
    cut = AddedFile("/lake/1", 1, 100, {"id": name[:32]}, {"id": name[:32]})
    (task,) = plan([Touched("/lake/new", name, 3, ((0, 0),))], cut)
    assert task.files == ("/lake/1",)


def test_plan_tasks__far_apart_windows_leave_out_the_files_between():
    held = [file(str(minute), ("a", "z"), (60 * minute, 60 * minute + 59)) for minute in range(5)]
    touched = Touched("/lake/4", "c", 2, ((1, 1), (25, 25)))  # of the first minute and of the last
    (task,) = plan([touched], *held)
    assert task.files == ("/lake/0", "/lake/4")


TOGETHER = replace(HOW, entity=None, values=("id",))


def test_windows_of_all_together__rows_without_a_time_are_in_none(lake: Context, tmp_path: Path):
    seconds = [None, 3, 11, None, 12, 45]
    times = pa.array([None if s is None else s * SECOND for s in seconds]).cast(pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"at": times, "id": list("abcdef")}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"at": times.slice(0, 1), "id": ["x"]}), tmp_path / "2.parquet")
    files = [AddedFile(str(tmp_path / name), 1, 6, {}, {}) for name in ("1.parquet", "2.parquet")]
    window = (20 * SECOND, 10 * SECOND)
    (touched,) = find_touched(lake.spark, lake.lake, files, TOGETHER, window)
    assert (touched.entity, touched.rows, touched.windows) == (ALL, 4, ((-1, 1), (3, 4)))
    (task,) = plan_tasks([touched], files, lake.lake, TOGETHER, window, 4)
    rows = read_task(lake.lake.filesystem(), task, TOGETHER, window)
    assert rows["id"].to_pylist() == ["b", "c", "e", "f"]


def test_plan_tasks__windows_of_all_together_are_shared_out_by_time_and_never_too_many_at_once():
    held = [file("1", ("a", "z"), (0, 99)), file("2", ("a", "z"), (100, 199))]
    touched = [Touched("/lake/1", ALL, 50, ((0, 9),)), Touched("/lake/2", ALL, 50, ((10, 19),))]
    assert plan_tasks(touched, held, LAKE, TOGETHER, (10 * SECOND, 10 * SECOND), 50) == [
        Task(("/lake/1",), {ALL: ((0, 9),)}),
        Task(("/lake/2",), {ALL: ((10, 19),)}),
    ]
    far = [Touched("/lake/1", ALL, 2, ((0, 99_999),))]
    tasks = plan_tasks(far, held, LAKE, TOGETHER, (10 * SECOND, 10 * SECOND), 50)
    assert [task.windows[ALL] for task in tasks] == [((0, 49_999),), ((50_000, 99_999),)]


# The windows themselves


RUNS = st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 12)).map(lambda run: (run[0], sum(run))), min_size=1)


def numbers(runs: Iterable[Range]) -> list[int]:
    return [number for first, last in runs for number in range(first, last + 1)]


@given(st.sets(st.integers(-50, 50), min_size=1), st.integers(0, 9))
def test_runs__are_the_windows_that_any_row_is_in(last: set[int], reach: int):
    found = windowed._runs(np.array(sorted(last)), reach)
    assert numbers(found) == sorted({number - back for number in last for back in range(reach + 1)})
    assert all(earlier[1] + 1 < later[0] for earlier, later in pairwise(found))


@given(RUNS)
def test_merge_runs__the_same_windows_once_each_in_order(runs: list[Range]):
    found = merge_runs(runs)
    assert numbers(found) == sorted(set(numbers(runs)))
    assert all(earlier[1] + 1 < later[0] for earlier, later in pairwise(found))


@given(RUNS.map(merge_runs), st.integers(1, 1000), st.integers(1, 100), st.integers(1, 7))
def test_split__into_parts_none_of_which_is_empty_or_too_much(
    runs: tuple[Range, ...], count: int, limit: int, most: int
):
    with patch.object(windowed, "_MOST_WINDOWS", most):
        parts = [part for part, _ in windowed._split(runs, count, limit)]
    assert numbers(run for part in parts for run in part) == numbers(runs)
    assert all(1 <= len(numbers(part)) <= most for part in parts)
    # As many windows to a part as there are rows to fill it, if all windows have the same number of rows.
    share = -(-len(numbers(runs)) * limit // count)
    assert all(len(numbers(part)) <= share for part in parts)


# Reading

ROWS = 5 * 60 * 60


@pytest.fixture(scope="module")
def silver(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two entities, a row a second for five hours each, in row groups of an hour."""
    place = tmp_path_factory.mktemp("silver") / "silver.parquet"
    at = pa.array(np.tile(np.arange(ROWS) * SECOND, 2), pa.timestamp("us", "UTC"))
    table = pa.table({"id": np.repeat(["a", "b"], ROWS), "at": at, "x": np.arange(2 * ROWS)})
    pq.write_table(table, place, row_group_size=3600, write_page_checksum=True)
    return str(place)


READ = replace(HOW, values=("x",))
TEN = (10 * SECOND, 10 * SECOND)


def test_read_task__far_apart_windows_read_their_own_rows(silver: str):
    task = Task((silver,), {"a": ((0, 0), (1799, 1799)), "b": ((900, 901),)})
    rows = read_task(LocalFileSystem(), task, READ, TEN)
    expected = [*range(10), *range(17_990, 18_000), *range(ROWS + 9_000, ROWS + 9_020)]
    assert rows["x"].to_pylist() == expected


def test_read_task__of_all_together_and_of_windows_that_overlap(silver: str):
    how = replace(READ, entity=None, values=("id", "x"))
    rows = read_task(LocalFileSystem(), Task((silver,), {ALL: ((0, 1), (900, 900))}), how, (20 * SECOND, 10 * SECOND))
    assert rows["x"].to_pylist() == [n + b for b in (0, ROWS) for n in (*range(30), *range(9_000, 9_020))]


def test_read_task__what_lies_between_is_not_even_read(silver: str, tmp_path: Path):
    torn = bytearray(Path(silver).read_bytes())
    page = pq.read_metadata(silver).row_group(2).column(1).data_page_offset  # the third hour of a
    torn[page + 100] ^= 1
    place = tmp_path / "torn.parquet"
    place.write_bytes(torn)
    task = Task((str(place),), {"a": ((0, 0), (1799, 1799))})
    assert read_task(LocalFileSystem(), task, READ, TEN).num_rows == 20
    with pytest.raises(OSError, match="CRC"):
        read_task(LocalFileSystem(), Task((str(place),), {"a": ((0, 1799),)}), READ, TEN)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(-300, 300)), min_size=1),
    st.dictionaries(st.sampled_from("abd"), RUNS.map(merge_runs), min_size=1),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_chooser__takes_the_rows_of_the_windows_of_their_own_entity(
    rows: list[tuple[str, int]], windows: dict[str, tuple[Range, ...]], hop: int, hops: int
):
    entity, at = zip(*rows, strict=True)
    table = pa.table({"id": pa.array(entity).dictionary_encode(), "at": pa.array(at, pa.timestamp("us", "UTC"))})
    found = windowed._chooser(windows, HOW, (hop * hops, hop))(table)
    expected = [
        any(number * hop <= time < number * hop + hop * hops for number in numbers(windows.get(name, ())))
        for name, time in rows
    ]
    assert found.tolist() == expected


def test_read_parts__halves_what_has_more_rows_than_a_worker_may_hold(silver: str):
    task = Task((silver,), {"a": ((0, 9), (100, 103)), "b": ((50, 50),)})
    parts = list(read_parts(LocalFileSystem(), task, READ, TEN, 40))
    assert [dict(part.windows) for part, _ in parts] == [
        {"a": ((0, 3),)},
        {"a": ((4, 6),)},
        {"a": ((7, 9), (100, 100))},
        {"a": ((101, 103),)},
        {"b": ((50, 50),)},
    ]
    assert [rows.num_rows for _, rows in parts] == [40, 30, 40, 30, 10]
    whole = read_task(LocalFileSystem(), task, READ, TEN)
    assert [x for _, rows in parts for x in rows["x"].to_pylist()] == whole["x"].to_pylist()


def test_read_parts__a_window_is_never_cut(silver: str):
    task = Task((silver,), {"a": ((0, 1),)})
    parts = list(read_parts(LocalFileSystem(), task, READ, TEN, 3))
    assert [(part.windows["a"], rows.num_rows) for part, rows in parts] == [(((0, 0),), 10), (((1, 1),), 10)]

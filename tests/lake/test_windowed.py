"""A task of windows reads the files that can hold their rows, and no others."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.lake.cli import Context
from jobs.lake.delta import AddedFile
from jobs.lake.layout import Lake
from jobs.lake.tables import ALL, Windowed
from jobs.lake.windowed import Task, Touched, find_touched, plan_tasks, read_task

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

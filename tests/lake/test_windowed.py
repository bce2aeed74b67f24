"""A task of windows reads the files that can hold their rows, and no others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from jobs.lake.delta import AddedFile
from jobs.lake.layout import Lake
from jobs.lake.tables import Windowed
from jobs.lake.windowed import Task, Touched, plan_tasks

SECOND = 1_000_000
LAKE = Lake.parse("/lake")
HOW = Windowed(("id", "at"), window=lambda _: (10 * SECOND, 10 * SECOND), kernel=lambda rows, *_: rows)


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

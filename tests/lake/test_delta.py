"""Delta tables: a write happens once, and the log says what it brought, without a JVM."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import boto3
import deltalake
import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pytest
from delta.exceptions import ConcurrentAppendException
from delta.tables import DeltaTable as SparkTable
from deltalake import DeltaTable
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from chaos.proxy import Proxy, Trouble
from jobs.lake import delta, leases
from jobs.lake.cli import Context
from jobs.lake.config import LeaseSettings, S3Settings
from jobs.lake.delta import Transaction
from jobs.lake.errors import DataError, MachineError, StoreError, TakenOverError
from jobs.lake.layout import Lake
from tests.conftest import until


def numbers(context: Context, first: int, last: int, **columns: Any) -> DataFrame:
    rows = context.spark.range(first, last + 1).withColumn("x", F.col("id") * 10)
    return rows.withColumns({name: F.lit(value) for name, value in columns.items()}).coalesce(1)


@pytest.fixture
def table(lake: Context) -> str:
    """A table of three commits: 1-3, 4-5, 6."""
    path = lake.lake.silver("numbers")
    for number, (first, last) in enumerate([(1, 3), (4, 5), (6, 6)]):
        delta.append(lake.lake, numbers(lake, first, last), path, Transaction("app", number))
    return path


def content(path: str) -> list[tuple[Any, ...]]:
    rows = DeltaTable(path).to_pyarrow_dataset()
    return duckdb.sql("SELECT * FROM rows ORDER BY id").fetchall()


def test_append__once_per_transaction(lake: Context, table: str):
    before = content(table)
    assert before == [(n, 10 * n) for n in range(1, 7)]
    for number in (0, 1, 2):
        delta.append(lake.lake, numbers(lake, 90, 99), table, Transaction("app", number))
    assert content(table) == before
    assert delta.latest_version(lake.lake, table) == 2
    delta.append(lake.lake, numbers(lake, 90, 90), table, Transaction("other", 0))
    assert content(table) == [*before, (90, 900)]


def test_append__a_new_column_is_added_and_old_rows_have_none(lake: Context, table: str):
    delta.append(lake.lake, numbers(lake, 7, 7, note="new"), table, Transaction("app", 3))
    assert content(table)[-2:] == [(6, 60, None), (7, 70, "new")]


def test_append__of_no_rows_is_a_transaction_as_well(lake: Context, table: str):
    delta.append(lake.lake, numbers(lake, 1, 0), table, Transaction("app", 3))
    assert delta.progress(lake.lake, table, "app") == 3


def test_append_here__once_and_a_new_column_is_added(lake: Context):
    path = lake.lake.silver("notes")
    for number, rows in enumerate([{"id": [1]}, {"id": [2], "note": ["new"]}]):
        for _ in range(2):
            delta.append_here(lake.lake, pa.table(rows), path, Transaction("app", number))
    assert content(path) == [(1, None), (2, "new")]
    assert delta.progress(lake.lake, path, "app") == 1
    assert [row.asDict() for row in lake.spark.read.format("delta").load(path).where("note IS NULL").collect()] == [
        {"id": 1, "note": None}
    ]


def test_overwrite__replaces_all_of_it(lake: Context, table: str):
    delta.overwrite(lake.lake, numbers(lake, 1, 2, note="new"), table, Transaction("again", 0))
    assert content(table) == [(1, 10, "new"), (2, 20, "new")]
    assert delta.progress(lake.lake, table, "again") == 0


def test_overwrite__once_per_transaction(lake: Context, table: str):
    before = content(table)
    delta.overwrite(lake.lake, numbers(lake, 8, 9), table, Transaction("app", 2))
    assert content(table) == before
    delta.overwrite(lake.lake, numbers(lake, 8, 9), table, Transaction("app", 3))
    assert content(table) == [(8, 80), (9, 90)]


def last_commit(path: str) -> dict[str, Any]:
    return DeltaTable(path).history(1)[0]


def test_note__is_in_the_commit_and_no_part_of_the_name(lake: Context, table: str):
    noted = Transaction("app/of/many", 3, {"files": 2})
    delta.overwrite(lake.lake, numbers(lake, 1, 2), table, noted)
    found = delta.transaction_of(last_commit(table))
    assert (found, found.note, found.tag) == (Transaction("app/of/many", 3), {"files": 2}, "app/of/many/3")
    delta.upsert(lake.lake, numbers(lake, 3, 3), table, ["id"], Transaction("app/of/many", 4))
    assert delta.transaction_of(last_commit(table)).note == {}


def test_progress_and_latest_version(lake: Context, table: str):
    assert delta.progress(lake.lake, table, "app") == 2
    assert delta.progress(lake.lake, table, "other") is None
    nowhere = lake.lake.silver("nowhere")
    assert delta.progress(lake.lake, nowhere, "app") is None
    assert delta.latest_version(lake.lake, nowhere) is None
    assert delta.files(lake.lake, nowhere, 0) == []
    assert not Path(nowhere).exists()


def test_scan__rows_of_a_version_and_no_thread_of_arrow_calls_python(lake: Context, table: str):
    there, first = delta.scan(lake.lake, table), delta.scan(lake.lake, table, 0)
    assert isinstance(there, ds.FileSystemDataset)
    assert first is not None
    assert sorted(there.to_table()["id"].to_pylist()) == [1, 2, 3, 4, 5, 6]
    assert sorted(first.to_table()["id"].to_pylist()) == [1, 2, 3]
    assert delta.scan(lake.lake, lake.lake.silver("nowhere")) is None
    read_by = there.filesystem
    while isinstance(read_by, pafs.SubTreeFileSystem):
        read_by = read_by.base_fs
    assert not isinstance(read_by, pafs.PyFileSystem)


def test_version_before__as_the_first_attempt_saw_it(lake: Context, table: str):
    found = [delta.version_before(lake.lake, table, Transaction("app", number)) for number in range(4)]
    assert found == [None, 0, 1, 2]
    assert delta.version_before(lake.lake, table, Transaction("other", 0)) == 2
    assert delta.version_before(lake.lake, lake.lake.silver("nowhere"), Transaction("app", 0)) is None


def test_version_before__a_commit_that_is_gone_is_an_error(lake: Context, table: str):
    with pytest.raises(DataError, match="silver/numbers has no commit for app/-1"):
        delta.version_before(lake.lake, table, Transaction("app", -1))


def test_upsert__replaces_and_inserts_once(lake: Context, table: str):
    rows = numbers(lake, 6, 7).withColumn("x", -F.col("x"))
    delta.upsert(lake.lake, rows, table, ["id"], Transaction("gold", 5))
    assert content(table)[-3:] == [(5, 50), (6, -60), (7, -70)]
    assert delta.rows_changed(last_commit(table)) == 2
    assert delta.progress(lake.lake, table, "gold") == 5
    version = delta.latest_version(lake.lake, table)
    delta.upsert(lake.lake, numbers(lake, 1, 9), table, ["id"], Transaction("gold", 5))
    assert delta.latest_version(lake.lake, table) == version
    assert content(table)[-1] == (7, -70)
    # What MERGE took from the session is not left there for the next write.
    delta.append(lake.lake, numbers(lake, 8, 8), table, Transaction("app", 3))
    assert len(content(table)) == 8


def minutes(context: Context, name: str, first: int, last: int, value: int = 0, kind: str = "timestamp") -> DataFrame:
    """A row a minute of 2026, or a day of it."""
    unit = "MINUTE" if kind == "timestamp" else "DAY"
    return (
        context.spark.range(first, last + 1)
        .selectExpr(
            f"'{name}' AS name",
            f"cast(TIMESTAMP '2026-01-01' + id * INTERVAL '1' {unit} AS {kind}) AS time",
            f"{value} AS value",
        )
        .coalesce(1)
    )


def timed(path: str) -> list[tuple[str, int, int]]:
    """Name, minutes of 2026 (or days of it, in minutes) and value of each row."""
    rows = DeltaTable(path).to_pyarrow_dataset()
    since = "epoch(time::TIMESTAMP)::BIGINT // 60 - epoch(TIMESTAMP '2026-01-01')::BIGINT // 60"
    return duckdb.sql(f"SELECT name, {since}, value FROM rows ORDER BY ALL").fetchall()


@pytest.fixture
def hours(lake: Context) -> str:
    """Two names, a row a minute, four files of an hour each."""
    path = lake.lake.gold("hours")
    for hour in range(4):
        both = [minutes(lake, name, 60 * hour, 60 * hour + 59) for name in "ab"]
        delta.append(lake.lake, both[0].unionByName(both[1]).coalesce(1), path, Transaction("hour", hour))
    return path


def upsert_in_time(rows: DataFrame, path: str, number: int, **how: Any) -> None:
    lake = Lake(str(Path(path).parents[1]))
    delta.upsert_in_time(lake, rows, path, ["name", "time"], "time", Transaction("gold", number), **how)


def paths(context: Context, table: str) -> dict[int, str]:
    """First minute of each file -> its path."""
    found = delta.files(context.lake, table)
    return {f.low["time"].hour * 60 + f.low["time"].minute: f.path for f in found}


def test_upsert_in_time__replaces_and_inserts_once(lake: Context, hours: str):
    rows = minutes(lake, "a", 239, 250, 1)
    upsert_in_time(rows, hours, 7)
    assert delta.rows_changed(last_commit(hours)) == 12
    expected = [("a", n, int(n >= 239)) for n in range(251)] + [("b", n, 0) for n in range(240)]
    assert timed(hours) == expected
    assert delta.progress(lake.lake, hours, "gold") == 7
    assert delta.transaction_of(last_commit(hours)) == Transaction("gold", 7)
    upsert_in_time(minutes(lake, "a", 0, 400, 2), hours, 7)
    assert timed(hours) == expected
    assert not rows.is_cached


def test_upsert_in_time__files_do_not_grow_with_history(lake: Context, hours: str):
    """Each hour completes the last row of the one before: that file loses it, and the others stay."""
    for hour in (4, 5, 6):
        before = paths(lake, hours)
        rows = minutes(lake, "a", 60 * hour - 1, 60 * hour + 59, hour)
        upsert_in_time(rows, hours, hour, arrange=lambda rows: rows.repartition(1))
        after = paths(lake, hours)
        last = max(before)
        assert {start for start in before if after.get(start) != before[start]} == {last}
        assert set(after) - set(before) == {60 * hour - 1}
        counts = {f.path: f.rows for f in delta.files(lake.lake, hours)}
        with_that_of_b = 62 if hour == 4 else 61
        assert counts[after[60 * hour - 1]] == with_that_of_b


def test_upsert_in_time__late_rows_of_far_apart_hours_leave_the_files_between(lake: Context, hours: str):
    before = paths(lake, hours)
    late = minutes(lake, "a", 30, 31, 1).unionByName(minutes(lake, "c", 200, 200, 1))
    upsert_in_time(late, hours, 1)
    after = paths(lake, hours)
    assert {start for start in before if after.get(start) == before[start]} == {60, 120}
    assert [row for row in timed(hours) if row[2]] == [("a", 30, 1), ("a", 31, 1), ("c", 200, 1)]
    assert len(timed(hours)) == 481


def test_upsert_in_time__of_no_rows_is_a_transaction_as_well(lake: Context, hours: str):
    before = timed(hours)
    upsert_in_time(minutes(lake, "a", 1, 0), hours, 3)
    assert delta.rows_changed(last_commit(hours)) == 0
    assert delta.progress(lake.lake, hours, "gold") == 3
    assert timed(hours) == before


def test_upsert_in_time__days_and_a_column_that_is_new(lake: Context):
    path = lake.lake.gold("days")
    delta.append(lake.lake, minutes(lake, "a", 0, 9, kind="date"), path, Transaction("day", 0))
    rows = minutes(lake, "a", 4, 5, 1, "date").unionByName(minutes(lake, "a", 9, 10, 1, "date"))
    upsert_in_time(rows.withColumn("note", F.lit("new")), path, 0)
    assert timed(path) == [("a", 1440 * day, int(day in (4, 5, 9, 10))) for day in range(11)]
    table = DeltaTable(path).to_pyarrow_table()
    assert table["note"].null_count == 7


def test_upsert_in_time__another_commit_that_overtakes_it(lake: Context, hours: str, tmp_path: Path):
    begun, go_on = tmp_path / "begun", tmp_path / "go_on"
    with overtaking(compaction(lake, hours), begun, go_on):
        rows = minutes(lake, "a", 239, 240, 1)
        upsert_in_time(rows, hours, 1, arrange=lambda rows: meanwhile(rows.coalesce(1), begun, go_on))
    assert [row for row in timed(hours) if row[2]] == [("a", 239, 1), ("a", 240, 1)]
    assert len(timed(hours)) == 481
    assert [c["operation"] for c in DeltaTable(hours).history(2)] == ["WRITE", "OPTIMIZE"]


def test_rows_changed__of_an_append(lake: Context, table: str):
    assert delta.rows_changed(last_commit(table)) == 1


def test_files__with_rows_and_bounds(lake: Context, table: str):
    found = delta.files(lake.lake, table, 1)
    assert sorted((f.rows, f.low, f.high) for f in found) == [
        (2, {"id": 4, "x": 40}, {"id": 5, "x": 50}),
        (3, {"id": 1, "x": 10}, {"id": 3, "x": 30}),
    ]
    for file in found:
        assert Path(file.path).stat().st_size == file.bytes
    assert len(delta.files(lake.lake, table, 2)) == 3


def test_whole_files__of_a_table_as_the_lake_makes_it(lake: Context, table: str):
    assert delta.whole_files(lake.lake, table, 1) == delta.files(lake.lake, table, 1)
    assert delta.whole_files(lake.lake, lake.lake.silver("nowhere")) == []


@pytest.mark.parametrize(
    ("properties", "found"),
    [
        ({"delta.enableDeletionVectors": "true"}, "deletion vectors"),
        ({"delta.columnMapping.mode": "name", "delta.minReaderVersion": "2", "delta.minWriterVersion": "5"}, "column"),
    ],
)
def test_whole_files__refuses_a_table_whose_files_do_not_tell_all(
    lake: Context, table: str, properties: dict[str, str], found: str
):
    told = ", ".join(f"'{name}' = '{value}'" for name, value in properties.items())
    lake.spark.sql(f"ALTER TABLE delta.`{table}` SET TBLPROPERTIES ({told})")
    with pytest.raises(DataError, match=f"silver/numbers has {found}"):
        delta.whole_files(lake.lake, table)
    assert delta.whole_files(lake.lake, table, 2)  # as it was before


def test_whole_files__refuses_partitions(lake: Context):
    path = lake.lake.silver("parted")
    numbers(lake, 1, 3).write.format("delta").partitionBy("x").save(path)
    with pytest.raises(DataError, match="silver/parted has partitions"):
        delta.whole_files(lake.lake, path)


def test_commits__each_with_the_files_it_brought(lake: Context, table: str):
    found = delta.commits(lake.lake, table, 0, 2)
    assert found is not None
    assert [(c.version, [(f.rows, f.low["id"], f.high["id"]) for f in c.files], c.expiry) for c in found] == [
        (1, [(2, 4, 5)], False),
        (2, [(1, 6, 6)], False),
    ]
    assert Path(found[0].files[0].path).is_file()
    everything = delta.commits(lake.lake, table, None, 2)
    assert everything is not None
    assert [commit.version for commit in everything] == [0, 1, 2]
    assert delta.commits(lake.lake, table, 2, 2) == []


def test_commits__compaction_brings_nothing(lake: Context, table: str):
    assert DeltaTable(table).optimize.compact()["numFilesRemoved"] == 3
    assert delta.commits(lake.lake, table, 2, 3) == [(3, [], False, False)]
    assert len(delta.files(lake.lake, table, 3)) == 1


def test_commits__rows_that_are_taken_out_or_changed(lake: Context, table: str):
    DeltaTable(table).delete("id = 6")  # all of a file
    DeltaTable(table).update({"x": "0"}, predicate="id = 1")
    found = delta.commits(lake.lake, table, 1, 4)
    assert found is not None
    assert [(len(c.files), c.expiry, c.removal) for c in found] == [
        (1, False, False),
        (0, False, True),
        (1, False, True),
    ]


def test_identity__of_a_table_that_was_made_anew_is_another(lake: Context, table: str):
    before = delta.identity(lake.lake, table)
    DeltaTable(table).optimize.compact()
    assert delta.identity(lake.lake, table) == before
    shutil.rmtree(table)
    assert delta.identity(lake.lake, table) is None
    delta.append(lake.lake, numbers(lake, 1, 3), table, Transaction("again", 0))
    assert delta.identity(lake.lake, table) not in (before, None)


def test_commits__a_log_that_is_gone(lake: Context, table: str):
    Path(table, "_delta_log", f"{1:020d}.json").unlink()
    assert delta.commits(lake.lake, table, 0, 2) is None
    assert delta.commits(lake.lake, table, 1, 2) is not None


def test_commits__expiry_brings_nothing_though_it_rewrites_files(lake: Context, table: str):
    with delta.in_transaction(lake.spark, delta.expiry(date(2026, 1, 1))):
        SparkTable.forPath(lake.spark, table).delete("id < 3")
    assert content(table) == [(n, 10 * n) for n in range(3, 7)]
    assert delta.commits(lake.lake, table, 2, 3) == [(3, [], True, False)]
    assert delta.first_day_kept(lake.lake, table) == date(2026, 1, 1)


def meanwhile(rows: DataFrame, begun: Path, go_on: Path) -> DataFrame:
    """The same rows, which come only after another thread has had its turn."""

    def wait(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        begun.touch()
        while not go_on.exists():
            time.sleep(0.05)
        yield from batches

    return rows.mapInArrow(wait, rows.schema)


@contextmanager
def overtaking(act: Callable[[], object], begun: Path, go_on: Path) -> Iterator[None]:
    """Do something from another thread once the rows of :func:`meanwhile` are asked for, then let these come."""

    def turn() -> None:
        try:
            until(begun.exists)
            act()
        finally:
            go_on.touch()

    with ThreadPoolExecutor() as pool:
        done = pool.submit(turn)
        yield
        done.result()


def compaction(lake: Context, table: str) -> Callable[[], object]:
    """Another session's."""
    return SparkTable.forPath(lake.spark.newSession(), table).optimize().executeCompaction


@pytest.mark.parametrize("what", ["append", "overwrite", "upsert"])
def test_persist__a_write_that_another_commit_overtakes_is_done_again(
    lake: Context, table: str, tmp_path: Path, what: str
):
    begun, go_on = tmp_path / "begun", tmp_path / "go_on"
    new = meanwhile(numbers(lake, 6, 7).withColumn("x", -F.col("x")), begun, go_on)
    if what == "append":  # of rows that depend on what the table holds, as those of a promotion do
        new = new.join(lake.spark.read.format("delta").load(table).select("id"), "id", "left_anti")
    with overtaking(compaction(lake, table), begun, go_on):
        if what == "append":
            delta.append(lake.lake, new, table, Transaction("app", 3))
        elif what == "overwrite":
            delta.overwrite(lake.lake, new, table, Transaction("app", 3))
        else:
            delta.upsert(lake.lake, new, table, ["id"], Transaction("app", 3))
    old = [(n, 10 * n) for n in range(1, 7)]
    assert (
        content(table)
        == {
            "append": [*old, (7, -70)],
            "overwrite": [(6, -60), (7, -70)],
            "upsert": [*old[:-1], (6, -60), (7, -70)],
        }[what]
    )
    assert DeltaTable(table).history(2)[1]["operation"] == "OPTIMIZE"


def test_append__that_another_run_comes_before_with_is_not_its_own(lake: Context, table: str, tmp_path: Path):
    begun, go_on = tmp_path / "begun", tmp_path / "go_on"
    other = lake.spark.newSession().range(7, 8).withColumn("x", F.col("id") * 10)
    once = delta._write(other, "append", Transaction("app", 3))
    with overtaking(lambda: once.save(table), begun, go_on):
        new = meanwhile(numbers(lake, 7, 7), begun, go_on)
        assert not delta.append(lake.lake, new, table, Transaction("app", 3))
    assert content(table) == [(n, 10 * n) for n in range(1, 8)]


def test_persist__gives_up_in_the_end_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tries, pauses = [], []
    monkeypatch.setattr(delta.time, "sleep", pauses.append)

    def write() -> None:
        tries.append(1)
        raise ConcurrentAppendException("files were added")

    with pytest.raises(MachineError, match=r"silver/x could not be written in 8 attempts") as told:
        delta.persist(Lake(str(tmp_path)), write, f"{tmp_path}/silver/x")
    assert "ConcurrentAppendException" in told.value.why
    assert len(tries) == 8
    assert sum(pauses) < 60
    assert pauses[-1] > 4 * pauses[0]


def test_overwrite__of_a_part_leaves_the_rest_and_takes_new_columns(lake: Context, table: str):
    delta.overwrite(lake.lake, numbers(lake, 5, 7, note="new"), table, Transaction("again", 0), "id >= 5")
    assert content(table) == [*((n, 10 * n, None) for n in range(1, 5)), *((n, 10 * n, "new") for n in range(5, 8))]


@pytest.fixture
def no_sign_of_life(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store takes none once the table is there: a lease runs out."""

    def refuse(*_: Any, **__: Any) -> None:
        raise StoreError("the store takes no sign of life")

    monkeypatch.setattr(leases.Lease, "_write", refuse)


@pytest.mark.usefixtures("no_sign_of_life")
def test_holding__a_run_that_lost_its_lease_says_so_and_not_that_spark_gave_up(lake: Context, table: str):
    short = replace(lake.lake, leases=LeaseSettings(seconds=2))
    with (
        pytest.raises(TakenOverError, match="numbers could not be held: its lease was not renewed for 2 s"),
        delta.holding(short, short.relative(table)),
    ):
        lake.spark.range(2).foreach(lambda _: time.sleep(60))


def called_off_twice(context: Context, lake: Lake) -> None:
    """Begin a job of a minute, see it called off, and once more; then find out why."""
    for _ in range(2):
        with pytest.raises(Exception, match="cancel"):
            context.spark.range(2).foreach(lambda _: time.sleep(60))
    leases.check(lake)


@pytest.mark.usefixtures("no_sign_of_life")
def test_holding__what_a_run_begins_after_it_lost_its_lease_is_called_off_as_well(lake: Context, table: str):
    short = replace(lake.lake, leases=LeaseSettings(seconds=1))
    with pytest.raises(TakenOverError), delta.holding(short, short.relative(table)):
        called_off_twice(lake, short)


@pytest.fixture
def rival(lake: Context) -> Iterator[leases.Lease]:
    """A lease by which another run is told to take silver/numbers."""
    by_order = replace(lake.lake, leases=LeaseSettings(wait_seconds=0, take_over=True))
    other = leases.Lease(by_order, "silver/numbers")
    yield other
    other.release()


def test_fence__what_the_last_holder_has_under_way_is_not_committed(
    lake: Context, table: str, tmp_path: Path, rival: leases.Lease
):
    before, begun, go_on = content(table), tmp_path / "begun", tmp_path / "go_on"

    def take_over() -> None:
        rival.take()
        delta._fence(lake.lake, rival.table)

    with (
        overtaking(take_over, begun, go_on),
        pytest.raises(TakenOverError, match="silver/numbers was taken over by"),
    ):
        delta.append(lake.lake, meanwhile(numbers(lake, 7, 9), begun, go_on), table, Transaction("app", 3))
    assert content(table) == before
    assert delta.progress(lake.lake, table, "app") == 2


def test_append__a_run_that_was_taken_over_while_its_store_was_silent_begins_nothing(
    lake: Context, table: str, rival: leases.Lease, monkeypatch: pytest.MonkeyPatch
):
    before, honest = content(table), delta.has

    def slow(*arguments: Any) -> bool:
        found = honest(*arguments)
        rival.take()
        delta._fence(lake.lake, rival.table)
        return found

    monkeypatch.setattr(delta, "has", slow)
    with pytest.raises(TakenOverError, match="silver/numbers was taken over by"):
        delta.append(lake.lake, numbers(lake, 7, 9), table, Transaction("app", 3))
    assert content(table) == before


@pytest.mark.parametrize("is_there", [True, False])
def test_append_here__a_run_that_stood_still_since_its_last_look_books_nothing(
    lake: Context, rival: leases.Lease, monkeypatch: pytest.MonkeyPatch, is_there: bool
):
    path, once, write = lake.lake.silver("numbers"), Transaction("app", 1), deltalake.write_deltalake
    if is_there:
        delta.append_here(lake.lake, pa.table({"id": [6]}), path, Transaction("app", 0))

    def late(*arguments: Any, **options: Any) -> None:
        rival.take()
        delta._fence(lake.lake, rival.table)
        write(path, pa.table({"id": [7]}), mode="append")
        write(*arguments, **options)

    monkeypatch.setattr(deltalake, "write_deltalake", late)
    with pytest.raises(TakenOverError, match="silver/numbers was taken over by"):
        delta.append_here(lake.lake, pa.table({"id": [7]}), path, once)
    assert content(path) == ([(6,)] if is_there else []) + [(7,)]


_APPEND_TWO = """
import sys
import pyarrow as pa
from jobs.lake import delta
from jobs.lake.config import S3Settings
from jobs.lake.layout import Lake
lake = Lake("s3a://lost-answer/lake", S3Settings(endpoint=sys.argv[1]))
for number in (0, 1):
    delta.append_here(lake, pa.table({"id": [number]}), lake.silver("numbers"), delta.Transaction("app", number))
"""


@pytest.mark.parametrize("commit", [0, 1])
def test_append_here__a_commit_whose_answer_is_lost_is_done(s3_endpoint: str, commit: int):
    bucket = boto3.resource("s3", endpoint_url=s3_endpoint).create_bucket(Bucket="lost-answer")
    bucket.objects.delete()
    lost = Trouble("lost reply", ("PUT",), f"_delta_log/{commit:020d}.json")
    with closing(Proxy(s3_endpoint)) as proxy, proxy.troubled(lost):
        # In a process of its own: deltalake keeps Python's lock while it waits for the proxy.
        subprocess.run([sys.executable, "-c", _APPEND_TWO, proxy.endpoint], check=True, timeout=120)
    assert lost.spoiled == 1
    lake = Lake("s3a://lost-answer/lake", S3Settings(endpoint=s3_endpoint))
    rows = delta.scan(lake, lake.silver("numbers"))
    assert rows is not None
    assert sorted(rows.to_table()["id"].to_pylist()) == [0, 1]


def test_holding__what_fails_once_the_table_was_taken_over_is_told_as_that(lake: Context, rival: leases.Lease):
    def fail() -> None:
        with delta.holding(lake.lake, "silver/numbers"):
            rival.take()
            raise FileNotFoundError("a file that the other has removed")

    with pytest.raises(TakenOverError, match="silver/numbers was taken over by"):
        fail()

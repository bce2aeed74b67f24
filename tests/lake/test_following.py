"""Gold follows silver: by the settings of now, whatever a table was made by before, and each batch is booked once."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from delta.tables import DeltaTable as SparkTable
from deltalake import DeltaTable
from pydantic import BaseModel, ConfigDict
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.lake import delta, ledger
from jobs.lake.following import Following
from jobs.lake.ledger import Entry
from jobs.lake.tables import GoldTable, Grouped, column
from tests.lake.conftest import Floor


class Times(BaseModel):
    """What the toy table is computed by."""

    model_config = ConfigDict(frozen=True)

    times: int = 1


def summed(inputs: Mapping[str, DataFrame], touched: DataFrame, settings: Times) -> DataFrame:
    """The sum of each thing's values, so many times, and of which instant: that of its number 0, in seconds."""
    rows = inputs["silver/toy"].join(touched, "id")
    total = (F.sum("value") * settings.times).cast("int")
    return rows.groupBy("id").agg(F.timestamp_seconds(F.min("n")).alias("at"), total.alias("total"))


def things(new: DataFrame, *_: Any) -> DataFrame:
    return new.select("id").distinct()


AT = column("at", T.TimestampType(), "When")
ID, TOTAL = column("id", T.StringType(), "Thing"), column("total", T.IntegerType(), "Sum")
HOW = Grouped(("silver/toy",), things, summed)
MERGED = GoldTable("sums", "toy", T.StructType([ID, TOTAL]), ("id",), HOW, Times)
IN_TIME = GoldTable("sums", "toy", T.StructType([ID, AT, TOTAL]), ("id", "at"), HOW, Times)


def doubled(inputs: Mapping[str, DataFrame], touched: DataFrame, _: Times) -> DataFrame:
    """Twice the sum."""
    return inputs["gold/sums"].join(touched, "id", "left_semi").withColumn("total", F.col("total") * 2)


DOUBLED = GoldTable(
    "doubled", "toy", T.StructType([ID, TOTAL]), ("id",), Grouped(("gold/sums",), things, doubled), Times
)


def following(floor: Floor, table: GoldTable = MERGED, times: int = 1) -> Following:
    """What brings a table up by some settings, which are those of what it reads as well."""
    context, run_id = floor.context, f"run {len(booked(floor))}"
    reads = {"gold/sums": following(floor, times=times)} if table is DOUBLED else {}
    return Following(
        lambda: context.spark, context.lake, table, Times(times=times), context.settings.gold, run_id, reads
    )


def follow(floor: Floor, table: GoldTable = MERGED, times: int = 1, *, rebuild: bool = False) -> list[Entry]:
    """Bring the table up by some settings."""
    entries = list(following(floor, table, times).bring_up(rebuild=rebuild))
    assert following(floor, table, times).pending() == []
    return entries


def arrive(floor: Floor, number: int, ids: Sequence[str], value: float) -> None:
    """A row of each thing comes to silver."""
    rows = {"id": ids, "n": [number] * len(ids), "value": [value] * len(ids)}
    floor.promote(floor.put(f"{number}.parquet", rows), number=number)


def totals(floor: Floor, table: str = "sums") -> dict[str, int]:
    return {row["id"]: row["total"] for row in floor.rows(f"gold/{table}")}


def booked(floor: Floor) -> list[tuple[int, int, int]]:
    """Files and rows read and rows written of each batch in the books, which are of different names."""
    batches = [row for row in floor.rows("ops/ledger") if row["stage"] == "gold"]
    assert len({row["batch_id"] for row in batches}) == len(batches)
    batches.sort(key=lambda row: row["started_at"])
    return [(row["files"], row["rows_read"], row["rows_written"]) for row in batches]


@pytest.fixture
def two(floor: Floor) -> Floor:
    """Two things, whose values are 1, in silver."""
    arrive(floor, 0, ["a", "b"], 1)
    return floor


class Killed(BaseException):
    """Nothing handles it, as nothing handles SIGKILL."""


def die_at(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise Killed

    monkeypatch.setattr(module, name, die)


def test_settings_that_come_back__are_those_of_all_rows(two: Floor):
    follow(two)
    follow(two, times=10)
    assert totals(two) == {"a": 10, "b": 10}
    assert len(follow(two)) == 1
    assert totals(two) == {"a": 1, "b": 1}
    assert follow(two) == []


def test_settings_that_come_back__with_more_of_silver_each_time(two: Floor):
    follow(two)
    arrive(two, 1, ["b"], 2)
    follow(two, times=10)
    arrive(two, 2, ["c"], 4)
    follow(two)
    assert totals(two) == {"a": 1, "b": 3, "c": 4}
    arrive(two, 3, ["c"], 8)
    (last,) = follow(two)
    assert (last.rows_read, last.rows_written) == (1, 1)
    assert totals(two) == {"a": 1, "b": 3, "c": 12}
    assert booked(two) == [(1, 2, 2), (2, 3, 2), (3, 4, 3), (1, 1, 1)]


def test_settings_that_come_back__though_the_log_has_forgotten_the_commits(two: Floor):
    follow(two)
    follow(two, times=10)
    path = two.context.lake.gold("sums")
    DeltaTable(path).alter.set_table_properties({"delta.logRetentionDuration": "interval 0 days"})
    DeltaTable(path).create_checkpoint()
    for commit in sorted(Path(path, "_delta_log").glob("*.json"))[:-1]:
        commit.unlink()
    assert follow(two, times=10) == []
    follow(two)
    assert totals(two) == {"a": 1, "b": 1}


@pytest.mark.parametrize(("module", "name"), [(delta, "overwrite"), (ledger, "record")])
def test_settings_that_come_back__after_a_run_that_was_killed(
    two: Floor, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
):
    follow(two)
    with monkeypatch.context() as dying:
        die_at(dying, module, name)
        with pytest.raises(Killed):
            follow(two, times=10)
    follow(two)
    assert totals(two) == {"a": 1, "b": 1}
    assert follow(two) == []
    # What was written is booked, though the run that finds it has other settings.
    assert booked(two) == [(1, 2, 2)] * (3 if module is ledger else 2)


@pytest.mark.parametrize("table", [MERGED, IN_TIME])
def test_books__of_a_run_that_was_killed_between_its_commit_and_them(
    two: Floor, monkeypatch: pytest.MonkeyPatch, table: GoldTable
):
    for number in range(2):  # a table that is made, and one that is added to
        with monkeypatch.context() as dying:
            die_at(dying, ledger, "record")
            with pytest.raises(Killed):
                follow(two, table)
        assert len(booked(two)) == number
        DeltaTable(two.context.lake.gold("sums")).optimize.compact()
        (made_up,) = follow(two, table)
        assert (made_up.files, made_up.rows_read, made_up.rows_written) == [(1, 2, 2), (1, 1, 1)][number]
        assert follow(two, table) == []
        arrive(two, number + 1, ["b"], 2)
    assert booked(two) == [(1, 2, 2), (1, 1, 1)]


def test_rebuild__is_a_batch_of_its_own_and_booked_as_one(two: Floor, monkeypatch: pytest.MonkeyPatch):
    follow(two)
    assert len(follow(two, rebuild=True)) == 1
    with monkeypatch.context() as dying:
        die_at(dying, ledger, "record")
        with pytest.raises(Killed):
            follow(two, rebuild=True)
    assert len(follow(two)) == 1
    assert booked(two) == [(1, 2, 2)] * 3


def test_gold_of_gold__is_not_led_further_than_what_it_reads(two: Floor):
    follow(two)
    arrive(two, 1, ["b", "c"], 2)
    assert len(follow(two, DOUBLED)) == 1
    assert totals(two, "doubled") == {"a": 2, "b": 2}
    arrive(two, 2, ["c"], 4)
    assert follow(two, DOUBLED) == []
    follow(two)
    assert totals(two) == {"a": 1, "b": 3, "c": 6}
    assert len(follow(two, DOUBLED)) == 1
    assert totals(two, "doubled") == {"a": 2, "b": 6, "c": 12}
    follow(two, DOUBLED, rebuild=True)
    assert totals(two, "doubled") == {"a": 2, "b": 6, "c": 12}


def test_gold_of_gold__waits_until_what_it_reads_is_by_the_settings_of_now(two: Floor):
    follow(two)
    follow(two, DOUBLED)
    assert following(two, DOUBLED, times=10).missing_inputs() == ["gold/sums"]
    assert follow(two, DOUBLED, times=10) == []
    follow(two, times=10)
    assert len(follow(two, DOUBLED, times=10)) == 1
    assert totals(two, "doubled") == {"a": 20, "b": 20}


def test_gold_of_gold__though_files_of_what_that_has_reached_are_gone(two: Floor):
    follow(two)
    arrive(two, 1, ["b"], 2)
    silver = DeltaTable(two.context.lake.silver("toy"))
    silver.optimize.compact()
    silver.vacuum(0, dry_run=False, enforce_retention_duration=False)
    follow(two, DOUBLED)
    assert totals(two, "doubled") == {"a": 2, "b": 2}
    follow(two)
    follow(two, DOUBLED)
    assert totals(two, "doubled") == {"a": 2, "b": 6}


def test_gold_of_gold__is_of_what_has_not_expired_there(two: Floor):
    follow(two)
    follow(two, DOUBLED)
    with delta.in_transaction(two.context.spark, delta.expiry(date(2026, 1, 1))):
        SparkTable.forPath(two.context.spark, two.context.lake.gold("sums")).delete("id = 'a'")
    follow(two, DOUBLED)
    assert totals(two, "doubled") == {"b": 2}
    assert follow(two, DOUBLED) == []


@pytest.mark.parametrize("table", [MERGED, IN_TIME])
def test_rows_taken_out__by_hand_leave_gold_as_well(two: Floor, table: GoldTable):
    arrive(two, 1, ["a", "c"], 2)
    follow(two, table)
    assert totals(two) == {"a": 3, "b": 1, "c": 2}
    silver = DeltaTable(two.context.lake.silver("toy"))
    silver.optimize.compact()
    assert follow(two, table) == []
    silver.delete("id = 'c' OR n = 0 AND id = 'a'")
    follow(two, table)
    assert totals(two) == {"a": 2, "b": 1}
    silver.delete()
    follow(two, table)
    assert totals(two) == {}
    assert follow(two, table) == []


def test_rows_that_expired__leave_gold_that_sums_up_though_newer_files_are_gone(two: Floor):
    follow(two)
    path = two.context.lake.silver("toy")
    with delta.in_transaction(two.context.spark, delta.expiry(date(2026, 1, 1))):
        SparkTable.forPath(two.context.spark, path).delete("id = 'a'")
    arrive(two, 1, ["b"], 2)
    silver = DeltaTable(path)
    silver.optimize.compact()
    silver.vacuum(0, dry_run=False, enforce_retention_duration=False)
    follow(two)
    assert totals(two) == {"b": 3}


def test_rows_that_expired__leave_what_gold_had_made_of_them_and_of_rows_after(two: Floor):
    """A row of gold of the first seconds of the first day that is kept is of rows of the day before as well."""
    day = date(1970, 1, 2)
    last, first, later = 86_399, 86_401, 86_461
    looking_back = replace(IN_TIME, how=replace(HOW, looks_back=lambda settings: timedelta(minutes=1)))
    for number, thing in ((last, "c"), (first, "d"), (later, "e")):
        arrive(two, number, [thing], 1)
    follow(two, looking_back)
    with delta.in_transaction(two.context.spark, delta.expiry(day)):
        SparkTable.forPath(two.context.spark, two.context.lake.silver("toy")).update(
            "id >= 'c'", {"value": "value * 5"}
        )
    follow(two, looking_back, rebuild=True)
    assert totals(two) == {"a": 1, "b": 1, "c": 1, "d": 1, "e": 5}
    follow(two, IN_TIME, rebuild=True)
    assert totals(two) == {"a": 1, "b": 1, "c": 1, "d": 5, "e": 5}


@pytest.mark.parametrize("table", [MERGED, IN_TIME])
def test_a_table_that_is_removed__is_made_and_booked_again(two: Floor, table: GoldTable):
    for number in range(3):
        assert len(follow(two, table)) == 1
        assert totals(two) == {"a": 1, "b": 1}
        assert booked(two) == [(1, 2, 2)] * (number + 1)
        assert follow(two, table) == []
        shutil.rmtree(two.context.lake.gold("sums"))


@pytest.mark.parametrize("batches", [1, 3])
def test_silver_that_is_made_anew__is_all_there_is(two: Floor, batches: int):
    arrive(two, 1, ["a"], 2)
    follow(two)
    shutil.rmtree(two.context.lake.silver("toy"))
    for number in range(batches):
        arrive(two, 10 + number, ["b", "c"], 4)
    assert len(follow(two)) == 1
    assert totals(two) == {"b": 4 * batches, "c": 4 * batches}
    assert follow(two) == []

"""A promotion: what is kept, what is refused, in which order, and that a repetition changes nothing."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyspark.sql import types as T

from jobs.catalog import DATASETS
from jobs.lake import delta, judging, ledger, quality, quarantine
from jobs.lake.cli import Context
from jobs.lake.conform import MOST_DRIFT, Drift
from jobs.lake.delta import Transaction
from jobs.lake.drift import record as drift_record
from jobs.lake.errors import BooksError, DataError
from jobs.lake.replaying import Replay, Selection
from tests.lake.conftest import LIMITED, TOY, Floor, Limit, counts, killed_at

NAN, INF = float("nan"), float("inf")
CONFLICT = ["conflicting_duplicate key: another row with this key and other values came first"]


def toy(*rows: tuple[Any, ...], **kinds: pa.DataType) -> pa.Table:
    """Rows of (id, n, value, ...) with the types of silver, and of ``kinds``."""
    schema = pa.schema([("id", pa.string()), ("n", pa.int32()), ("value", pa.float32())])
    for name, kind in kinds.items():
        index = schema.get_field_index(name)
        schema = schema.append(pa.field(name, kind)) if index < 0 else schema.set(index, pa.field(name, kind))
    return pa.table([pa.array(c, k) for c, k in zip(zip(*rows, strict=True), schema.types, strict=True)], schema=schema)


# --- rules and reasons ----------------------------------------------------------------------------------------


def test_promote__good_rows_to_silver_bad_ones_to_quarantine_with_every_reason(floor: Floor):
    entry = floor.promote(
        floor.put(
            "a.parquet",
            toy(("a", 1, 1.5), ("a", 2, NAN), (None, None, 101.0), ("b", 1, None), ("b", 2, -INF)),
        )
    )
    assert counts(entry) == (5, 2, 0, 3)
    assert floor.values == [("a", 1, 1.5), ("b", 1, None)]
    assert floor.refused == [
        ("a.parquet", 1, ["not_finite value: NaN or infinite"]),
        (
            "a.parquet",
            2,
            ["missing id: no value", "missing n: no value", "out_of_range value: not within -100 to 100"],
        ),
        ("a.parquet", 4, ["not_finite value: NaN or infinite"]),
    ]
    row = floor.quarantine[1]
    assert row["row"] == '{"id":null,"n":null,"value":101.0}'
    assert row["source_file"] == "bronze/toy/a.parquet"
    assert (row["batch_id"], row["attempts"]) == ("silver/toy/q/0", 1)
    assert abs(row["quarantined_at"] - datetime.now(UTC)).total_seconds() < 600


def test_promote__the_books(floor: Floor):
    file = floor.put("a.parquet", toy(("a", 1, 1.5), ("a", 1, 1.5)))
    empty, torn = floor.put("b.parquet", toy(("a", 1, 1.0)).slice(0, 0)), floor.put("c.parquet", b"PAR1")
    entry = floor.promote(file, empty, torn)
    (booked,) = floor.rows("ops/ledger")
    assert (booked["stage"], booked["dataset"], booked["batch_id"], booked["outcome"]) == (
        "silver", "toy", "silver/toy/q/0", "done",
    )  # fmt: skip
    assert (booked["files"], booked["files_quarantined"]) == (3, 1)
    assert [booked[f"rows_{k}"] for k in ("read", "written", "duplicate", "quarantined")] == [2, 1, 1, 0]
    assert booked["bytes_read"] == sum(f.bytes for f in (file, empty, torn))
    assert booked["run_id"] == entry.run_id == floor.context.run_id


def test_promote__books_that_do_not_balance_are_an_error(floor: Floor, monkeypatch: pytest.MonkeyPatch):
    file = floor.put("a.parquet", toy(("a", 1, 1.5)))
    from jobs.lake import promotion

    honest = promotion.Promotion._write
    monkeypatch.setattr(promotion.Promotion, "_write", lambda *a: {**honest(*a), "rows_duplicate": 1})
    with pytest.raises(BooksError, match="1 rows read, 2 accounted for"):
        floor.promote(file)
    assert floor.rows("ops/ledger") == []
    monkeypatch.undo()
    assert counts(floor.promote(file)) == (1, 1, 0, 0)


# --- duplicates -----------------------------------------------------------------------------------------------


def test_promote__duplicates_within_a_batch(floor: Floor):
    first = floor.put("z.parquet", toy(("a", 1, 1.0), ("a", 1, 2.0), ("a", 1, 1.0), ("b", 1, NAN)), minute=1)
    again = floor.put("a.parquet", toy(("a", 1, 1.0), ("a", 2, 5.0)), minute=2)
    entry = floor.promote(again, first)
    assert counts(entry) == (6, 2, 2, 2)
    assert floor.values == [("a", 1, 1.0), ("a", 2, 5.0)]
    assert floor.refused == [
        ("z.parquet", 1, CONFLICT),
        ("z.parquet", 3, ["not_finite value: NaN or infinite"]),
    ]


def test_promote__the_first_to_arrive_wins_by_time_then_path_then_row(floor: Floor):
    files = [
        floor.put("a.parquet", toy(("time", 1, 2.0)), minute=5),
        floor.put("z.parquet", toy(("time", 1, 1.0)), minute=4),
        floor.put("d=1/p.parquet", toy(("path", 1, 2.0)), minute=6),
        floor.put("c=9/p.parquet", toy(("path", 1, 1.0)), minute=6),
        floor.put("r.parquet", toy(("row", 1, 1.0), ("row", 1, 2.0)), minute=7),
    ]
    assert counts(floor.promote(*files)) == (6, 3, 0, 3)
    assert [value for *_, value in floor.values] == [1.0, 1.0, 1.0]
    assert [(name, row) for name, row, _ in floor.refused] == [
        ("a.parquet", 0),
        ("p.parquet", 0),
        ("r.parquet", 1),
    ]


def test_promote__a_bad_row_does_not_count_as_first(floor: Floor):
    entry = floor.promote(floor.put("a.parquet", toy(("a", 1, 1000.0), ("a", 1, 1.0))))
    assert counts(entry) == (2, 1, 0, 1)
    assert floor.values == [("a", 1, 1.0)]


def test_promote__duplicates_of_silver_null_and_late_rows(floor: Floor):
    floor.promote(floor.put("a.parquet", toy(("a", 1, 1.0), ("a", 5, None), ("c", 3, 3.0))))
    entry = floor.promote(
        floor.put(
            "b.parquet",
            toy(("a", 1, 1.0), ("a", 5, None), ("a", 5, 0.0), ("c", 3, None), ("c", 2, 2.0), ("b", -7, 7.0)),
        ),
        number=1,
    )
    assert counts(entry) == (6, 2, 2, 2)
    assert floor.values == [("a", 1, 1.0), ("a", 5, None), ("b", -7, 7.0), ("c", 2, 2.0), ("c", 3, 3.0)]
    assert floor.refused == [("b.parquet", 2, CONFLICT), ("b.parquet", 3, CONFLICT)]


def test_promote__nan_equals_nan(lake: Context):
    floor = Floor(lake, replace(TOY, rules=lambda settings: []))
    entry = floor.promote(floor.put("a.parquet", toy(("a", 1, NAN), ("a", 1, NAN), ("a", 1, 1.0))))
    assert counts(entry) == (3, 1, 1, 1)
    assert counts(floor.promote(floor.put("b.parquet", toy(("a", 1, NAN))), number=1)) == (1, 0, 1, 0)


def test_promote__nothing_but_the_key(lake: Context):
    bare = replace(TOY, schema=T.StructType(TOY.schema.fields[:2]), rules=lambda settings: [])
    floor = Floor(lake, bare)
    entry = floor.promote(floor.put("a.parquet", {"id": ["a", "a"], "n": pa.array([1, 1], pa.int32())}))
    assert counts(entry) == (2, 1, 1, 0)


def test_promote__rows_of_an_entity_in_the_order_of_the_key(floor: Floor):
    floor.promote(floor.put("a.parquet", toy(*((name, n, 0.0) for n in (3, 1, 2) for name in "ba"))))
    found = floor.rows("silver/toy")
    assert [row["n"] for row in found if row["id"] == "a"] == [1, 2, 3]


# --- a repetition ---------------------------------------------------------------------------------------------


def state(floor: Floor) -> tuple[Any, ...]:
    tables = ("silver/toy", "quarantine/toy", "ops/ledger", "ops/drift")
    return tuple(floor.rows(path) for path in tables)


def test_promote__the_same_transaction_again_changes_nothing(floor: Floor):
    floor.promote(floor.put("a.parquet", toy(("a", 1, 1.0))))
    mixed = [
        floor.put("b.parquet", toy(("a", 1, 1.0), ("a", 1, 2.0), ("a", 2, 2.0), ("a", 3, NAN))),
        floor.put("c.parquet", b"torn"),
    ]
    first = floor.promote(*mixed, number=1)
    before = state(floor)
    again = floor.promote(*mixed, number=1)
    assert counts(first) == counts(again) == (4, 1, 1, 2)
    assert again.files_quarantined == 1
    assert state(floor) == before
    assert [len(rows) for rows in before] == [2, 3, 2, 0]


def test_promote__the_first_transaction_again_changes_nothing(floor: Floor):
    file = floor.put("a.parquet", toy(("a", 1, 1.0), ("a", 1, 1.0), ("a", 2, NAN)))
    first = floor.promote(file)
    before = state(floor)
    assert counts(floor.promote(file)) == counts(first) == (3, 1, 1, 1)
    assert state(floor) == before


@pytest.mark.parametrize("table", ["silver", "quarantine", "ledger", "drift"])
def test_promote__killed_before_any_write_and_run_again(floor: Floor, monkeypatch: pytest.MonkeyPatch, table: str):
    floor.promote(floor.put("a.parquet", toy(("a", 1, 1.0))))
    rows = [("a", 1, 1.0, 1), ("a", 1, 2.0, 1), ("a", 2, 2.0, 1), ("a", 3, NAN, 1)]
    file = floor.put("b.parquet", toy(*rows, extra=pa.int32()))

    def dying(whole: Callable[..., None]) -> Callable[..., None]:
        def dies(lake: Any, rows: Any, path: str, *how: Any) -> None:
            if table in path:
                raise KeyboardInterrupt
            whole(lake, rows, path, *how)

        return dies

    for name in ("append", "append_here"):
        monkeypatch.setattr(delta, name, dying(getattr(delta, name)))
    with pytest.raises(KeyboardInterrupt):
        floor.promote(file, number=1)
    monkeypatch.undo()
    # (a, 1) has no extra in silver, so that rows with one are other rows.
    assert counts(floor.promote(file, number=1)) == (4, 1, 0, 3)
    assert floor.values == [("a", 1, 1.0, None), ("a", 2, 2.0, 1)]
    assert [row for _, row, _ in floor.refused] == [0, 1, 3]
    assert [r["rows_read"] for r in floor.rows("ops/ledger")] in ([1, 4], [4, 1])
    assert [r["column"] for r in floor.rows("ops/drift")] == ["extra"]


@pytest.mark.parametrize(("before", "after"), [(10, 100), (100, 10)])
@pytest.mark.parametrize("place", ["quarantine", "ledger"])
def test_promote__what_was_begun_is_finished_by_the_settings_that_it_was_begun_with(
    lake: Context, before: float, after: float, place: str
):
    floor = Floor(lake, LIMITED, Limit(limit=before))
    file = floor.put("a.parquet", toy(("a", 1, 1.0), ("a", 2, 50.0), ("a", 3, NAN)))
    with killed_at(*{"quarantine": (quarantine, "append"), "ledger": (ledger, "record")}[place]):
        floor.promote(file)
    passed = [("a", 1, 1.0), ("a", 2, 50.0)][: 1 if before == 10 else 2]
    assert floor.values == passed
    entry = floor.promote(file, thresholds=Limit(limit=after))
    assert counts(entry) == (3, len(passed), 0, 3 - len(passed))
    assert floor.values == passed
    assert [row for _, row, _ in floor.refused] == [0, 1, 2][len(passed) :]
    assert counts(floor.promote(floor.put("b.parquet", toy(("b", 1, 50.0))), number=1)) in ((1, 1, 0, 0), (1, 0, 0, 1))


def test_promote__what_has_committed_nothing_is_begun_anew(lake: Context):
    floor = Floor(lake, LIMITED, Limit(limit=10))
    file = floor.put("a.parquet", toy(("a", 1, 50.0)))
    with killed_at(delta, "append"):
        floor.promote(file)
    assert counts(floor.promote(file, thresholds=Limit(limit=100))) == (1, 1, 0, 0)


def test_promote__a_file_that_was_refused_when_its_batch_was_begun_stays_so_until_it_is_replayed(floor: Floor):
    good = floor.put("a.parquet", toy(("a", 1, 1.0)))
    torn = floor.put("b.parquet", b"PAR1 torn")
    with killed_at(quarantine, "append"):
        floor.promote(good, torn)
    whole = floor.put("b.parquet", toy(("b", 1, 1.0), ("b", 2, 2.0)))
    entry = floor.promote(good, whole)
    assert (counts(entry), entry.files_quarantined) == ((1, 1, 0, 0), 1)
    assert floor.refused[0][:2] == ("b.parquet", None)
    context = floor.context
    again = Replay(
        context.spark, context.lake, TOY, floor.thresholds, context.settings.silver, context.run_id, Selection()
    )
    assert [counts(entry) for entry in again.replay()] == [(2, 2, 0, 0)]
    assert (len(floor.silver), floor.refused) == (3, [])


def test_promote__what_was_begun_is_finished_in_the_order_in_which_its_files_had_arrived(floor: Floor):
    """A file that is put again unchanged, as by an upload that is made again, would come last."""
    first, second = floor.put("a.parquet", toy(("a", 1, 1.0))), floor.put("b.parquet", toy(("a", 1, 2.0)))
    with killed_at(quarantine, "append"):
        floor.promote(first, second)
    later = floor.put("a.parquet", toy(("a", 1, 1.0)))
    assert counts(floor.promote(later, second)) == (2, 1, 0, 1)
    assert floor.values == [("a", 1, 1.0)]
    assert floor.refused == [("b.parquet", 0, CONFLICT)]
    assert floor.quarantine[0]["arrived_at"] == second.arrived_at


def test_promote__a_repetition_that_comes_to_something_else_is_refused_and_the_way_on_loses_nothing(floor: Floor):
    files = [floor.put("a.parquet", toy(("a", 1, 1.0), ("a", 2, 50.0), ("a", 3, NAN))), floor.put("c.parquet", b"torn")]
    with killed_at(ledger, "record"):
        floor.promote(*files)
    other = replace(TOY, rules=lambda _: [quality.finite("value"), quality.in_range("value", -10, 10)])
    with pytest.raises(DataError) as told:
        floor.promote(*files, dataset=other)
    assert "silver/toy/q/0 has written 2 rows to silver/toy, and comes to 1 now" in str(told.value)
    assert told.value.remedy.startswith("rm -r ")
    assert "ops/checkpoints/silver/toy, then the same command: bronze is read anew" in told.value.remedy
    assert floor.rows("ops/ledger") == []
    # As after that: another stream.
    changes = {"dataset": other, "read_again": True}
    promotion = replace(floor.promotion, **changes)
    entry = promotion.promote(files, Transaction("silver/toy/another", 0))
    assert counts(entry) == (3, 0, 2, 1)  # one is in silver, one was refused before
    assert floor.values == [("a", 1, 1.0), ("a", 2, 50.0)]
    assert [(name, row) for name, row, _ in floor.refused] == [("a.parquet", 1), ("a.parquet", 2), ("c.parquet", None)]
    booked = {r["batch_id"]: r for r in floor.rows("ops/ledger")}
    left = booked["silver/toy/q/0"]
    assert [left[f"rows_{k}"] for k in ("read", "written", "duplicate", "quarantined")] == [3, 2, 0, 1]
    assert left["files_quarantined"] == 1
    assert len(booked) == 2


def test_promote__whose_files_are_gone_when_it_is_repeated_is_refused(floor: Floor):
    file = floor.put("a.parquet", toy(("a", 1, 1.0), ("a", 2, NAN)))
    with killed_at(ledger, "record"):
        floor.promote(file)
    Path(file.path).unlink()
    with pytest.raises(DataError, match=r"a\.parquet cannot be read now, and silver/toy/q/0 was begun with it"):
        floor.promote(replace(file, bytes=-1))
    assert floor.rows("ops/ledger") == []


def test_promote__a_file_that_breaks_between_two_commits_of_its_batch(floor: Floor, monkeypatch: pytest.MonkeyPatch):
    first, second = (
        floor.put("a.parquet", toy(("a", 1, 1.0), ("a", 2, NAN))),
        floor.put("b.parquet", toy(("a", 1, 2.0))),
    )
    append, whole = quarantine.append, Path(first.path).read_bytes()

    def late(*arguments: Any, **options: Any) -> Any:
        Path(first.path).write_bytes(whole[:100])
        return append(*arguments, **options)

    monkeypatch.setattr(quarantine, "append", late)
    # Not to be written down as one that was refused from the start: what the second file has would pass for written.
    with pytest.raises(DataError, match=r"a\.parquet cannot be read now, and silver/toy/q/0 was begun with it"):
        floor.promote(first, second)
    monkeypatch.undo()
    assert floor.rows("ops/ledger") == []
    Path(first.path).write_bytes(whole)
    assert counts(floor.promote(first, second)) == (3, 1, 0, 2)
    assert floor.values == [("a", 1, 1.0)]
    assert [(name, row) for name, row, _ in floor.refused] == [("a.parquet", 1), ("b.parquet", 0)]


def test_promote__what_another_stream_left_so_long_ago_that_the_log_has_forgotten_it(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
):
    file = floor.put("a.parquet", toy(("a", 1, 1.0), ("a", 2, NAN)))
    with killed_at(ledger, "record"):
        floor.promote(file)
    monkeypatch.setattr(delta, "commit_of", lambda *_: None)
    with pytest.raises(DataError, match="no commit for silver/toy/q/0") as told:
        floor.promote(file)
    assert "ops/checkpoints/silver/toy, then the same command" in told.value.remedy
    promotion = replace(floor.promotion, read_again=True)
    assert counts(promotion.promote([file], Transaction("silver/toy/another", 0))) == (2, 0, 2, 0)
    assert (len(floor.silver), len(floor.refused)) == (1, 1)


# --- drift ----------------------------------------------------------------------------------------------------


def drift(floor: Floor) -> list[tuple[str, ...]]:
    found = floor.rows("ops/drift")
    return sorted((r["column"], r["kind"], r["before"], r["after"], r["source_file"].rpartition("/")[2]) for r in found)


def test_promote__a_new_column_evolves_the_table(floor: Floor):
    floor.promote(floor.put("a.parquet", toy(("a", 1, 1.0))))
    floor.promote(floor.put("b.parquet", toy(("a", 2, 2.0, 20.5), temperature=pa.float64())), number=1)
    floor.promote(floor.put("c.parquet", toy(("a", 3, 3.0))), number=2)
    floor.promote(floor.put("d.parquet", toy(("a", 4, 4.0, 40.5), TEMPERATURE=pa.float64())), number=3)
    assert floor.silver[0] == {"id": "a", "n": 1, "value": 1.0, "temperature": None}
    assert [row["temperature"] for row in floor.silver] == [None, 20.5, None, 40.5]
    assert drift(floor) == [
        ("temperature", "added", "", "double", "b.parquet"),
        ("temperature", "renamed", "temperature", "TEMPERATURE", "d.parquet"),
    ]


def test_promote__silver_has_no_more_columns_than_can_be_handled(floor: Floor, monkeypatch: pytest.MonkeyPatch):
    """A producer that names columns by the hour; three are declared, and here six are the most."""
    monkeypatch.setattr(judging, "MAX_COLUMNS", 6)
    hours = pa.struct([("h2", pa.int32()), ("h3", pa.int32())])
    files = [
        floor.put("a.parquet", toy(("a", 1, 1.0, 1, 1), h0=pa.int32(), h1=pa.int32())),
        floor.put("b.parquet", toy(("a", 2, 1.0, {"h2": 1, "h3": 1}), later=hours)),
        floor.put("c.parquet", toy(("a", 3, 1.0, 1), h4=pa.int32())),
        floor.put("d.parquet", toy(("a", 4, 1.0, 1), H0=pa.int32())),
    ]
    first = floor.promote(*files)
    assert counts(first) == (3, 3, 0, 0)
    assert [*floor.silver[0]] == ["id", "n", "value", "h0", "h1", "h4"]
    assert counts(floor.promote(*files)) == counts(first)
    more = floor.put("e.parquet", toy(("a", 5, 1.0, 1), h5=pa.int32())), floor.put("f.parquet", toy(("a", 6, 1.0)))
    assert counts(floor.promote(*more, number=1)) == (1, 1, 0, 0)
    assert floor.refused == [
        (name, None, [f"unreadable_file file: silver would have {count} columns with it; at most 6 are taken in"])
        for name, count in (("b.parquet", 7), ("e.parquet", 7))
    ]


def test_record__of_a_batch_no_more_than_can_be_looked_at(floor: Floor):
    lake, shown = floor.context.lake, [Drift(f"c{n}", "added", "", "int") for n in range(MOST_DRIFT + 5)]
    for number in range(2):
        drift_record(lake, "toy", dict.fromkeys(shown, "a.parquet"), Transaction("silver/toy/q", number))
        recorded = drift(floor)
        assert len(recorded) == 2_001
        assert recorded[0] == ("(any)", "more", "", "more than 2,000 in one batch", "a.parquet")
    drift_record(lake, "toy", dict.fromkeys(shown[-5:], "b.parquet"), Transaction("silver/toy/q", 2))
    assert len(drift(floor)) == 2_006


def test_record__what_a_first_attempt_did_not_see(floor: Floor):
    bad = floor.put("a.parquet", b"torn"), floor.put("b.parquet", toy(("b", 1, 1.0, 1), other=pa.int32()))
    with killed_at(delta, "append"):
        floor.promote(*bad)
    assert [(name, kind) for name, kind, *_ in drift(floor)] == [("other", "added")]
    mended = floor.put("a.parquet", toy(("a", 1, 1.0, 1), extra=pa.int32()))
    floor.promote(mended, bad[1])
    assert [(name, kind) for name, kind, *_ in drift(floor)] == [("extra", "added"), ("other", "added")]
    assert len(floor.silver) == 2


def test_promote__what_later_files_bring_for_a_new_column_must_fit_it(floor: Floor):
    files = [
        floor.put("a.parquet", toy(("a", 1, 1.0, 7), extra=pa.int32())),
        floor.put("b.parquet", toy(("a", 2, 1.0, 8), extra=pa.int64())),
        floor.put("c.parquet", toy(("a", 3, 1.0, "x"), ("a", 4, 1.0, "9"), extra=pa.string())),
    ]
    assert counts(floor.promote(*files)) == (4, 3, 0, 1)
    assert [row["extra"] for row in floor.silver] == [7, 8, 9]
    assert floor.refused == [("c.parquet", 0, ["wrong_type extra: no int"])]


def test_promote__text_where_silver_has_a_list(floor: Floor):
    files = [
        floor.put("a.parquet", {"id": ["a"], "n": [1], "tags": [["x"]]}),
        floor.put("b.parquet", {"id": ["a", "a"], "n": [2, 3], "tags": ["x", None]}),
    ]
    assert counts(floor.promote(*files)) == (3, 2, 0, 1)
    assert floor.refused == [("b.parquet", 0, ["wrong_type tags: no array<string>"])]


def test_promote__types_that_differ(floor: Floor):
    files = [
        floor.put("a.parquet", {"ID": ["a"], "n": pa.array([1], pa.int8()), "value": [1.5]}),
        floor.put("b.parquet", {"identifier": ["a"], "n": pa.array([2**40, 2], pa.int64())[1:], "value": ["2.5"]}),
        floor.put("c.parquet", {"id": ["a", "a"], "n": [2**40, 3], "value": ["n/a", " 3.5 "]}),
        floor.put("d.parquet", {"id": ["a"], "n": [4], "value": [{"x": 1}]}),
        floor.put("e.parquet", {"id": ["a"], "n": [5], "value": pa.nulls(1)}),
        floor.put("f.parquet", {"id": ["a"], "n": [6.5]}),
    ]
    assert counts(floor.promote(*files)) == (7, 4, 0, 3)
    assert floor.values == [("a", 1, 1.5), ("a", 2, 2.5), ("a", 3, 3.5), ("a", 5, None)]
    assert floor.refused == [
        ("c.parquet", 0, ["wrong_type n: no int", "wrong_type value: no float"]),
        ("d.parquet", 0, ["wrong_type value: no float"]),
        ("f.parquet", 0, ["wrong_type n: no int"]),
    ]
    assert ("id", "renamed", "id", "identifier", "b.parquet") in drift(floor)
    assert ("value", "retyped", "float", "struct<x:bigint>", "d.parquet") in drift(floor)


def test_promote__columns_of_any_kind_and_name(floor: Floor):
    """What silver can hold it takes; the rest is refused by file. Nothing stops the batch."""
    taken: dict[str, Any] = {
        "temp (°C)": [1.5],
        "a.b": [1],
        "tick`s": [2],
        "quote\"s' %#/\\": [3],
        "nested": [{"a": {"b": [1, None]}}],
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int32())),
        "bytes": [b"\x00\xff"],
        "unsigned": pa.array([2**64 - 1], pa.uint64()),
        "naive": pa.array([1], pa.timestamp("us")),
        "nanos": pa.array([1_001], pa.timestamp("ns", "UTC")),
        "decimal": pa.array([1], pa.decimal128(38, 2)),
        "category": pa.array(["x"]).dictionary_encode(),
        "void": pa.nulls(1),
        "_id": ["mongo"],
        "*": [3],
    }
    refused: dict[str, Any] = {
        "time": pa.array([1], pa.time64("us")),
        "duration": pa.array([1], pa.duration("us")),
        "voids": [[]],
        "inner": pa.array([[1]], pa.list_(pa.timestamp("ns"))),
        "AX": [1],
        "_source_row": [1],
        " event_time": [1],
        " entity": ["a"],
        "_Metadata": [1],
        "\u0131d": ["dotless, and id to Java"],
        "within": [{"a b": 1}],
    }
    base = {"id": ["a"], "value": [1.0], "ax": [1]}
    files = [floor.put("taken.parquet", {**base, "n": [0], **taken})]
    files += [floor.put(f"{name}.parquet", {**base, "n": [9], name: content}) for name, content in refused.items()]
    entry = floor.promote(*files)
    assert counts(entry) == (1, 1, 0, 0)
    assert {name for name, _, _ in floor.refused} == {f"{name}.parquet" for name in refused}
    (row,) = floor.silver
    assert row["temp__°C_"] == 1.5
    assert (row["a_b"], row["tick_s"], row["_"]) == (1, 2, 3)
    assert (row["unsigned"], row["bytes"]) == (2**64 - 1, b"\x00\xff")
    assert row["nested"] == {"a": {"b": [1, None]}}
    assert row["naive"] == row["nanos"] == datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert "void" not in row
    again = floor.put("again.parquet", {**base, "n": [0], **taken})
    assert counts(floor.promote(again, number=1)) == (1, 0, 1, 0)


def test_promote__what_is_told_of_a_row_and_a_file_is_bounded(floor: Floor):
    names = [f"c{number}" for number in range(150)]
    files = [
        floor.put("a.parquet", {"id": ["a"], "n": [1], **{name: [1] for name in names}}),
        floor.put("b.parquet", {"id": ["a"], "n": [2], **{name: ["x"] for name in names}}),
        floor.put("c.parquet", {"id": ["a"], "n": [3], "c" * 255: [1]}),
        floor.put("d.parquet", {"id": ["a"], "n": [4], "d" * 256: [1]}),
        floor.put("e.parquet", {"id": ["a"], "n": [5], "e": [{f"within{number}": 1 for number in range(200)}]}),
    ]
    assert counts(floor.promote(*files)) == (4, 3, 0, 1)
    (_, _, reasons), refusal = floor.refused
    assert reasons == [f"wrong_type c{number}: no bigint" for number in range(100)] + [
        "more_reasons row: more than 100"
    ]
    assert refusal[::2] == (
        "d.parquet",
        ["unreadable_file file: a column's name has 256 characters; at most 255 are taken in"],
    )
    assert {len(kind) for name, _, _, kind, _ in drift(floor) if name == "e"} == {1000}


def test_promote__a_column_beside_its_alias(floor: Floor):
    floor.promote(floor.put("a.parquet", {"id": ["a"], "identifier": ["b"], "n": [1]}))
    floor.promote(floor.put("b.parquet", {"identifier": ["b"], "n": [2]}), number=1)
    assert [row["id"] for row in floor.silver] == ["a", "b"]


# --- the datasets ---------------------------------------------------------------------------------------------


def test_accelerometer__nanoseconds_from_pandas_are_the_same_instants(lake: Context):
    floor = Floor(lake, DATASETS["accelerometer"], lake.settings.datasets["accelerometer"])
    nanos = [1_767_225_600_000_000_000 + 10_000_000 * k for k in range(400)]
    axes = {axis: pa.array([1.0] * 400, pa.float32()) for axis in ("ax", "ay", "az")}
    name = "year=2026/sensor_id=s%3D1/{}.parquet"
    micros = pa.array([n // 1000 for n in nanos], pa.timestamp("us", "UTC"))
    floor.promote(floor.put(name.format("ns"), {"event_time": pa.array(nanos, pa.timestamp("ns", "UTC")), **axes}))
    entry = floor.promote(floor.put(name.format("us"), {"event_time": micros, **axes}), number=1)
    assert counts(entry) == (400, 0, 400, 0)
    assert {row["sensor_id"] for row in floor.silver} == {"s=1"}
    assert [row["event_time"] for row in floor.silver] == micros.to_pylist()


def test_accelerometer__instants_as_hive_and_spark_write_them(lake: Context):
    floor = Floor(lake, DATASETS["accelerometer"], lake.settings.datasets["accelerometer"])
    instants = [1_767_225_600_000_000, 1_767_225_600_000_001, -62_135_596_800_000_000, -3_000_000_000_000_000]
    axes = {axis: pa.array([1.0] * 4, pa.float32()) for axis in ("ax", "ay", "az")}
    rows = pa.table({"sensor_id": ["s"] * 4, "event_time": pa.array(instants, pa.timestamp("us", "UTC")), **axes})
    old = io.BytesIO()
    pq.write_table(rows, old, use_deprecated_int96_timestamps=True)
    entry = floor.promote(floor.put("a.parquet", old.getvalue()))
    assert counts(entry) == (4, 2, 0, 2)
    assert [row["event_time"] for row in floor.silver] == rows["event_time"].to_pylist()[:2]
    assert {reasons[0].split()[0] for _, _, reasons in floor.refused} == {"out_of_range"}
    assert counts(floor.promote(floor.put("b.parquet", rows), number=1)) == (4, 0, 2, 2)
    assert counts(floor.promote(floor.put("c.parquet", old.getvalue()), number=2)) == (4, 0, 2, 2)


def test_accelerometer__instants_beyond_any_calendar_are_refused_row_by_row(lake: Context):
    floor = Floor(lake, DATASETS["accelerometer"], lake.settings.datasets["accelerometer"])
    when = pa.array([1_767_225_600_000_000, 2**62, -(2**62)], pa.timestamp("us", "UTC"))
    axes = {axis: pa.array([1.0] * 3, pa.float32()) for axis in ("ax", "ay", "az")}
    entry = floor.promote(floor.put("a.parquet", {"sensor_id": ["s"] * 3, "event_time": when, **axes}))
    assert counts(entry) == (3, 1, 0, 2)
    assert [reasons[0].split()[0] for _, _, reasons in floor.refused] == ["out_of_range", "out_of_range"]


def test_silver__is_read_by_duckdb_and_deltalake(floor: Floor):
    floor.promote(floor.put("a.parquet", toy(("a", 1, 1.0), ("b", 2, NAN))))
    uri = f"{floor.context.lake.uri}/silver/toy"
    silver = DeltaTable(uri).to_pyarrow_dataset()
    assert duckdb.sql("SELECT id, n, value FROM silver").fetchall() == [("a", 1, 1.0)]
    assert DeltaTable(uri).protocol().reader_features in (None, [])
    assert [f.name for f in DeltaTable(uri).schema().fields] == ["id", "n", "value"]

"""The way back from quarantine: what passes by now moves to silver once, the rest stays, and the books balance."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import replay
from jobs.lake import delta, intents, judging, ledger, quality, quarantine
from jobs.lake.cli import Context
from jobs.lake.errors import DataError, UsageError
from jobs.lake.ledger import Entry
from jobs.lake.replaying import Replay, Selection
from jobs.lake.tables import Dataset
from tests.lake.conftest import LIMITED, TOY, Floor, Limit, counts, killed_at

NAN = float("nan")


def strict(limit: float) -> Dataset:
    return replace(TOY, rules=lambda _: [quality.finite("value"), quality.in_range("value", -limit, limit)])


def rows(*values: float, first: int = 0) -> pa.Table:
    numbers = pa.array(range(first, first + len(values)), pa.int32())
    return pa.table({"id": ["a"] * len(values), "n": numbers, "value": pa.array(values, pa.float32())})


def again(floor: Floor, dataset: Dataset = TOY, selection: Selection | None = None) -> Replay:
    context = floor.context
    return Replay(
        context.spark, context.lake, dataset, floor.thresholds, context.settings.silver, context.run_id,
        selection or Selection(),
    )  # fmt: skip


def life(floor: Floor) -> tuple[int, int]:
    """Rows that promotions read, and rows accounted for: in silver, as duplicates, in quarantine now."""
    books = floor.rows("ops/ledger")
    read = sum(entry["rows_read"] for entry in books if entry["stage"] == "silver")
    duplicates = sum(entry["rows_duplicate"] for entry in books)
    held = len(floor.silver) + duplicates + sum(row["row"] is not None for row in floor.quarantine)
    return read, held


def summed(entries: Sequence[Entry]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*(counts(entry) for entry in entries), strict=True)))


def test_replay__a_thousand_rows_move_once(floor: Floor):
    floor.promote(floor.put("a.parquet", rows(*range(2_000))), dataset=strict(999))
    assert (len(floor.silver), len(floor.quarantine)) == (1_000, 1_000)
    relaxed = strict(5_000)
    plan = again(floor, relaxed).plan()
    assert plan == {"tried": 1_000, "pass": 1_000, "duplicates": 0, "stay": 0, "files_stay": 0}
    assert (len(floor.silver), len(floor.quarantine)) == (1_000, 1_000)
    assert summed([*again(floor, relaxed).replay()]) == (1_000, 1_000, 0, 0)
    assert floor.values == [("a", n, float(n)) for n in range(2_000)]
    assert floor.quarantine == []
    assert [*again(floor, relaxed).replay()] == []
    assert len(floor.silver) == 2_000
    assert life(floor) == (2_000, 2_000)


def test_replay__what_stays_has_the_reasons_of_today_and_one_more_attempt(floor: Floor):
    file = floor.put("a.parquet", rows(1.0, 50.0, NAN, 300.0))
    floor.promote(file, dataset=strict(10))
    (entry,) = again(floor, strict(100)).replay()
    assert counts(entry) == (3, 1, 0, 2)
    assert [(r["source_row"], r["reasons"], r["attempts"]) for r in floor.quarantine] == [
        (2, ["not_finite value: NaN or infinite"], 2),
        (3, ["out_of_range value: not within -100 to 100"], 2),
    ]
    assert floor.values == [("a", 0, 1.0), ("a", 1, 50.0)]
    assert life(floor) == (4, 4)


def test_replay__only_what_is_selected_is_tried(floor: Floor):
    floor.promote(floor.put("a.parquet", rows(NAN, 300.0)), dataset=strict(10))
    later = Selection(since=datetime.now(UTC) + timedelta(hours=1))
    assert [*again(floor, strict(999), later).replay()] == []
    (entry,) = again(floor, strict(999), Selection(reason="out_of_range")).replay()
    assert counts(entry) == (1, 1, 0, 0)
    assert [(r["source_row"], r["attempts"]) for r in floor.quarantine] == [(0, 1)]
    earlier = Selection("not_finite", datetime.now(UTC) - timedelta(hours=1))
    (entry,) = again(floor, strict(999), earlier).replay()
    assert counts(entry) == (1, 0, 0, 1)


def test_replay__a_row_that_silver_has_by_now_is_a_duplicate_or_a_conflict(floor: Floor):
    floor.promote(floor.put("a.parquet", rows(50.0, 60.0)), dataset=strict(10))
    floor.promote(floor.put("b.parquet", rows(50.0, 61.0)), dataset=strict(100), number=1)
    (entry,) = again(floor, strict(100)).replay()
    assert counts(entry) == (2, 0, 1, 1)
    assert [(r["source_file"], r["source_row"], r["attempts"]) for r in floor.quarantine] == [
        ("bronze/toy/a.parquet", 1, 2)
    ]
    assert floor.quarantine[0]["reasons"][0].startswith("conflicting_duplicate")
    assert floor.values == [("a", 0, 50.0), ("a", 1, 61.0)]


def test_replay__a_file_that_can_be_read_by_now(floor: Floor):
    torn = floor.put("a.parquet", b"PAR1 torn")
    gone = floor.put("b.parquet", b"PAR1 torn")
    floor.promote(torn, gone)
    assert [r["row"] for r in floor.quarantine] == [None, None]
    pq.write_table(rows(1.0, 2.0, NAN), torn.path)
    Path(gone.path).unlink()
    assert again(floor).plan() == {"tried": 3, "pass": 2, "duplicates": 0, "stay": 1, "files_stay": 1}
    (entry,) = again(floor).replay()
    assert counts(entry) == (3, 2, 0, 1)
    assert (entry.files, entry.files_quarantined) == (2, 1)
    assert [(r["source_file"], r["source_row"], r["reasons"], r["attempts"]) for r in floor.quarantine] == [
        ("bronze/toy/a.parquet", 2, ["not_finite value: NaN or infinite"], 1),
        ("bronze/toy/b.parquet", None, ["unreadable_file file: the file is gone"], 2),
    ]


@pytest.mark.parametrize("stage", ["record", "settle"])
def test_replay__killed_in_between_and_run_again(floor: Floor, stage: str):
    floor.promote(floor.put("a.parquet", rows(50.0, 60.0, NAN)), dataset=strict(10))

    with killed_at(ledger if stage == "record" else quarantine, stage):
        [*again(floor, strict(100)).replay()]
    assert len(floor.silver) == 2
    (entry,) = again(floor, strict(100)).replay()
    assert counts(entry) == (3, 2, 0, 1)
    assert floor.values == [("a", 0, 50.0), ("a", 1, 60.0)]
    assert [(r["source_row"], r["attempts"]) for r in floor.quarantine] == [(2, 2)]
    assert sum(e["rows_written"] for e in floor.rows("ops/ledger") if e["stage"] == "replay") == 2
    assert life(floor) == (3, 3)


@pytest.mark.parametrize("place", ["record", "settle"])
def test_replay__what_was_begun_is_finished_as_it_was_begun(lake: Context, place: str):
    floor = Floor(lake, LIMITED, Limit(limit=10))
    bounds = lake.settings.silver.model_copy(update={"max_files_per_batch": 2})
    floor.promote(floor.put("a.parquet", rows(50.0, 60.0, NAN)), floor.put("b.parquet", b"torn"))
    floor.promote(floor.put("c.parquet", rows(70.0, 500.0, first=7)), number=1)
    relaxed = replace(again(floor, LIMITED), thresholds=Limit(limit=100), bounds=bounds)
    with killed_at(*{"record": (ledger, "record"), "settle": (quarantine, "settle")}[place]):
        [*relaxed.replay()]
    assert floor.values == [("a", 0, 50.0), ("a", 1, 60.0)]
    # Much has changed when the next one comes: a file is whole, quarantine has moved on, settings are others.
    path = Path(lake.lake.bronze("toy")) / "b.parquet"
    pq.write_table(rows(1.0, 2.0, first=20), path)
    floor.promote(floor.put("d.parquet", rows(NAN, first=30)), number=2)
    wider = replace(relaxed, thresholds=Limit(limit=1000), bounds=lake.settings.silver)
    entries = [*wider.replay()]
    assert [counts(entry) for entry in entries] == [(3, 2, 0, 1), (6, 4, 0, 2)]
    assert [entry.files_quarantined for entry in entries] == [1, 0]
    assert [n for _, n, _ in floor.values] == [0, 1, 7, 8, 20, 21]
    assert [(r["source_file"].rpartition("/")[2], r["source_row"], r["attempts"]) for r in floor.quarantine] == [
        ("a.parquet", 2, 3),
        ("d.parquet", 0, 2),
    ]
    read, held = life(floor)
    assert (read, held) == (6, 8)  # the two rows of the file that was torn were read by replay only
    assert sum(e["rows_written"] for e in floor.rows("ops/ledger") if e["stage"] == "replay") == 6


@pytest.mark.parametrize("place", ["record", "settle"])
def test_replay__that_cannot_be_repeated_is_refused_and_the_way_on_loses_nothing(floor: Floor, place: str):
    floor.promote(floor.put("a.parquet", rows(50.0, 60.0, NAN)), dataset=strict(10))
    with killed_at(*{"record": (ledger, "record"), "settle": (quarantine, "settle")}[place]):
        [*again(floor, strict(100)).replay()]
    with pytest.raises(DataError, match="replay/toy/0 has written 2 rows to silver/toy, and comes to 1 now") as told:
        [*again(floor, strict(55)).replay()]
    typed, _, then = (told.value.remedy or "").partition(", then the same command: ")
    assert then == "what is written counts as duplicates"
    command = shlex.split(typed)
    assert command[0] == "rm"
    Path(command[-1]).unlink()
    with killed_at(intents, "write"):  # and once more, when what was left is booked
        [*again(floor, strict(55)).replay()]
    assert life(floor) == (3, 3)
    # By these rules a row stays that silver has by now.
    assert [counts(entry) for entry in again(floor, strict(55)).replay()] == [(3, 0, 1, 2)]
    assert life(floor) == (3, 3)
    assert [counts(entry) for entry in again(floor, strict(100)).replay()] == [(2, 0, 1, 1)]
    assert floor.values == [("a", 0, 50.0), ("a", 1, 60.0)]
    assert [(r["source_row"], r["attempts"]) for r in floor.quarantine] == [(2, 3)]
    assert life(floor) == (3, 3)
    booked = [entry for entry in floor.rows("ops/ledger") if entry["stage"] == "replay"]
    assert [sum(e[f"rows_{k}"] for e in booked) for k in ("written", "duplicate")] == [2, 0]


def test_replay__that_was_left_so_long_ago_that_the_log_forgot_it_goes_on(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
):
    floor.promote(floor.put("a.parquet", rows(50.0, NAN)), dataset=strict(10))
    with killed_at(ledger, "record"):
        [*again(floor, strict(100)).replay()]
    Path(floor.context.lake.intent("replay", "toy")).unlink()
    monkeypatch.setattr(delta, "commit_of", lambda *_: None)
    assert [counts(entry) for entry in again(floor, strict(100)).replay()] == [(0, 0, 0, 0), (2, 0, 1, 1)]


def test_replay__a_file_that_only_spark_cannot_read_stays_and_stops_nothing(floor: Floor):
    """The name that only Hadoop cannot read."""
    odd, good = floor.put("2026-01-01T00:00.parquet", rows(1.0)), floor.put("b.parquet", rows(50.0, first=1))
    floor.promote(odd, good, dataset=strict(10))
    plan = again(floor, strict(100)).plan()
    assert plan == {"tried": 1, "pass": 1, "duplicates": 0, "stay": 0, "files_stay": 1}
    (entry,) = again(floor, strict(100)).replay()
    assert (counts(entry), entry.files, entry.files_quarantined) == ((1, 1, 0, 0), 2, 1)
    assert floor.values == [("a", 1, 50.0)]
    why = ["unreadable_file file: Spark cannot read the file"]
    assert [(r["source_file"], r["reasons"], r["attempts"]) for r in floor.quarantine] == [
        ("bronze/toy/2026-01-01T00:00.parquet", why, 2)
    ]


@pytest.mark.parametrize("how", ["torn", "gone"])
def test_replay__a_file_that_cannot_be_read_for_a_while_is_not_brought_in_again(floor: Floor, how: str):
    file = floor.put("a.parquet", rows(1.0, 50.0, NAN))
    floor.promote(file, dataset=strict(10))
    whole = Path(file.path).read_bytes()
    Path(file.path).write_bytes(b"PAR1 torn") if how == "torn" else Path(file.path).unlink()
    (entry,) = again(floor, strict(100)).replay()
    assert (counts(entry), entry.files_quarantined) == ((0, 0, 0, 0), 1)
    assert [(r["source_row"], r["attempts"]) for r in floor.quarantine] == [(1, 1), (2, 1)]
    Path(file.path).write_bytes(whole)
    assert [counts(entry) for entry in again(floor, strict(100)).replay()] == [(2, 1, 0, 1)]
    assert floor.values == [("a", 0, 1.0), ("a", 1, 50.0)]
    assert life(floor) == (3, 3)


def test_replay__is_finished_in_the_order_in_which_files_had_arrived(floor: Floor):
    first, second = floor.put("a.parquet", rows(50.0)), floor.put("b.parquet", rows(60.0))
    floor.promote(first, second, dataset=strict(10))
    with killed_at(ledger, "record"):
        [*again(floor, strict(100)).replay()]
    floor.put("a.parquet", rows(50.0))  # the same again, later
    assert [counts(entry) for entry in again(floor, strict(100)).replay()] == [(2, 1, 0, 1)]
    assert floor.values == [("a", 0, 50.0)]
    assert [r["source_file"] for r in floor.quarantine] == ["bronze/toy/b.parquet"]


def test_replay__whose_files_are_gone_when_it_is_finished_is_refused(floor: Floor):
    file = floor.put("a.parquet", rows(50.0))
    floor.promote(file, dataset=strict(10))
    with killed_at(ledger, "record"):
        [*again(floor, strict(100)).replay()]
    Path(file.path).unlink()
    with pytest.raises(DataError, match=r"a\.parquet cannot be read now, and replay/toy/0 was begun with it"):
        [*again(floor, strict(100)).replay()]


def test_since__is_an_instant():
    assert replay._instant("2026-01-31") == datetime(2026, 1, 31, tzinfo=UTC)
    assert replay._instant("2026-01-31T01:00:00+01:00") == datetime(2026, 1, 31, tzinfo=UTC)
    with pytest.raises(UsageError, match="--since soon"):
        replay._instant("soon")


def test_replay__a_file_that_brings_silver_too_many_columns_stays(floor: Floor, monkeypatch: pytest.MonkeyPatch):
    floor.promote(floor.put("a.parquet", rows(1.0)))
    monkeypatch.setattr(judging, "MAX_COLUMNS", 3)
    floor.promote(floor.put("b.parquet", rows(2.0, first=1).append_column("extra", pa.array([1]))), number=1)
    (entry,) = again(floor).replay()
    assert (counts(entry), entry.files_quarantined, len(floor.silver)) == ((0, 0, 0, 0), 1, 1)
    monkeypatch.undo()
    (entry,) = again(floor).replay()
    assert (counts(entry), entry.files_quarantined, len(floor.quarantine)) == ((1, 1, 0, 0), 0, 0)

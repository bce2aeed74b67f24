"""The way back from quarantine: what passes by now moves to silver once, the rest stays, and the books balance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import replay
from jobs.lake import judging, quality, quarantine
from jobs.lake.errors import UsageError
from jobs.lake.ledger import Entry
from jobs.lake.replaying import Replay, Selection
from jobs.lake.tables import Dataset
from tests.lake.conftest import TOY, Floor, counts

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
def test_replay__killed_in_between_and_run_again(floor: Floor, monkeypatch: pytest.MonkeyPatch, stage: str):
    floor.promote(floor.put("a.parquet", rows(50.0, 60.0, NAN)), dataset=strict(10))

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    from jobs.lake import ledger

    with monkeypatch.context() as patched:
        patched.setattr(ledger if stage == "record" else quarantine, stage, killed)
        with pytest.raises(KeyboardInterrupt):
            [*again(floor, strict(100)).replay()]
    assert len(floor.silver) == 2
    (entry,) = again(floor, strict(100)).replay()
    assert counts(entry) == (3, 2, 0, 1)
    assert floor.values == [("a", 0, 50.0), ("a", 1, 60.0)]
    assert [(r["source_row"], r["attempts"]) for r in floor.quarantine] == [(2, 2)]
    assert sum(e["rows_written"] for e in floor.rows("ops/ledger") if e["stage"] == "replay") == 2
    assert life(floor) == (3, 3)


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

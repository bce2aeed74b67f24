"""The books: they balance or say by how much they do not, and are summed for the closing table."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest

from jobs.lake import ledger
from jobs.lake.errors import BooksError
from jobs.lake.ledger import Entry

START = datetime(2026, 1, 1, tzinfo=UTC)
ENTRY = Entry("run", "silver", "turbofan", "silver/turbofan/q/0", START, 1.5, files=2, rows_read=10, rows_written=10)


def test_check__balanced() -> None:
    spread = replace(ENTRY, rows_written=5, rows_duplicate=3, rows_quarantined=2)
    assert spread.check() is spread
    assert ENTRY.check() is ENTRY


@pytest.mark.parametrize("written", [9, 11])
def test_check__a_row_lost_or_won_is_an_error(written: int) -> None:
    with pytest.raises(BooksError) as refused:
        replace(ENTRY, rows_written=written).check()
    assert f"10 rows read, {written} accounted for" in refused.value.what
    assert "silver/turbofan/q/0" in refused.value.why
    assert (refused.value.code, refused.value.exit_code) == ("LH102", 1)


def test_totals__a_row_per_stage_and_dataset() -> None:
    second = replace(
        ENTRY,
        batch_id="silver/turbofan/q/1",
        rows_read=7,
        rows_written=4,
        rows_duplicate=2,
        rows_quarantined=1,
    )
    other = replace(ENTRY, dataset="accelerometer", files_quarantined=1)
    assert ledger.totals([ENTRY, other, second]) == [
        {
            "stage": "silver",
            "dataset": "turbofan",
            "seconds": 3.0,
            "files": 4,
            "files_quarantined": 0,
            "rows_read": 17,
            "rows_written": 14,
            "rows_duplicate": 2,
            "rows_quarantined": 1,
            "rows_expired": 0,
            "outcome": "done",
        },
        {
            "stage": "silver",
            "dataset": "accelerometer",
            "seconds": 1.5,
            "files": 2,
            "files_quarantined": 1,
            "rows_read": 10,
            "rows_written": 10,
            "rows_duplicate": 0,
            "rows_quarantined": 0,
            "rows_expired": 0,
            "outcome": "done",
        },
    ]


def test_totals__of_nothing() -> None:
    assert ledger.totals([]) == []


def test_totals__done_and_nothing_new_together_are_done() -> None:
    idle = replace(ENTRY, outcome=ledger.NOTHING_NEW)
    assert [row["outcome"] for row in ledger.totals([ENTRY, idle])] == ["done"]
    assert [row["outcome"] for row in ledger.totals([idle, ENTRY])] == ["done"]


def test_schema__every_field_of_an_entry_is_a_column() -> None:
    assert {f.name for f in ledger.SCHEMA} == {f.name for f in fields(Entry)}


def test_versions() -> None:
    assert ENTRY.versions.startswith("suite 0.1.0, spark 4.")

"""Ingest: source files to bronze once, what is no row to quarantine, what is no such file refused by name."""

from __future__ import annotations

import gzip
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyspark.sql import types as T

from jobs.catalog import DATASETS
from jobs.datasets import telemetry
from jobs.ingest import ingest
from jobs.lake import ledger
from jobs.lake.cli import Context
from jobs.lake.errors import FileRefusedError, UsageError
from jobs.lake.ledger import Entry
from jobs.lake.tables import Dataset, Ingest, column
from tests.lake.conftest import killed_at

READINGS = " ".join(["0.0023", "-0.0003", "100.0", *(f"{n}.5" for n in range(1, 22))])


def lines(*flights: tuple[int, int]) -> str:
    return "".join(f"{unit} {cycle} {READINGS}  \n" for unit, cycle in flights)


def run(context: Context, *files: Path | str) -> list[Entry]:
    return ingest(context, DATASETS["turbofan"], [str(f) for f in files])


def bronze(context: Context) -> list[tuple[object, ...]]:
    """(subset, split, unit_number, cycle, remaining_useful_life) of every row."""
    folder = context.lake.bronze("turbofan")
    table = pads.dataset(folder, partitioning="hive").to_table()
    names = ("subset", "split", "unit_number", "cycle", "remaining_useful_life")
    return sorted(zip(*(table[name].to_pylist() for name in names), strict=True), key=str)


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train_FD001.txt"
    path.write_text(lines((1, 1), (1, 2), (2, 1)))
    return path


def test_ingest__rows_with_the_life_that_remains(lake: Context, train: Path):
    (entry,) = run(lake, train)
    assert (entry.stage, entry.rows_read, entry.rows_written, entry.files) == ("ingest", 3, 3, 1)
    assert entry.bytes_read == train.stat().st_size
    assert bronze(lake) == [("FD001", "train", 1, 1, 1), ("FD001", "train", 1, 2, 0), ("FD001", "train", 2, 1, 0)]


def test_ingest__again_is_nothing_new_and_a_changed_file_is(lake: Context, train: Path):
    run(lake, train)
    files = sorted(Path(lake.lake.uri).rglob("*.parquet"))
    (again,) = run(lake, train)
    assert again.outcome == "nothing new"
    assert sorted(Path(lake.lake.uri).rglob("*.parquet")) == files
    train.write_text(lines((1, 1), (1, 2), (2, 1), (2, 2)))
    (changed,) = run(lake, train)
    assert (changed.outcome, changed.rows_written) == ("done", 4)
    assert len(bronze(lake)) == 7


def test_ingest__the_same_rows_packed_are_another_file(lake: Context, train: Path, tmp_path: Path):
    packed = tmp_path / "packed" / "train_FD001.txt.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(train.read_bytes()))
    (entry,) = run(lake, packed)
    assert entry.rows_written == 3
    assert len(bronze(lake)) == 3


def test_ingest__lines_that_are_no_rows(lake: Context, tmp_path: Path):
    path = tmp_path / "train_FD002.txt"
    path.write_text(lines((1, 1)) + "1 2 too few\n\n" + lines((1, 3)) + lines((1, 4)).replace("100.0", "n/a"))
    (entry,) = run(lake, path)
    assert (entry.rows_read, entry.rows_written, entry.rows_quarantined) == (4, 2, 2)
    found = DeltaTable(lake.lake.quarantine("turbofan")).to_pyarrow_table().to_pylist()
    told = sorted((row["source_row"], row["source_file"], row["reasons"][0].split(":")[0]) for row in found)
    assert told == [
        (2, "train_FD002.txt", "unparsable_line line"),
        (5, "train_FD002.txt", "unparsable_line setting_3"),
    ]
    assert '{"line": "1 2 too few"}' in [row["row"] for row in found]
    run(lake, path)
    assert len(DeltaTable(lake.lake.quarantine("turbofan")).to_pyarrow_table()) == 2


def test_ingest__more_refused_lines_than_are_kept_at_once(
    lake: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from jobs import ingest

    path = tmp_path / "train_FD002.txt"
    path.write_text(lines(*((1, cycle) for cycle in range(1, 21))) + "".join(f"{n} is no row\n" for n in range(7)))
    monkeypatch.setattr(ingest, "_REFUSED_AT_ONCE", 3)
    with killed_at(ledger, "record"):
        run(lake, path)
    (entry,) = run(lake, path)
    assert (entry.rows_read, entry.rows_written, entry.rows_quarantined) == (27, 20, 7)
    found = DeltaTable(lake.lake.quarantine("turbofan")).to_pyarrow_table()["source_row"].to_pylist()
    assert sorted(found) == [*range(21, 28)]


def test_ingest__lines_of_a_run_that_was_killed_are_booked_when_their_file_was_mended(lake: Context, tmp_path: Path):
    good, path = lines((1, 1), (1, 2)), tmp_path / "train_FD001.txt"
    path.write_text(good + "no row\nnor this\n")
    with killed_at(ledger, "record"):
        run(lake, path)
    path.write_text(good)
    left, mended = run(lake, path)
    assert (left.rows_read, left.rows_written, left.rows_quarantined) == (2, 0, 2)
    assert (mended.rows_read, mended.rows_written, mended.rows_quarantined) == (2, 2, 0)
    assert [entry.outcome for entry in run(lake, path)] == ["nothing new"]
    # As it was before: its rows come into bronze now, and its lines were booked.
    path.write_text(good + "no row\nnor this\n")
    assert [(e.rows_read, e.rows_written, e.rows_quarantined) for e in run(lake, path)] == [(2, 2, 0)]
    assert len(DeltaTable(lake.lake.quarantine("turbofan")).to_pyarrow_table()) == 2


def test_ingest__the_true_life_of_a_test_file_is_found_beside_it(lake: Context, tmp_path: Path):
    test = tmp_path / "test_FD003.txt"
    test.write_text(lines((1, 1), (1, 2), (2, 1)))
    (tmp_path / "RUL_FD003.txt.gz").write_bytes(gzip.compress(b"10\n20\n"))
    entries = run(lake, tmp_path / "RUL_FD003.txt.gz", test)
    assert len(entries) == 1
    assert [row[2:] for row in bronze(lake)] == [(1, 1, 11), (1, 2, 10), (2, 1, 20)]


def test_ingest__a_test_file_without_its_true_life_says_so(
    lake: Context, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    test = tmp_path / "test_FD003.txt"
    test.write_text(lines((1, 1)))
    lake.console.__post_init__()
    run(lake, test)
    assert "no RUL_FD003.txt" in capsys.readouterr().err
    assert [row[2:] for row in bronze(lake)] == [(1, 1, None)]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("train_FD001.txt.gz", b"1 1 this is not packed", "train_FD001.txt.gz is refused whole"),
        ("train_FD001.txt.gz", gzip.compress(lines((1, 1)).encode())[:-12], "train_FD001.txt.gz is refused whole"),
        ("train_FD001.txt", b"\x89PNG\r\n\x1a\n" * 9, "train_FD001.txt is not what its name says"),
        ("train_FD001.txt", b"", "train_FD001.txt is not what its name says"),
        ("flights.csv", b"1,1", "flights.csv is not the name"),
        ("test_FD001.txt", lines((1, 1), (3, 1)).encode(), "test_FD001.txt is not what its name says"),
    ],
)
def test_ingest__refused_by_name(lake: Context, tmp_path: Path, name: str, content: bytes, what: str):
    path = tmp_path / name
    path.write_bytes(content)
    (tmp_path / "RUL_FD001.txt").write_text("10\n")
    with pytest.raises(FileRefusedError) as refused:
        run(lake, path)
    assert refused.value.what.startswith(what)
    written = [path.relative_to(lake.lake.uri) for path in Path(lake.lake.uri).rglob("*") if path.is_file()]
    assert {path.parts[:2] for path in written} <= {("ops", "leases")}


@pytest.mark.parametrize("name", ["train_FD001.txt", "RUL_FD001.txt"])
def test_ingest__a_file_that_is_not_there(lake: Context, tmp_path: Path, name: str):
    with pytest.raises(UsageError, match=f"there is no file .*{name}"):
        run(lake, tmp_path / name)


def test_ingest__a_folder_is_no_file(lake: Context, tmp_path: Path):
    (tmp_path / "train_FD001.txt").mkdir()
    with pytest.raises(UsageError, match="it is a folder"):
        run(lake, tmp_path / "train_FD001.txt")


MESSAGES = Dataset(
    name="messages",
    schema=T.StructType([column("device_id", T.StringType(), "The sender", nullable=False)]),
    key=("device_id",),
    entity="device_id",
    rules=lambda settings: [],
    ingest=Ingest(
        partition_by=telemetry.PARTITION_BY,
        companions=lambda name: (),
        is_companion=telemetry.is_companion,
        parse=lambda file, _beside: telemetry.parse(file),
    ),
)


def test_ingest__messages_of_any_form_arrived_when_their_file_was_written(lake: Context, tmp_path: Path):
    row = {"device_id": "d1", "timestamp": 1_767_225_600}
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode() + b"\n\xff\n"))
    (tmp_path / "b.csv").write_text("device_id,timestamp\nd1,1767225600\n")
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "c.parquet")
    written = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    for path in tmp_path.glob("?.*"):
        os.utime(path, (written.timestamp(), written.timestamp()))
    entries = ingest(lake, MESSAGES, [str(path) for path in sorted(tmp_path.glob("?.*"))])
    assert [(entry.rows_written, entry.rows_quarantined) for entry in entries] == [(1, 1), (1, 0), (1, 0)]
    folder = Path(lake.lake.bronze("messages"))
    assert {path.parent.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")} == {
        "year=2026/month=01/day=02/hour=03"
    }
    found = pads.dataset(folder).to_table().to_pylist()
    assert {row["arrived_at"] for row in found} == {written}
    assert sorted((row["source_file"], json.loads(row["payload"])) for row in found) == [
        ("a.jsonl.gz", row),
        ("b.csv", {"device_id": "d1", "timestamp": "1767225600"}),
        ("c.parquet", row),
    ]


def test_ingest__a_link_has_its_own_name(lake: Context, train: Path):
    """As where large files are kept under the names of their hashes."""
    train.rename(train.with_name("9f3a"))
    train.symlink_to("9f3a")
    (entry,) = run(lake, train)
    assert entry.rows_written == 3


def test_ingest__killed_before_the_books_and_run_again(lake: Context, train: Path):
    with killed_at(ledger, "record"):
        run(lake, train)
    (entry,) = run(lake, train)
    assert entry.outcome == "done"
    assert len(bronze(lake)) == 3

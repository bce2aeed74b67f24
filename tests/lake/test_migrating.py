"""Migration: history in three formats and any folders, loaded once, proved by count and hash, whenever it is killed."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from delta.tables import DeltaTable as SparkTable
from pyspark.sql import SparkSession

from jobs import ingest, migrate
from jobs.catalog import DATASETS
from jobs.lake import cli, delta, ledger
from jobs.lake.cli import Context
from jobs.lake.errors import UsageError
from jobs.lake.layout import Lake
from tests.lake.test_cli import exits

DEVICES = DATASETS["devices"]
Captured = pytest.CaptureFixture[str]
START = datetime(2024, 5, 1, 22, tzinfo=UTC)


def reading(device: str, minute: int, temperature: Any = 20.0) -> dict[str, Any]:
    instant = START + timedelta(minutes=minute)
    return {"device_id": device, "timestamp": int(instant.timestamp()), "temperature": temperature, "humidity": 50.5}


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 V1 readings of three devices from 22:00 to 23:39 and on past midnight; by hand:

    - a: 100 in JSON lines, one of them twice, one half a line, one with a temperature of 300 degC;
    - b: 100 in a gzipped CSV, one without humidity;
    - c: 200 in Parquet, of which the last 80 are of the next day.
    """
    folder = tmp_path_factory.mktemp("migrating") / "history"
    for name in ("2024/may", "old exports", "deep/er/still"):
        (folder / name).mkdir(parents=True)
    lines = [json.dumps(reading("a", n, 300 if n == 7 else 20.0)) for n in range(100)]
    lines += [lines[3], '{"device_id":"a","times']
    (folder / "2024/may/a.jsonl").write_text("\n".join(lines) + "\n")
    with gzip.open(folder / "old exports/b.csv.gz", "wt", newline="") as file:
        rows = csv.DictWriter(file, list(reading("b", 0)))
        rows.writeheader()
        rows.writerows({**reading("b", n), "humidity": "" if n == 9 else 50.5} for n in range(100))
    pq.write_table(
        pa.Table.from_pylist([reading("c", n, 20 + n / 8) for n in range(200)]), folder / "deep/er/still/c.parquet"
    )
    (folder / "old exports/_SUCCESS").write_text("")
    return folder


def content(lake: Context) -> dict[str, list[dict[str, Any]]]:
    """Silver, quarantine and the sums of the books, without what depends on the clock."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path, left_out in (("silver/devices", {"arrived_at"}), ("quarantine/devices", {"quarantined_at", "batch_id"})):
        table = delta.open_table(lake.lake, f"{lake.lake.uri}/{path}")
        rows = table.to_pyarrow_table().to_pylist() if table else []
        found[path] = sorted(({k: v for k, v in row.items() if k not in left_out} for row in rows), key=repr)
    books = delta.open_table(lake.lake, lake.lake.ledger)
    assert books is not None
    sums: dict[str, dict[str, Any]] = {}
    for row in books.to_pyarrow_table().to_pylist():
        total = sums.setdefault(row["stage"], dict.fromkeys(("rows_read", "rows_written", "rows_duplicate"), 0))
        for name in total:
            total[name] += row[name]
    found["books"] = [sums]
    return found


def load(lake: Context, history: Path) -> None:
    files = migrate.source_files(lake.lake, str(history))
    _, refused = migrate.load(lake, DEVICES, files)
    assert refused == {}


@pytest.fixture(scope="module")
def loaded(spark: SparkSession, history: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """A lake with the history, loaded in one go."""
    context = cli.context(str(tmp_path_factory.mktemp("loaded") / "lake"), "testing")
    load(context, history)
    return context


def test_source_files__a_file_that_is_named(tmp_path: Path):
    (tmp_path / "a b.jsonl").write_text("{}")
    assert migrate.source_files(Lake(str(tmp_path)), str(tmp_path / "a b.jsonl")) == [str(tmp_path / "a b.jsonl")]
    assert migrate.source_files(Lake(str(tmp_path)), f"file://{tmp_path}/a%20b.jsonl") == [str(tmp_path / "a b.jsonl")]


def test_migrate__by_day_by_count_and_by_hash(loaded: Context, history: Path):
    found = migrate.prove(loaded, DEVICES, migrate.source_files(loaded.lake, str(history)))
    nothing = {"refused": 0, "duplicates": 0, "missing": 0, "different": 0, "refusals": {}}
    assert found.days == [
        {
            "day": date(2024, 5, 1), "read": 321, "loaded": 318, "missing": 0, "different": 0, "duplicates": 1,
            "refused": 2, "refusals": {"missing": 1, "out_of_range": 1},
        },
        {**nothing, "day": date(2024, 5, 2), "read": 80, "loaded": 80},
        {**nothing, "day": None, "read": 1, "loaded": 0, "refused": 1, "refusals": {"unparsable": 1}},
    ]  # fmt: skip
    assert found.is_complete
    assert found.source_hash == found.lake_hash != 0
    assert found.conflicts == 0
    silver = content(loaded)["silver/devices"]
    assert len(silver) == 398
    assert {row["schema_version"] for row in silver} == {1}


def test_compare__a_lake_that_lacks_a_row_or_has_another_value_is_told(lake: Context, loaded: Context, history: Path):
    shutil.copytree(loaded.lake.uri, lake.lake.uri)
    table = SparkTable.forPath(lake.spark, lake.lake.silver("devices"))
    table.delete("device_id = 'a' AND minute(event_time) = 5")
    table.update("device_id = 'c' AND minute(event_time) = 5 AND hour(event_time) = 22", {"humidity": "51"})
    found = migrate.prove(lake, DEVICES, migrate.source_files(lake.lake, str(history)))
    assert (found.total("missing"), found.total("different"), found.total("loaded")) == (2, 1, 395)
    assert found.source_hash != found.lake_hash
    assert not found.is_complete


class KilledError(Exception):
    """Stands for SIGKILL: nothing in the suite survives it."""


def after(times: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but the run dies before its n-th call."""
    calls = iter(range(times))

    def dies(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) is None:
            raise KilledError
        return function(*args, **kwargs)

    return dies


@pytest.mark.parametrize(
    ("where", "name", "times"),
    [(ledger, "record", 1), (ingest.quarantine, "append", 0), (ledger, "record", 3)],
    ids=["after the second file's bronze", "before quarantine", "after silver"],
)
def test_migrate__killed_and_resumed_is_as_in_one_go(
    lake: Context, loaded: Context, history: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, times: int
):
    with monkeypatch.context() as patched:
        patched.setattr(where, name, after(times, getattr(where, name)))
        with pytest.raises(KilledError):
            load(lake, history)
    load(lake, history)
    assert content(lake) == content(loaded)
    before = content(lake)
    load(lake, history)
    assert content(lake) == before


def test_run__a_foreign_file_is_named_and_the_rest_is_in(
    lake: Context, history: Path, tmp_path: Path, capsys: Captured
):
    folder = shutil.copytree(history, tmp_path / "history")
    (folder / "readme.docx").write_bytes(b"PK")
    argv = ["--lake", lake.lake.uri, "--profile", "testing", "--dataset", "devices", "--from", str(folder)]
    assert exits(migrate.run, *argv, arguments=migrate.arguments) == 1
    printed = capsys.readouterr()
    assert "readme.docx" in printed.out
    assert "not migrated in full" in printed.err
    assert len(content(lake)["silver/devices"]) == 398


def test_source_files__none(lake: Context, tmp_path: Path):
    with pytest.raises(UsageError, match="there are no files"):
        migrate.source_files(lake.lake, str(tmp_path / "nowhere"))

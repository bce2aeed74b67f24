"""What must hold of a lake: nothing is wrong with a sound one, and each damage that is done to it is named."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake

from chaos.checks import broken, fingerprint
from jobs.lake.layout import Lake

ARCHIVE = Path(__file__).parents[1] / "data" / "older_lake" / "lake.tar.gz"
SILVER, QUARANTINE, LEDGER = "silver/accelerometer", "quarantine/accelerometer", "ops/ledger"
FIRST_SECONDS = "event_time < '2026-01-01T01:00:00Z'"  # 1,989 rows of silver


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(folder, filter="data")
    return folder / "older"


@pytest.fixture
def lake(archive: Path, tmp_path: Path) -> Lake:
    """A sound lake, with 2,983 rows in silver and 21 in quarantine; an older version of the suite has made it."""
    return Lake(str(shutil.copytree(archive, tmp_path / "lake")))


def table(lake: Lake, name: str) -> DeltaTable:
    return DeltaTable(f"{lake.uri}/{name}")


def first_file(lake: Lake, folder: str) -> Path:
    return min(Path(lake.uri, folder).glob("**/*.parquet"))


def append(lake: Lake, name: str, rows: pa.Table) -> None:
    write_deltalake(f"{lake.uri}/{name}", rows, mode="append", schema_mode="merge")


def again(lake: Lake, name: str) -> None:
    append(lake, name, table(lake, name).to_pyarrow_table().slice(0, 1))


def book(lake: Lake, **values: object) -> None:
    append(lake, LEDGER, pa.Table.from_pylist([{"outcome": "done", **values}]))


def booked_again(lake: Lake) -> None:
    promoted = (pc.field("stage") == "silver") & (pc.field("outcome") == "done")
    append(lake, LEDGER, table(lake, LEDGER).to_pyarrow_table().filter(promoted))


def cut(lake: Lake) -> None:
    file = first_file(lake, "bronze/accelerometer")
    file.write_bytes(file.read_bytes()[:-1])


def held(lake: Lake) -> None:
    folder = Path(lake.uri, "ops/leases/silver.accelerometer")
    folder.mkdir(parents=True)
    for number, released in ((1, True), (2, False)):
        (folder / f"{number}.json").write_text(json.dumps({"released": released}))


def refusal_lost(lake: Lake) -> None:
    row = table(lake, QUARANTINE).to_pyarrow_table().slice(0, 1).to_pylist()[0]
    table(lake, QUARANTINE).delete(f"source_file = '{row['source_file']}' AND source_row = {row['source_row']}")


def unaccounted(lake: Lake) -> None:
    book(lake, stage="silver", dataset="devices", batch_id="x", rows_read=3, rows_written=1, rows_duplicate=1)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda lake: first_file(lake, SILVER).unlink(), [r"silver/accelerometer names part-\S+ .* there are None"]),
        (lambda lake: again(lake, SILVER), ["has 1 keys more than once", "has 2984 rows, the books 2983"]),
        (lambda lake: table(lake, SILVER).delete(FIRST_SECONDS), ["has 994 rows, the books 2983"]),
        (booked_again, [r"batch \('silver', 'accelerometer', .* is in the books 2 times"]),
        (unaccounted, ["books of silver devices: 3 rows read, 2 accounted for"]),
        (cut, [r"bronze/accelerometer/\S+ cannot be read and is not in quarantine", "have 3006 read by silver"]),
        (lambda lake: first_file(lake, "bronze/accelerometer").unlink(), ["have 3006 read by silver"]),
        (held, [r"ops/leases/silver.accelerometer/2.json is still held"]),
        (refusal_lost, ["quarantine/accelerometer has 20 rows, the books 21"]),
        (lambda lake: again(lake, QUARANTINE), [r"quarantine/accelerometer has \('bronze/\S+', \d+\) 2 times"]),
    ],
    ids=[
        "data-file-gone", "row-twice", "rows-lost", "booked-twice", "books-do-not-balance", "bronze-cut", "bronze-gone",
        "lease-held", "refusal-lost", "refused-twice",
    ],
)  # fmt: skip
def test_broken__names_the_damage(lake: Lake, damage: Callable[[Lake], object], named: list[str]):
    assert broken(lake) == []
    damage(lake)
    found = "\n".join(broken(lake))
    assert [pattern for pattern in named if not re.search(pattern, found)] == [], found


def test_broken__a_flaw_that_spark_reads_past_and_arrow_does_not(lake: Lake):
    file = first_file(lake, "bronze/accelerometer")
    content = bytearray(file.read_bytes())
    content[4] = 0xFF  # where the header of its first page begins
    file.write_bytes(content)
    name = file.relative_to(lake.uri).as_posix()
    assert f"{name} cannot be read and is not in quarantine" in broken(lake)
    assert broken(lake, but_for=name) == []
    table(lake, SILVER).delete(FIRST_SECONDS)
    assert broken(lake, but_for=name) == ["silver/accelerometer has 994 rows, the books 2983"]


def test_broken__rows_that_expired_are_in_the_books(lake: Lake):
    table(lake, SILVER).delete(FIRST_SECONDS)
    book(lake, stage="maintain", dataset=SILVER, batch_id="maintain/expiry/20454", rows_expired=1_989)
    assert broken(lake) == []


def test_fingerprint__differs_by_a_value_or_a_row(lake: Lake):
    before = fingerprint(lake)
    assert before.tables[SILVER].rows == 2_983
    assert fingerprint(lake).differences(before) == []
    table(lake, SILVER).update({"ax": "ax + 1"}, predicate="event_time = '2026-01-01T01:00:00Z'")
    other = fingerprint(lake)
    assert [text.split()[0] for text in other.differences(before)] == [SILVER]
    assert other.differences(before, but_for_rivals=True) == []  # the same keys
    table(lake, SILVER).delete("event_time = '2026-01-01T01:00:00Z'")
    first_file(lake, "bronze/accelerometer").unlink()
    found = fingerprint(lake).differences(before, but_for_rivals=True)
    assert [text.split()[0].partition("/year=")[0] for text in found] == [SILVER, "bronze/accelerometer"]

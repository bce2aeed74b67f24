"""What must hold of a lake after whatever happened to it: only paths and keys are the suite's."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import DeltaTable

from jobs.catalog import DATASETS, GOLD
from jobs.lake.layout import Lake

# Times and names of runs and batches, and how often a row was tried: not the same twice.
_VOLATILE = {"batch_id", "quarantined_at", "arrived_at", "attempts"}
_KEYS = {
    **{f"silver/{dataset.name}": dataset.key for dataset in DATASETS.values()},
    **{f"gold/{table.name}": table.key for table in GOLD.values()},
}
_TABLES = (*_KEYS, *(f"quarantine/{name}" for name in DATASETS))


class Content(NamedTuple):
    """What a table holds: its number of rows, a hash of them, and one of their keys, whatever their order."""

    rows: int
    whole: int
    keys: int


@dataclass(frozen=True)
class Fingerprint:
    """What a lake holds.

    Attributes:
        tables: What is in each table.
        bronze: Names of bronze's files that a reader would see.
    """

    tables: Mapping[str, Content]
    bronze: frozenset[str]

    def differences(self, other: Fingerprint, *, but_for_rivals: bool = False) -> list[str]:
        """What the other has in another way.

        Args:
            other: What another lake holds.
            but_for_rivals: Whether files were promoted in another order, so that of two rows with one key another may
                have come first: then only how many rows there are is compared, and their keys.
        """

        def compared(content: Content | None) -> Content | None:
            return content._replace(whole=0) if content and but_for_rivals else content

        found = [
            f"{name} has {self.tables.get(name)}, undisturbed {other.tables.get(name)}"
            for name in sorted({*self.tables, *other.tables})
            if compared(self.tables.get(name)) != compared(other.tables.get(name))
        ]
        return found + [f"{name} is in bronze of one lake only" for name in sorted(self.bronze ^ other.bronze)]


def fingerprint(lake: Lake, but_for: str = "") -> Fingerprint:
    """What a lake holds now, but for one file of bronze and what quarantine has of it."""
    tables = {}
    for name, there in _there(lake, _TABLES):
        whole = _hash(field for field in there.schema.names if field not in _VOLATILE)
        query = f"SELECT count(*), {whole}, {_hash(_KEYS.get(name, ()))} FROM there"
        if name.startswith("quarantine/"):
            query += f" WHERE source_file <> '{but_for}'"
        tables[name] = Content(*_asked(there, query))
    return Fingerprint(tables, frozenset(files(lake, "bronze")) - {but_for})


def _there(lake: Lake, names: Iterable[str]) -> Iterator[tuple[str, ds.Dataset]]:
    """Those of the tables that are there, and their rows."""
    for name in names:
        there = scan(lake, name)
        if there is not None:
            yield name, there


def _asked(there: ds.Dataset, query: str) -> tuple[Any, ...]:
    """The one row that answers a query, which calls the rows ``there``."""
    with duckdb.connect() as db:
        return db.register("there", there).execute(query).fetchall()[0]


def _hash(columns: Iterable[str]) -> str:
    """Of all rows' values in these columns, whatever the order of the rows; 0 if there are no columns."""
    names = ", ".join(f'"{column}"' for column in columns)
    return f"coalesce(sum(hash({names})::HUGEINT), 0)" if names else "0"


def opened(lake: Lake, name: str) -> DeltaTable | None:
    """A table; None if there is none."""
    uri, options = lake.delta_uri(f"{lake.uri}/{name}"), lake.delta_options()
    return DeltaTable(uri, storage_options=options) if DeltaTable.is_deltatable(uri, options) else None


def scan(lake: Lake, name: str) -> ds.Dataset | None:
    """A table's rows; None if there is no table."""
    table = opened(lake, name)
    if table is None:
        return None
    # deltalake's own client is Python that Arrow's threads call, which may abort a process that ends.
    files = pafs.SubTreeFileSystem(lake.arrow_path(f"{lake.uri}/{name}"), lake.filesystem())
    return table.to_pyarrow_dataset(filesystem=files)


def rows(lake: Lake, name: str) -> list[dict[str, Any]]:
    """The rows of a small table; none if there is no table."""
    there = scan(lake, name)
    found: list[dict[str, Any]] = [] if there is None else there.to_table().to_pylist()
    return found


def files(lake: Lake, folder: str) -> Iterator[str]:
    """Files below a folder of the lake that a reader would see: none with ``_x`` or ``.x`` in their path."""
    root = lake.arrow_path(f"{lake.uri}/{folder}")
    for info in lake.filesystem().get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True)):
        parts = info.path.removeprefix(root).strip("/").split("/")
        if info.type == pafs.FileType.File and not any(part.startswith(("_", ".")) for part in parts):
            yield f"{folder}/{'/'.join(parts)}"


def broken(lake: Lake, *, read_again: bool = False, but_for: str = "") -> list[str]:
    """Everything that must hold of any lake, and does not.

    Args:
        lake: The lake.
        read_again: Whether bronze may have been read more than once.
        but_for: A file of bronze with a flaw, which Spark may have read all the same though Arrow cannot.
    """
    # A table of which a file is gone cannot be counted.
    return [*_logs(lake)] or [*_books(lake, read_again, but_for), *_keys(lake), *_leases(lake)]


def _books(lake: Lake, read_again: bool, but_for: str) -> Iterator[str]:
    """Each batch is booked once and balances; over the lake's life, what was read is somewhere."""
    ledger = [entry for entry in rows(lake, "ops/ledger") if entry["outcome"] == "done"]
    twice = Counter((e["stage"], e["dataset"], e["batch_id"]) for e in ledger if e["stage"] != "maintain")
    yield from (f"batch {key} is in the books {count} times" for key, count in twice.items() if count > 1)
    for name in DATASETS:
        silver, ingest, replay = (_summed(ledger, stage, name) for stage in ("silver", "ingest", "replay"))
        accounted = silver["written"] + silver["duplicate"] + silver["quarantined"]
        if silver["read"] != accounted:
            yield f"books of silver {name}: {silver['read']} rows read, {accounted} accounted for"
        held = rows(lake, f"quarantine/{name}")
        whole = {entry["source_file"] for entry in held if entry["source_row"] is None}
        readable, unreadable = _bronze(lake, name)
        if but_for in unreadable - whole:
            unreadable.remove(but_for)
            readable += pq.read_metadata(
                lake.arrow_path(f"{lake.uri}/{but_for}"), filesystem=lake.filesystem()
            ).num_rows
        late = readable - silver["read"]  # rows of files that were no good at first, and that replay has read since
        if not (0 <= late <= replay["read"] or (late < 0 and read_again)):
            yield f"bronze/{name} has {readable} rows in readable files, the books have {silver['read']} read by silver"
        there = _count(lake, f"silver/{name}")
        written = silver["written"] + replay["written"] - _summed(ledger, "maintain", f"silver/{name}")["expired"]
        if there != written:
            yield f"silver/{name} has {there} rows, the books {written}"
        refused = sum(entry["source_row"] is not None for entry in held)
        expected = silver["quarantined"] + ingest["quarantined"] + max(late, 0)
        expected -= replay["written"] + replay["duplicate"]
        if refused != expected:
            yield f"quarantine/{name} has {refused} rows, the books {expected}"
        places = Counter((entry["source_file"], entry["source_row"]) for entry in held)
        yield from (f"quarantine/{name} has {place} {count} times" for place, count in places.items() if count > 1)
        yield from (f"{file} cannot be read and is not in quarantine" for file in sorted(unreadable - whole))


def _summed(ledger: list[dict[str, Any]], stage: str, name: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for entry in ledger:
        if (entry["stage"], entry["dataset"]) == (stage, name):
            # What an older version of the suite did not count is null.
            total.update({key.removeprefix("rows_"): entry[key] or 0 for key in entry if key.startswith("rows_")})
    return total


def _bronze(lake: Lake, name: str) -> tuple[int, set[str]]:
    """Rows in the footers of a dataset's readable files, and the files that are none."""
    count, unreadable = 0, set()
    for file in files(lake, f"bronze/{name}"):
        try:
            with lake.filesystem().open_input_file(lake.arrow_path(f"{lake.uri}/{file}")) as source:
                batches = pq.ParquetFile(source, page_checksum_verification=True).iter_batches()
                count += sum(len(batch) for batch in batches)
        except (pa.ArrowException, OSError, TypeError, ValueError):
            unreadable.add(file)
    return count, unreadable


def _count(lake: Lake, name: str) -> int:
    there = scan(lake, name)
    return 0 if there is None else int(there.count_rows())


def _keys(lake: Lake) -> Iterator[str]:
    """No key is there twice."""
    for name, there in _there(lake, _KEYS):
        columns = ", ".join(f'"{column}"' for column in _KEYS[name])
        query = f"SELECT count(*) FROM (SELECT {columns} FROM there GROUP BY ALL HAVING count(*) > 1)"
        (found,) = _asked(there, query)
        if found:
            yield f"{name} has {found} keys more than once"


def _logs(lake: Lake) -> Iterator[str]:
    """Every file that a table's log names is there, as long as it was written."""
    for name in (*_TABLES, "ops/ledger", "ops/drift"):
        table = opened(lake, name)
        actions = [] if table is None else pa.table(table.get_add_actions(flatten=True)).to_pylist()
        places = [lake.arrow_path(f"{lake.uri}/{name}/{action['path']}") for action in actions]
        for action, info in zip(actions, lake.filesystem().get_file_info(places), strict=True):
            if info.size != action["size_bytes"]:
                yield f"{name} names {action['path']} of {action['size_bytes']} bytes; there are {info.size}"


def _leases(lake: Lake) -> Iterator[str]:
    """Every run that ended well has let go of its tables."""
    filesystem = lake.filesystem()
    last: dict[str, str] = {}
    for file in sorted(files(lake, "ops/leases")):
        last[file.rpartition("/")[0]] = file
    for file in last.values():
        with filesystem.open_input_stream(lake.arrow_path(f"{lake.uri}/{file}")) as stream:
            if not json.loads(stream.read())["released"]:
                yield f"{file} is still held"

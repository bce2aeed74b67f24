"""What the script's datasets share: a connection, where files are, and the pieces of a query."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq


def connect(threads: int) -> duckdb.DuckDBPyConnection:
    """A connection that tells time in UTC and need not keep rows in order."""
    db = duckdb.connect(config={"threads": threads, "preserve_insertion_order": False})
    db.execute("SET TimeZone = 'UTC'")
    return db


@cache
def own() -> duckdb.DuckDBPyConnection:
    """The connection of a process of the pool, which has one core."""
    return connect(1)


@dataclass(frozen=True)
class Run:
    """The script at work.

    Attributes:
        db: DuckDB, on all cores.
        pool: As many processes as there are cores.
        lake: Folder with ``bronze``.
        out: Folder for ``TABLE.parquet`` of gold and ``silver/DATASET.parquet``, made by :meth:`begin`.
    """

    db: duckdb.DuckDBPyConnection
    pool: Executor
    lake: Path
    out: Path

    def begin(self) -> None:
        """Make the folders, and note when each file arrived."""
        (self.out / "silver").mkdir(parents=True)
        files = f"read_blob('{self.lake}/bronze/**/*.parquet')"
        self.db.execute(f"SET VARIABLE arrived = (SELECT map(list(filename), list(last_modified)) FROM {files})")

    def bronze(self, dataset: str, hive_types: str = "") -> str:
        """A dataset's rows, each with its place, and when its file arrived.

        Args:
            dataset: Whose rows they are.
            hive_types: Types of columns that are in the path.
        """
        files = f"{self.lake}/bronze/{dataset}/**/*.parquet"
        hive = f"hive_types = {hive_types}" if hive_types else "hive_partitioning = false"
        # Not a join: the name is the same for all rows of a file, and is looked up once.
        return f"""(
            SELECT *, getvariable('arrived')[filename] AS last_modified
            FROM read_parquet('{files}', filename = true, file_row_number = true, {hive})
        )"""

    def silver(self, dataset: str) -> str:
        """A dataset's place in silver."""
        return f"{self.out}/silver/{dataset}.parquet"

    def gold(self, table: str) -> str:
        """A table's file of gold."""
        return f"{self.out}/{table}.parquet"

    def write(self, file: str, query: str) -> int:
        """Write what a query finds; return how many rows it is."""
        copy = f"COPY ({query}) TO '{file}' (FORMAT parquet, COMPRESSION zstd)"
        (count,) = self.db.execute(copy).fetchall()[0]
        return int(count)


def write_arrow(table: pa.Table, file: str) -> None:
    """Write an Arrow table; only texts repeat themselves enough for a dictionary."""
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pq.write_table(table, file, compression="zstd", use_dictionary=texts)


def listed(names: Iterable[str], each: str = "{}") -> str:
    """Names between commas."""
    return ", ".join(each.format(name) for name in names)


def within(ranges: Mapping[str, tuple[float, float]], *, optional: bool = False) -> str:
    """Whether columns are between two numbers, which neither null nor NaN is; null may pass."""
    each = "coalesce({0} BETWEEN {1} AND {2}, true)" if optional else "{0} BETWEEN {1} AND {2}"
    return " AND ".join(each.format(name, low, high) for name, (low, high) in ranges.items())


def first_of(key: Iterable[str]) -> str:
    """Of rows with the same key the first."""
    return f"QUALIFY row_number() OVER (PARTITION BY {listed(key)} ORDER BY filename, file_row_number) = 1"

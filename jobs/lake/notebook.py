"""A lake in a notebook: any of its tables with DuckDB and pandas, and with Spark where that is wanted.

>>> lake = open_lake("./lake")                                        # doctest: +SKIP
>>> lake.table("gold/engine_summary").df()                            # doctest: +SKIP
>>> lake.spark_table("gold/engine_summary").groupBy("split").count()  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from jobs.lake import cli, config, delta, session
from jobs.lake.cli import Context
from jobs.lake.errors import MachineError, UsageError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def open_lake(address: str, profile: str = "", overrides: Sequence[str] = ()) -> NotebookLake:
    """Open a lake to read its tables.

    Instants come out in UTC, whatever the machine's time zone: DuckDB's default connection is set to it.

    Args:
        address: A folder, or ``s3a://bucket/prefix``. Credentials come from the standard AWS chain.
        profile: Settings of ``conf/profiles``, as with ``--profile``.
        overrides: Single settings, as with ``--set``, such as ``["s3.endpoint=http://127.0.0.1:9000"]``.

    Raises:
        ConfigurationError: A setting is unknown or wrong.
        UsageError: The address is no lake's.
    """
    duckdb.execute("SET TimeZone = 'UTC'")
    return NotebookLake(cli.context(address, profile, overrides))


@dataclass(frozen=True)
class NotebookLake:
    """A lake that is open; a table is named by its path in the lake, such as ``gold/engine_health``.

    Attributes:
        context: What a job is given: the settings in force, and the lake's paths.
    """

    context: Context

    def table(self, path: str) -> duckdb.DuckDBPyRelation:
        """A Delta table, or a folder of Parquet files, without Spark.

        It is read when its rows are asked for, and no more of it than the query needs: ``.df()`` gives a pandas
        DataFrame, ``.to_arrow_table()`` an Arrow table, and ``duckdb.sql("SELECT ... FROM name")`` knows it by the
        name of the Python variable that it is in.

        Raises:
            UsageError: There is neither.
        """
        return duckdb.from_arrow(self._dataset(path))

    def spark_table(self, path: str) -> DataFrame:
        """The same as a Spark DataFrame; the first one starts Spark.

        Raises:
            UsageError: There is no such table.
            MachineError: The JARs that Spark needs were not fetched yet.
        """
        kind = "delta" if self._is_delta(path) else "parquet"
        return self.spark.read.format(kind).load(f"{self.context.lake.uri}/{path}")

    @cached_property
    def spark(self) -> SparkSession:
        """The Spark session, started on first use; what Spark has to say goes to a file in the cache."""
        if "LAKEHOUSE_JARS" not in os.environ:
            os.environ["LAKEHOUSE_JARS"] = str(_jars())
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        with _stderr_to(config.cache() / "logs" / f"notebook-{self.context.run_id}.log"):
            return session.open_session(self.context.settings, self.context.lake)

    def _is_delta(self, path: str) -> bool:
        """Whether it is a Delta table; if not, it is a folder of Parquet files."""
        lake = self.context.lake
        place = f"{lake.uri}/{path}"
        if delta.open_table(lake, place) is not None:
            return True
        if lake.filesystem().get_file_info(lake.arrow_path(place)).type == pafs.FileType.Directory:
            return False
        raise UsageError(
            f"there is no table {path} in {lake.uri}",
            why="a table is named by its path in the lake, such as gold/engine_health",
            remedy="./spark-submit.sh status lists what there is; ./spark-submit.sh demo makes a lake with everything",
        )

    def _dataset(self, path: str) -> ds.Dataset:
        lake = self.context.lake
        place = f"{lake.uri}/{path}"
        if self._is_delta(path):
            table = delta.scan(lake, place)
            assert table is not None
            return table
        return ds.dataset(lake.arrow_path(place), filesystem=lake.filesystem(), partitioning="hive")


def _jars() -> Path:
    """The folder into which ``spark-submit.sh`` has fetched the JARs of this stack."""
    pins = "next/jars.txt" if os.environ.get("LAKEHOUSE_STACK") == "next" else "jars.txt"
    digest = hashlib.sha256(resources.files("conf").joinpath(pins).read_bytes()).hexdigest()
    folder = config.cache() / "jars" / digest[:16]
    if not folder.is_dir():
        raise MachineError(
            f"Spark's JARs are not in {folder}",
            why="spark-submit.sh fetches them with the first job that needs Spark",
            remedy="./spark-submit.sh demo",
        )
    return folder


@contextmanager
def _stderr_to(log: Path) -> Iterator[None]:
    """Point descriptor 2 at a file for a while: a JVM started meanwhile writes there all its life."""
    log.parent.mkdir(parents=True, exist_ok=True)
    screen = os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)

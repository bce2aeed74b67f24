"""Silver to gold: features of every sensor, axis and window."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from bench import suite
from bench.stage import Contender, Role, Stage, Task, fetched
from bench.stages import silver
from jobs import gold
from jobs.catalog import DATASETS, GOLD
from jobs.features.sensor_spectra import SpectraSettings, features
from jobs.lake import delta, windowed
from jobs.lake.layout import Lake
from jobs.lake.tables import Windowed

TABLE = GOLD["sensor_spectra"]
ARROWS = to_arrow_schema(DATASETS["accelerometer"].schema)
SETTINGS = SpectraSettings()
HOW = cast(Windowed, TABLE.how)


def prepare(task: Task) -> None:
    """Silver, as ours writes it."""
    silver.prepare(task)
    suite.promoted(task, "accelerometer")


def silver_files(task: Task) -> list[str]:
    """The files of silver."""
    lake = Lake.parse(str(task.data))
    version = delta.latest_version(lake, lake.silver("accelerometer"))
    assert version is not None
    return [file.path for file in delta.files(lake, lake.silver("accelerometer"), version)]


class Suite(suite.OnSilver):
    """Ours: Spark hands out file names, workers read and compute."""

    def run(self, out: Path) -> int:
        """Compute gold."""
        gold.bring_up(self.context(out), TABLE)
        return self.task.size.samples


class ApplyInPandas(suite.Suite):
    """Spark as everyone writes it: the same kernel, given each window as a pandas frame."""

    name: ClassVar[str] = "groupBy(...).applyInPandas"
    role: ClassVar[Role] = "peer"
    warms_up = False

    def run(self, out: Path) -> int:
        """Compute and write Parquet."""
        context = self.context(out)
        rows = context.spark.read.format("delta").load(str(self.task.data / "silver" / "accelerometer"))
        number = F.call_function("div", F.unix_micros("event_time"), F.lit(SETTINGS.window_spec.hop_us))

        def of_window(frame: pd.DataFrame) -> pd.DataFrame:
            table = pa.Table.from_pandas(frame.drop(columns="window"), ARROWS, preserve_index=False)
            found: pd.DataFrame = features(table, SETTINGS).to_pandas(maps_as_pydicts="lossy")
            return found

        found = rows.withColumn("window", number).groupBy("sensor_id", "window").applyInPandas(of_window, TABLE.schema)
        found.write.parquet(str(out / "spectra"))
        return self.task.size.samples


def of_sensors(out: str, share: tuple[int, windowed.Task]) -> int:
    """Read some sensors, compute, write a file: what a worker of the script does."""
    number, task = share
    rows = windowed.read_task(LocalFileSystem(), task, HOW, HOW.window(SETTINGS))
    found = features(rows, SETTINGS)
    pq.write_table(found, f"{out}/{number}.parquet", compression="zstd")
    return int(rows.num_rows)


class Script(Contender):
    """pyarrow and the same kernel in as many processes as there are cores, without Spark, books or Delta."""

    name: ClassVar[str] = "script without Spark"
    role: ClassVar[Role] = "limit"

    def open(self) -> None:
        """Start the processes, and let them load what they need."""
        self.pool = ProcessPoolExecutor(self.task.cores, get_context("spawn"))
        files = silver_files(self.task)
        query = f"""SELECT sensor_id, list(DISTINCT filename) FROM
            read_parquet({files!r}, filename = true, file_row_number = true)
            GROUP BY ALL ORDER BY min(filename), min(file_row_number)"""
        self.files_of = dict(fetched(query))
        (self.span,) = fetched(
            f"SELECT epoch_us(min(event_time)), epoch_us(max(event_time)) FROM read_parquet({files})"
        )
        list(self.pool.map(len, [TABLE.name] * self.task.cores))

    def run(self, out: Path) -> int:
        """Share the sensors out, in the order in which the files have them."""
        out.mkdir(parents=True, exist_ok=True)
        return sum(self.pool.map(partial(of_sensors, str(out)), self._shares()))

    def _shares(self) -> Iterator[tuple[int, windowed.Task]]:
        length, _ = HOW.window(SETTINGS)
        every = ((self.span[0] // length, self.span[1] // length),)
        sensors, size = list(self.files_of), 8
        for start in range(0, len(sensors), size):
            names = sensors[start : start + size]
            files = sorted({file for name in names for file in self.files_of[name]})
            yield start, windowed.Task(tuple(files), dict.fromkeys(names, every))


def digest(contender: str, out: Path) -> object | None:
    """Rows, and sums of some of the features, to as many digits as their order leaves."""
    folder = {Suite.name: "gold/sensor_spectra/", ApplyInPandas.name: "spectra/"}.get(contender, "")
    return fetched(
        f"""SELECT count(*), count(dominant_hz), round(sum(rms::DOUBLE), 3), round(sum(dominant_hz::DOUBLE), 3),
        round(sum(kurtosis::DOUBLE), 2), count(DISTINCT window_start)
        FROM read_parquet('{out}/{folder}*.parquet')"""
    )


STAGE = Stage(
    name="spectra",
    title="silver to gold/sensor_spectra",
    unit="rows",
    contenders=(Suite, ApplyInPandas, Script),
    prepare=prepare,
    digest=digest,
    targets={ApplyInPandas.name: 20, Script.name: 1 / 1.5},
)

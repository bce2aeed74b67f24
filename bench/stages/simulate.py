"""Simulating accelerometers into bronze, on one core each way."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.stage import Contender, Role, Size, Stage, Task, fetched
from sim import accelerometer
from sim.accelerometer import AccelerometerParameters, Clock, specific_force
from sim.base import write
from sim.randomness import entity_id, generator
from sim.writers import open_writer


def parameters(size: Size) -> AccelerometerParameters:
    """The run that every stage over accelerometers begins with."""
    return AccelerometerParameters.model_validate(
        {"entities": size.sensors, "duration": f"{size.minutes}m", "rate_hz": 100, "seed": 7}
    )


class Suite(Contender):
    """Ours, in one process, without Spark."""

    name: ClassVar[str] = "sensor-lakehouse"
    role: ClassVar[Role] = "ours"

    def run(self, out: Path) -> int:
        """Write bronze."""
        written = write(accelerometer.SIMULATOR, parameters(self.task.size), open_writer(str(out)))
        return sum(file.rows for file in written)


class Pandas(Contender):
    """The same model, a sensor at a time, as one writes it with pandas."""

    name: ClassVar[str] = "pandas, sensor by sensor"

    def run(self, out: Path) -> int:
        """Write a file for each sensor and hour."""
        params, rows = parameters(self.task.size), 0
        clock = Clock.at(params.rate_hz)
        for unit in accelerometer.units(params):
            body = accelerometer.draw_body(params, unit.entity)
            sample = np.arange(unit.start, unit.stop)
            frame = pd.DataFrame({"sensor_id": entity_id(params.seed, "accelerometer", unit.entity)}, index=sample)
            frame["event_time"] = pd.to_datetime(clock.times(unit.start, len(sample)), unit="us", utc=True)
            phase = 2 * np.pi * body.gait_hz * sample / params.rate_hz + body.gait_phase
            noise = generator(params.seed, "pandas", unit.entity).normal(0, params.noise_m_s2, (3, len(sample)))
            axes = zip(("ax", "ay", "az"), specific_force(body, phase), noise, strict=True)
            for (name, force, error), bias in zip(axes, (body.bias_x, body.bias_y, body.bias_z), strict=True):
                frame[name] = (force + error + bias).astype(np.float32)
            folder = out / f"sensor_id={frame['sensor_id'].iloc[0]}"
            folder.mkdir(parents=True, exist_ok=True)
            frame.drop(columns="sensor_id").to_parquet(folder / f"{unit.name}.parquet", compression="zstd", index=False)
            rows += len(frame)
        return rows


class NoiseAndParquet(Contender):
    """Only what cannot be left out: draw the noise, write Parquet."""

    name: ClassVar[str] = "noise and Parquet only"
    role: ClassVar[Role] = "limit"

    def run(self, out: Path) -> int:
        """Write as many numbers, which mean nothing."""
        params, rows = parameters(self.task.size), 0
        stream = np.random.Generator(np.random.SFC64(params.seed))
        for unit in accelerometer.units(params):
            count = unit.stop - unit.start
            noise = stream.standard_normal((3, count), np.float32)
            table = pa.table(
                {
                    "event_time": pa.array(np.arange(count) * 10_000, pa.timestamp("us", tz="UTC")),
                    **{name: pa.array(axis) for name, axis in zip(("ax", "ay", "az"), noise, strict=True)},
                }
            )
            out.mkdir(parents=True, exist_ok=True)
            pq.write_table(
                table,
                out / f"{unit.name}.parquet",
                compression="zstd",
                use_dictionary=False,
                column_encoding={"event_time": "DELTA_BINARY_PACKED"},
            )
            rows += count
        return rows


def digest(contender: str, out: Path) -> object | None:
    """Rows, sensors, and means to the size of the noise: the two draw it from streams of their own."""
    if contender == NoiseAndParquet.name:
        return None
    query = f"""SELECT count(*), count(DISTINCT sensor_id), round(avg(ax), 1), round(avg(ay), 1), round(avg(az), 1)
        FROM read_parquet('{out}/**/*.parquet', hive_partitioning = true)"""
    return fetched(query)


def prepare(_task: Task) -> None:
    """Nothing: it begins here."""


STAGE = Stage(
    name="simulate",
    title="accelerometers into bronze Parquet, one core",
    unit="rows",
    contenders=(Suite, Pandas, NoiseAndParquet),
    prepare=prepare,
    digest=digest,
    targets={NoiseAndParquet.name: 0.4},
)

"""Accelerometers: silver and spectra sensor by sensor, each in one process, and how accurate they are."""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import pyarrow as pa

from bench.script.base import Run, listed, own, within, write_arrow
from jobs.datasets.accelerometer import AXES, DATASET, AccelerometerSettings
from jobs.features.sensor_spectra import SpectraSettings, features
from jobs.features.spectra_accuracy import AccuracySettings


def bring_up(run: Run) -> int:
    """Make silver and gold; return the rows of silver."""
    files = defaultdict(list)
    for file in sorted((run.lake / "bronze" / DATASET.name).rglob("*.parquet")):
        files[file.parent.name.removeprefix("sensor_id=")].append(str(file))
    (run.out / "silver" / DATASET.name).mkdir()
    found = [*run.pool.map(partial(of_sensor, f"{run.out}/silver/{DATASET.name}"), files, files.values())]
    write_arrow(pa.concat_tables(spectra for spectra, _ in found), run.gold("sensor_spectra"))
    run.write(run.gold("spectra_accuracy"), accuracy(run))
    return sum(rows for _, rows in found)


def of_sensor(silver: str, sensor: str, files: list[str]) -> tuple[pa.Table, int]:
    """Write a sensor's silver; return its spectra and how many rows it has."""
    limits = AccelerometerSettings()
    limit = limits.acceleration_limit
    rows = own().sql(
        f"""SELECT DISTINCT ON (event_time) '{sensor}' AS sensor_id, event_time, {listed(AXES)}
        FROM read_parquet({files}, hive_partitioning = false)
        WHERE event_time >= '{limits.earliest}' AND event_time < '{limits.latest}'
            AND {within(dict.fromkeys(AXES, (-limit, limit)))}
        ORDER BY event_time"""
    )
    table = rows.to_arrow_table()
    write_arrow(table, f"{silver}/{sensor}.parquet")
    return features(table, SpectraSettings()), table.num_rows


def accuracy(run: Run) -> str:
    """Spectra against what was simulated."""
    tolerance = AccuracySettings().tolerance_hz
    return f"""
        WITH truth AS (
            SELECT sensor_id, axis, first(true_hz)::DOUBLE AS true_hz, first(true_amplitude)::DOUBLE AS true_amplitude
            FROM '{run.lake}/bronze/_truth/accelerometer/*.parquet' GROUP BY ALL
        ), compared AS (
            SELECT sensor_id, axis, count(*) AS windows, true_hz, median(dominant_hz::DOUBLE) AS measured_hz,
                true_amplitude, median(dominant_amplitude::DOUBLE) AS measured_amplitude,
                avg((abs(dominant_hz - true_hz) <= {tolerance})::INT) AS share_within_tolerance
            FROM '{run.gold("sensor_spectra")}' JOIN truth USING (sensor_id, axis)
            WHERE dominant_hz IS NOT NULL GROUP BY ALL
        )
        SELECT *, measured_hz - true_hz AS error_hz, measured_amplitude / true_amplitude - 1 AS error_amplitude_ratio
        FROM compared"""

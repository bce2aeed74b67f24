"""Engine summary: last health, trend and anomalies per engine, against numpy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession

from jobs.features import engine_summary
from jobs.features.engine_summary import KEY, SCHEMA, SummarySettings

HEALTH = "subset string, split string, unit_number smallint, cycle smallint, health_index double, is_anomaly boolean"


def health(unit: int, values: list[float | None], flags: list[bool | None]) -> list[tuple[object, ...]]:
    cycles = range(1, len(values) + 1)
    return [("FD001", "train", unit, *row) for row in zip(cycles, values, flags, strict=True)]


def summarised(spark: SparkSession, rows: list[tuple[object, ...]], units: list[int] | None = None) -> pd.DataFrame:
    table = spark.createDataFrame(rows, HEALTH).repartition(3)
    touched = table.select(*KEY)
    if units is not None:
        touched = touched.where(table.unit_number.isin(units))
    told = engine_summary.compute(table, touched, SummarySettings(trend_cycles=10))
    assert told.columns == SCHEMA.names
    assert [f.dataType for f in told.schema] == [f.dataType for f in SCHEMA]
    return told.toPandas().set_index("unit_number").sort_index()


def test_compute__equals_numpy(spark: SparkSession) -> None:
    values = np.random.default_rng(2).uniform(size=(2, 25)).round(4)
    flags = [[n % 5 == 0 for n in range(25)], [False] * 25]
    told = summarised(spark, [*health(1, values[0].tolist(), [*flags[0]]), *health(2, values[1].tolist(), [*flags[1]])])
    assert told.cycles.tolist() == [25, 25]
    assert told.last_health.tolist() == [values[0][-1], values[1][-1]]
    assert told.anomalies.tolist() == [5, 0]
    slopes = [np.polyfit(np.arange(10), each[-10:], 1)[0] for each in values]
    np.testing.assert_allclose(told.health_trend, slopes, rtol=1e-9)


def test_compute__trend_counts_cycles_not_rows(spark: SparkSession) -> None:
    values = [1 - 0.001 * n * n for n in range(1, 21)]
    rows = [row for row in health(1, [*values], [False] * 20) if row[3] not in (15, 16, 18)]
    told = summarised(spark, rows)
    latest = np.array([11, 12, 13, 14, 17, 19, 20])  # those on record of the last 10 cycles
    assert told.cycles[1] == 17
    assert told.health_trend[1] == pytest.approx(np.polyfit(latest, np.array(values)[latest - 1], 1)[0])


def test_compute__only_touched_engines(spark: SparkSession) -> None:
    rows = health(1, [1.0, 0.9], [False, False]) + health(2, [0.8, 0.7], [False, True])
    assert summarised(spark, rows, [2]).index.tolist() == [2]


def test_compute__unknown_health_stays_unknown(spark: SparkSession) -> None:
    told = summarised(spark, health(1, [None, None], [None, None]) + health(2, [0.5], [False]))
    assert told.cycles.tolist() == [2, 1]
    assert told[["last_health", "health_trend", "anomalies"]].isna().all(axis=1).tolist() == [True, False]
    assert np.isnan(told.health_trend[2])


def test_schema__documented() -> None:
    assert SCHEMA.names == [*KEY, "cycles", "last_health", "health_trend", "anomalies"]
    assert all(field.metadata.keys() == {"unit", "comment"} and field.metadata["comment"] for field in SCHEMA)


def test_settings__a_trend_needs_two_cycles() -> None:
    with pytest.raises(ValidationError, match="trend_cycles"):
        SummarySettings(trend_cycles=1)

"""gold/spectra_accuracy: measured against simulated, per sensor and axis. The suite grades itself."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.lake.tables import GoldTable, Grouped, column

SPECTRA, TRUTH = "gold/sensor_spectra", "truth/accelerometer"


class AccuracySettings(BaseModel):
    """What counts as accurate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tolerance_hz: float = Field(0.02, gt=0, description="Hz that a window's dominant frequency may be off")


def touched(new_rows: DataFrame, inputs: Mapping[str, DataFrame], settings: AccuracySettings) -> DataFrame:
    """The sensors with new rows."""
    return new_rows.select("sensor_id").distinct()


def compute(inputs: Mapping[str, DataFrame], touched: DataFrame, settings: AccuracySettings) -> DataFrame:
    """Compare each sensor's windows with what was simulated.

    The measured frequency and amplitude are medians over the windows, so that one bad window shows in
    ``share_within_tolerance`` and not in the median.
    """
    truth = (
        inputs[TRUTH]
        .groupBy("sensor_id", "axis")
        .agg(
            # The same sensors simulated again, for other hours, repeat the same truth.
            F.first("true_hz").cast("double").alias("true_hz"),
            F.first("true_amplitude").cast("double").alias("true_amplitude"),
        )
    )
    measured = inputs[SPECTRA].join(touched, "sensor_id", "left_semi").where(F.col("dominant_hz").isNotNull())
    off = F.abs(F.col("dominant_hz") - F.col("true_hz"))
    return (
        measured.join(truth, ["sensor_id", "axis"])
        .groupBy("sensor_id", "axis", "true_hz", "true_amplitude")
        .agg(
            F.count(F.lit(1)).alias("windows"),
            F.median("dominant_hz").alias("measured_hz"),
            F.median("dominant_amplitude").alias("measured_amplitude"),
            F.avg((off <= settings.tolerance_hz).cast("double")).alias("share_within_tolerance"),
        )
        .withColumn("error_hz", F.col("measured_hz") - F.col("true_hz"))
        .withColumn("error_amplitude_ratio", F.col("measured_amplitude") / F.col("true_amplitude") - 1)
        .select(*SCHEMA.names)
    )


SCHEMA = T.StructType(
    [
        column("sensor_id", T.StringType(), "The sensor, a UUID", nullable=False),
        column("axis", T.StringType(), "x, y, z or magnitude", nullable=False),
        column("windows", T.LongType(), "Windows with a dominant frequency", "1"),
        column("true_hz", T.DoubleType(), "Strongest line that was simulated", "Hz"),
        column("measured_hz", T.DoubleType(), "Median dominant frequency", "Hz"),
        column("error_hz", T.DoubleType(), "measured_hz - true_hz", "Hz"),
        column("true_amplitude", T.DoubleType(), "Amplitude of the strongest line simulated", "m/s2"),
        column("measured_amplitude", T.DoubleType(), "Median amplitude of the dominant frequency", "m/s2"),
        column("error_amplitude_ratio", T.DoubleType(), "measured_amplitude / true_amplitude - 1", "1"),
        column("share_within_tolerance", T.DoubleType(), "Share of windows within tolerance_hz of true_hz", "1"),
    ]
)

TABLE = GoldTable(
    name="spectra_accuracy",
    dataset="accelerometer",
    schema=SCHEMA,
    key=("sensor_id", "axis"),
    settings=AccuracySettings,
    how=Grouped(inputs=(SPECTRA, TRUTH), touched=touched, compute=compute),
    look=(
        "sensor_id",
        "axis",
        "windows",
        "true_hz",
        "measured_hz",
        "true_amplitude",
        "measured_amplitude",
        "share_within_tolerance",
    ),
)

"""gold/engine_summary: one row per engine, from its health: life so far, last health, trend, anomalies."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType, IntegerType, ShortType, StringType, StructType

from jobs.features import engine_health
from jobs.lake.tables import GoldTable, Grouped, column

KEY: tuple[str, ...] = engine_health.ENGINE
_HEALTH = "gold/engine_health"


class SummarySettings(BaseModel):
    """What is tuned in ``engine_summary``.

    Attributes:
        trend_cycles: The trend is the slope of health over the last so many cycles.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trend_cycles: Annotated[int, Field(ge=2, le=500)] = 30


SCHEMA = StructType(
    [
        column("subset", StringType(), "C-MAPSS subset, FD001 to FD004, or SIM.", nullable=False),
        column("split", StringType(), "train (run to failure) or test (cut off before).", nullable=False),
        column("unit_number", ShortType(), "Engine within subset and split.", nullable=False),
        column("cycles", IntegerType(), "Cycles on record.", "cycle", nullable=False),
        column("last_health", DoubleType(), "Health index at the last cycle: 1 new, 0 failed.", "1"),
        column("health_trend", DoubleType(), "Least-squares slope of health over the last cycles.", "1/cycle"),
        column("anomalies", IntegerType(), "Cycles flagged; null where none could be judged.", "cycle"),
    ]
)


def compute(health: DataFrame, touched: DataFrame, settings: SummarySettings) -> DataFrame:
    """Compute ``gold/engine_summary`` for the touched engines.

    Sums run over the cycles of one engine in their order, so that the result has the same bits however the
    rows are partitioned.

    Args:
        health: Rows of ``gold/engine_health``; at least those of the touched engines.
        touched: Engines to compute: subset, split, unit_number.
        settings: Length of the trend.

    Returns:
        One row per engine, as :data:`SCHEMA`.
    """
    engines = F.broadcast(touched.select(*KEY).distinct())
    ordered = Window.partitionBy(*KEY).orderBy(F.col("cycle").cast("int"))
    whole = ordered.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    latest = ordered.rangeBetween(1 - settings.trend_cycles, 0)
    cycle = F.col("cycle").cast("int")
    derived = {
        "cycles": F.count(F.lit(1)).over(whole),
        "last_health": F.col("health_index"),
        "health_trend": F.regr_slope(F.col("health_index"), cycle).over(latest),
        "anomalies": F.sum(F.col("is_anomaly").cast("int")).over(whole),
    }
    rows = health.join(engines, list(KEY), "left_semi")
    return (
        rows.withColumns(derived | {"_last": F.max(cycle).over(whole) == cycle})
        .where("_last")
        .select(*(F.col(field.name).cast(field.dataType).alias(field.name) for field in SCHEMA))
    )


TABLE = GoldTable(
    name="engine_summary",
    dataset="turbofan",
    schema=SCHEMA,
    key=KEY,
    settings=SummarySettings,
    how=Grouped(
        inputs=(engine_health.SILVER, _HEALTH),
        # An engine's summary changes whenever its health does.
        touched=lambda new, inputs, _: engine_health.touched(new, inputs[engine_health.SILVER]),
        compute=lambda inputs, engines, settings: compute(inputs[_HEALTH], engines, settings),
    ),
)

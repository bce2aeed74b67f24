"""gold/tide_levels: high and low water of each gauge and day."""

from __future__ import annotations

from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.lake.tables import GoldTable, Grouped, column

SILVER, DAY = "silver/tides", F.to_date

TABLE = GoldTable(
    name="tide_levels",
    dataset="tides",
    schema=T.StructType(
        [
            column("gauge_id", T.StringType(), "The gauge", nullable=False),
            column("day", T.DateType(), "Day, in UTC", nullable=False),
            column("levels", T.LongType(), "Levels measured", "1", nullable=False),
            column("high_water_m", T.DoubleType(), "Highest level", "m", nullable=False),
            column("low_water_m", T.DoubleType(), "Lowest level", "m", nullable=False),
        ]
    ),
    key=("gauge_id", "day"),
    how=Grouped(
        inputs=(SILVER,),
        touched=lambda new, _inputs, _settings: new.select("gauge_id", DAY("event_time").alias("day")).distinct(),
        compute=lambda inputs, touched, _settings: (
            inputs[SILVER]
            .withColumn("day", DAY("event_time"))
            .join(touched, ["gauge_id", "day"], "left_semi")
            .groupBy("gauge_id", "day")
            .agg(
                F.count("level_m").alias("levels"),
                F.max("level_m").alias("high_water_m"),
                F.min("level_m").alias("low_water_m"),
            )
        ),
    ),
)

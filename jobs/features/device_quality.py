"""gold/device_quality: how good a device's data are, day by day; one score, what it is made of, and what is marked.

``score = 100 x validity x completeness x continuity x freshness``, each of them a share from 0 to 1:

- validity: rows accepted over rows accepted or refused,
- completeness: values present over values that the rows' versions have,
- continuity: rows over rows and those missing in gaps, by the device's own interval,
- freshness: rows that arrived in time.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.lake.tables import ALL, GoldTable, Grouped, column

KEY = ("device_id", "day")
UNKNOWN = "(unknown)"
"""Stands for the device of refused messages that do not tell theirs."""

_SILVER, _QUARANTINE = "silver/devices", "quarantine/devices"
_BOTH = ("temperature", "humidity")
_SINCE_V2 = ("battery_level", "firmware_version", "latitude", "longitude", "pressure")


class QualitySettings(BaseModel):
    """What is tuned in ``device_quality``; a threshold that is crossed marks the row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gap_intervals: float = Field(2.5, gt=1, description="A gap is a silence of more than so many usual intervals")
    fresh_seconds: float = Field(900.0, gt=0, description="A message that arrives later is not fresh")
    minimum_score: float = Field(80.0, ge=0, le=100, description="Score")
    minimum_validity: float = Field(0.95, ge=0, le=1, description="Share of rows accepted")
    minimum_completeness: float = Field(0.95, ge=0, le=1, description="Share of values present")
    minimum_continuity: float = Field(0.9, ge=0, le=1, description="Share of rows that are not missing in gaps")
    minimum_freshness: float = Field(0.95, ge=0, le=1, description="Share of rows in time")


SCHEMA = T.StructType(
    [
        column("device_id", T.StringType(), f"The device; {ALL} of them; {UNKNOWN}", nullable=False),
        column("day", T.DateType(), "Day of the event; of the arrival, if a refused row's own time is no good", "UTC"),
        column("rows", T.LongType(), "Rows accepted", "1", nullable=False),
        column("versions", T.ArrayType(T.IntegerType()), "Versions of the messages, ascending"),
        column("refused", T.LongType(), "Rows in quarantine", "1", nullable=False),
        column("refusals", T.MapType(T.StringType(), T.LongType()), "Rows in quarantine by reason; a row may have two"),
        column("first_event_time", T.TimestampType(), "First row", "UTC"),
        column("last_event_time", T.TimestampType(), "Last row", "UTC"),
        column("interval_seconds", T.DoubleType(), "Usual (median) time between rows; of one device", "s"),
        column("gaps", T.LongType(), "Silences of more than the set number of usual intervals", "1"),
        column("missing_rows", T.LongType(), "Rows due in those gaps, by the usual interval", "1"),
        column("mean_delay_seconds", T.DoubleType(), "Mean time from event to arrival", "s"),
        column("validity", T.DoubleType(), "rows / (rows + refused)", "1"),
        column("completeness", T.DoubleType(), "Values present / values that the rows' versions have", "1"),
        column("continuity", T.DoubleType(), "rows / (rows + missing_rows)", "1"),
        column("freshness", T.DoubleType(), "Rows that arrived in time / rows", "1"),
        column("score", T.DoubleType(), "100 x validity x completeness x continuity x freshness", "%", nullable=False),
        column("marks", T.ArrayType(T.StringType()), "Which of these are below their thresholds"),
    ]
)


def touched_by_rows(new: DataFrame) -> DataFrame:
    """Days that new rows of silver are of."""
    return new.select(F.to_date("event_time").alias("day")).distinct()


def touched_by_refusals(new: DataFrame) -> DataFrame:
    """Days that new rows of quarantine count for."""
    return new.where("row IS NOT NULL").select(_day_of_refusal().alias("day")).distinct()


def compute(inputs: Mapping[str, DataFrame], touched: DataFrame, settings: QualitySettings) -> DataFrame:
    """Compute ``gold/device_quality`` for whole days.

    Args:
        inputs: ``silver/devices`` and, if anything was ever refused, ``quarantine/devices``.
        touched: Column ``day``.
        settings: Thresholds.

    Returns:
        One row per device and day, and one for all of them, as :data:`SCHEMA`.
    """
    days = sorted(row["day"] for row in touched.select("day").distinct().collect())
    silver = inputs[_SILVER].withColumn("day", F.to_date("event_time"))
    if days:  # The first and last day bound the files that are read.
        silver = silver.where(F.col("event_time") >= F.lit(days[0])).where(
            F.col("event_time") < F.date_add(F.lit(days[-1]), 1)
        )
    accepted = _accepted(silver.where(F.col("day").isin(*days)), settings)
    measured = accepted.unionByName(_summed(accepted))
    quarantine = inputs.get(_QUARANTINE)
    if quarantine is None:
        rows = measured.withColumns({"refused": F.lit(0).cast("long"), "refusals": F.lit(None)})
    else:
        refused = _refused(quarantine.withColumn("day", _day_of_refusal()).where(F.col("day").isin(*days)))
        rows = measured.join(refused, list(KEY), "full_outer")
    scored = _scored(rows, settings)
    return scored.select(*(F.col(f.name).cast(f.dataType).alias(f.name) for f in SCHEMA))


def _day_of_refusal() -> Column:
    time_is_bad = F.exists("reasons", lambda text: F.split_part(text, F.lit(" "), F.lit(2)) == "event_time:")
    return F.to_date(F.when(time_is_bad, F.col("arrived_at")).otherwise(F.coalesce("event_time", "arrived_at")))


def _accepted(silver: DataFrame, settings: QualitySettings) -> DataFrame:
    """Sums per device and day. Durations are whole microseconds: their sums do not depend on the order of rows."""
    in_order = Window.partitionBy(*KEY).orderBy("event_time")
    delay = F.unix_micros("arrived_at") - F.unix_micros("event_time")
    has_v2 = F.col("schema_version") >= 2
    present = sum((F.col(name).isNotNull().cast("long") for name in (*_BOTH, *_SINCE_V2)), F.lit(0))
    rows = silver.withColumn("_step", F.unix_micros("event_time") - F.lag(F.unix_micros("event_time")).over(in_order))
    sums = rows.groupBy(*KEY).agg(
        F.count(F.lit(1)).alias("rows"),
        F.array_sort(F.collect_set("schema_version")).alias("versions"),
        F.min("event_time").alias("first_event_time"),
        F.max("event_time").alias("last_event_time"),
        F.median("_step").alias("_interval"),
        F.collect_list("_step").alias("_steps"),
        F.sum(present).alias("_present"),
        F.sum(F.when(has_v2, len(_BOTH) + len(_SINCE_V2)).otherwise(len(_BOTH))).alias("_expected"),
        F.count(delay).alias("_delays"),
        F.sum(delay).alias("_delay"),
        F.count_if(delay <= settings.fresh_seconds * 1e6).alias("_fresh"),
    )
    silences = F.filter("_steps", lambda step: step > F.col("_interval") * settings.gap_intervals)
    missing = F.transform(silences, lambda step: F.round(step / F.col("_interval")).cast("long") - 1)
    return sums.withColumns(
        {
            "interval_seconds": F.col("_interval") / 1e6,
            "gaps": F.size(silences).cast("long"),
            "missing_rows": F.aggregate(missing, F.lit(0).cast("long"), lambda total, count: total + count),
        }
    ).drop("_interval", "_steps")


def _summed(accepted: DataFrame) -> DataFrame:
    """The same for all devices of a day together."""
    counted = ("rows", "_present", "_expected", "_delays", "_delay", "_fresh", "gaps", "missing_rows")
    return accepted.groupBy("day").agg(
        F.lit(ALL).alias("device_id"),
        F.array_sort(F.array_distinct(F.flatten(F.collect_list("versions")))).alias("versions"),
        F.min("first_event_time").alias("first_event_time"),
        F.max("last_event_time").alias("last_event_time"),
        F.lit(None).cast("double").alias("interval_seconds"),
        *(F.sum(name).alias(name) for name in counted),
    )


def _refused(quarantine: DataFrame) -> DataFrame:
    """Rows in quarantine per device and day, and for all devices, in all and by reason."""
    codes = F.array_distinct(F.transform("reasons", lambda text: F.split_part(text, F.lit(" "), F.lit(1))))
    counted = F.array(F.coalesce("entity", F.lit(UNKNOWN)), F.lit(ALL))
    rows = quarantine.where("row IS NOT NULL").select(
        "day", F.explode(counted).alias("device_id"), codes.alias("codes")
    )
    in_all = rows.groupBy(*KEY).agg(F.count(F.lit(1)).alias("refused"))
    by_code = rows.withColumn("code", F.explode("codes")).groupBy(*KEY, "code").agg(F.count(F.lit(1)).alias("n"))
    entries = F.array_sort(F.collect_list(F.struct("code", "n")))
    refusals = by_code.groupBy(*KEY).agg(F.map_from_entries(entries).alias("refusals"))
    return in_all.join(refusals, list(KEY))


def _scored(rows: DataFrame, settings: QualitySettings) -> DataFrame:
    counted = {name: F.coalesce(name, F.lit(0).cast("long")) for name in ("rows", "refused")}
    shares = {
        "validity": F.try_divide("rows", F.col("rows") + F.col("refused")),
        "completeness": F.try_divide("_present", "_expected"),
        "continuity": F.try_divide("rows", F.col("rows") + F.col("missing_rows")),
        "freshness": F.try_divide("_fresh", "_delays"),
    }
    # A share that cannot be told, because there are no rows, does not count.
    score = F.lit(100.0)
    for name in shares:
        score = score * F.coalesce(name, F.lit(1.0))
    limits = {name: getattr(settings, f"minimum_{name}") for name in ("score", *shares)}
    marks = F.array_compact(F.array(*(F.when(F.col(name) < limit, F.lit(name)) for name, limit in limits.items())))
    return (
        rows.withColumns(counted)
        .withColumns({**shares, "mean_delay_seconds": F.try_divide("_delay", "_delays") / 1e6})
        .withColumn("score", score)
        .withColumn("marks", marks)
    )


TABLE = GoldTable(
    name="device_quality",
    dataset="devices",
    schema=SCHEMA,
    key=KEY,
    settings=QualitySettings,
    how=Grouped(
        inputs=(_SILVER,),
        touched=lambda new, _inputs, _settings: touched_by_rows(new),
        compute=compute,
        also={_QUARANTINE: lambda new, _inputs, _settings: touched_by_refusals(new)},
    ),
    look=("device_id", "day", "rows", "versions", "refusals", "gaps", "completeness", "freshness", "score", "marks"),
)

"""gold/county_profile: what there is to fish in each county, where, and how one gets to the water."""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.lake.tables import ALL, GoldTable, Grouped, NoSettings, column

SILVER = "silver/waterways"
KEY = ("county",)

_PLACE = ("county", "waterbody_name", "longitude", "latitude")
# Between names: a hyphen with blanks about it, the asterisk that marks some of them, a full stop typed for a hyphen.
_BETWEEN_SPECIES = r"\s*(?:\*|\.(?=\s)|(?<=\s)-(?=[\s*]|$))\s*"
_BETWEEN_TYPES = r"\s+-\s+"
_PER_DEGREE = 10_000_000  # a centimetre
_COUNTS = T.MapType(T.StringType(), T.LongType())


def touched(new: DataFrame, inputs: Mapping[str, DataFrame], settings: NoSettings) -> DataFrame:
    """The counties with new rows, and all of them together."""
    counties = new.select("county").distinct()
    return counties.unionByName(counties.select(F.lit(ALL).alias("county")).distinct())


def compute(inputs: Mapping[str, DataFrame], touched: DataFrame, settings: NoSettings) -> DataFrame:
    """Sum up the touched counties.

    A stream repeats the same places over and over, so rows are first counted per place and what is said of it; all
    else is computed from those few.

    Args:
        inputs: Silver rows of waterways.
        touched: Counties to compute.
        settings: None.

    Returns:
        One row per touched county, as :data:`SCHEMA`.
    """
    said = (
        inputs[SILVER]
        .groupBy(*_PLACE, "fish_species", "access_types", F.col("special_regulations").isNotNull().alias("regulated"))
        .agg(F.count("event_time").alias("events"), F.count(F.lit(1)).alias("rows"))
    )
    of_all = said.withColumn("county", F.lit(ALL))
    rows = said.unionByName(of_all).join(F.broadcast(touched), list(KEY), "left_semi")
    nothing = F.create_map().cast(_COUNTS)
    return (
        _totals(rows)
        .join(_named(rows, "fish_species", _BETWEEN_SPECIES).withColumnRenamed("counts", "species"), "county", "left")
        .join(
            _named(rows, "access_types", _BETWEEN_TYPES).withColumnRenamed("counts", "access_types"), "county", "left"
        )
        .withColumns({name: F.coalesce(name, nothing) for name in ("species", "access_types")})
        .select(*SCHEMA.names)
    )


def _totals(rows: DataFrame) -> DataFrame:
    """Per county: rows and events, places and their centre, waterbodies, the share of places with regulations."""

    def centre(name: str) -> Column:
        # Whole numbers add up to the same sum in any order.
        return (F.sum(F.rint(F.col(name) * _PER_DEGREE).cast("long")) / F.count(F.lit(1)) / _PER_DEGREE).alias(name)

    places = rows.groupBy(*_PLACE).agg(
        F.max("regulated").alias("regulated"), F.sum("events").alias("events"), F.sum("rows").alias("rows")
    )
    return places.groupBy("county").agg(
        F.sum(F.col("rows") - F.col("events")).alias("listings"),
        F.sum("events").alias("events"),
        F.count(F.lit(1)).alias("places"),
        F.countDistinct("waterbody_name").alias("waterbodies"),
        (F.count_if("regulated") / F.count(F.lit(1))).alias("special_regulations_share"),
        centre("longitude"),
        centre("latitude"),
    )


def _named(rows: DataFrame, listed: str, between: str) -> DataFrame:
    """Per county, ``counts``: a map from each name in a listed text to the number of waterbodies it is said of."""
    names = rows.select("county", "waterbody_name", F.explode(F.split(listed, between)).alias("name"))
    waterbodies = names.withColumn("name", _title(F.trim("name"))).where("name <> ''").distinct()
    counted = waterbodies.groupBy("county", "name").agg(F.count(F.lit(1)).alias("count"))
    entries = F.array_sort(F.collect_list(F.struct("name", "count")))
    return counted.groupBy("county").agg(F.map_from_entries(entries).alias("counts"))


def _title(text: Column) -> Column:
    """Text in title case, in parentheses too: one spelling for 'Boat launch (Hand Launch)' and 'Boat Launch'."""
    return F.replace(F.initcap(F.replace(text, F.lit("("), F.lit("( "))), F.lit("( "), F.lit("("))


SCHEMA = T.StructType(
    [
        column("county", T.StringType(), f"The county, or {ALL} for all of them", nullable=False),
        column("listings", T.LongType(), "Rows of lists: those without an event time", "1", nullable=False),
        column("events", T.LongType(), "Events", "1", nullable=False),
        column("places", T.LongType(), "Different places: a waterbody and coordinates", "1", nullable=False),
        column("waterbodies", T.LongType(), "Different names of waterbodies", "1", nullable=False),
        column("species", _COUNTS, "Species -> waterbodies that have it", "1"),
        column("access_types", _COUNTS, "Type of access -> waterbodies with it", "1"),
        column("special_regulations_share", T.DoubleType(), "Share of the places with regulations of their own", "1"),
        column("longitude", T.DoubleType(), "Mean longitude of the places", "deg"),
        column("latitude", T.DoubleType(), "Mean latitude of the places", "deg"),
    ]
)

TABLE = GoldTable(
    name="county_profile",
    dataset="waterways",
    schema=SCHEMA,
    key=KEY,
    how=Grouped(inputs=(SILVER,), touched=touched, compute=compute),
    look=(
        "county",
        "listings",
        "events",
        "places",
        "waterbodies",
        "special_regulations_share",
        "longitude",
        "latitude",
    ),
)

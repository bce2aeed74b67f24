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
    return _and_all(new.select("county").distinct()).distinct()


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
        # True of every row. It keeps both counts in both uses of this, and Spark then reads silver once, not twice.
        .where("events <= rows")
    )
    rows = _and_all(said).join(F.broadcast(touched), list(KEY), "left_semi")
    return _totals(rows).join(_named(rows), "county").select(*SCHEMA.names)


def _and_all(rows: DataFrame) -> DataFrame:
    """Rows of each county, and once more of all counties."""
    return rows.withColumn("county", F.explode(F.array("county", F.lit(ALL))))


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


def _named(rows: DataFrame) -> DataFrame:
    """Per county, ``species`` and ``access_types``: from each name listed to the waterbodies that it is said of."""

    def listed(kind: str, text: str, between: str) -> Column:
        names = F.transform(F.split(F.coalesce(text, F.lit("")), between), lambda name: _title(F.trim(name)))
        return F.transform(names, lambda name: F.struct(F.lit(kind).alias("kind"), name.alias("name")))

    def counted(kind: str) -> Column:
        entries = F.collect_list(F.when(F.col("kind") == kind, F.struct("name", "waterbodies")))
        # The blank between two marks, or in place of a list, is no name.
        return F.map_from_entries(F.filter(F.array_sort(entries), lambda entry: entry["name"] != "")).alias(kind)

    lists = (
        listed("species", "fish_species", _BETWEEN_SPECIES),
        listed("access_types", "access_types", _BETWEEN_TYPES),
    )
    return (
        rows.select("county", "waterbody_name", F.inline(F.concat(*lists)))
        .groupBy("county", "kind", "name")
        .agg(F.countDistinct("waterbody_name").alias("waterbodies"))
        .groupBy("county")
        .agg(counted("species"), counted("access_types"))
    )


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

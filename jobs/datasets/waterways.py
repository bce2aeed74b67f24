"""Waterways: places to fish in New York State, as a list or as a stream of events by county."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from jobs.datasets import nys_waterways
from jobs.lake import quality
from jobs.lake.sources import Parsed, SourceFile
from jobs.lake.tables import Dataset, Ingest, Tolerance, column

NAMES = ("county", "waterbody_name")
OPTIONAL = (
    "fish_species",
    "comments",
    "special_regulations",
    "access_types",
    "fishing_access_owner",
    "information_url",
)
"""Columns of text that need not say anything."""


class WaterwaysSettings(BaseModel):
    """Thresholds for waterways rows.

    The box is that of the state and its waters in the TIGER/Line boundaries of the U.S. Census Bureau, rounded outward
    to a hundredth of a degree.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    west: float = Field(-79.77, ge=-180, le=180, description="Degrees; no place in New York State is farther west")
    east: float = Field(-71.77, ge=-180, le=180, description="Degrees; or farther east")
    south: float = Field(40.47, ge=-90, le=90, description="Degrees; or farther south")
    north: float = Field(45.02, ge=-90, le=90, description="Degrees; or farther north")
    earliest: AwareDatetime = Field(datetime(2000, 1, 1, tzinfo=UTC), description="No event is older")
    latest: AwareDatetime = Field(datetime(2100, 1, 1, tzinfo=UTC), description="No event is younger")
    future_tolerance_seconds: Tolerance = Field(
        300.0, description="An event may be so much later than its file, because clocks differ"
    )

    @model_validator(mode="after")
    def _check_order(self) -> WaterwaysSettings:
        for low, high in (("west", "east"), ("south", "north"), ("earliest", "latest")):
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(f"{low} {getattr(self, low)} is not below {high} {getattr(self, high)}")
        return self


def rules(settings: WaterwaysSettings) -> list[Column]:
    """An identity, names that are names, coordinates in the state, and an instant, if any, that is not to come."""
    return [
        quality.matches("event_id", r"(?i)\A[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\z", "a UUID"),
        # Keeps out blanks, and the mark of a gold row that sums up all counties.
        quality.matches("county", r"\A\p{L}", "a name that begins with a letter"),
        quality.matches("waterbody_name", r"\S", "a name"),
        quality.between_times("event_time", settings.earliest, settings.latest),
        quality.not_in_future("event_time", timedelta(seconds=settings.future_tolerance_seconds)),
        quality.finite("longitude"),
        quality.finite("latitude"),
        quality.in_range("longitude", settings.west, settings.east),
        quality.in_range("latitude", settings.south, settings.north),
    ]


def clean(rows: DataFrame) -> DataFrame:
    """Trim texts and single their blanks; a text that says nothing, or "None", is null; counties are in title case."""
    texts = (*NAMES, *OPTIONAL)
    # Most rows have none but single blanks, which is ten times faster told, and faster told of all texts at once.
    joined = F.concat_ws("|", *texts)
    odd = joined.contains("  ") | joined.rlike("[^ -~]")
    tidied = rows.withColumn("_odd", odd).withColumns({name: F.trim(_single_blanks(name)) for name in texts})
    said = {name: F.when((F.length(name) > 4) | ~F.lower(name).isin("", "none"), F.col(name)) for name in OPTIONAL}
    return tidied.withColumns({**said, "county": F.initcap("county")}).drop("_odd")


def _single_blanks(name: str) -> Column:
    """Every run of white space as one blank."""
    return F.when(F.col("_odd"), F.regexp_replace(name, r"(?U)\s+", " ")).otherwise(F.col(name))


def parse(file: SourceFile, beside: Sequence[SourceFile]) -> Iterator[Parsed]:
    """Rows of a CSV file whose headers mean what silver's columns do."""
    with file.open() as stream:
        yield from nys_waterways.parse(stream, file.name)


DATASET = Dataset(
    name="waterways",
    schema=T.StructType(
        [
            column("event_id", T.StringType(), "The event or the row of a list, a UUID", nullable=False),
            column("event_time", T.TimestampType(), "When it happened; null for a row of a list", "UTC"),
            column("county", T.StringType(), "County of New York State, in title case", nullable=False),
            column("waterbody_name", T.StringType(), "River or stream", nullable=False),
            column("fish_species", T.StringType(), "Species present, as listed: ' - ' between them"),
            column("comments", T.StringType(), "Permits, camping and the like; null for 'None'"),
            column("special_regulations", T.StringType(), "Link to regulations that hold there"),
            column("access_types", T.StringType(), "Types of public access, as listed: ' - ' between them"),
            column("fishing_access_owner", T.StringType(), "Who grants the access"),
            column("information_url", T.StringType(), "Link to a map or a description"),
            column("longitude", T.DoubleType(), "Longitude, east positive", "deg", nullable=False),
            column("latitude", T.DoubleType(), "Latitude, north positive", "deg", nullable=False),
            column("location", T.StringType(), "Latitude and longitude as the source wrote them"),
        ]
    ),
    key=("event_id",),
    entity="county",
    settings=WaterwaysSettings,
    rules=rules,
    clean=clean,
    aliases=nys_waterways.ALIASES,
    ingest=Ingest(
        # A list has no time to partition by, and a county's name may be anything that was typed.
        partition_by=(),
        companions=lambda name: [],
        is_companion=lambda name: False,
        parse=parse,
    ),
)

"""What there is to fish in each county: the real list summed up by hand, and lists that are hard to split."""

from __future__ import annotations

import csv
import gzip
import statistics
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.features import county_profile
from jobs.features.county_profile import SCHEMA, SILVER
from jobs.lake.tables import NoSettings
from sim import waterways

PATH = Path(waterways.__file__).parent / "data" / "waterways" / waterways.FILE
COLUMNS = (
    "event_time timestamp, county string, waterbody_name string, longitude double, latitude double,"
    " fish_species string, access_types string, special_regulations string"
)


def profiles(spark: SparkSession, rows: list[tuple], of: list[str] | None = None) -> dict[str, dict]:
    silver = spark.createDataFrame(rows, COLUMNS)
    inputs, settings = {SILVER: silver}, NoSettings()
    new = silver if of is None else silver.where(silver.county.isin(of))
    found = county_profile.compute(inputs, county_profile.touched(new, inputs, settings), settings)
    assert found.dtypes == [(f.name, f.dataType.simpleString()) for f in SCHEMA]
    return {row["county"]: row.asDict() for row in found.collect()}


def test_compute__the_real_list(spark: SparkSession):
    with gzip.open(PATH, "rt", encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    rows = [
        (
            None, r["County"], r["Waterbody Name"], float(r["Longitude"]), float(r["Latitude"]),
            " ".join(r["Fish Species Present at Waterbody"].split()), r["Types of Public Access"] or None,
            r["Special Regulations on Waterbody"] or None,
        )
        for r in lines
    ]  # fmt: skip
    found = profiles(spark, rows)
    assert len(found) == 56
    everything = found["(all)"]
    places = {row[1:5]: row[7] for row in rows}
    assert (everything["listings"], everything["events"]) == (546, 0)
    assert (everything["places"], everything["waterbodies"]) == (544, 158)
    assert everything["special_regulations_share"] == pytest.approx(sum(map(bool, places.values())) / 544)
    assert everything["longitude"] == pytest.approx(statistics.fmean(place[2] for place in places), abs=1e-7)
    assert everything["latitude"] == pytest.approx(statistics.fmean(place[3] for place in places), abs=1e-7)
    # By eye from the file: all names that stand in it, one of them misspelled there.
    assert set(everything["species"]) == {
        "Atlantic Salmon", "Brook Trout", "Brown Trout", "Carp", "Chain Pickerel", "Channel Catfish", "Chinook Salmon",
        "Coho Salmon", "Crappie", "Lake Trout", "Largemouth Bass", "Muskellunge", "Norhtern Pike", "Northern Pike",
        "Rainbow Trout", "Smallmouth Bass", "Steelhead", "Striped Bass", "Sunfish", "Tiger Musky", "Walleye",
        "Yellow Perch",
    }  # fmt: skip
    assert set(everything["access_types"]) == {
        "Boat Launch (Hand Launch)", "Boat Launch (Trailer Improved)", "Boat Launch (Trailer Unimproved)", "Footpath",
        "Public Fishing Rights", "Shore Fishing",
    }  # fmt: skip
    # No name is part of another, so that a plain search finds them.
    for column, place in (("species", 5), ("access_types", 6)):
        for county in ("Delaware", "St. Lawrence", "Oswego", "(all)"):
            expected = defaultdict(set)
            for row in rows:
                if county in (row[1], "(all)"):
                    text = (row[place] or "").lower()
                    for name in everything[column]:
                        if name.lower() in text:
                            expected[name].add(row[2])
            assert found[county][column] == {name: len(waterbodies) for name, waterbodies in expected.items()}


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ("Brown Trout*", {"Brown Trout"}),
        ("Brown Trout* Rainbow Trout*", {"Brown Trout", "Rainbow Trout"}),
        ("Brook Trout - Brown Trout -* Rainbow Trout*", {"Brook Trout", "Brown Trout", "Rainbow Trout"}),
        ("Muskellunge - Northern Pike. Walleye - Carp", {"Muskellunge", "Northern Pike", "Walleye", "Carp"}),
        ("Tiger Musky* -  Walleye - Striped bass", {"Tiger Musky", "Walleye", "Striped Bass"}),
        ("Saugeye-Hybrid - Carp -", {"Saugeye-hybrid", "Carp"}),
        ("*", set()),
        (None, set()),
    ],
)
def test_species__are_split_and_freed_of_marks(spark: SparkSession, listed: str | None, names: set[str]):
    found = profiles(spark, [(None, "Essex", "Brook", -74.0, 44.0, listed, None, None)])
    assert found["Essex"]["species"] == dict.fromkeys(names, 1)
    assert found["Essex"]["access_types"] == {}


def test_compute__rows_count_and_places_count_once(spark: SparkSession):
    time = datetime(2026, 1, 1, tzinfo=UTC)
    shore, launch = "Shore Fishing", "Shore Fishing - Boat launch (Hand Launch)"
    rows = [
        (None, "Essex", "Brook", -74.0, 44.0, "Carp", shore, None),
        (time, "Essex", "Brook", -74.0, 44.0, "Carp", shore, "http://r"),
        (time, "Essex", "Brook", -74.5, 44.5, "Carp", launch, None),
        (time, "Essex", "Brook", -74.5, 44.5, "Carp", launch, None),
        (time, "Essex", "River", -74.1, 44.1, "Carp* - Walleye", launch, None),
        (time, "Erie", "Brook", -78.0, 43.0, "Walleye", None, None),
    ]
    found = profiles(spark, rows)
    assert {key: found["Essex"][key] for key in SCHEMA.names} == {
        "county": "Essex",
        "listings": 1,
        "events": 4,
        "places": 3,
        "waterbodies": 2,
        "species": {"Carp": 2, "Walleye": 1},
        "access_types": {"Shore Fishing": 2, "Boat Launch (Hand Launch)": 2},
        "special_regulations_share": pytest.approx(1 / 3),
        "longitude": pytest.approx(-74.2),
        "latitude": pytest.approx(44.2),
    }
    assert found["(all)"]["waterbodies"] == 2
    assert found["(all)"]["places"] == 4
    assert found["(all)"]["species"] == {"Carp": 2, "Walleye": 2}
    assert set(profiles(spark, rows, of=["Erie"])) == {"Erie", "(all)"}

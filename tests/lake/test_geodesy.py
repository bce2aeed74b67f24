"""Distances and areas as Columns, against what is known and plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.lake.geodesy import haversine_m, is_inside

RADIUS = 6_371_008.8


def test_haversine_m__equals_the_angle_between_vectors(spark: SparkSession):
    rng = np.random.default_rng(5)
    points = [tuple(map(float, row)) for row in rng.uniform([-90, -180, -90, -180], [90, 180, 90, 180], (200, 4))]
    points += [
        (0.0, 0.0, 0.0, 180.0),
        (90.0, 0.0, -90.0, 77.0),
        (42.6, -73.7, 42.6, -73.7),
        (51.0, 179.9, 51.0, -179.9),
    ]
    table = spark.createDataFrame(points, "a double, b double, c double, d double")
    found = [row[0] for row in table.select(haversine_m(*(F.col(name) for name in "abcd"))).collect()]

    def vector(latitude: float, longitude: float) -> np.ndarray:
        y, x = math.radians(latitude), math.radians(longitude)
        return np.array([math.cos(y) * math.cos(x), math.cos(y) * math.sin(x), math.sin(y)])

    for distance, (a, b, c, d) in zip(found, points, strict=True):
        first, second = vector(a, b), vector(c, d)
        angle = math.atan2(float(np.linalg.norm(np.cross(first, second))), float(first @ second))
        assert distance == pytest.approx(RADIUS * angle, rel=1e-7, abs=1e-6)


def test_haversine_m__centimetres_count_and_null_stays_null(spark: SparkSession):
    centimetre = math.degrees(0.01 / RADIUS)
    table = spark.createDataFrame(
        [(42.6 + centimetre, -73.7), (42.6, -73.7 + centimetre / math.cos(math.radians(42.6))), (None, 1.0)],
        "a double, b double",
    )
    found = [row[0] for row in table.select(haversine_m(F.lit(42.6), F.lit(-73.7), F.col("a"), F.col("b"))).collect()]
    assert found[:2] == pytest.approx([0.01, 0.01], rel=1e-5)
    assert found[2] is None


# A horseshoe open to the north, with an edge along a parallel and a corner that rays pass through.
HORSESHOE = [(0.0, 0.0), (0.0, 6.0), (6.0, 6.0), (6.0, 4.0), (2.0, 3.0), (6.0, 2.0), (6.0, 0.0)]


@pytest.mark.parametrize("corners", [HORSESHOE, HORSESHOE[::-1]], ids=["anticlockwise", "clockwise"])
def test_is_inside__a_horseshoe_by_hand(spark: SparkSession, corners: list[tuple[float, float]]):
    expected = {
        (1.0, 3.0): True,
        (3.0, 1.0): True,
        (3.0, 5.0): True,
        (5.0, 3.0): False,  # between the arms
        (1.9, 3.0): True,
        (2.1, 3.0): False,
        (2.0, 1.0): True,  # level with the inner corner
        (2.0, 5.0): True,
        (2.0, 7.0): False,
        (2.0, -1.0): False,
        (6.0, -1.0): False,  # level with the tips of the arms
        (0.0, -1.0): False,  # level with the lowest edge
        (-1.0, 3.0): False,
        (7.0, 1.0): False,
    }
    table = spark.createDataFrame(list(expected), "a double, b double").repartition(1)
    found = {
        (row[0], row[1]): row[2] for row in table.select("a", "b", is_inside(F.col("a"), F.col("b"), corners)).collect()
    }
    assert found == expected


def test_is_inside__neighbours_share_no_point_of_their_border(spark: SparkSession):
    west = [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0)]
    east = [(a, b + 1) for a, b in west]
    table = spark.createDataFrame([(n / 10, 1.0) for n in range(10)], "a double, b double")
    both = [is_inside(F.col("a"), F.col("b"), corners).cast("int") for corners in (west, east)]
    assert {row[0] for row in table.select(both[0] + both[1]).collect()} == {1}

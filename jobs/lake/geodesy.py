"""Distances and areas on the globe, as Columns of degrees."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import ne

from pyspark.sql import Column
from pyspark.sql import functions as F

EARTH_RADIUS_M = 6_371_008.8
"""Mean radius R1 of the Geodetic Reference System 1980 (H. Moritz, Journal of Geodesy 74, 2000)."""


def haversine_m(latitude_1: Column, longitude_1: Column, latitude_2: Column, longitude_2: Column) -> Column:
    """Metres along a great circle of a sphere of mean radius; off by up to 0.6 % of the ellipsoid's.

    R. W. Sinnott, "Virtues of the haversine", Sky and Telescope 68(2), 1984. Good to well below a millimetre at any
    distance down to nought; null if a coordinate is.
    """
    north = F.sin(F.radians(latitude_2 - latitude_1) / 2)
    east = F.sin(F.radians(longitude_2 - longitude_1) / 2)
    square = north * north + F.cos(F.radians(latitude_1)) * F.cos(F.radians(latitude_2)) * east * east
    # Rounding can take the square beyond 1 between antipodes. Not F.least, which passes over null.
    return 2 * EARTH_RADIUS_M * F.asin(F.sqrt(F.when(square > 1, 1.0).otherwise(square)))


def is_inside(latitude: Column, longitude: Column, corners: Sequence[tuple[float, float]]) -> Column:
    """Whether a point is in a polygon, by the even-odd rule: a ray eastwards crosses its border an odd number of times.

    The edges are straight in degrees. Of two polygons with a common edge, a point on it is in one.

    Args:
        latitude: Of the point.
        longitude: Of the point.
        corners: (latitude, longitude) in order, either way round; not across the 180th meridian.
    """
    crossings = [
        ((latitude >= south) != (latitude >= north))
        & (longitude < west + (latitude - south) * ((east - west) / (north - south)))
        for (south, west), (north, east) in zip(corners, [*corners[1:], corners[0]], strict=True)
        if south != north  # along the ray: the edges before and after it decide
    ]
    return reduce(ne, crossings, F.lit(False))

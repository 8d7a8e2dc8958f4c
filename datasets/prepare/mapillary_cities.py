"""Cities of Mapillary Street-Level Sequences, and which of them a point lies in."""

import math
from collections.abc import Sequence

import numpy as np

from ..readers.utm_zones import unit_vectors

# Folder of each training city -> its name in the unified data set, and a point in it (degrees).  Names that GSV-Cities
# has too stay lower-case.
CITIES = {
    "trondheim": ("Trondheim", 63.43, 10.40), "amsterdam": ("Amsterdam", 52.37, 4.90),
    "helsinki": ("Helsinki", 60.17, 24.94), "tokyo": ("Tokyo", 35.68, 139.76),
    "toronto": ("Toronto", 43.65, -79.38), "saopaulo": ("Saopaulo", -23.55, -46.63),
    "moscow": ("Moscow", 55.75, 37.62), "zurich": ("Zurich", 47.37, 8.54),
    "paris": ("Paris", 48.86, 2.35), "budapest": ("Budapest", 47.50, 19.04),
    "austin": ("Austin", 30.27, -97.74), "berlin": ("Berlin", 52.52, 13.40),
    "ottawa": ("Ottawa", 45.42, -75.70), "goa": ("Goa", 15.30, 74.08),
    "amman": ("Amman", 31.95, 35.93), "nairobi": ("Nairobi", -1.29, 36.82),
    "manila": ("Manila", 14.60, 120.98), "bangkok": ("bangkok", 13.75, 100.50),
    "boston": ("boston", 42.36, -71.06), "london": ("london", 51.51, -0.13),
    "melbourne": ("melbourne", -37.81, 144.96), "phoenix": ("phoenix", 33.45, -112.07),
}
VALIDATION_CITIES = {"cph": (55.68, 12.57), "sf": (37.77, -122.42)}  # they never enter
POINTS = {**{city: point for city, (_, *point) in CITIES.items()}, **VALIDATION_CITIES}
_REACH = 100_000.0  # metres around the point of a city


def nearest_cities(points: Sequence[tuple[float, float]]) -> list[str | None]:
    """The folder name of the city of training or validation around each point (degrees), None where there is none."""
    cosines = unit_vectors(*np.array(points).reshape(-1, 2).T) @ unit_vectors(*np.array(list(POINTS.values())).T).T
    inside = cosines.max(axis=1) >= math.cos(_REACH / 6_371_000)  # False for NaN
    cities = list(POINTS)
    return [cities[i] if near else None for i, near in zip(cosines.argmax(axis=1), inside, strict=True)]

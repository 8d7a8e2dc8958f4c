"""Degrees to UTM for whole arrays, each point in the zone that it lies in or in one that is asked for."""

import numpy as np
import utm

SOUTH = 10_000_000  # metres that UTM adds to a north below the equator

zone_numbers = np.vectorize(utm.latlon_to_zone_number, otypes=[np.int64])  # (lat, lon) -> zones, each (n,)
zone_letters = np.vectorize(utm.latitude_to_zone_letter, otypes=[str])  # lat -> letters of the bands, each (n,)


def to_utm(
    lat: np.ndarray, lon: np.ndarray, zones: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,) degrees -> east, north in metres and zone, the point's own or the one asked for.

    North is counted from the equator, negative in the south.
    """
    zones = zone_numbers(lat, lon) if zones is None else zones
    east, north = np.empty(len(lat)), np.empty(len(lat))
    for zone in np.unique(zones):
        rows = zones == zone
        east[rows], north[rows], *_ = utm.from_latlon(lat[rows], lon[rows], force_zone_number=int(zone),
                                                      force_northern=True)
    return east, north, zones


def unit_vectors(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """(n,) degrees -> (n, 3) directions from the centre of a globe."""
    lat, lon = np.radians([lat, lon])
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)

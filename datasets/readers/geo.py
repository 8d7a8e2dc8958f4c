"""Degrees to UTM for whole arrays, each point in the zone that it lies in."""

import numpy as np
import utm

_LETTERS = np.array(list("CDEFGHJKLMNPQRSTUVWXX"))  # bands of 8 degrees from 80 S; X has 12


def zone_numbers(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """(n,) UTM zones, with the exceptions of Norway and Svalbard: what utm.latlon_to_zone_number gives one by one."""
    lon = (lon % 360 + 540) % 360 - 180
    zones = ((lon + 180) // 6).astype(np.int64) + 1
    zones[(lat >= 56) & (lat < 64) & (lon >= 3) & (lon < 12)] = 32
    for west, east, zone in ((0, 9, 31), (9, 21, 33), (21, 33, 35), (33, 42, 37)):
        zones[(lat >= 72) & (lon >= west) & (lon < east)] = zone
    return zones


def zone_letters(lat: np.ndarray) -> np.ndarray:
    """(n,) letters of the latitude bands."""
    return _LETTERS[((lat + 80) // 8).astype(np.int64)]


def to_utm(
    lat: np.ndarray, lon: np.ndarray, zones: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,) degrees -> east, north in metres and zone, the point's own or the one asked for.

    North is counted from the equator, negative in the south (UTM adds 10000 km there).
    """
    zones = zone_numbers(lat, lon) if zones is None else zones
    east, north = np.empty(len(lat)), np.empty(len(lat))
    for zone in np.unique(zones):
        for southern in (False, True):  # utm wants latitudes of one sign
            rows = np.flatnonzero((zones == zone) & ((lat < 0) == southern))
            if len(rows):
                east[rows], north[rows], _, _ = utm.from_latlon(lat[rows], lon[rows], force_zone_number=int(zone))
                north[rows] -= 10_000_000 * southern
    return east, north, zones

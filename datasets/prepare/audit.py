"""How many queries of a benchmark have a training image nearby."""

import collections
import csv
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import utm
from sklearn.neighbors import NearestNeighbors

from ..listing import Listing
from ..msls.tables import Table
from ..readers.geo import to_utm
from ..readers.scan import list_images
from ..training.places import COLUMNS

_LETTERS = frozenset("CDEFGHJKLMNPQRSTUVWX")  # bands of latitude; N is the first in the north
RADII = (25.0, 100.0, 1000.0)  # metres


class Points(NamedTuple):
    """Where images were taken: metres in a UTM zone, north counted from the equator and negative in the south.

    east, north   (n,) float64
    zone          (n,) int64
    city          (n,) name of the training city, "" for queries
    """

    east: np.ndarray
    north: np.ndarray
    zone: np.ndarray
    city: np.ndarray


class Nearby(NamedTuple):
    """radius      metres
    queries     how many queries have a training image within it (inclusive)
    cities      those queries by the city of the nearest training image
    """

    radius: float
    queries: int
    cities: dict[str, int]


def count_nearby(queries: Points, training: Points, radii: Sequence[float] = RADII) -> list[Nearby]:
    """For each radius the queries with a training image within it, in the query's zone or across its border."""
    distance, nearest = np.full(len(queries.zone), np.inf), np.zeros(len(queries.zone), np.int64)
    for zone in np.unique(queries.zone):
        candidates = np.flatnonzero(np.isin((training.zone - zone) % 60, (0, 1, 59)))
        if not len(candidates):
            continue
        rows = queries.zone == zone
        # The tree computes distances from coordinate differences, so that an image at exactly the radius counts.
        tree = NearestNeighbors(n_neighbors=1, algorithm="kd_tree").fit(_in_zone(training, candidates, int(zone)))
        found, which = tree.kneighbors(np.stack([queries.east[rows], queries.north[rows]], axis=1))
        distance[rows], nearest[rows] = found[:, 0], candidates[which[:, 0]]
    return [Nearby(radius, int((near := distance <= radius).sum()),
                   dict(collections.Counter(training.city[nearest[near]].tolist()).most_common())) for radius in radii]


def _in_zone(points: Points, rows: np.ndarray, zone: int) -> np.ndarray:
    """(n, 2) metres of some points in one zone; those of its neighbours are carried over the border."""
    metres, zones = np.stack([points.east[rows], points.north[rows]], axis=1), points.zone[rows]
    south = metres[:, 1] < 0
    for neighbour in np.unique(zones[zones != zone]):
        for southern in (False, True):  # utm wants points of one side
            moved = np.flatnonzero((zones == neighbour) & (south == southern))
            if not len(moved):
                continue
            lat, lon = utm.to_latlon(metres[moved, 0], metres[moved, 1] + 10_000_000 * southern, int(neighbour),
                                     northern=not southern, strict=False)
            east, north, _ = to_utm(lat, lon, np.full(len(moved), zone))
            metres[moved] = np.stack([east, north], axis=1)
    return metres


def named_points(names: Iterable[Sequence[bytes]], where: str, city: str = "") -> Points:
    """Points of images from the fields of their names: metres, zone and letter, else latitude and longitude."""
    east, north, zone, degrees = [], [], [], {}
    for row, fields in enumerate(names):
        try:
            metres = float(fields[1]), float(fields[2])
            number, letter = int(fields[3]), fields[4].decode().upper()
            if not (1 <= number <= 60 and letter in _LETTERS and all(map(math.isfinite, metres))):
                raise ValueError
            values = (metres[0], metres[1] - (letter < "N") * 10_000_000, number)
        except (IndexError, ValueError):
            try:
                degrees[row] = float(fields[5]), float(fields[6])
            except (IndexError, ValueError):
                degrees[row] = math.nan, math.nan
            if not (-80 <= degrees[row][0] <= 84 and -180 <= degrees[row][1] <= 180):
                raise ValueError(f"{where}, image {os.fsdecode(b'@'.join(fields))}: neither UTM coordinates with "
                                 "zone and letter nor latitude and longitude in the name; expected "
                                 "@<utm_east>@<utm_north>@<zone>@<letter>@<lat>@<lon>@...") from None
            values = (0.0, 0.0, 0)
        east.append(values[0])
        north.append(values[1])
        zone.append(values[2])
    points = Points(np.array(east), np.array(north), np.array(zone, np.int64), np.full(len(zone), city, object))
    if degrees:
        rows, (lat, lon) = np.array(list(degrees)), np.array(list(degrees.values())).T
        points.east[rows], points.north[rows], points.zone[rows] = to_utm(lat, lon)
    return points


def query_points(folder: Path) -> Points:
    """Points of the queries in the folder of a benchmark's split.  Raises FileNotFoundError or ValueError."""
    names = list_images(folder)
    if not names:
        raise FileNotFoundError(f"{folder}: no image in it; expected the queries of a benchmark")
    return named_points((name.rpartition(b"/")[2].split(b"@") for name in names), str(folder))


def listing_points(listing: Listing) -> Points:
    """Points of a protocol's queries: of their names, or of raw.csv beside them in Mapillary's tree of keys."""
    if all(path.name.startswith("@") for path in listing.query_paths):
        return named_points((os.fsencode(path.name).split(b"@") for path in listing.query_paths), str(listing.folder))
    tables: dict[Path, Table] = {}
    lat, lon = [], []
    for path in listing.query_paths:
        folder = path.parents[1]
        if folder not in tables:
            tables[folder] = Table(folder / "raw.csv", ("key", "lon", "lat"))
        table = tables[folder]
        row = table.rows.get(path.stem)
        if row is None:
            raise ValueError(f"{path}: no row of that key in {table.path}, which should tell where it was taken")
        degrees = [table.numbers(column, np.array([row]))[0] for column in ("lat", "lon")]
        lat.append(degrees[0])
        lon.append(degrees[1])
    east, north, zone = to_utm(np.array(lat), np.array(lon))
    return Points(east, north, zone, np.full(len(zone), "", object))


def training_points(folder: Path) -> Points:
    """Points of all images in the tables of a training set, which have degrees alone; "Tokyo3" is called Tokyo."""
    lat, lon, city = [], [], []
    tables = sorted((folder / "Dataframes").glob("[!.]*.csv"))
    for table in tables:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            try:
                header = next(reader, [])
                columns = [header.index(column) for column in COLUMNS[5:7]]
                rows = [(float(row[columns[0]]), float(row[columns[1]])) for row in reader if row]
                if not all(-80 <= a <= 84 and -180 <= b <= 180 for a, b in rows):
                    raise ValueError("degrees out of range")
            except (ValueError, IndexError, csv.Error) as error:
                raise ValueError(f"{table}, line {max(reader.line_num, 1)}: {error}; expected columns "
                                 f"{','.join(COLUMNS)}, decimal degrees in lat and lon") from None
        lat += [row[0] for row in rows]
        lon += [row[1] for row in rows]
        city += [re.sub(r"\d+$", "", table.stem)] * len(rows)
    if not lat:
        raise FileNotFoundError(f"{folder}: no training image; expected <folder>/Dataframes/<City>.csv")
    east, north, zone = to_utm(np.array(lat), np.array(lon))
    return Points(east, north, zone, np.array(city, object))

"""How many queries of a benchmark have a training image nearby."""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import utm
from sklearn.neighbors import NearestNeighbors

from ..listing import Listing
from ..msls.frames import Table
from ..readers.coordinates import SOUTH, Degrees, checked, to_utm
from ..readers.image_names import number, parse_name
from ..readers.tables import read_rows
from ..training.tables import EXPECTED

RADII = (25.0, 100.0, 1000.0)  # metres


class Points(NamedTuple):
    """Where images were taken: metres in a UTM zone, north counted from the equator and negative in the south."""

    east: np.ndarray  # (n,) float64
    north: np.ndarray  # (n,) float64
    zone: np.ndarray  # (n,) int64
    city: np.ndarray  # (n,) name of the training city, "" for queries


def count_nearby(queries: Points, training: Points) -> dict[float, Counter[str]]:
    """For each of RADII the queries with a training image within it (inclusive), by the city of the nearest.

    Training images count in the query's zone and across its border.
    """
    distance, nearest = np.full(len(queries.zone), np.inf), np.zeros(len(queries.zone), np.int64)
    for zone in np.unique(queries.zone):
        candidates = np.flatnonzero(np.isin((training.zone - zone) % 60, (0, 1, 59)))
        if not len(candidates):
            continue
        metres, zones = np.stack([training.east, training.north], axis=1)[candidates], training.zone[candidates]
        for neighbour in np.unique(zones[zones != zone]):  # whose points are carried over the border
            moved = zones == neighbour
            lat, lon = utm.to_latlon(*metres[moved].T, int(neighbour), northern=True, strict=False)
            metres[moved] = np.stack(to_utm(lat, lon, np.full(len(lat), zone))[:2], axis=1)
        rows = queries.zone == zone
        # The tree computes distances from coordinate differences, so that an image at exactly the radius counts.
        tree = NearestNeighbors(n_neighbors=1, algorithm="kd_tree").fit(metres)
        found, which = tree.kneighbors(np.stack([queries.east[rows], queries.north[rows]], axis=1))
        distance[rows], nearest[rows] = found[:, 0], candidates[which[:, 0]]
    return {radius: Counter(training.city[nearest[distance <= radius]].tolist()) for radius in RADII}


def named_points(names: Iterable[str | bytes], where: str, city: str = "") -> Points:
    """Points of images by their names: metres, zone and letter, else latitude and longitude."""
    rows: list[tuple[float, float, int]] = []
    for name in names:
        fields = parse_name(name)
        (east, north), zone = fields.metres, fields.zone_number
        lat, lon = number(fields.lat), number(fields.lon)
        if zone and fields.band and math.isfinite(east + north):
            north -= SOUTH * (fields.signed_zone < 0)
        elif -80 <= lat <= 84 and -180 <= lon <= 180:
            east, north, zone, _ = utm.from_latlon(lat, lon, force_northern=True)
        else:
            raise ValueError(f"{where}, image {os.fsdecode(name)}: neither UTM coordinates with zone and letter nor "
                             "latitude and longitude in the name; expected "
                             "@<utm_east>@<utm_north>@<zone>@<letter>@<lat>@<lon>@...")
        rows.append((east, north, zone))
    east, north, zones = np.array(rows).reshape(-1, 3).T
    return Points(east, north, zones.astype(np.int64), np.full(len(rows), city, object))


def listing_points(listing: Listing) -> Points:
    """Points of a protocol's queries: of their names, or of raw.csv beside them in Mapillary's tree of keys."""
    if all(path.name.startswith("@") for path in listing.query_paths):
        return named_points((path.name for path in listing.query_paths), str(listing.folder))
    tables = {folder: Table(folder / "raw.csv", ("key", "lon", "lat"))
              for folder in dict.fromkeys(path.parents[1] for path in listing.query_paths)}
    degrees = []
    for path in listing.query_paths:
        table = tables[path.parents[1]]
        if path.stem not in table:
            raise ValueError(f"{path}: no row of that key in {table.path}, which should tell where it was taken")
        degrees.append((table.number(path.stem, "lat"), table.number(path.stem, "lon")))
    return Points(*to_utm(*np.array(degrees).T), np.full(len(degrees), "", object))


def training_points(folder: Path) -> Points:
    """Points of all images in the tables of a training set, which have degrees alone; "Tokyo3" is called Tokyo."""
    def parse(row: dict[str, str]) -> Degrees:
        return checked(float(row["lat"]), float(row["lon"]))

    degrees, cities = [], []
    for table in sorted((folder / "Dataframes").glob("[!.]*.csv")):
        rows = [point for _, point in read_rows(table, ("lat", "lon"), parse, expected=EXPECTED)]
        degrees += rows
        cities += [re.sub(r"\d+$", "", table.stem)] * len(rows)
    if not degrees:
        raise FileNotFoundError(f"{folder}: no training image; expected <folder>/Dataframes/<City>.csv")
    return Points(*to_utm(*np.array(degrees).T), np.array(cities, object))

"""Training images of Mapillary Street-Level Sequences: the tree as downloaded, or files named by coordinates."""

import math
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from ..msls.frames import Table
from ..readers.coordinates import SOUTH, to_utm, unit_vectors, zone_letters
from ..readers.image_files import list_images, some_images
from ..readers.image_names import FORM, ImageName, number, parse_name
from ..training.tables import MSLS_CITIES
from .build import Images

LAYOUT = ("<folder>/<city>/{database,query}/{raw.csv,images/<key>.jpg} as downloaded (train_val), or files named "
          f"{FORM}")
COLUMNS = ("key", "lon", "lat", "ca", "captured_at", "pano")
SIDES = ("database", "query")

CITIES = {name.lower(): name for name in MSLS_CITIES}  # folder -> name in the unified data set
POINTS = {  # in each city: latitude, longitude in degrees; cph and sf are for validation and never enter
    "trondheim": (63.43, 10.40), "amsterdam": (52.37, 4.90), "helsinki": (60.17, 24.94), "tokyo": (35.68, 139.76),
    "toronto": (43.65, -79.38), "saopaulo": (-23.55, -46.63), "moscow": (55.75, 37.62), "zurich": (47.37, 8.54),
    "paris": (48.86, 2.35), "budapest": (47.50, 19.04), "austin": (30.27, -97.74), "berlin": (52.52, 13.40),
    "ottawa": (45.42, -75.70), "goa": (15.30, 74.08), "amman": (31.95, 35.93), "nairobi": (-1.29, 36.82),
    "manila": (14.60, 120.98), "bangkok": (13.75, 100.50), "boston": (42.36, -71.06), "london": (51.51, -0.13),
    "melbourne": (-37.81, 144.96), "phoenix": (33.45, -112.07), "cph": (55.68, 12.57), "sf": (37.77, -122.42),
}
_REACH = 100_000.0  # metres around the point of a city


def read(datasets_folder: Path, folder: Path | None, cities: Collection[str] | None) -> Iterator[Images]:
    """The Images of each training city, one after the other.

    Without `folder`: <datasets_folder>/{msls,mapillary_sls} as downloaded, else msls/images/train.
    `cities` chooses among the folders of CITIES.  Raises FileNotFoundError or ValueError.
    """
    unknown = [city for city in cities or () if city not in CITIES]
    if unknown:
        raise ValueError(f"city {unknown[0]!r}: not a training city of MSLS; expected some of {', '.join(CITIES)}")
    renamed = datasets_folder / "msls" / "images" / "train"
    places = [folder] if folder else [datasets_folder / "msls", datasets_folder / "mapillary_sls"]
    trees = ((tree, sorted({table.parts[-3] for table in tree.glob("[!.]*/*/raw.csv")}))
             for place in places for tree in (place / "train_val", place))
    tree, there = next((pair for pair in trees if not CITIES.keys().isdisjoint(pair[1])), (None, []))
    if tree is None:
        there = by_city = _read_renamed(folder or renamed)
    found = [city for city in CITIES if city in there]
    others = [city for city in there if city not in CITIES]
    absent = [city for city in cities or () if city not in found]
    if absent:
        raise FileNotFoundError(f"{tree or folder or renamed}: nothing of {absent[0]}; expected {LAYOUT}")
    notes = (f"{', '.join(others)} left out: no training cities",) if others else ()
    for city in found if cities is None else [city for city in found if city in cities]:
        if tree is None:
            yield Images(name=CITIES[city], folder=folder or renamed, paths=by_city[city], notes=notes,
                         neighbouring_zones=True)
        else:
            yield _read_city(tree, city, renamed, notes)
        notes = ()  # said once


def _read_city(tree: Path, city: str, renamed: Path, notes: tuple[str, ...]) -> Images:
    """Database and queries of one city without its panoramas, in the order of the names that they are given."""
    folder = tree / city
    named: dict[bytes, ImageName] = {}  # path -> name, of frames that are no panoramas
    panoramas: set[bytes] = set()
    for side in SIDES:
        table = Table(folder / side / "raw.csv", COLUMNS)
        for key in table:
            path = f"{side}/images/{key}.jpg".encode()
            if table.flag(key, "pano"):
                panoramas.add(path)
            else:
                named[path] = _name(table, key)
    if not named:
        raise ValueError(f"{folder}: no image but panoramas in its raw.csv; expected {LAYOUT}")
    found = {f"{side}/images/".encode() + path for side in SIDES if (folder / side / "images").is_dir()
             for path in list_images(folder / side / "images")}
    left_out = {"panoramas": len(panoramas), "images that raw.csv does not list": len(found - named.keys() - panoramas)}
    notes = (*notes, *(f"{count} {what} left out" for what, count in left_out.items() if count))
    moved = {}  # key -> whole path of an image moved to the renamed layout
    if renamed.is_dir() and not found.issuperset(named):
        below = os.fsencode(renamed.absolute()) + b"/"
        moved = {parse_name(path).key: below + path for path in list_images(renamed)}
    absent = [path for path, name in named.items() if path not in found and name.key not in moved]
    if absent:
        raise FileNotFoundError(f"{folder / os.fsdecode(absent[0])}: no such file; {len(absent)} of the {len(named)} "
                                "images in raw.csv are missing: fetch them, or choose --cities")
    # Metres have two decimals, as the published code writes them.
    lat, lon = (np.array([float(getattr(name, axis)) for name in named.values()]) for axis in ("lat", "lon"))
    east, north, zones = to_utm(lat, lon)
    columns = zip(named.items(), east, north + SOUTH * (lat < 0), zones, zone_letters(lat), strict=True)
    whole = sorted(
        (str(name._replace(east=f"{e:010.2f}", north=f"{n:010.2f}", zone=zone, letter=letter)).encode(),
         path if path in found else moved[name.key]) for (path, name), e, n, zone, letter in columns)
    return Images(name=CITIES[city], folder=folder, paths=[path for _, path in whole],
                  names=[name for name, _ in whole], neighbouring_zones=True, notes=notes)


def _name(table: Table, key: str) -> ImageName:
    """What raw.csv tells of an image, in a name that lacks the metres."""
    row, lat, lon = table[key], table.number(key, "lat"), table.number(key, "lon")
    date = re.match(r"(\d{4})-(\d{2})", row["captured_at"], re.ASCII)
    if not re.fullmatch(r"[\w.-]+", key, re.ASCII):
        raise ValueError(f"{table.at(key)}: key {key!r}, expected letters, digits, '_', '-' and '.'")
    if not (-80 <= lat <= 84 and -180 <= lon <= 180):
        raise ValueError(f"{table.at(key)}: lat {row['lat']!r}, lon {row['lon']!r}, expected degrees with UTM")
    if not date:
        raise ValueError(f"{table.at(key)}: captured_at {row['captured_at']!r}, expected yyyy-mm-dd")
    return ImageName(lat=row["lat"], lon=row["lon"], key=key, heading=str(int(table.number(key, "ca"))),
                     date=date[1] + date[2])


def _read_renamed(folder: Path) -> dict[str, list[bytes]]:
    """Sorted paths of each city: the one that a folder on the path is called by, or the one the coordinates lie in."""
    paths, points = some_images(folder, f"{LAYOUT}; or use --source"), []
    for path in paths:
        fields = parse_name(path)
        if fields.key and not fields.heading:
            raise ValueError(f"{folder / os.fsdecode(path)}: no heading in the name (VPR-datasets-downloader leaves it "
                             "out of MSLS); expected the tree as downloaded, whose raw.csv has it: give it to --source")
        points.append((number(fields.lat), number(fields.lon)))
    by_city: dict[str, list[bytes]] = {city: [] for city in POINTS}
    for path, nearest in zip(paths, nearest_cities(points), strict=True):
        city = next((part for part in os.fsdecode(path).lower().split("/")[:-1] if part in POINTS), nearest)
        if city is None:
            raise ValueError(f"{folder / os.fsdecode(path)}: neither below a city's folder nor named by latitude and "
                             f"longitude in a city of MSLS; expected {LAYOUT}")
        by_city[city].append(path)
    return {city: paths for city, paths in by_city.items() if paths}


def nearest_cities(points: Sequence[tuple[float, float]]) -> list[str | None]:
    """The folder name of the city of training or validation around each point (degrees), None where there is none."""
    cosines = unit_vectors(*np.array(points).reshape(-1, 2).T) @ unit_vectors(*np.array(list(POINTS.values())).T).T
    inside = cosines.max(axis=1) >= math.cos(_REACH / 6_371_000)  # False for NaN
    cities = list(POINTS)
    return [cities[i] if near else None for i, near in zip(cosines.argmax(axis=1), inside, strict=True)]

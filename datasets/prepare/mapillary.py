"""Training images of Mapillary Street-Level Sequences: the tree as downloaded, or files named by coordinates."""

import math
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..readers.image_files import list_images
from ..readers.image_names import FORM, ImageName, number, parse_name
from ..readers.tables import read_rows
from ..readers.utm_zones import SOUTH, to_utm, zone_letters
from .images import Images, some_images
from .mapillary_cities import CITIES, POINTS, VALIDATION_CITIES, nearest_cities

LAYOUT = ("<folder>/<city>/{database,query}/{raw.csv,images/<key>.jpg} as downloaded (train_val), or files named "
          f"{FORM}")
COLUMNS = ("key", "lon", "lat", "ca", "captured_at", "pano")
SIDES = ("database", "query")


class _Frame(NamedTuple):
    """One line of raw.csv: where its image belongs in the city's folder, and its name but for the metres."""

    path: bytes
    name: ImageName
    panorama: bool


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
    tree = next((tree for place in places for tree in (place / "train_val", place) if _with_tables(tree)), None)
    if tree is None:
        by_city = _read_renamed(folder or renamed)
        found = list(by_city)
    else:
        found = _with_tables(tree)
        found += sorted(child.name for child in tree.iterdir()
                        if child.is_dir() and child.name not in CITIES and not child.name.startswith("."))
    absent = [city for city in cities or () if city not in found]
    if absent:
        raise FileNotFoundError(f"{tree or folder or renamed}: nothing of {absent[0]}; expected {LAYOUT}")
    others = [city for city in found if city not in CITIES]
    notes = (f"{', '.join(others)} left out: no training cities",) if others else ()
    for city in found:
        if city in others or cities is not None and city not in cities:
            continue
        if tree is None:
            yield Images(name=CITIES[city][0], folder=folder or renamed, paths=by_city[city], notes=notes,
                         neighbouring_zones=True)
        else:
            yield _read_city(tree, city, renamed, notes)
        notes = ()  # said once


def _with_tables(tree: Path) -> list[str]:
    """The training cities whose tables are there."""
    return [city for city in CITIES if any((tree / city / side / "raw.csv").is_file() for side in SIDES)]


def _read_city(tree: Path, city: str, renamed: Path, notes: tuple[str, ...]) -> Images:
    """Database and queries of one city without its panoramas, in the order of the names that they are given."""
    frames: list[_Frame] = []
    first_line: dict[str, str] = {}
    for side in SIDES:
        table = tree / city / side / "raw.csv"
        if not table.is_file():
            raise FileNotFoundError(f"{table}: no such file; expected {LAYOUT}")
        for line, frame in _read_table(table, f"{side}/images"):
            key = frame.name.key
            if key in first_line:
                raise ValueError(f"{table}, line {line}: key {key} again, after {first_line[key]}; expected "
                                 "every key of a city once: remove one of the lines")
            first_line[key] = f"{side}/raw.csv, line {line}"
            frames.append(frame)
    flat = [frame for frame in frames if not frame.panorama]
    if not flat:
        raise ValueError(f"{tree / city}: no image but panoramas in its raw.csv; expected {LAYOUT}")
    folder = tree / city
    found = {f"{side}/images/".encode() + path for side in SIDES if (folder / side / "images").is_dir()
             for path in list_images(folder / side / "images")}
    paths, names = _locate(folder, flat, found, renamed), _names(flat)
    order = sorted(range(len(flat)), key=names.__getitem__)
    left_out = {"panoramas": len(frames) - len(flat),
                "images that raw.csv does not list": len(found.difference(frame.path for frame in frames))}
    return Images(name=CITIES[city][0], folder=folder, paths=[paths[i] for i in order],
                  names=[names[i] for i in order], neighbouring_zones=True,
                  notes=(*notes, *(f"{count} {what} left out" for what, count in left_out.items() if count)))


def _read_table(table: Path, images: str) -> Iterator[tuple[int, _Frame]]:
    """Line number and frame of one raw.csv, whose images lie in the folder `images` of the city."""
    def parse(row: dict[str, str]) -> _Frame:
        key, lat, lon, heading = row["key"], number(row["lat"]), number(row["lon"]), number(row["ca"])
        if not re.fullmatch(r"[\w.-]+", key, re.ASCII):
            raise ValueError(f"key {key!r}")
        if row["pano"].lower() not in ("true", "false"):
            raise ValueError(f"pano {row['pano']!r}")
        path = f"{images}/{key}.jpg".encode()
        if row["pano"].lower() == "true":
            return _Frame(path, ImageName(key=key), True)
        if not (-80 <= lat <= 84 and -180 <= lon <= 180):
            raise ValueError(f"lat {row['lat']!r}, lon {row['lon']!r}")
        if math.isnan(heading):
            raise ValueError(f"ca {row['ca']!r}")
        date = re.match(r"(\d{4})-(\d{2})", row["captured_at"], re.ASCII)
        if not date:
            raise ValueError(f"captured_at {row['captured_at']!r}")
        return _Frame(path, ImageName(lat=row["lat"], lon=row["lon"], key=key, heading=str(int(heading)),
                                      date=date[1] + date[2]), False)

    return read_rows(table, COLUMNS, parse, expected=f"columns {','.join(COLUMNS)}: text, degrees, degrees, degrees, "
                     "yyyy-mm-dd, True or False")


def _locate(folder: Path, frames: list[_Frame], found: set[bytes], renamed: Path) -> list[bytes]:
    """Where each image lies below `folder`, or whole paths of those moved to the renamed layout, found by key."""
    paths = [frame.path for frame in frames]
    lacking = [i for i, path in enumerate(paths) if path not in found]
    if lacking and renamed.is_dir():
        below = os.fsencode(renamed.absolute()) + b"/"
        moved = {parse_name(path).key: below + path for path in list_images(renamed)}
        for i in lacking:
            paths[i] = moved.get(frames[i].name.key, paths[i])
        lacking = [i for i in lacking if paths[i] == frames[i].path]
    if lacking:
        raise FileNotFoundError(f"{folder / os.fsdecode(paths[lacking[0]])}: no such file; {len(lacking)} of the "
                                f"{len(frames)} images in raw.csv are missing: fetch them, or choose other cities with "
                                "--cities")
    return paths


def _names(frames: list[_Frame]) -> list[bytes]:
    """Names in FORM, metres with two decimals, as the published code writes them."""
    lat, lon = (np.array([float(getattr(frame.name, axis)) for frame in frames]) for axis in ("lat", "lon"))
    east, north, zones = to_utm(lat, lon)
    columns = zip(frames, east, north + SOUTH * (lat < 0), zones, zone_letters(lat), strict=True)
    return [str(frame.name._replace(east=f"{e:010.2f}", north=f"{n:010.2f}", zone=zone, letter=letter)).encode()
            for frame, e, n, zone, letter in columns]


def _read_renamed(folder: Path) -> dict[str, list[bytes]]:
    """Sorted paths of each city: the one that a folder on the path is called by, or the one the coordinates lie in."""
    paths, points = some_images(folder, LAYOUT), []
    for path in paths:
        fields = parse_name(path)
        if fields.key and not fields.heading:
            raise ValueError(f"{folder / os.fsdecode(path)}: no heading in the name (VPR-datasets-downloader leaves it "
                             "out of MSLS); expected the tree as downloaded, whose raw.csv has it: give it to --source")
        points.append((number(fields.lat), number(fields.lon)))
    by_city: dict[str, list[bytes]] = {city: [] for city in (*CITIES, *VALIDATION_CITIES)}
    for path, nearest in zip(paths, nearest_cities(points), strict=True):
        city = next((part for part in os.fsdecode(path).lower().split("/")[:-1] if part in POINTS), nearest)
        if city is None:
            raise ValueError(f"{folder / os.fsdecode(path)}: neither below a city's folder nor named by latitude and "
                             f"longitude in a city of MSLS; expected {LAYOUT}")
        by_city[city].append(path)
    return {city: paths for city, paths in by_city.items() if paths}

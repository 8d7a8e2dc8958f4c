"""Training images of Mapillary Street-Level Sequences: the tree as downloaded, or files named by coordinates."""

import dataclasses
import math
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..readers.geo import to_utm, zone_letters
from ..readers.scan import list_images
from ..training.tables import read_rows
from .mapillary_cities import CITIES, POINTS, VALIDATION_CITIES, nearest_cities
from .names import FORM, Images

LAYOUT = ("<folder>/<city>/{database,query}/{raw.csv,images/<key>.jpg} as downloaded (train_val), or files named "
          f"{FORM}")
COLUMNS = ("key", "lon", "lat", "ca", "captured_at", "pano")


class _Row(NamedTuple):
    """One image of raw.csv: where it belongs in the tree, and the numbers as they stand there."""

    path: bytes
    key: str
    panorama: bool
    lat: str = ""
    lon: str = ""
    heading: int = 0
    month: str = ""  # yyyymm


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
    by_city = _read_renamed(folder or renamed) if tree is None else dict.fromkeys(_folders(tree))
    absent = [city for city in cities or () if city not in by_city]
    if absent:
        raise FileNotFoundError(f"{tree or folder or renamed}: nothing of {absent[0]}; expected {LAYOUT}")
    others = [city for city in by_city if city not in CITIES]
    note = (f"{', '.join(others)} left out: no training cities",) if others else ()
    for city, paths in by_city.items():
        if city in CITIES and (cities is None or city in cities):
            if paths is None:
                images = _read_city(tree, city, renamed)
            else:
                images = Images(name=CITIES[city][0], folder=folder or renamed, paths=paths,
                                    neighbouring_zones=True)
            yield dataclasses.replace(images, notes=(*note, *images.notes))
            note = ()  # said once


def _with_tables(tree: Path) -> list[str]:
    """The training cities whose tables are there."""
    return [city for city in CITIES
            if any((tree / city / side / "raw.csv").is_file() for side in ("database", "query"))]


def _folders(tree: Path) -> list[str]:
    """The training cities whose tables are there, then whatever other folders."""
    cities = _with_tables(tree)
    return cities + sorted(child.name for child in tree.iterdir()
                           if child.is_dir() and child.name not in CITIES and not child.name.startswith("."))


def _read_city(tree: Path, city: str, renamed: Path) -> Images:
    """Database and queries of one city without its panoramas, in the order of the names that they are given."""
    rows: list[_Row] = []
    first_line: dict[str, str] = {}
    for side in ("database", "query"):
        table = tree / city / side / "raw.csv"
        if not table.is_file():
            raise FileNotFoundError(f"{table}: no such file; expected {LAYOUT}")
        for line, row in _read_table(table, f"{side}/images"):
            if row.key in first_line:
                raise ValueError(f"{table}, line {line}: key {row.key} again, after {first_line[row.key]}; expected "
                                 "every key of a city once: remove one of the lines")
            first_line[row.key] = f"{side}/raw.csv, line {line}"
            rows.append(row)
    flat = [row for row in rows if not row.panorama]
    if not flat:
        raise ValueError(f"{tree / city}: no image but panoramas in its raw.csv; expected {LAYOUT}")
    folder = tree / city
    found = {side.encode() + b"/" + path for side in ("database/images", "query/images")
             if (folder / side).is_dir() for path in list_images(folder / side)}
    paths, names = _locate(folder, flat, found, renamed), _names(flat)
    order = sorted(range(len(flat)), key=names.__getitem__)
    left_out = {"panoramas": len(rows) - len(flat), "images that raw.csv does not list":
                len(found.difference(row.path for row in rows))}
    return Images(name=CITIES[city][0], folder=folder, paths=[paths[i] for i in order],
                    names=[names[i] for i in order], neighbouring_zones=True,
                    notes=tuple(f"{count} {what} left out" for what, count in left_out.items() if count))


def _read_table(table: Path, images: str) -> Iterator[tuple[int, _Row]]:
    """Line number and row of one raw.csv."""
    return read_rows(table, COLUMNS, lambda *fields: _parse(*(field.strip() for field in fields), images=images),
                     expected="text, degrees, degrees, degrees, yyyy-mm-dd, True or False")


def _parse(key: str, lon: str, lat: str, ca: str, captured_at: str, pano: str, *, images: str) -> _Row:
    if not re.fullmatch(r"[\w.-]+", key, re.ASCII):
        raise ValueError(f"key {key!r}")
    if pano.lower() not in ("true", "false"):
        raise ValueError(f"pano {pano!r}")
    path = f"{images}/{key}.jpg".encode()
    if pano.lower() == "true":
        return _Row(path, key, True)
    if not (-80 <= float(lat) <= 84 and -180 <= float(lon) <= 180):
        raise ValueError(f"lat {lat!r}, lon {lon!r}")
    if not math.isfinite(float(ca)):
        raise ValueError(f"ca {ca!r}")
    date = re.match(r"(\d{4})-(\d{2})", captured_at, re.ASCII)
    if not date:
        raise ValueError(f"captured_at {captured_at!r}")
    return _Row(path, key, False, lat, lon, int(float(ca)), date[1] + date[2])


def _locate(folder: Path, rows: list[_Row], found: set[bytes], renamed: Path) -> list[bytes]:
    """Where each image lies below `folder`, or whole paths of those moved to the renamed layout, found by key."""
    paths = [row.path for row in rows]
    lacking = [i for i, path in enumerate(paths) if path not in found]
    if lacking and renamed.is_dir():
        below = os.fsencode(renamed.absolute()) + b"/"
        moved = {fields[7]: below + path for path in list_images(renamed)
                 if len(fields := path.rpartition(b"/")[2].split(b"@")) > 7}
        for i in lacking:
            paths[i] = moved.get(rows[i].key.encode(), paths[i])
        lacking = [i for i in lacking if paths[i] == rows[i].path]
    if lacking:
        raise FileNotFoundError(f"{folder / os.fsdecode(paths[lacking[0]])}: no such file; {len(lacking)} of the "
                                f"{len(rows)} images in raw.csv are missing: fetch them, or choose other cities with "
                                "--cities")
    return paths


def _names(rows: list[_Row]) -> list[bytes]:
    """Names in FORM, metres with two decimals, as the published code writes them."""
    lat, lon = np.array([float(row.lat) for row in rows]), np.array([float(row.lon) for row in rows])
    east, north, zones = to_utm(lat, lon)
    north = np.where(lat < 0, north + 10_000_000, north)
    columns = zip(rows, east.tolist(), north.tolist(), zones.tolist(), zone_letters(lat).tolist(), strict=True)
    return [f"@{e:010.2f}@{n:010.2f}@{zone}@{letter}@{row.lat}@{row.lon}@{row.key}@@{row.heading}@@@@{row.month}@@.jpg"
            .encode() for row, e, n, zone, letter in columns]


def _read_renamed(folder: Path) -> dict[str, list[bytes]]:
    """Sorted paths of each city: the one that a folder on the path is called by, or the one the coordinates lie in."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected {LAYOUT}; say where it is with --source")
    paths = list_images(folder)
    if not paths:
        raise FileNotFoundError(f"{folder}: no image in it; expected {LAYOUT}")
    cities = [next((part for part in os.fsdecode(path).lower().split("/")[:-1] if part in POINTS), None)
              for path in paths]
    points = []
    for path in paths:
        fields = path.rpartition(b"/")[2].split(b"@")
        if len(fields) > 9 and not fields[9]:
            raise ValueError(f"{folder / os.fsdecode(path)}: no heading in the name (VPR-datasets-downloader leaves it "
                             "out of MSLS); expected the tree as downloaded, whose raw.csv has it: give it to --source")
        try:
            points.append((float(fields[5]), float(fields[6])))
        except (IndexError, ValueError):
            points.append((math.nan, math.nan))
    by_city: dict[str, list[bytes]] = {city: [] for city in (*CITIES, *VALIDATION_CITIES)}
    for path, city, nearest in zip(paths, cities, nearest_cities(points), strict=True):
        if city is None and nearest is None:
            raise ValueError(f"{folder / os.fsdecode(path)}: neither below a city's folder nor named by latitude and "
                             f"longitude in a city of MSLS; expected {LAYOUT}")
        by_city[city or nearest].append(path)
    return {city: paths for city, paths in by_city.items() if paths}

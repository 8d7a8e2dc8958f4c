"""Readers of MSLS: the tables of the Mapillary download, and images renamed by VPR-datasets-downloader."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..readers.scan import list_images
from .frames import Frames, joined
from .tables import Table

NAME = "@<utm_east>@<utm_north>@<zone>@<letter>@<lat>@<lon>@<key>@<tile>@<heading>@...@.jpg"
SIDES = {"query": "queries", "database": "database"}  # a folder in the raw tree -> in the renamed layout
VAL_ZONES = ("10N", "33N")  # of San Francisco and Copenhagen


def from_tables(cities: list[Path], side: str, renamed: Path | None, warnings: list[str], *, subtask: bool,
                headings: bool) -> Frames:  # fmt: skip
    """One side as the tables describe it; images from the folder `renamed` or, without one, beside the tables."""
    images = images_by_key(renamed / SIDES[side]) if renamed else None
    frames = joined([read_city(city, side, positions=True, panoramas=True, subtask=subtask, headings=headings,
                               images=images) for city in cities])  # fmt: skip
    if images is not None:
        listed = {key for city in cities for key in Table(city / side / "postprocessed.csv", ("key",)).rows}
        foreign = len(images.keys() - listed)
        if foreign:
            warnings.append(f"{renamed / SIDES[side]}: {foreign} images left out that no table lists")
    return frames


def from_names(renamed: Path, side: str, *, headings: bool) -> Frames:
    """One side as the names describe it.  Raises ValueError for images of other cities, which a second run of the
    downloader mixes in, and for a name without a heading where `headings` are asked for.
    """
    frames = read_renamed(renamed / SIDES[side])
    for path, zone, heading in zip(frames.paths, frames.groups, frames.headings, strict=True):
        if zone not in VAL_ZONES:
            raise ValueError(f"{path}: UTM zone {zone}, expected {' or '.join(VAL_ZONES)} (sf, cph); other cities, "
                             "perhaps those of test, are mixed in: leave them out")
        if headings and not np.isfinite(heading):
            raise ValueError(f"{path}: no heading in the ninth field of the name; put the Mapillary download's tables "
                             f"into <datasets_folder>/mapillary_sls/train_val/<city>/{{query,database}}")
    return frames


def read_city(
    city: Path, side: str, *, positions: bool, panoramas: bool, subtask: bool, headings: bool = False,
    images: Mapping[str, Path] | None = None,
) -> Frames:  # fmt: skip
    """Frames of <city>/<side>, side "query" or "database", from those of its tables that are asked for.

    positions   postprocessed.csv: east and north
    panoramas   raw.csv: panoramas are left out; with `headings` their column `ca` too
    subtask     subtask_index.csv: only frames flagged `all` are kept
    images    key -> file; without it <city>/<side>/images/<key>.jpg

    The tables' rows are matched by key.  seq_info.csv matters for sequences alone and is not read.
    Raises FileNotFoundError for a table or a kept frame's image that is absent, ValueError for a bad table.
    """
    folder = city / side
    tables = {}
    if positions:
        tables["positions"] = Table(folder / "postprocessed.csv", ("key", "easting", "northing"))
    if panoramas:
        needed = ("key", "ca", "pano") if headings else ("key", "pano")
        tables["raw"] = Table(folder / "raw.csv", needed, optional=("lon",))
    if subtask:
        tables["subtask"] = Table(folder / "subtask_index.csv", ("key", "all"))
    first = next(iter(tables.values()))
    orders = {name: table.order_of(first) for name, table in tables.items()}
    n = len(first.lines)
    flagged = tables["subtask"].flags("all")[orders["subtask"]] if subtask else np.ones(n, dtype=bool)
    panorama = tables["raw"].flags("pano")[orders["raw"]] if panoramas else np.zeros(n, dtype=bool)
    rows = np.flatnonzero(flagged & ~panorama)
    keys = list(first.rows)
    if images is None:
        images = images_by_key(folder / "images")
    absent = [row for row in rows if keys[row] not in images]
    if absent:
        others = f" (and {len(absent) - 1} more like it)" if len(absent) > 1 else ""
        raise FileNotFoundError(f"{first.at(absent[0])}: no image of {keys[absent[0]]!r}{others}; expected "
                                f"{folder / 'images' / keys[absent[0]]}.jpg, or one renamed with this key")
    utm, angles, remarks = np.full((len(rows), 2), np.nan), np.full(len(rows), np.nan), ()
    if positions:
        utm = np.stack([first.numbers("easting", rows), first.numbers("northing", rows)], axis=1)
    if headings:
        angles = tables["raw"].numbers("ca", orders["raw"][rows])
    if positions and panoramas and "lon" in tables["raw"].columns:
        # The published tables do not say in which zone their metres count.
        zones = np.unique(np.floor(tables["raw"].numbers("lon", orders["raw"][rows]) / 6 + 31).astype(int))
        if len(zones) > 1:
            remarks = (f"{folder}: frames in UTM zones {' and '.join(map(str, zones))}: metres do not compare "
                       "across their border, so that pairs there count as wrong, as in the official code",)
    return Frames(
        keys=[keys[row] for row in rows], paths=[images[keys[row]] for row in rows],
        groups=np.full(len(rows), city.name), utm=utm, headings=angles, remarks=remarks,
        left_out={"not in subtask all": int((~flagged).sum()), "panoramas": int((flagged & panorama).sum())},
    )  # fmt: skip


def images_by_key(folder: Path) -> dict[str, Path]:
    """Key -> image file, at any depth.  Empty where there is no such folder."""
    found: dict[str, Path] = {}
    for name in list_images(folder) if folder.is_dir() else ():
        path = folder / os.fsdecode(name)
        key = image_key(path)
        if not key:
            raise ValueError(f"{path}: no Mapillary key in the file name; expected {NAME} or <key>.jpg")
        if key in found:
            raise ValueError(f"{path}: key {key!r} also belongs to {found[key]}; expected each key once")
        found[key] = path
    return found


def image_key(name: str | Path) -> str:
    """Mapillary's key of an image, from <key>.jpg or the seventh field of a renamed one; "" where there is none."""
    stem = Path(name).stem
    return (stem.split("@") + [""] * 8)[7] if stem.startswith("@") else stem


def read_keys(path: Path, known: Mapping[str, int]) -> list[str]:
    """Keys of a text file, one a line.  Raises ValueError with the line for one that is not known or came before."""
    lines: dict[str, int] = {}
    for line, text in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        key = text.strip()
        if not key:
            continue
        if key in lines or key not in known:
            problem = f"again, first in line {lines[key]}" if key in lines else "of no image"
            raise ValueError(f"{path}, line {line}: key {key!r} {problem}; expected one key a line, each once")
        lines[key] = line
    if not lines:
        raise ValueError(f"{path}: no key in it; expected one a line")
    return list(lines)


def read_renamed(folder: Path) -> Frames:
    """Images of one folder of the renamed layout, described by their names alone; `groups` are zones ("33N").

    Raises FileNotFoundError for an empty folder, ValueError for a name without coordinates, zone or key.
    """
    images = images_by_key(folder)
    if not images:
        raise FileNotFoundError(f"{folder}: no image in it; expected {NAME}")
    groups, utm, headings = [], np.full((len(images), 2), np.nan), np.full(len(images), np.nan)
    for row, path in enumerate(images.values()):
        fields = path.stem.split("@") + [""] * 10
        try:
            utm[row] = float(fields[1]), float(fields[2])
            # The letters from N on lie north of the equator, where northings start anew.
            groups.append(f"{int(fields[3])}{'N' if fields[4].upper() >= 'N' else 'S'}")
            headings[row] = float(fields[9] or "nan")
            readable = np.isfinite(utm[row]).all() and len(fields[4]) == 1 and fields[4].isalpha()
        except ValueError:
            readable = False
        if not readable:
            raise ValueError(f"{path}: no UTM coordinates with zone and letter in the file name; expected {NAME}")
    return Frames(keys=list(images), paths=list(images.values()), groups=np.array(groups), utm=utm,
                  headings=headings)

"""Frames of MSLS: read from the tables of the Mapillary download, or from images renamed by VPR-datasets-downloader."""

import itertools
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..listing import and_more
from ..readers.image_files import list_images
from ..readers.image_names import number, parse_name, zone_name
from ..readers.tables import read_rows

NAME = "@<utm_east>@<utm_north>@<zone>@<letter>@<lat>@<lon>@<key>@<tile>@<heading>@...@.jpg"
SIDES = {"query": "queries", "database": "database"}  # a folder in the raw tree -> in the renamed layout
VAL_ZONES = ("10N", "33N")  # of San Francisco and Copenhagen


class Frame(NamedTuple):
    """One image of Mapillary's."""

    key: str
    path: Path
    group: str  # a city or a UTM zone: metres compare inside one only
    utm: tuple[float, float]  # east and north in metres; NaN where no table tells
    heading: float  # degrees, in no fixed range; NaN where it was not asked for or the name has none


class Frames(list[Frame]):
    """Queries or database images, and why others were left out: in words, and how often."""

    def __init__(self, frames: Iterable[Frame], left_out: Counter[str] | None = None) -> None:
        super().__init__(frames)
        self.left_out = left_out or Counter()

    @property
    def utm(self) -> np.ndarray:
        """(n, 2) float64."""
        return np.array([frame.utm for frame in self]).reshape(-1, 2)


class Table(dict[str, dict[str, str]]):
    """A CSV of the Mapillary download with one row a frame: key -> its row, column -> text.

    Raises what `read_rows` does, and ValueError with the line for a key that is empty or came before.
    """

    def __init__(self, path: Path, needed: Sequence[str]) -> None:
        super().__init__()
        self.path, self.lines = path, {}
        expected = f"columns {','.join(needed)} of the Mapillary download's table with a row a frame"
        for line, row in read_rows(path, needed, dict, expected=expected):
            row = {column: text.strip() for column, text in row.items()}
            key = row["key"]
            if not key or key in self:
                problem = f"key {key!r} again, first in line {self.lines[key]}" if key else "no key"
                raise ValueError(f"{path}, line {line}: {problem}; expected a key of its own for each frame")
            self[key], self.lines[key] = row, line

    def at(self, key: str) -> str:
        return f"{self.path}, line {self.lines[key]}"

    def number(self, key: str, column: str) -> float:
        value = number(self[key][column])
        if math.isnan(value):
            raise ValueError(f"{self.at(key)}: {column} {self[key][column]!r}, expected a finite number")
        return value

    def flag(self, key: str, column: str) -> bool:
        text = self[key][column].lower()
        if text not in ("true", "false"):
            raise ValueError(f"{self.at(key)}: {column} {self[key][column]!r}, expected True or False")
        return text == "true"

    def check_keys(self, other: "Table") -> None:
        """Raises ValueError unless both tables hold the same keys."""
        for one, two in ((self, other), (other, self)):
            for key in one:
                if key not in two:
                    raise ValueError(f"{one.at(key)}: key {key!r} is not in {two.path}; expected the same frames in "
                                     "both")


def joined(parts: Sequence[Frames]) -> Frames:
    """Sorted by path.  Raises ValueError for a key that comes twice."""
    frames = sorted(itertools.chain(*parts), key=lambda frame: frame.path.as_posix())
    places: dict[str, str] = {}
    for key, _, group, *_ in frames:
        if key in places:
            raise ValueError(f"key {key!r} in the tables of {places[key]} and of {group}; expected each key once")
        places[key] = group
    return Frames(frames, sum((part.left_out for part in parts), Counter()))


def from_tables(cities: list[Path], side: str, renamed: Path | None, warnings: list[str], *, subtask: bool,
                headings: bool) -> Frames:
    """One side as the tables describe it; images from the folder `renamed` or, without one, beside the tables."""
    images = images_by_key(renamed / SIDES[side]) if renamed else None
    frames = joined([read_city(city, side, warnings, positions=True, panoramas=True, subtask=subtask, headings=headings,
                               images=images) for city in cities])
    if images is not None:
        listed = {key for city in cities for key in Table(city / side / "postprocessed.csv", ("key",))}
        foreign = len(images.keys() - listed)
        if foreign:
            warnings.append(f"{renamed / SIDES[side]}: {foreign} images left out that no table lists")
    return frames


def read_city(city: Path, side: str, warnings: list[str], *, positions: bool, panoramas: bool, subtask: bool,
              headings: bool = False, images: Mapping[str, Path] | None = None) -> Frames:
    """Frames of <city>/<side>, side "query" or "database", from those of its tables that are asked for.

    positions   postprocessed.csv: east and north
    panoramas   raw.csv: panoramas are left out; with `headings` their column `ca` too
    subtask     subtask_index.csv: only frames flagged `all` are kept
    images      key -> file; without it <city>/<side>/images/<key>.jpg
    warnings    what a reader of the figures must hear is added to them

    The tables' rows are matched by key.  seq_info.csv matters for sequences alone and is not read.
    Raises FileNotFoundError for a table or a kept frame's image that is absent, ValueError for a bad table.
    """
    folder = city / side
    metres = Table(folder / "postprocessed.csv", ("key", "easting", "northing")) if positions else None
    raw = Table(folder / "raw.csv", ("key", "ca", "pano") if headings else ("key", "pano")) if panoramas else None
    flags = Table(folder / "subtask_index.csv", ("key", "all")) if subtask else None
    first, *others = (table for table in (metres, raw, flags) if table is not None)
    for table in others:
        first.check_keys(table)
    left_out, keys = Counter({"not in subtask all": 0, "panoramas": 0}), []
    for key in first:
        flagged, panorama = not subtask or flags.flag(key, "all"), panoramas and raw.flag(key, "pano")
        if flagged and not panorama:
            keys.append(key)
        else:
            left_out["panoramas" if flagged else "not in subtask all"] += 1
    if images is None:
        images = images_by_key(folder / "images")
    absent = [key for key in keys if key not in images]
    if absent:
        raise FileNotFoundError(f"{first.at(absent[0])}: no image of {absent[0]!r}{and_more(len(absent))}; expected "
                                f"{folder / 'images' / absent[0]}.jpg, or one renamed with this key")
    if positions and panoramas and all("lon" in raw[key] for key in keys):
        # The published tables do not say in which zone their metres count.
        zones = sorted({math.floor(raw.number(key, "lon") / 6 + 31) for key in keys})
        if len(zones) > 1:
            warnings.append(f"{folder}: frames in UTM zones {' and '.join(map(str, zones))}: metres do not compare "
                            "across their border, so that pairs there count as wrong, as in the official code")
    unknown = math.nan, math.nan
    return Frames([
        Frame(key, images[key], city.name,
              (metres.number(key, "easting"), metres.number(key, "northing")) if positions else unknown,
              raw.number(key, "ca") if headings else math.nan) for key in keys], left_out)


def from_names(renamed: Path, side: str, *, headings: bool) -> Frames:
    """One side of the renamed layout as the names alone describe it; groups are zones ("33N").

    Raises FileNotFoundError for an empty folder, ValueError for a name without coordinates, zone, key or, where they
    are asked for, heading, and for images of other cities, which a second run of the downloader mixes in.
    """
    frames = []
    for key, path in images_by_key(renamed / SIDES[side]).items():
        name = parse_name(path.name)
        zone, heading = zone_name(name.signed_zone), number(name.heading)
        if not (all(map(math.isfinite, name.metres)) and name.zone_number and name.band):
            raise ValueError(f"{path}: no UTM coordinates with zone and letter in the file name; expected {NAME}")
        if zone not in VAL_ZONES:
            raise ValueError(f"{path}: UTM zone {zone}, expected {' or '.join(VAL_ZONES)} (sf, cph); other cities, "
                             "perhaps those of test, are mixed in: leave them out")
        if headings and math.isnan(heading):
            raise ValueError(f"{path}: no heading in the ninth field of the name; put the Mapillary download's tables "
                             f"into <datasets_folder>/mapillary_sls/train_val/<city>/{{query,database}}")
        frames.append(Frame(key, path, zone, name.metres, heading))
    if not frames:
        raise FileNotFoundError(f"{renamed / SIDES[side]}: no image in it; expected {NAME}")
    return joined([Frames(frames)])


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
    name = Path(name)
    return parse_name(name.name).key if name.name.startswith("@") else name.stem

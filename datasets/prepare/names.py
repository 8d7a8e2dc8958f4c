"""Images whose names tell where they were taken, and the GSV-Cities rows and files that come of them."""

import array
import collections
import csv
import dataclasses
import io
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from ..training.places import COLUMNS, image_of_row

FORM = ("@<utm_east>@<utm_north>@<zone>@<letter>@<lat>@<lon>@<panoid>@<tile>@<heading>@<pitch>@<roll>@<height>@<yyyymm>"
        "@<note>@.jpg")
NORTHDEG = "10"  # in every row and name, as in the published code: the heading is in the category


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Images to divide, in the order that numbers groups and places.

    name    the set's or city's, to which the number of a group is added
    folder  what `paths` are relative to
    names   names in FORM of images that are called otherwise; None: the paths tell
    notes   what was left out, and why
    neighbouring_zones   whether the images may lie on both sides of one line between UTM zones
    """

    name: str
    folder: Path
    paths: Sequence[bytes]
    names: Sequence[bytes] | None = None
    notes: tuple[str, ...] = ()
    neighbouring_zones: bool = False

    def field(self, index: int) -> list[bytes]:
        """What stands between the "@" of an image's name; folders may have "@" too."""
        return (self.names[index] if self.names else self.paths[index].rpartition(b"/")[2]).split(b"@")

    def path(self, index: int) -> str:
        return os.fsdecode(os.path.join(os.fsencode(self.folder), self.paths[index]))  # noqa: PTH118 - bytes


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class City:
    """One group as a city of the GSV-Cities layout: its table, and for each row the image and its new name."""

    name: str
    table: str
    sources: Sequence[str]
    targets: Sequence[str]
    n_places: int


def positions(
    images: Images, *, progress: Callable[[Iterable], Iterable] = iter
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """East, north (metres) and heading (degrees), float64, of all images, and what must be said about their zones.

    Raises ValueError with the number of names that lack one of them and the first of these, or for images of more
    than one UTM zone.
    """
    values, zones = array.array("d"), {}
    counts: collections.Counter[bytes] = collections.Counter()
    for row in progress(range(len(images.paths))):
        fields = images.field(row)
        try:
            values.extend((float(fields[1]), float(fields[2]), float(fields[9])))
        except (IndexError, ValueError):
            values.extend((math.nan,) * 3)
            continue
        counts[fields[3]] += 1
        zones.setdefault(fields[3], row)
    values = np.asarray(values).reshape(-1, 3)
    bad = np.flatnonzero(~(np.abs(values) < 1e9).all(axis=1))  # NaN, too; beyond, cells are no whole metres
    if len(bad):
        others = f" (and {len(bad) - 1} more like it)" if len(bad) > 1 else ""
        raise ValueError(f"{images.path(bad[0])}: no UTM coordinates and heading in the name{others}; "
                         f"expected {FORM}")
    notes = [] if len(counts) < 2 else [_mixed_zones(images, counts, zones)]
    east, north, heading = values.T
    return east, north, heading, notes


def _mixed_zones(images: Images, counts: collections.Counter, zones: dict[bytes, int]) -> str:
    """What to say of images on both sides of a line between zones.  Raises ValueError for any other mixture."""
    (first, n_first), (second, n_second) = counts.most_common(2)
    said = f"{n_first} images in UTM zone {first.decode()}, {n_second} in {second.decode()}"
    try:
        neighbours = len(counts) == 2 and (int(first) - int(second)) % 60 in (1, 59)
    except ValueError:
        neighbours = False
    if not (images.neighbouring_zones and neighbours):
        raise ValueError(f"{images.name}: {said}, whose metres cannot be compared ({images.path(zones[first])}, "
                         f"{images.path(zones[second])}); expected one zone: take out what does not belong there")
    return f"{said}: each has the metres of its own zone, as in the published code"


def make_city(name: str, images: Images, rows: Sequence[int], places: Sequence[int]) -> City:
    """Table and links for the images `rows`, which show `places` of that city.

    Crops of one panorama may have one place, date and panorama; the published code gives them one file name, whose
    last writer wins.  Here the heading is added to the panorama's name of all but the first.

    Raises ValueError for a name without date, coordinates or panorama, and for two images that nothing tells apart.
    """
    table, sources, targets, taken = io.StringIO(), [], [], {}
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row, place in zip(rows, places, strict=True):
        values, target = _row(name, images, row, place, suffix="")
        if target in taken:
            heading = images.field(row)[9].decode()
            values, target = _row(name, images, row, place, suffix=f"-{heading}")
        if target in taken:
            raise ValueError(f"{images.path(row)} and {images.path(taken[target])}: the same place, date, panorama "
                             "and heading; expected every image once: take one of them out")
        taken[target] = row
        writer.writerow(values)
        sources.append(images.path(row))
        targets.append(target)
    return City(name=name, table=table.getvalue(), sources=sources, targets=targets,
                n_places=len(set(map(int, places))))


def _row(name: str, images: Images, row: int, place: int, *, suffix: str) -> tuple[tuple[str, ...], str]:
    """A line of the table and the file's name as `datasets.places` reads it back."""
    fields = images.field(row)
    try:
        stamp, lat, lon, pano = (fields[i].decode() for i in (-3, 5, 6, 7))
        if not (len(stamp) >= 6 and stamp.isascii() and stamp.isdigit()):
            raise ValueError
        values = (str(place), stamp[:4], stamp[4:6], NORTHDEG, name, lat, lon, pano and pano + suffix)
        _, path = image_of_row(values[0], values[1], values[2], *values[3:])
    except ValueError:
        raise ValueError(f"{images.path(row)}: no date (yyyymm), latitude, longitude or panorama in the name; "
                         f"expected {FORM}") from None
    return values, path.partition("/")[2]

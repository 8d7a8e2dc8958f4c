"""Images to divide, whose names tell where they were taken."""

import array
import collections
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..commands import progress
from ..listing import and_more
from ..readers.image_names import FORM, ImageName, number, parse_name


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """In the order that numbers groups and places."""

    name: str  # the set's or city's, to which the number of a group is added
    folder: Path  # what `paths` are relative to
    paths: Sequence[bytes]
    names: Sequence[bytes] | None = None  # in FORM, of images that are called otherwise; None: the paths tell
    notes: tuple[str, ...] = ()  # what was left out, and why
    neighbouring_zones: bool = False  # whether the images may lie on both sides of one line between UTM zones

    def fields(self, index: int) -> ImageName:
        return parse_name((self.names or self.paths)[index])

    def path(self, index: int) -> str:
        return os.fsdecode(os.path.join(os.fsencode(self.folder), self.paths[index]))  # noqa: PTH118 - bytes


def positions(images: Images) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """East, north (metres) and heading (degrees), float64, of all images, and what must be said about their zones.

    Raises ValueError with the first name that lacks one of them, or for images of more than one UTM zone.
    """
    values, first_in = array.array("d"), {}
    counts: collections.Counter[str] = collections.Counter()
    for row in progress(range(len(images.paths)), f"{images.name}: names"):
        fields = images.fields(row)
        values.extend((number(fields.east), number(fields.north), number(fields.heading)))
        counts[fields.zone] += 1
        first_in.setdefault(fields.zone, row)
    values = np.asarray(values).reshape(-1, 3)
    bad = np.flatnonzero(~(np.abs(values) < 1e9).all(axis=1))  # NaN, too; beyond, cells are no whole metres
    if len(bad):
        raise ValueError(f"{images.path(bad[0])}: no UTM coordinates and heading in the name{and_more(len(bad))}; "
                         f"expected {FORM}")
    if len(counts) < 2:
        return *values.T, []
    (first, n_first), (second, n_second) = counts.most_common(2)
    said = f"{n_first} images in UTM zone {first}, {n_second} in {second}"
    both = first.isdigit() and second.isdigit() and (int(first) - int(second)) % 60 in (1, 59)
    if not (images.neighbouring_zones and both and len(counts) == 2):
        raise ValueError(f"{images.name}: {said}, whose metres cannot be compared ({images.path(first_in[first])}, "
                         f"{images.path(first_in[second])}); expected one zone: take out what does not belong there")
    return *values.T, [f"{said}: each has the metres of its own zone, as in the published code"]

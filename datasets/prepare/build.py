"""Cities in the GSV-Cities layout: made of divided images, written, or compared with what is there."""

import array
import collections
import csv
import io
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..commands import progress
from ..files import temporary_path
from ..listing import and_more
from ..readers.image_names import FORM, ImageName, number, parse_name
from ..training.tables import COLUMNS, place_and_path
from .categories import Division, Rule, class_ids, divide

NORTHDEG = "10"  # in every row and name, as in the published code: the heading is in the category


class Images(NamedTuple):
    """Images to divide, whose names tell where they were taken, in the order that numbers groups and places."""

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


class City(NamedTuple):
    """One group as a city of the GSV-Cities layout."""

    name: str
    table: str
    images: dict[str, str]  # new name -> image, in the order of the table

    def paths(self, folder: Path) -> tuple[Path, Path]:
        """Of the table and the images in a data set's folder."""
        return folder / "Dataframes" / f"{self.name}.csv", folder / "Images" / self.name


class Plan(NamedTuple):
    """What the images of one city become; `cities()` makes them one at a time."""

    images: Images
    division: Division
    notes: tuple[str, ...]
    city_names: Sequence[str]  # of each group

    def cities(self) -> Iterator[City]:
        for group, name in enumerate(self.city_names):
            rows = self.division.group == group
            images, places = self.division.image[rows].tolist(), self.division.place[rows].tolist()
            yield make_city(name, self.images, images, places)


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


def plan(images: Images, rule: Rule, *, numbered: bool) -> Plan:
    """Divide the images of a city."""
    east, north, heading, notes = positions(images)
    if rule.published_headings:
        outside = np.count_nonzero((heading < 0) | (heading >= 360))
        notes.append(f"--published_headings: {outside} of {len(heading)} images have a heading below 0, or of 360 and "
                     "more, and so classes of their own: a batch may have one place twice, as two different ones")
    division = divide(class_ids(east, north, heading, rule), rule)
    numbered = numbered or rule.groups != 1  # several groups need several names
    return Plan(images=images, division=division, notes=(*images.notes, *notes), city_names=[
        f"{images.name}{group}" if numbered else images.name for group in range(len(division.groups))])


def make_city(name: str, images: Images, rows: Sequence[int], places: Sequence[int]) -> City:
    """Table and links for the images `rows`, which show `places` of that city.

    Crops of one panorama may have one place, date and panorama; the published code gives them one file name, whose
    last writer wins.  Here the heading is added to the panorama's name of all but the first.

    Raises ValueError for a name without date, coordinates or panorama, and for two images that nothing tells apart.
    """
    table, taken = io.StringIO(), {}
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row, place in zip(rows, places, strict=True):
        fields = images.fields(row)
        values = dict(zip(COLUMNS, (place, fields.date[:4], fields.date[4:6], NORTHDEG, name, fields.lat, fields.lon,
                                    fields.key), strict=True))
        try:
            if not re.fullmatch(r"\d{6,}", fields.date, re.ASCII):
                raise ValueError
            target = place_and_path(values)[1]
        except ValueError:
            raise ValueError(f"{images.path(row)}: no date (yyyymm), latitude, longitude or panorama in the name; "
                             f"expected {FORM}") from None
        if target in taken:
            values["panoid"] += f"-{fields.heading}"
            target = place_and_path(values)[1]
        if target in taken:
            raise ValueError(f"{images.path(row)} and {images.path(taken[target])}: the same place, date, panorama "
                             "and heading; expected every image once: take one of them out")
        taken[target] = row
        writer.writerow(values)
    return City(name, table.getvalue(), {target.partition("/")[2]: images.path(row) for target, row in taken.items()})


def compare(city: City, folder: Path) -> tuple[str | None, dict[str, str], list[str]]:
    """How the city's table there differs, if it does; the images that are missing, by new name, and those that would
    not be built. A link whose image is gone is no image."""
    table, images = city.paths(folder)
    difference, present = "no such file", set()
    if table.is_file():
        found, expected = table.read_text(encoding="utf-8").splitlines(), city.table.splitlines()
        difference = next((f"line {line} is {pair[0]!r}, expected {pair[1]!r}" for line, pair in enumerate(
            zip(found, expected, strict=False), 1) if pair[0] != pair[1]), None)
        if len(found) != len(expected):
            difference = f"{len(found) - 1} images, expected {len(expected) - 1}"
    if images.is_dir():
        with os.scandir(images) as entries:
            present = {entry.name for entry in entries
                       if not entry.name.startswith(".") and (not entry.is_symlink() or Path(entry.path).exists())}
    missing = {target: source for target, source in city.images.items() if target not in present}
    return difference, missing, sorted(present - city.images.keys())


def build_city(city: City, folder: Path, *, copy: bool) -> int:
    """Puts the city's images and table into `folder`, what is there already excepted: number of images put there.

    The table comes last: there is none of a city that is not complete.  Raises ValueError where it holds anything else,
    and where images of an unfinished city would not be built.
    """
    (table, images), (difference, missing, unlisted) = city.paths(folder), compare(city, folder)
    if table.exists():
        where, wrong = table, difference
    else:  # begun with another division
        where, wrong = images, unlisted and f"would not be built: {unlisted[0]}{and_more(len(unlisted))}"
    if wrong:
        raise ValueError(f"{where}: {wrong}; expected what the same images and options (--published_headings is one) "
                         f"gave before: to build it anew, remove {table} and {images}")
    images.mkdir(parents=True, exist_ok=True)
    table.parent.mkdir(parents=True, exist_ok=True)
    put = copy_image if copy else link_image
    for target, source in progress(missing.items(), city.name):
        put(source, images / target)
    if not table.exists():
        with temporary_path(table) as temporary:
            temporary.write_text(city.table, encoding="utf-8", newline="")
    return len(missing)


def check_city(city: City, folder: Path) -> list[str]:
    """What of the city is missing in `folder`, or is not what would be built; nothing is written."""
    (table, images), (difference, missing, unlisted) = city.paths(folder), compare(city, folder)
    problems = [f"{table}: {difference}"] if difference else []
    for names, what in ((list(missing), f"{len(missing)} of {len(city.images)} images missing"),
                        (unlisted, f"{len(unlisted)} images that would not be built")):
        if names:
            problems.append(f"{images}: {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}")
    return problems


def link_image(source: str, target: Path) -> None:
    """A hard link, which takes no space and survives the source's removal; a symbolic one on another file system."""
    # A hard link to a symbolic one would be a copy of that link, which may be relative.
    original = Path(source).resolve() if Path(source).is_symlink() else Path(source).absolute()
    if target.is_symlink():
        target.unlink()  # a link whose image is gone
    try:
        os.link(original, target)  # noqa: PTH140 - hardlink_to has the arguments the other way round
    except FileNotFoundError:
        raise
    except OSError:
        try:
            target.symlink_to(original)
        except OSError as error:
            raise ValueError(f"{target}: can link neither hard nor symbolically to {source} ({error.strerror}); "
                             "use --copy") from None


def copy_image(source: str, target: Path) -> None:
    """Whole or not at all: a half-written copy is never taken for an image."""
    with temporary_path(target) as temporary:
        shutil.copyfile(source, temporary)

"""What the unified data set is made of: where a source lies, how its images are named, and its rule of division."""

import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from ..readers.image_files import some_images
from ..readers.image_names import FORM, parse_name
from ..training.tables import GSV_CITIES, MSLS_CITIES, UNIFIED_CITIES, read_city
from . import mapillary
from .build import City, Images
from .categories import Rule

PITTS30K_LAYOUT = "<folder>/{database,queries}/@...@.jpg, as gmberton/VPR-datasets-downloader writes images/train"
GSV_LAYOUT = "<folder>/Dataframes/<City>.csv and <folder>/Images/<City>/, as GSV-Cities comes"
_PITTS30K_DATE = "202409"  # Pitts30k has no dates; the published code writes this one


class Source(NamedTuple):
    """A data set to divide."""

    rule: Rule
    # (datasets_folder, folder or None for its usual place, cities or None for all) -> the Images of each city
    read: Callable[[Path, Path | None, Collection[str] | None], Iterator[Images]]
    names: tuple[str, ...]  # of the cities that it has when complete
    numbered: bool = True  # whether a group's number is added to the name


def _pitts30k(datasets_folder: Path, folder: Path | None, cities: Collection[str] | None) -> Iterator[Images]:
    """Database and queries of the training split, named anew as the published code does, but for its random letters."""
    folder = folder or datasets_folder / "pitts30k" / "images" / "train"
    named = []
    for side in ("database", "queries"):
        for path in some_images(folder / side, f"{PITTS30K_LAYOUT}; or use --source"):
            fields = parse_name(path)
            if not (fields.key and fields.tile.isascii() and fields.tile.isdigit()):
                raise ValueError(f"{folder / side / os.fsdecode(path)}: no panorama and tile number (fields 7 and 8 "
                                 f"between the @) in the name; expected {FORM}")
            # 12 yaws to a panorama, 30 degrees apart from an unknown direction, for each of two pitches.  Database and
            # queries number their panoramas alike.
            tile = int(fields.tile)
            name = fields._replace(key=f"{side[0]}{fields.key}-{tile:02d}", tile="", heading=str(tile % 12 * 30),
                                   pitch="", roll="", height="", date=_PITTS30K_DATE, note="")
            named.append((os.fsencode(str(name)), side.encode() + b"/" + path))
    named.sort()
    yield Images(name="Pitts30k", folder=folder, paths=[path for _, path in named], names=[name for name, _ in named])


def _sf_xl(datasets_folder: Path, folder: Path | None, cities: Collection[str] | None) -> Iterator[Images]:
    """The training images of SF-XL's processed release, which are named in FORM."""
    folder = folder or datasets_folder / "sf_xl" / "processed" / "train"
    yield Images(name="SFXL", folder=folder, paths=some_images(folder, f"<folder>/**/{FORM}; or use --source"))


def gsv_cities(datasets_folder: Path, folder: Path | None) -> Iterator[tuple[City, int]]:
    """The cities of GSV-Cities as they are, and how many places each has.

    Raises FileNotFoundError where none is there.
    """
    folder = folder or datasets_folder / "gsv_cities"
    there = [city for city in GSV_CITIES if (folder / "Dataframes" / f"{city}.csv").is_file()]
    if not there:
        raise FileNotFoundError(f"{folder}: no city of GSV-Cities; expected {GSV_LAYOUT}; or use --source")
    for city in there:
        table = folder / "Dataframes" / f"{city}.csv"
        places, images, _ = read_city(table)
        names = [os.fsdecode(image) for image in images.tolist()]
        elsewhere = next((name for name in names if name.partition("/")[0] != city), None)
        if elsewhere:
            raise ValueError(f"{table}: lists {elsewhere}, an image of another city; expected city_id {city}")
        yield City(city, table.read_text(encoding="utf-8-sig"), {
            name.partition("/")[2]: str(folder / "Images" / name) for name in names}), len(set(places.tolist()))


_COARSE = Rule(M=15, alpha=60, N=3, L=2)

SOURCES = {
    "pitts30k": Source(_COARSE, _pitts30k, ("Pitts30k",)),
    "msls": Source(_COARSE, mapillary.read, MSLS_CITIES),
    "sf_xl": Source(Rule(M=10, alpha=60, N=5, L=2, groups=1), _sf_xl, ("SFXL",), numbered=False),
}


def groups_in_the_paper(name: str) -> int:
    """How many groups of that city the unified data set has: 18, but 17 of Amman and Nairobi, and one of SF-XL."""
    return sum(re.fullmatch(rf"{name}\d*", city) is not None for city in UNIFIED_CITIES)

"""Toy city: a small, seeded place-recognition problem made of drawn images, laid out like the real data sets.

Training images take the GSV-Cities layout, validation and test images the folders and names that
gmberton/VPR-datasets-downloader gives to Pitts30k and MSLS.  `TOY_CITY.json` at the root marks everything below it as
drawn, so that no figure measured on it can be read as one of the data sets whose layout it borrows.
"""

import contextlib
import csv
import json
import multiprocessing
import os
import signal
import string
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import utm

from ..commands import progress
from ..files import temporary_path
from ..listing import TOY_MANIFEST
from ..readers.image_names import ImageName
from ..training.tables import COLUMNS, place_and_path
from .places import Place, draw_details, draw_place
from .street import CONDITIONS, HEIGHT, WIDTH, View, render

VERSION = 1  # of the drawings: raise it whenever the same seed would give other images
TRAINING_CITIES = ("Boston", "Lisbon", "Osaka", "PRS")
BENCHMARKS = (("pitts30k", "val"), ("pitts30k", "test"), ("msls", "val"), ("msls", "test"))
TRIPLETS = ("pitts30k", "train")  # in the same layout, for training by coordinates

LATER = {"triplet_places": 0, "lookalikes": 1}  # parameters that manifests did not always have

_NOTE = ("Images drawn by datasets/toy_city, not photographs. The folders borrow the names and layouts of GSV-Cities, "
         "Pitts30k and MSLS; no image, place or coordinate comes from them.")
_ZONE, _LETTER, _EAST, _NORTH = 31, "T", 400000.0, 5000000.0  # a made-up origin
_ESTATES = 2**32  # a number that no place has: streams of buildings that look-alikes share
_SPACING = 80.0  # metres between places


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What decides the images of a toy city, bit for bit.  Raises ValueError for a count that is too small.

    train_images, database_images and query_images are for each place, val_places and test_places for each benchmark.
    triplet_places are those of TRIPLETS, which few need and which take their time.
    lookalikes is how many places, far from each other in one city, have the same buildings: these differ in doors,
    signs, balconies and blind windows, and in what stands before and behind them.
    """

    seed: int = 0
    train_places: int = 600
    train_images: int = 4
    val_places: int = 100
    test_places: int = 120
    database_images: int = 3
    query_images: int = 1
    triplet_places: int = 0
    lookalikes: int = 1

    def __post_init__(self) -> None:
        least = {"seed": 0, "triplet_places": 0, "train_places": len(TRAINING_CITIES), "train_images": 4}
        for name, value in asdict(self).items():
            if value < least.get(name, 1):
                raise ValueError(f"{name} is {value}, expected at least {least.get(name, 1)}")

    def streams(self) -> list[tuple[str, str, int]]:
        """(set, split, places) of each random stream; GSV-Cities comes first, then `BENCHMARKS` in order."""
        benchmarks = [(name, split, getattr(self, f"{split}_places")) for name, split in BENCHMARKS]
        return [("gsv_cities", "train", self.train_places), *benchmarks, (*TRIPLETS, self.triplet_places)]

    def record(self) -> dict[str, int]:
        """As in the manifest, without LATER ones that are at their default: such a city is the same as ever."""
        return {name: value for name, value in asdict(self).items() if LATER.get(name) != value}

    def estate(self, stream: int, number: int) -> list[int]:
        """Of the place of this number: its city, and which of the city's buildings it shares with its look-alikes."""
        cities = len(TRAINING_CITIES) if stream == 0 else 1
        places = -(-self.streams()[stream][2] // cities)
        return [number % cities, number // cities % -(-places // self.lookalikes)]

    def image_counts(self) -> dict[str, int]:
        """Images by folder, relative to the root."""
        counts = {"gsv_cities/Images": self.train_places * self.train_images}
        for name, split, places in self.streams()[1:]:
            if places:
                counts[f"{name}/images/{split}/database"] = places * self.database_images
                counts[f"{name}/images/{split}/queries"] = places * self.query_images
        return counts


class Image(NamedTuple):
    """One image to draw: the camera's view, its coordinates (UTM metres) and what its name tells."""

    view: View
    east: float
    north: float
    pano: str
    year: int
    month: int

    @property
    def heading(self) -> int:
        """Degrees from north, 0..359; the street runs east with its facades to the north."""
        return round(self.view.yaw) % 360

    @property
    def latlon(self) -> tuple[float, float]:
        """Latitude and longitude in degrees, 6 decimals."""
        lat, lon = utm.to_latlon(self.east, self.north, _ZONE, _LETTER)
        return round(float(lat), 6), round(float(lon), 6)

    def training_row(self, city: str, place_id: int) -> dict[str, object]:
        """One line of a GSV-Cities table."""
        values = place_id, self.year, self.month, self.heading, city, *self.latlon, self.pano
        return dict(zip(COLUMNS, values, strict=True))

    def benchmark_name(self) -> str:
        lat, lon = self.latlon
        return str(ImageName(
            east=f"{self.east:010.2f}", north=f"{self.north:010.2f}", zone=_ZONE, letter=_LETTER, lat=f"{lat:.6f}",
            lon=f"{lon:.6f}", key=self.pano, heading=self.heading, pitch=round(self.view.pitch),
            roll=round(self.view.roll), date=f"{self.year:04d}{self.month:02d}", note=self.view.condition))


def _draw_image(rng: np.random.Generator, condition: str, number: int, stream: int) -> Image:
    """Draw one view of the place of this number; the streams lie 10 km apart."""
    view = View(
        along=float(rng.uniform(-2.0, 2.0)), across=float(rng.uniform(12.5, 15.5)), yaw=float(rng.uniform(-3.0, 3.0)),
        pitch=float(rng.uniform(-4.0, 5.0)), roll=float(rng.normal(0.0, 2.0)), field=float(rng.uniform(66.0, 74.0)),
        condition=condition, seed=int(rng.integers(2**63)))
    return Image(
        view=view, east=_EAST + _SPACING * (number % 1000) + view.along,
        north=_NORTH + 10000.0 * stream + _SPACING * (number // 1000) - view.across,
        pano="".join(rng.choice(list(string.ascii_lowercase), 12)), year=int(rng.integers(2012, 2025)),
        month=int(rng.choice([1, 2, 12] if condition == "snow" else range(3, 12))))


def draw_set_place(parameters: Parameters, split: str, stream: int, number: int) -> tuple[Place, list[Image]]:
    """Draw one place and its images from its own random stream: -> (place, images, for a benchmark database first).

    Streams: their places in `Parameters.streams`.
    """
    rng = np.random.default_rng([parameters.seed, stream, number])
    place = draw_place(rng, split)
    if parameters.lookalikes > 1:
        shared = np.random.default_rng([parameters.seed, stream, _ESTATES, *parameters.estate(stream, number)])
        buildings = draw_place(shared, split)
        place = place._replace(left=buildings.left, facades=tuple(
            draw_details(rng, facade, split) for facade in buildings.facades))
    if stream == 0:
        conditions = [("day", "night", "dusk", "snow")[i % 4] for i in range(parameters.train_images)]
    else:
        # As in street-level databases most are taken by day, while the queries come in all conditions evenly.
        conditions = rng.choice(CONDITIONS, parameters.database_images, p=(0.7, 0.1, 0.1, 0.1)).tolist()
        conditions += [CONDITIONS[(number + i) % 4] for i in range(parameters.query_images)]
    return place, [_draw_image(rng, condition, number, stream) for condition in conditions]


def _write_place(task: tuple[str, str, int, int], *, folder: Path, parameters: Parameters) -> list[dict]:
    """Draw and write the images of one place: -> its lines of the training table (none for a benchmark)."""
    name, split, stream, number = task
    place, images = draw_set_place(parameters, split, stream, number)
    rows = []
    for index, image in enumerate(images):
        if stream == 0:
            city = TRAINING_CITIES[number % len(TRAINING_CITIES)]
            rows.append(image.training_row(city, number // len(TRAINING_CITIES)))
            path = folder / "gsv_cities" / "Images" / place_and_path(rows[-1])[1]
        else:
            part = "database" if index < parameters.database_images else "queries"
            path = folder / name / "images" / split / part / image.benchmark_name()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:  # never over another image
            file.write(render(place, image.view))
    return rows


def _write_city(folder: Path, parameters: Parameters, workers: int) -> None:
    tasks = [(name, split, stream, number) for stream, (name, split, places) in enumerate(parameters.streams())
             for number in range(places)]
    write = partial(_write_place, folder=folder, parameters=parameters)
    # Fresh processes: the caller may hold threads (torch), which a forked copy would not survive. Ctrl-C is the
    # caller's to answer, once.
    pool = None if workers <= 1 else multiprocessing.get_context("spawn").Pool(
        workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    with pool or contextlib.nullcontext():
        drawn = pool.imap(write, tasks, chunksize=8) if pool else map(write, tasks)
        rows = [row for of_place in progress(drawn, "drawing places", len(tasks)) for row in of_place]
    tables = folder / "gsv_cities" / "Dataframes"
    tables.mkdir()
    for city in TRAINING_CITIES:
        with (tables / f"{city}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for row in rows if row["city_id"] == city)
    manifest = {"note": _NOTE, "version": VERSION, "parameters": parameters.record(), "image_size": [HEIGHT, WIDTH],
                "training_cities": TRAINING_CITIES, "counts": parameters.image_counts()}
    (folder / TOY_MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _check_existing(folder: Path, parameters: Parameters) -> None:
    """Raise ValueError unless the folder holds a complete toy city of the same parameters."""
    advice = "give another folder, or delete this one first"
    try:
        manifest = json.loads((folder / TOY_MANIFEST).read_text())
        # Manifests called images pictures once; the drawings are the same.
        found = {name.replace("pictures", "images"): value for name, value in manifest["parameters"].items()}
        found = {"version": manifest["version"], **found}
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} exists and is no toy city (it has no {TOY_MANIFEST}): {advice}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{folder / TOY_MANIFEST} is not what a toy city has: {advice}") from None
    wanted = {"version": VERSION, **asdict(parameters)}
    found = LATER | found
    if found != wanted:
        differing = (f"{name} {found.get(name)} instead of {value}" for name, value in wanted.items()
                     if found.get(name) != value)
        raise ValueError(f"{folder} holds another toy city ({', '.join(differing)}): {advice}")
    for part, count in parameters.image_counts().items():
        present = sum(1 for _ in (folder / part).rglob("*.jpg"))
        if present != count:
            raise ValueError(f"{folder / part} holds {present} images, expected {count}: {advice}")


def build_toy_city(folder: str | Path, *, workers: int | None = None, **parameters: int) -> Path:
    """Build the toy city at `folder`, or keep the complete one of the same `Parameters` that lies there.

    The images depend on the parameters alone, not on `workers` (processes; default: one a core, at most 8).
    Everything is written beside `folder` and renamed at the end.

    Returns the folder.  Raises ValueError where it holds anything else, or where a count is too small.
    """
    wanted = Parameters(**parameters)
    folder = Path(folder).absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        _check_existing(folder, wanted)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_path(folder) as temporary:
        _write_city(temporary, wanted, min(8, os.cpu_count() or 1) if workers is None else workers)
    return folder

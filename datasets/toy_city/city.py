"""Toy city: a small, seeded place-recognition problem made of drawn images, laid out like the real data sets.

Training images take the GSV-Cities layout, validation and test images the folders and 15-field names that
gmberton/VPR-datasets-downloader gives to Pitts30k and MSLS.  `TOY_CITY.json` at the root marks everything below it as
drawn, so that no figure measured on it can be read as one of the data sets whose layout it borrows.

    python -m datasets.toy_city OUT [--seed 0] [--train_places 600] [--test_places 120]
"""

from __future__ import annotations

import argparse
import csv
import inspect
import json
import multiprocessing
import os
import shutil
import signal
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import utm
from tqdm import tqdm

from .facades import Scene
from .places import Place, draw_place
from .street import CONDITIONS, HEIGHT, WIDTH, View, render

VERSION = 1  # of the drawings: raise it whenever the same seed would give other images
MANIFEST = "TOY_CITY.json"
TRAINING_CITIES = ("Boston", "Lisbon", "Osaka", "PRS")
TRAINING_COLUMNS = ("place_id", "year", "month", "northdeg", "city_id", "lat", "lon", "panoid")
BENCHMARKS = (("pitts30k", "val"), ("pitts30k", "test"), ("msls", "val"), ("msls", "test"))

_NOTE = (
    "Images drawn by datasets/toy_city.py, not photographs. The folders borrow the names and layouts of GSV-Cities, "
    "Pitts30k and MSLS; no image, place or coordinate comes from them."
)
_ZONE, _LETTER, _EAST, _NORTH = 31, "T", 400000.0, 5000000.0  # a made-up origin
_SPACING = 80.0  # metres between places


@dataclass(frozen=True)
class Parameters:
    """What decides the images of a toy city, bit for bit."""

    seed: int
    train_places: int
    train_images: int  # per place
    val_places: int  # in each benchmark
    test_places: int
    database_images: int  # per place
    query_images: int


@dataclass(frozen=True)
class Image:
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


def training_row(image: Image, city: str, place_id: int) -> dict[str, object]:
    """-> one line of a GSV-Cities table, without its city's place offset."""
    lat, lon = image.latlon
    values = (place_id, image.year, image.month, image.heading, city, lat, lon, image.pano)
    return dict(zip(TRAINING_COLUMNS, values, strict=True))


def training_name(row: dict[str, object]) -> str:
    """-> the GSV-Cities file name of a table line: city, place, year, month, heading, lat, lon, panorama."""
    return (
        f"{row['city_id']}_{row['place_id']:07d}_{row['year']:04d}_{row['month']:02d}_{row['northdeg']:03d}"
        f"_{row['lat']}_{row['lon']}_{row['panoid']}.jpg"
    )


def benchmark_name(image: Image) -> str:
    """-> the 15-field name `@east@north@zone@letter@lat@lon@pano@tile@heading@pitch@roll@height@time@note@.jpg`."""
    lat, lon = image.latlon
    place = (f"{image.east:010.2f}", f"{image.north:010.2f}", _ZONE, _LETTER, f"{lat:.6f}", f"{lon:.6f}")
    camera = (image.heading, round(image.view.pitch), round(image.view.roll), "")
    time = f"{image.year:04d}{image.month:02d}"
    fields = (*place, image.pano, "", *camera, time, image.view.condition, ".jpg")
    return "@" + "@".join(str(field) for field in fields)


def _draw_image(rng, condition, number, stream) -> Image:
    """Draw one view of the place of this number; the streams lie 10 km apart."""
    view = View(
        along=float(rng.uniform(-2.0, 2.0)),
        across=float(rng.uniform(12.5, 15.5)),
        yaw=float(rng.uniform(-3.0, 3.0)),
        pitch=float(rng.uniform(-4.0, 5.0)),
        roll=float(rng.normal(0.0, 2.0)),
        field=float(rng.uniform(66.0, 74.0)),
        condition=condition,
        seed=int(rng.integers(2**63)),
    )
    return Image(
        view=view,
        east=_EAST + _SPACING * (number % 1000) + view.along,
        north=_NORTH + 10000.0 * stream + _SPACING * (number // 1000) - view.across,
        pano="".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 12)),
        year=int(rng.integers(2012, 2025)),
        month=int(rng.choice([1, 2, 12] if condition == "snow" else range(3, 12))),
    )


def draw_set_place(parameters: Parameters, split: str, stream: int, number: int) -> tuple[Place, list[Image]]:
    """Draw one place and its images from its own random stream: -> (place, images, for a benchmark database first).

    Streams: 0 for training, 1.. for `BENCHMARKS` in order.
    """
    rng = np.random.default_rng([parameters.seed, stream, number])
    place = draw_place(rng, split)
    if split == "train":
        cycle = ("day", "night", "dusk", "snow")
        conditions = [cycle[i % 4] for i in range(parameters.train_images)]
    else:
        # As in street-level databases most are taken by day, while the queries come in all conditions evenly.
        conditions = rng.choice(CONDITIONS, parameters.database_images, p=(0.7, 0.1, 0.1, 0.1)).tolist()
        conditions += [CONDITIONS[(number + i) % 4] for i in range(parameters.query_images)]
    return place, [_draw_image(rng, condition, number, stream) for condition in conditions]


def _write_place(task, *, folder: Path, parameters: Parameters) -> list[dict]:
    """Draw and write the images of one place: -> its lines of the training table (none for a benchmark)."""
    split, stream, number = task
    place, images = draw_set_place(parameters, split, stream, number)
    scene, rows = Scene(place), []
    for index, image in enumerate(images):
        if split == "train":
            city = TRAINING_CITIES[number % len(TRAINING_CITIES)]
            rows.append(training_row(image, city, number // len(TRAINING_CITIES)))
            path = folder / "gsv_cities" / "Images" / city / training_name(rows[-1])
        else:
            name, _ = BENCHMARKS[stream - 1]
            part = "database" if index < parameters.database_images else "queries"
            path = folder / name / "images" / split / part / benchmark_name(image)
        with path.open("xb") as file:  # never over another image
            file.write(render(scene, image.view))
    return rows


def _tasks(parameters):
    """Every (split, stream, place number) of the city."""
    tasks = [("train", 0, number) for number in range(parameters.train_places)]
    for stream, (_, split) in enumerate(BENCHMARKS, start=1):
        places = parameters.val_places if split == "val" else parameters.test_places
        tasks += [(split, stream, number) for number in range(places)]
    return tasks


def _counts(parameters):
    """Images by folder, relative to the root."""
    counts = {"gsv_cities/Images": parameters.train_places * parameters.train_images}
    for name, split in BENCHMARKS:
        places = parameters.val_places if split == "val" else parameters.test_places
        counts[f"{name}/images/{split}/database"] = places * parameters.database_images
        counts[f"{name}/images/{split}/queries"] = places * parameters.query_images
    return counts


def _write_city(folder, parameters, workers):
    for city in TRAINING_CITIES:
        (folder / "gsv_cities" / "Images" / city).mkdir(parents=True)
    for name, split in BENCHMARKS:
        for part in ("database", "queries"):
            (folder / name / "images" / split / part).mkdir(parents=True)
    write, tasks = partial(_write_place, folder=folder, parameters=parameters), _tasks(parameters)
    if workers > 1:
        # Fresh processes: the caller may hold threads (torch), which a forked copy would not survive. Ctrl-C is the
        # caller's to answer, once.
        context, ignore = multiprocessing.get_context("spawn"), (signal.SIGINT, signal.SIG_IGN)
        with context.Pool(workers, initializer=signal.signal, initargs=ignore) as pool:
            rows = _with_progress(pool.imap(write, tasks, chunksize=8), len(tasks))
    else:
        rows = _with_progress(map(write, tasks), len(tasks))
    tables = folder / "gsv_cities" / "Dataframes"
    tables.mkdir()
    for city in TRAINING_CITIES:
        with (tables / f"{city}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, TRAINING_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for row in rows if row["city_id"] == city)
    manifest = {"note": _NOTE, "version": VERSION, "parameters": asdict(parameters), "image_size": [HEIGHT, WIDTH],
                "training_cities": TRAINING_CITIES, "counts": _counts(parameters)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _with_progress(places, count) -> list[dict]:
    """All table lines of the places as they are drawn, with a bar on stderr where that is a terminal."""
    quiet = not sys.stderr.isatty()
    return [row for place in tqdm(places, "drawing places", count, leave=False, disable=quiet) for row in place]


def _check_existing(folder, parameters):
    """Raise ValueError unless the folder holds a complete toy city of the same parameters."""
    advice = "give another folder, or delete this one first"
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        found = {"version": manifest["version"], **manifest["parameters"]}
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} exists and is no toy city (it has no {MANIFEST}): {advice}") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{folder / MANIFEST} is not what a toy city has: {advice}") from None
    wanted = {"version": VERSION, **asdict(parameters)}
    if found != wanted:
        differing = (f"{name} {found.get(name)} instead of {value}" for name, value in wanted.items()
                     if found.get(name) != value)
        raise ValueError(f"{folder} holds another toy city ({', '.join(differing)}): {advice}")
    for part, count in _counts(parameters).items():
        present = sum(1 for _ in (folder / part).rglob("*.jpg"))
        if present != count:
            raise ValueError(f"{folder / part} holds {present} images, expected {count}: {advice}")


def build_toy_city(
    folder: str | Path,
    *,
    seed: int = 0,
    train_places: int = 600,
    train_images: int = 4,
    val_places: int = 100,
    test_places: int = 120,
    database_images: int = 3,
    query_images: int = 1,
    workers: int | None = None,
) -> Path:
    """Build the toy city at `folder`, or keep the complete one of the same parameters that lies there.

    train_images, database_images and query_images count per place; val_places and test_places hold for each of
    pitts30k and msls.  The images depend on the parameters alone, not on `workers` (processes; default: one a core,
    at most 8).  Everything is written beside `folder` and renamed at the end.

    Returns the folder.  Raises ValueError where it holds anything else, or where a count is below 1 (4 for
    train_images, and for train_places: one a city).
    """
    parameters = Parameters(
        seed=seed, train_places=train_places, train_images=train_images, val_places=val_places,
        test_places=test_places, database_images=database_images, query_images=query_images)
    least = {"seed": 0, "train_places": len(TRAINING_CITIES), "train_images": 4}
    for name, value in asdict(parameters).items():
        if value < least.get(name, 1):
            raise ValueError(f"{name} is {value}, expected at least {least.get(name, 1)}")
    folder = Path(folder).absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        _check_existing(folder, parameters)
        return folder
    partial_folder = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        partial_folder.mkdir(parents=True)
        _write_city(partial_folder, parameters, min(8, os.cpu_count() or 1) if workers is None else workers)
        partial_folder.replace(folder)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)  # gone already where all went well
    return folder


def main(argv: list[str] | None = None) -> None:
    """Command line: build a toy city and print its folder."""
    parser = argparse.ArgumentParser(prog="python -m datasets.toy_city.city", description="Draw a toy city.")
    parser.add_argument("folder", type=Path)
    for name in ("seed", "train_places", "val_places", "test_places"):
        default = inspect.signature(build_toy_city).parameters[name].default
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    try:
        print(build_toy_city(**vars(parser.parse_args(argv))))
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted; nothing is left behind\n")

"""Images a second that one core loads for training: `python -m benchmarks.loader [FOLDER --size H W]`.

Ours beside the straightforward pipeline (Pillow's resize, torchvision's RandAugment, float tensors) on the same places,
alternately, in one process with one thread; medians. FOLDER is in the GSV-Cities layout; without it: drawn 640x480
images at 224x224, and a small toy city at the demo's 112x112. Prints the tables and writes them, with every sample,
into loader.md and loader.json.
"""

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from datasets import GSV_CITIES, PlaceDataset, collate_places, normalise, training_transform
from datasets.toy_city.city import build_toy_city
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, read_image
from utils.run import exit_with

from . import report
from .measure import alternate

IMAGES = 96  # a repeat's
EPOCHS = 4  # of them through a worker
BATCH_PLACES, PLACE_IMAGES = 8, 4
PIPELINES = ("straightforward", "ours")
TRANSFER, CORE, WORKER = "collate, transfer, normalise", "whole, one core", "whole, through one worker"


class Ready(Dataset):
    """A place that costs nothing to load: what remains is collating it and getting it to the other process."""

    def __init__(self, images: torch.Tensor) -> None:
        self.item = images, torch.zeros(len(images), dtype=torch.int64)

    def __getitem__(self, index: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.item


def straightforward_transform(size: tuple[int, int]) -> transforms.Compose:
    return transforms.Compose([
        transforms.Resize(size, InterpolationMode.BILINEAR),
        transforms.RandAugment(num_ops=3, interpolation=InterpolationMode.BILINEAR),
        transforms.ToTensor(),
        transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="default: drawn images")
    parser.add_argument("--size", type=int, nargs=2, default=(224, 224), help="H W (default: 224 224)")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=report.PAGES, help="folder of loader.md and loader.json")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    torch.set_num_threads(1)
    started, found, tables = time.perf_counter(), {}, []
    with tempfile.TemporaryDirectory() as scratch:
        if args.folder:
            settings = [(str(args.folder), args.folder, tuple(args.size))]
        else:
            toy = build_toy_city(Path(scratch) / "toy", train_places=IMAGES // PLACE_IMAGES, val_places=1,
                                 test_places=1, workers=1)
            settings = [("drawn, 640x480", draw_city(Path(scratch) / "drawn"), (224, 224)),
                        ("toy city, 168x126", toy / "gsv_cities", (112, 112))]
        for name, folder, size in settings:
            name = f"{name} -> {size[1]}x{size[0]}"
            found[name] = measure(folder, size, args.repeats)
            tables.append(f"{name}:\n\n{table(found[name])}")
            print(tables[-1], flush=True)
    report.write_section(args.out / "loader.md", "\n".join(tables), {"seconds_an_image": found},
                         device=torch.device("cpu"), seconds=time.perf_counter() - started)
    print(f"written to {args.out / 'loader.md'} and loader.json")


def draw_city(folder: Path) -> Path:
    """IMAGES JPEGs of 640x480 in the GSV-Cities layout: coloured noise as rough as photographs, some 50 KB each."""
    (folder / "Dataframes").mkdir(parents=True)
    (folder / "Images" / "Drawn").mkdir(parents=True)
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(480)[:, None], np.fft.rfftfreq(640))
    frequency[0, 0] = 1 / 640
    with (folder / "Dataframes" / "Drawn.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["place_id", "year", "month", "northdeg", "city_id", "lat", "lon", "panoid"])
        for number in range(IMAGES):
            place, heading = divmod(number, PLACE_IMAGES)
            rows.writerow([place, 2020, 1, heading, "Drawn", 1.5, 2.5, "p"])
            noise = rng.normal(size=(4, *frequency.shape, 2)) @ [1, 1j] / frequency**1.55
            planes = np.fft.irfft2(noise, (480, 640))
            planes /= planes.std(axis=(1, 2), keepdims=True)
            colours = 120 + 50 * (0.9 * planes[:1] + 0.3 * planes[1:])  # mostly grey
            name = f"Drawn_{place:07d}_2020_01_{heading:03d}_1.5_2.5_p.jpg"
            image = Image.fromarray(colours.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
            image.save(folder / "Images" / "Drawn" / name, quality=80)
    return folder


def measure(folder: Path, size: tuple[int, int], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds an image by row and pipeline, one for each repeat: the core's own, or by the clock through a worker."""
    cities = sorted(path.stem for path in (folder / "Dataframes").glob("*.csv")) or GSV_CITIES
    one_core, worker = {}, {}  # by name and pipeline
    for pipeline, transform in zip(PIPELINES, (straightforward_transform(size), training_transform(size)), strict=True):
        dataset = PlaceDataset(folder, cities=cities, images_per_place=PLACE_IMAGES, transform=transform)
        rng = np.random.default_rng(0)
        places = rng.permutation(dataset.n_places)[:IMAGES // PLACE_IMAGES].tolist()
        count = len(places) * PLACE_IMAGES
        paths = rng.permutation(sorted((folder / "Images").glob("*/*.jpg")))[:count]
        one_core |= {(name, pipeline): partial(each, step, inputs) for name, step, inputs in stages(transform, paths)}
        one_core[CORE, pipeline] = partial(each, dataset.__getitem__, [(0, place) for place in places])
        pairs = [(epoch, place) for epoch in range(EPOCHS) for place in places]
        batches = [pairs[start:start + BATCH_PLACES] for start in range(0, len(pairs), BATCH_PLACES)]
        for name, source in ((TRANSFER, Ready(dataset[0, places[0]][0])), (WORKER, dataset)):
            worker[name, pipeline] = partial(receive, DataLoader(
                source, num_workers=1, collate_fn=collate_places, persistent_workers=True, batch_sampler=batches))
    seconds: dict[str, dict[str, list[float]]] = {}
    for runs, clock, images in ((one_core, time.process_time, count), (worker, time.perf_counter, EPOCHS * count)):
        for (name, pipeline), samples in alternate(runs, repeats=repeats, clock=clock).items():
            seconds.setdefault(name, {})[pipeline] = [taken / images for taken in samples]
    return seconds


def stages(transform: transforms.Compose, paths: Sequence[Path]) -> list[tuple[str, Callable, list]]:
    """(name, function, its inputs) of each stage that an image goes through before it is collated."""
    resize, augment, *rest = transform.transforms
    images = [read_image(path) for path in paths]
    resized = [resize(image) for image in images]
    augmented = [augment(image) for image in resized]
    return [("read, decode", read_image, list(paths)), ("resize", resize, images), ("RandAugment", augment, resized),
            ("to tensor", transforms.Compose(rest), augmented)]


def each(step: Callable, inputs: Iterable) -> None:
    for value in inputs:
        step(value)


def receive(loader: DataLoader) -> None:
    """Takes all batches as a training step would have them, in floating point."""
    for images, _ in loader:
        if not images.is_floating_point():
            normalise(images)


def table(seconds: dict[str, dict[str, list[float]]]) -> str:
    """Microseconds an image of each stage, then images a second of the whole."""
    rows = []
    for name, samples in sorted(seconds.items(), key=lambda item: item[0] in (CORE, WORKER)):
        whole = name in (CORE, WORKER)
        before, now = (statistics.median(samples[pipeline]) for pipeline in PIPELINES)
        shown = (f"{1 / value if whole else 1e6 * value:.0f}" for value in (before, now))
        rows.append((f"{name}: {'images/s' if whole else 'us'}", *shown, f"{before / now:.2f}"))
    return report.table(("stage", *PIPELINES, "ratio"), rows, figures=3)


if __name__ == "__main__":
    exit_with(main)

"""Images a second that one core loads for training: `python -m benchmarks.loader [FOLDER --size H W]`.

Ours beside the straightforward pipeline (Pillow, torchvision's RandAugment, float tensors), alternately, in one process
with one thread; medians. FOLDER is in the GSV-Cities layout; without it: drawn 640x480 images at 224x224, and a small
toy city at the demo's 112x112. Prints the rows and writes them, with every sample, into loader.json.
"""

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable
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
from datasets.training.places import COLUMNS
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, read_image
from utils.run import exit_with, hardware, versions, write_json

HERE = Path(__file__).parent
IMAGES = 96  # a repeat's
BATCH_PLACES, PLACE_IMAGES = 8, 4
PIPELINES = ("straightforward", "ours")
TRANSFER, CORE, WORKER = "collate, transfer, normalise", "whole, one core", "whole, through one worker"


class Straightforward(PlaceDataset):
    """The same places as they would be read without more ado."""

    def _read(self, row: int) -> Image.Image:
        return open_and_convert(self.folder / "Images" / self._images[row].decode())


class Ready(Dataset):
    """A place that costs nothing to load: what remains is collating it and getting it to the other process."""

    def __init__(self, images: torch.Tensor) -> None:
        self.item = images, torch.zeros(len(images), dtype=torch.int64)

    def __getitem__(self, index: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.item


def open_and_convert(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


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
    parser.add_argument("--out", type=Path, default=HERE, help="folder of loader.json")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    torch.set_num_threads(1)
    report = {}
    with tempfile.TemporaryDirectory() as scratch:
        if args.folder:
            settings = [(str(args.folder), args.folder, tuple(args.size))]
        else:
            toy = build_toy_city(Path(scratch) / "toy", train_places=IMAGES // PLACE_IMAGES, val_places=1,
                                 test_places=1, workers=1)
            settings = [("drawn, 640x480", draw_city(Path(scratch) / "drawn"), (224, 224)),
                        ("toy city, 168x126", toy / "gsv_cities", (112, 112))]
        for name, folder, size in settings:
            seconds = measure(folder, size, args.repeats)
            report[f"{name} -> {size[1]}x{size[0]}"] = seconds
            print(f"{name} -> {size[1]}x{size[0]}\n\n{table(seconds)}\n", flush=True)
    write_json({"seconds_an_image": report, "hardware": hardware(torch.device("cpu")), "versions": versions()},
               args.out / "loader.json")
    print(f"written to {args.out / 'loader.json'}")


def draw_city(folder: Path) -> Path:
    """IMAGES JPEGs of 640x480 in the GSV-Cities layout: coloured noise as rough as photographs, some 50 KB each."""
    (folder / "Dataframes").mkdir(parents=True)
    (folder / "Images" / "Drawn").mkdir(parents=True)
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(480)[:, None], np.fft.rfftfreq(640))
    frequency[0, 0] = 1 / 640
    with (folder / "Dataframes" / "Drawn.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
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
    runs: dict[tuple[str, str], tuple[Callable[[], float], Callable[[], int]]] = {}  # the clock, and what it times
    for pipeline, kind, transform in zip(PIPELINES, (Straightforward, PlaceDataset),
                                         (straightforward_transform, training_transform), strict=True):
        dataset = kind(folder, cities=cities, images_per_place=PLACE_IMAGES, transform=transform(size))
        places = np.random.default_rng(0).permutation(len(dataset))[:IMAGES // PLACE_IMAGES].tolist()
        for name, step, inputs in stages(dataset, places):
            runs[name, pipeline] = time.process_time, partial(done, step, inputs)
        runs[CORE, pipeline] = time.process_time, partial(loaded, dataset, places)
        for name, source in ((TRANSFER, Ready(dataset[0, places[0]][0])), (WORKER, dataset)):
            loader = DataLoader(source, num_workers=1, collate_fn=collate_places, persistent_workers=True,
                                batch_sampler=batches(places))
            runs[name, pipeline] = time.perf_counter, partial(received, loader)
    seconds: dict[str, dict[str, list[float]]] = {name: {pipeline: [] for pipeline in PIPELINES} for name, _ in runs}
    for turn in range(repeats + 1):
        for (name, pipeline), (clock, run) in runs.items():
            started = clock()
            images = run()
            if turn:  # the first does not count
                seconds[name][pipeline].append((clock() - started) / images)
    return seconds


def stages(dataset: PlaceDataset, places: list[int]) -> list[tuple[str, Callable, list]]:
    """(name, function, its inputs) of each stage that an image goes through before it is collated."""
    paths = [dataset.folder / "Images" / dataset._images[row].decode()
             for place in places for row in range(dataset._starts[place], dataset._starts[place] + PLACE_IMAGES)]
    read = open_and_convert if isinstance(dataset, Straightforward) else read_image
    resize, augment, *rest = dataset.transform.transforms
    images = [read(path) for path in paths]
    resized = [resize(image) for image in images]
    augmented = [augment(image) for image in resized]
    return [("read, decode", read, paths), ("resize", resize, images), ("RandAugment", augment, resized),
            ("to tensor", transforms.Compose(rest), augmented)]


def done(step: Callable, inputs: list) -> int:
    for value in inputs:
        step(value)
    return len(inputs)


def loaded(dataset: PlaceDataset, places: list[int]) -> int:
    return sum(len(dataset[0, place][0]) for place in places)


def batches(places: list[int]) -> list[list[tuple[int, int]]]:
    """Several epochs of batches, for a loader."""
    pairs = [(epoch, place) for epoch in range(4) for place in places]
    return [pairs[start:start + BATCH_PLACES] for start in range(0, len(pairs), BATCH_PLACES)]


def received(loader: DataLoader) -> int:
    """Takes all batches as a training step would have them, in floating point; their count."""
    count = 0
    for images, _ in loader:
        count += len(images if images.is_floating_point() else normalise(images))
    return count


def table(seconds: dict[str, dict[str, list[float]]]) -> str:
    """Microseconds an image of each stage, then images a second of the whole."""
    lines = ["| | straightforward | ours | ratio |", "|---|---:|---:|---:|"]
    for name, samples in sorted(seconds.items(), key=lambda item: item[0] in (CORE, WORKER)):
        before, now = (statistics.median(samples[pipeline]) for pipeline in PIPELINES)
        if name in (CORE, WORKER):
            lines.append(f"| {name}: images/s | {1 / before:.0f} | {1 / now:.0f} | {before / now:.2f} |")
        else:
            lines.append(f"| {name}: us | {1e6 * before:.0f} | {1e6 * now:.0f} | {before / now:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with(main)

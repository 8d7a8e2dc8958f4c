"""Images a second that one core loads for training: `python -m benchmarks.loader [FOLDER --size H W]`.

Ours beside the straightforward pipeline (Pillow's resize, float tensors) on the same places, alternately, in one
process with one thread; medians. FOLDER is in the GSV-Cities layout; without it: a small toy city at 112x112 as in the
demo, then enlarged to 640x480 at 224x224. Prints the tables and writes them, with every sample, to loader.md and .json.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms

from datasets import GSV_CITIES, PlaceDataset, collate_places, normalise, training_transform
from datasets.toy_city.city import build_toy_city
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, read_image
from utils.run import exit_with

from . import report

IMAGES = 96  # a repeat's
EPOCHS = 4  # of them through a worker
BATCH_PLACES, PLACE_IMAGES = 8, 4
PIPELINES = ("straightforward", "ours")
STAGES = ("read, decode", "resize", "RandAugment", "to tensor")
CORE, WORKER = WHOLE = ("whole, one core", "whole, through one worker")


def main(argv: list[str] | None = None) -> None:
    parser = report.command_parser(__spec__.name, __doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="default: drawn images")
    parser.add_argument("--size", type=int, nargs=2, default=(224, 224), help="H W (default: 224 224)")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    started, found, tables = time.perf_counter(), {}, []
    with tempfile.TemporaryDirectory() as scratch:
        for name, folder, (height, width) in [(args.folder, args.folder, args.size)] if args.folder else drawn(scratch):
            name = f"{name} -> {width}x{height}"
            found[name] = measure(folder, (height, width), args.repeats)
            tables.append(f"{name}:\n\n{table(found[name])}")
            print(tables[-1], flush=True)
    report.write_section(args.out / "loader.md", "\n".join(tables), {"seconds_an_image": found},
                         device=torch.device("cpu"), seconds=time.perf_counter() - started)


def drawn(scratch: str) -> Iterator[tuple[str, Path, tuple[int, int]]]:
    """Name, folder and (H, W) of each setting; the second is the first, enlarged after it was measured."""
    toy = build_toy_city(Path(scratch) / "toy", train_places=IMAGES // PLACE_IMAGES, val_places=1, test_places=1)
    folder = toy / "gsv_cities"
    yield "toy city, 168x126", folder, (112, 112)
    enlarge(folder)
    yield "toy city, enlarged to 640x480", folder, (224, 224)


def enlarge(folder: Path) -> None:
    """The images of a folder in the GSV-Cities layout to 640 x 480, where they lie."""
    for path in folder.glob("Images/*/*.jpg"):
        read_image(path).resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=95)


def measure(folder: Path, size: tuple[int, int], repeats: int) -> dict[str, dict[str, list[float]]]:
    """Seconds an image by row and pipeline, one for each repeat: the core's own, or by the clock through a worker."""
    cities = sorted(path.stem for path in folder.glob("Dataframes/*.csv")) or GSV_CITIES
    ours = training_transform(size)
    straightforward = transforms.Compose([transforms.Resize(size), ours.transforms[1], transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])])
    core, worker = {}, {}  # by name and pipeline
    for pipeline, transform in zip(PIPELINES, (straightforward, ours), strict=True):
        dataset = PlaceDataset(folder, cities=cities, images_per_place=PLACE_IMAGES, transform=transform)
        rng = np.random.default_rng(0)
        places = rng.permutation(dataset.n_places)[:IMAGES // PLACE_IMAGES].tolist()
        images = list(rng.permutation(sorted(folder.glob("Images/*/*.jpg")))[:len(places) * PLACE_IMAGES])
        for name, step in zip(STAGES, (read_image, *transform.transforms), strict=True):
            core[name, pipeline] = partial(each, step, images)
            images = [step(image) for image in images]
        core[CORE, pipeline] = partial(each, dataset.__getitem__, [(0, place) for place in places])
        pairs = [(epoch, place) for epoch in range(EPOCHS) for place in places]
        worker[WORKER, pipeline] = partial(each, received, DataLoader(
            dataset, BATCH_PLACES, sampler=pairs, num_workers=1, collate_fn=collate_places, persistent_workers=True))
    seconds: dict[str, dict[str, list[float]]] = {}
    for runs, clock, count in ((core, time.process_time, len(images)),
                               (worker, time.perf_counter, EPOCHS * len(images))):
        for (name, pipeline), samples in report.alternate(runs, repeats=repeats, clock=clock).items():
            seconds.setdefault(name, {})[pipeline] = [taken / count for taken in samples]
    return seconds


def each(step: Callable, inputs: Iterable) -> None:
    for value in inputs:
        step(value)


def received(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Its images as a training step has them, in floating point."""
    return batch[0] if batch[0].is_floating_point() else normalise(batch[0])


def table(seconds: dict[str, dict[str, list[float]]]) -> str:
    """Microseconds an image of each stage, then images a second of the whole."""
    rows = []
    for name in sorted(seconds, key=WHOLE.__contains__):
        before, now = taken = [statistics.median(seconds[name][pipeline]) for pipeline in PIPELINES]
        shown = (f"{1 / value if name in WHOLE else 1e6 * value:.0f}" for value in taken)
        rows.append((f"{name}: {'images/s' if name in WHOLE else 'us'}", *shown, f"{before / now:.2f}"))
    return report.table(("stage", *PIPELINES, "ratio"), rows, figures=3)


if __name__ == "__main__":
    exit_with(main)

"""Images a second from JPEG files to an index on disk, and how well time, memory and disk were predicted."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from datasets import own_images
from model import ModelConfig, build_model
from utils.data import as_dataset
from utils.device import best_precision
from utils.evaluation.extraction import extract

from .extraction import SIZE
from .report import Report

IMAGES = 160
WITHIN = 0.25  # of what happens


def rows(report: Report, *, device: torch.device, backbone: str = "dinov2-base", images: int = IMAGES) -> None:
    """A two-branch model of random weights, in the device's best precision, on drawn images of 640 x 480."""
    precision = best_precision(device)
    model = build_model(ModelConfig(backbone=backbone), seed=0).to(device)
    with tempfile.TemporaryDirectory() as folder:
        database, queries, index = (Path(folder) / name for name in ("database", "queries", "index"))
        draw(database, images)
        draw(queries, 1)
        dataset = as_dataset(own_images(database, queries, labels=False), size=(SIZE, SIZE))
        cost = extract(model, dataset, index, branches=("float", "binary"), batch_size=16, num_workers=1,
                       precision=precision).cost
        on_disk = sum(path.stat().st_size for side in index.iterdir() for path in side.iterdir())
    predicted, measured = cost["predicted"], cost["measured"]
    name = f"{backbone}, two branches, {images} JPEG files to an index, {precision}"
    report.add(name, f"{cost['images_per_second']:.2f} images/s",
               f"{100 * cost['waiting_share']:.0f} % of the time spent waiting for images")
    for what, unit, found in (("seconds", "s", measured["seconds"]), ("memory_mib", "MiB", measured["memory_mib"]),
                              ("disk_bytes", "bytes", on_disk)):
        off = predicted[what] / found - 1
        report.add(f"{name}: {what.partition('_')[0]} predicted", f"{predicted[what]:.0f} {unit}",
                   f"then {found:.0f} {unit}: {100 * off:+.0f} %", goal="within 25 %", met=abs(off) <= WITHIN)


def draw(folder: Path, count: int) -> None:
    """Images with some detail, which takes a JPEG decoder its time."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number:04}.jpg", quality=90)

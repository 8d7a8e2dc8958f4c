"""Images extracted in a second: the plain path (plain.py; on a GPU in fp16 too) against `fast_inference`, with images
in memory, all paths alternately in one process; and from JPEG files to an index on disk, beside what was predicted.

Weights are random and seeded.
"""

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from datasets import own_images
from model import Descriptors, ModelConfig, SelaVPRpp, build_model, fast_inference
from model.layers.batch_norm import BatchNorm
from utils.data import as_dataset
from utils.device import PRECISIONS, best_precision, synchronise
from utils.evaluation.extraction import extract

from .plain import plain_extract
from .report import TYPES, Report, calibrate

SIZE = 322
LARGE_REPEATS = 3  # of a model whose plain path takes some 12 s a call on two cores
WITHIN = 0.25  # of what happens: the time, memory and disk predicted


def rows(report: Report, *, device: torch.device, backbones: tuple[str, ...] = ("dinov2-base", "dinov2-large"),
         repeats: int = 5, batch: int = 8) -> None:
    """Adds the calibration and the rows: of each backbone with the float branch and with both, on a processor of the
    first alone with both."""
    rates = calibrate(report, device)
    for backbone in backbones:
        first = backbone == backbones[0]
        for branches in (("float",), ("float", "binary")) if first or device.type == "cuda" else (("float",),):
            _case(report, backbone, branches, rates, device=device, batch=batch,
                  repeats=repeats if first else min(repeats, LARGE_REPEATS))


def _case(report: Report, backbone: str, branches: tuple[str, ...], rates: dict[str, float], *, device: torch.device,
          repeats: int, batch: int) -> None:
    model = _with_statistics(build_model(ModelConfig(backbone=backbone, branches=branches), seed=0)).to(device).eval()
    images = _images(batch).to(device)
    types = TYPES if device.type == "cpu" else PRECISIONS
    paths = {"plain fp32": functools.partial(plain_extract, model)}
    if device.type == "cuda":
        paths["plain fp16"] = torch.autocast("cuda", torch.float16)(paths["plain fp32"])
    paths |= {f"ours {name}": fast_inference(model, dtype=dtype) for name, dtype in types.items()}
    found: dict[str, Descriptors] = {}

    def run(name: str) -> None:
        found[name] = paths[name](images, branches)
        synchronise(device)

    with FlopCounterMode(display=False) as counter:
        plain_extract(model, images[:1], branches)
    flops = batch * counter.get_total_flops()
    name = f"{backbone}, {'two branches' if len(branches) > 1 else branches[0]}, {batch} x {SIZE}"
    seconds = report.medians(f"extraction, {name}", {path: functools.partial(run, path) for path in paths},
                             repeats=repeats)
    order, times, shares = ("plain fp32", 5, {"fp32": 0.7}) if device.type == "cpu" else (
        "plain fp16", 3, {"bf16": 0.6})
    plain = seconds[order]
    for path, taken in seconds.items():
        precision = path.split()[1]
        floor = flops / rates[precision]
        report.add(f"{name}, {path}", f"{batch / taken:.2f} images/s",
                   f"{flops / 1e9:.0f} GFLOP; {100 * floor / taken:.0f} % of the matrix rate")
        if not path.startswith("ours"):
            continue
        goal = {"goal": f">= {times}", "met": plain / taken >= times} if precision == "bf16" else {}
        report.add(f"{name}, {path}, over {order}", f"{plain / taken:.2f}", "the products alone at the matrix rate "
                   f"would give {plain / floor:.2f}", **goal)
        report.matrix_share(f"{name}, {path}", floor / taken, least=shares.get(precision))
        _agreement(report, f"{name}, {path}", precision, found["plain fp32"], found[path])


def _agreement(report: Report, name: str, precision: str, exact: Descriptors, ours: Descriptors) -> None:
    for field in ("floating", "relaxed"):
        a, b = getattr(exact, field), getattr(ours, field)
        if a is None:
            continue
        if precision == "fp32":
            apart = (a - b).abs().max().item()
            report.add(f"{name}, {field}, BatchNorm folded to unfolded", f"{apart:.1e}", "largest difference",
                       goal="<= 1e-5", met=apart <= 1e-5)
        else:
            report.cosine(f"{name}, {field}, cosine to fp32", a, b)
    if exact.relaxed is not None:
        # With random weights all images' codes are nearly one; a trained code's bits are +1 for about half of them.
        centre = exact.relaxed.mean(dim=0)
        code, others, rough = (x >= centre for x in (exact.relaxed, exact.relaxed.roll(1, dims=0), ours.relaxed))
        changed, unlike, about_zero = (100 * (a != b).float().mean().item() for a, b in (
            (code, rough), (code, others), (exact.binary, ours.binary)))
        report.add(f"{name}, bits changed, about the images' mean", f"{changed:.3f} %",
                   f"two images: {unlike:.0f} %; about 0: {about_zero:.3f} %", goal="< 1 %", met=changed < 1)


def _images(count: int) -> Tensor:
    """Unlike one another, as photographs are and noise is not: a tint, coarse shapes, a texture."""
    generator = torch.Generator().manual_seed(0)
    tint, shapes, texture = (torch.randn(count, 3, side, side, generator=generator) for side in (1, 6, SIZE))
    return tint + F.interpolate(shapes, (SIZE, SIZE), mode="bicubic") + 0.3 * texture


def _with_statistics(model: SelaVPRpp) -> SelaVPRpp:
    """As after a training: BatchNorms whose folding would be seen if it were wrong."""
    generator = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, BatchNorm):
            norm.running_mean.normal_(0, 0.1, generator=generator)
            norm.running_var.uniform_(0.5, 1.5, generator=generator)
    return model


def rows_from_files(report: Report, *, device: torch.device, backbone: str = "dinov2-base", images: int = 160,
                    workers: int = 1) -> None:
    """A two-branch model of random weights, in the device's best precision, on drawn images of 640 x 480."""
    precision = best_precision(device)
    model = build_model(ModelConfig(backbone=backbone), seed=0).to(device)
    with tempfile.TemporaryDirectory() as folder:
        database, queries, index = (Path(folder) / name for name in ("database", "queries", "index"))
        _draw(database, images)
        _draw(queries, 1)
        dataset = as_dataset(own_images(database, queries, labels=False), size=(SIZE, SIZE))
        cost = extract(model, dataset, index, branches=("float", "binary"), batch_size=16, num_workers=workers,
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


def _draw(folder: Path, count: int) -> None:
    """Images with some detail, which takes a JPEG decoder its time."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number:04}.jpg", quality=90)

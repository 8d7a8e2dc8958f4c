"""Figures 1 and 6: where models look."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from datasets import query_transform
from datasets.listing import is_toy
from datasets.readers.folders import find_images
from datasets.transforms import read_image
from model import BRANCHES, ModelConfig, SelaVPRpp, load_model, read_checkpoint
from utils.data import EvaluationImages
from utils.device import pick_device
from utils.maps import BACKBONE, attention_maps, coloured, overlay
from utils.sheets import GAP, LINE, PLAIN, SIZE, Cell, sheet, spread

from .caption import write_figure
from .runs import named, once, said_of_weights

SIDE = 224  # pixels of a cell's longer side
LEGEND = ("colour: how far a patch's token is from the image's mean token where the head gets them; each map is "
          "stretched over its own range, so that two maps compare by where they are bright, not by how bright")


class Column(NamedTuple):
    """One map of every image; a frozen backbone's is the same for all models on it."""

    heading: str
    maps: list[np.ndarray]
    frozen: bool


def draw_looks(number: str, *, models: Sequence[str], images: Sequence[Path], out: Path,
               size: Sequence[int] | None, rows: int, device: str | None) -> Path:
    """A row for each image: the image, then of each model its frozen backbone and its branches.

    models  `FILE` or `NAME=FILE`
    images  files, or folders that are searched for them; of more than `rows` images as many, evenly spread
    size    (H, W) in pixels, moved to the nearest multiples of a model's patch; None: an image keeps its ratio, its
            shorter side becomes that of the evaluation scripts' size
    """
    given = [image for path in images for image in (find_images(path, layout="images") if path.is_dir() else [path])]
    paths = spread(np.array(given, dtype=object), rows)
    pictures = [read_image(path) for path in paths]
    columns: list[Column] = []
    seen: list[dict[str, None]] = [{} for _ in paths]  # sizes, each once
    notes, warnings = [], ["toy city: drawn images, no photographs"] * is_toy(*paths)
    files = once(named(word, lambda file: file.stem) for word in models)
    for name, file in files.items():
        checkpoint = read_checkpoint(file)
        prefix = f"{name}: " if len(files) > 1 else ""
        wanted = EvaluationImages(datasets_folder=None, size=size or EvaluationImages.size).fitted(
            checkpoint.config.vit.patch)
        transform = query_transform("single_query" if size is None else "hard_resize", wanted.size,
                                    multiple=wanted.multiple)
        tensors = [transform(picture) for picture in pictures]
        for sizes, tensor in zip(seen, tensors, strict=True):
            sizes[f"{tensor.shape[1]}x{tensor.shape[2]}"] = None
        for column in _columns(load_model(checkpoint).to(pick_device(device)), tensors, prefix):
            if not (column.frozen and any(map(partial(_equal, column), columns))):
                columns.append(column)
        notes += [f"{name}: {file}", *(f"{prefix}{line}" for line in _left_out(checkpoint.config))]
        warnings += [f"{prefix}{line}" for line in said_of_weights(checkpoint.pretrained, "the file")]
    lines = [[Cell(image) for image in (picture, *(overlay(picture, column.maps[i]) for column in columns))]
             for i, picture in enumerate(ImageOps.contain(picture, (SIDE, SIDE)) for picture in pictures)]
    title = f"Figure {number}: where the model looks"
    image = sheet(lines, {0: "image"} | {i: column.heading for i, column in enumerate(columns, start=1)}, title=[title],
                  legend=_scale(), notes=[LEGEND, *notes, *warnings])
    said = [f"row {i}: {path}, seen at {' and '.join(sizes)} pixels (H x W)"
            for i, (path, sizes) in enumerate(zip(paths, seen, strict=True), start=1)]
    drawn = ["columns: " + ", ".join(column.heading for column in columns), LEGEND, *notes, *said]
    return write_figure(image, out, title=title, drawn=drawn, warnings=warnings)


def _columns(model: SelaVPRpp, tensors: Sequence[Tensor], prefix: str) -> list[Column]:
    device, config = next(model.parameters()).device, model.config
    maps = [attention_maps(model, tensor[None].to(device)) for tensor in tensors]
    headings = {name: f"{prefix}{name} branch" for name in config.branches}
    if config.tuning == "side":
        headings = {BACKBONE: f"{config.backbone}, frozen", **headings}
    return [Column(heading, [of_image[name][0] for of_image in maps], name == BACKBONE)
            for name, heading in headings.items()]


def _equal(column: Column, other: Column) -> bool:
    return column.heading == other.heading and all(map(np.array_equal, column.maps, other.maps))


def _left_out(config: ModelConfig) -> list[str]:
    """What this model has not, and why two columns are equal."""
    said = [f"no {name} branch" for name in BRANCHES if name not in config.branches]
    if config.tuning != "side":
        said.append(f"no frozen DINOv2: the backbone is trained ({config.tuning}), its last block is what a head gets")
    elif config.placement == "none":
        said.append("no adapters: a head gets the frozen backbone's tokens, and the maps are equal")
    return said


def _scale() -> Image.Image:
    """The colours from nearest to farthest, with their names."""
    font = ImageFont.load_default(SIZE)
    ends = "nearest to the mean", "farthest"
    left, right = (int(font.getlength(text)) for text in ends)
    drawn = Image.new("RGB", (left + right + SIDE + 4 * GAP, LINE), "white")
    drawn.paste(coloured(np.linspace(0, 1, SIDE)[None].repeat(LINE - 4, axis=0)), (left + GAP, 2))
    draw = ImageDraw.Draw(drawn)
    for text, x in zip(ends, (0, left + SIDE + 2 * GAP), strict=True):
        draw.text((x, 0), text, PLAIN, font)
    return drawn

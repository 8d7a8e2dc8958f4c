"""Where a model looks, in one sheet: `python -m utils.attention IMAGE_OR_FOLDER ... --resume FILE`.

A row for each image: the image, the map of the frozen backbone, and that of each branch, as far as the model has them.
utils/maps.py says what a map is. Images that cannot be read are named, counted and left out.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from datasets import query_transform
from datasets.listing import is_toy
from datasets.readers.folders import find_images
from datasets.transforms import read_image
from model import AGGREGATORS, BACKBONES, BRANCHES, ModelConfig, SelaVPRpp

from .cli.parsing import MODEL_FILE, Parser, positive, size_help
from .data import EvaluationImages
from .device import pick_device
from .files import checked_file
from .maps import BACKBONE, attention_maps, coloured, overlay
from .models import ModelOptions, model_for_evaluation, said_of_weights
from .ranks import progress
from .run import exit_with
from .sheets import FORMATS, GAP, LINE, PLAIN, SIZE, Cell, checked_format, drawable, sheet, spread, write_sheet

log = logging.getLogger("selavprpp")

SIDE = 224  # pixels of a cell's longer side
LONGEST = 8  # times the shorter side: what a longer image would take, in its ratio, is the memory of a batch
TOY = "toy city: drawn images, no photographs"
LEGEND = ("colour: how far a patch's token is from the image's mean token where the head gets them; each map is "
          "stretched over its own range, so that two maps compare by where they are bright, not by how bright")


class Column(NamedTuple):
    """One map of every image; a frozen backbone's is the same for all models on it."""

    heading: str
    maps: list[np.ndarray]
    frozen: bool


class Looked(NamedTuple):
    """What a model gave: its columns, and of each image the size that it was seen at."""

    columns: list[Column]
    sizes: list[str]


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m utils.attention", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER",
                        help="folders are searched for images")
    parser.add_argument("--resume", type=Path, metavar="FILE", help=f"{MODEL_FILE}; default: the published one of "
                                                                    "--backbone, with both branches")
    parser.add_argument("--backbone", choices=BACKBONES, help="default: the file's, dinov2-large without one")
    parser.add_argument("--aggregation", choices=AGGREGATORS, help="default: the file's, gem without one")
    parser.add_argument("--output", type=Path, default=Path("attention.jpg"), metavar="FILE",
                        help=f"the sheet, {', '.join(FORMATS)}; default: attention.jpg")
    parser.add_argument("--count", type=positive, default=6, metavar="N",
                        help="images drawn, of more these, evenly spread; default: 6")
    parser.add_argument("--resize", type=positive, nargs=2, metavar=("H", "W"),
                        help=f"{size_help(EvaluationImages.size)}, the shorter side, in the image's ratio")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda where there is one")
    given = parser.parse_args(argv)
    checked_format(given.output, "--output")
    checked_file(given.output, "--output")
    images = find(given.images, given.count)
    device = pick_device(given.device)
    pictures, left_out = thumbnails(images, in_ratio=given.resize is None)
    chosen = ModelOptions(resume=given.resume, backbone=given.backbone, aggregation=given.aggregation)
    model, checkpoint = model_for_evaluation(chosen, branches=() if given.resume else BRANCHES)
    columns, _ = look(model.to(device), list(pictures), size=given.resize)
    notes = [f"model: {checkpoint.source}", *said_of_columns(model.config), *left_out, *[TOY] * is_toy(*pictures),
             *said_of_weights(checkpoint.pretrained, "the file")]
    write_sheet(draw(pictures, columns, title="Where the model looks", notes=notes, named=True), given.output)
    print(given.output)


def find(paths: Sequence[Path], count: int) -> list[Path]:
    """The images among files and folders; of more than `count` as many, evenly spread. Raises what `find_images`
    does."""
    found = [image for path in paths for image in (find_images(path, layout="images") if path.is_dir() else [path])]
    return spread(np.array(found, dtype=object), count)


def thumbnails(paths: Sequence[Path], *, in_ratio: bool) -> tuple[dict[Path, Image.Image], list[str]]:
    """Each image, small enough for a cell, and what to say of those that are left out. ValueError where all are.

    in_ratio  leaves out what is too long and thin for that
    """
    pictures, left_out = {}, []
    for path in progress(paths, "images"):
        try:
            picture = read_image(path)
            if in_ratio and max(picture.size) > LONGEST * min(picture.size):
                raise ValueError(f"{path}: {picture.width} x {picture.height} pixels, too long and thin to be seen in "
                                 "its ratio; give --resize")
            pictures[path] = ImageOps.contain(picture, (SIDE, SIDE))
        except (OSError, ValueError) as error:
            log.warning("left out: %s", drawable(" ".join(str(error).split())))
            left_out.append(path.name)
    if not pictures:
        raise ValueError(f"{paths[0]}: none of {len(paths)} images can be drawn; expected one at least")
    said = f"left out, as they cannot be drawn: {len(left_out)} of {len(paths)} images ({', '.join(left_out)})"
    return pictures, [said] if left_out else []


def look(model: SelaVPRpp, paths: Sequence[Path], *, size: Sequence[int] | None, prefix: str = "") -> Looked:
    """The maps of images, by a model in eval mode on its device.

    size    (H, W) in pixels, moved to the nearest multiples of the model's patch; None: an image keeps its ratio, its
            shorter side becomes that of the evaluation scripts' size
    prefix  before the heading of a branch
    """
    device, config = next(model.parameters()).device, model.config
    wanted = EvaluationImages(datasets_folder=None, size=size or EvaluationImages.size).fitted(config.vit.patch)
    transform = query_transform("single_query" if size is None else "hard_resize", wanted.size,
                                multiple=wanted.multiple)
    maps, sizes = [], []
    for path in progress(paths, f"{prefix}maps"):
        image = transform(read_image(path))
        sizes.append(f"{image.shape[1]}x{image.shape[2]}")
        maps.append(attention_maps(model, image[None].to(device)))
    headings = {name: f"{prefix}{name} branch" for name in config.branches}
    if config.tuning == "side":
        headings = {BACKBONE: f"{config.backbone}, frozen", **headings}
    return Looked([Column(heading, [of_image[name][0] for of_image in maps], name == BACKBONE)
                   for name, heading in headings.items()], sizes)


def said_of_columns(config: ModelConfig) -> list[str]:
    """What this model has not, and why two columns are equal."""
    said = [f"no {name} branch" for name in BRANCHES if name not in config.branches]
    if config.tuning != "side":
        said.append(f"no frozen DINOv2: the backbone is trained ({config.tuning}), its last block is what a head gets")
    elif config.placement == "none":
        said.append("no adapters: a head gets the frozen backbone's tokens, and the maps are equal")
    return said


def draw(pictures: dict[Path, Image.Image], columns: Sequence[Column], *, title: str, notes: Sequence[str],
         named: bool = False) -> Image.Image:
    """The sheet; `named`: each image's name below it."""
    lines = [[Cell(picture, text=path.name if named else ""),
              *(Cell(overlay(picture, column.maps[i])) for column in columns)]
             for i, (path, picture) in enumerate(pictures.items())]
    headings = {0: "image"} | {i: column.heading for i, column in enumerate(columns, start=1)}
    return sheet(lines, headings, title=[title], legend=_scale(), notes=[LEGEND, *notes])


def _scale() -> Image.Image:
    """The colours from nearest to farthest, with their names."""
    font = ImageFont.load_default(SIZE)
    ends = "nearest to the mean", "farthest"
    left, right = (int(font.getlength(text)) for text in ends)
    drawn = Image.new("RGB", (left + right + SIDE + 4 * GAP, LINE), "white")
    drawn.paste(coloured(np.linspace(0, 1, SIDE)[None].repeat(LINE - 4, axis=0)), (left + GAP, 2))
    scale = ImageDraw.Draw(drawn)
    for text, x in zip(ends, (0, left + SIDE + 2 * GAP), strict=True):
        scale.text((x, 0), text, PLAIN, font)
    return drawn


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    exit_with(main)

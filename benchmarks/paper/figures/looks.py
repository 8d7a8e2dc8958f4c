"""Figures 1 and 6: where models look."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from datasets.listing import is_toy
from model import load_model, read_checkpoint
from utils.attention import LEGEND, TOY, Column, draw, find, look, said_of_columns, thumbnails
from utils.device import pick_device
from utils.models import said_of_weights

from .caption import write_figure
from .runs import named, once


def draw_looks(number: str, *, models: Sequence[str], images: Sequence[Path], out: Path,
               size: Sequence[int] | None, rows: int, device: str | None) -> Path:
    """A row for each image: the image, then of each model its frozen backbone and its branches.

    models  `FILE` or `NAME=FILE`
    images  files, or folders that are searched for them; of more than `rows` images as many, evenly spread
    size    (H, W) in pixels, as `look` takes it
    """
    pictures, left_out = thumbnails(find(images, rows), in_ratio=size is None)
    columns: list[Column] = []
    seen: list[dict[str, None]] = [{} for _ in pictures]  # sizes, each once
    notes, warnings = [], [*left_out, *[TOY] * is_toy(*pictures)]
    files = once(named(word, lambda file: file.stem) for word in models)
    for name, file in files.items():
        checkpoint = read_checkpoint(file)
        prefix = f"{name}: " if len(files) > 1 else ""
        found, sizes = look(load_model(checkpoint).to(pick_device(device)), list(pictures), size=size, prefix=prefix)
        for of_image, said in zip(seen, sizes, strict=True):
            of_image[said] = None
        for column in found:
            if not (column.frozen and any(map(partial(_equal, column), columns))):
                columns.append(column)
        notes += [f"{name}: {file}", *(f"{prefix}{line}" for line in said_of_columns(checkpoint.config))]
        warnings += [f"{prefix}{line}" for line in said_of_weights(checkpoint.pretrained, "the file")]
    title = f"Figure {number}: where the model looks"
    image = draw(pictures, columns, title=title, notes=[*notes, *warnings])
    said = [f"row {i}: {path}, seen at {' and '.join(sizes)} pixels (H x W)"
            for i, (path, sizes) in enumerate(zip(pictures, seen, strict=True), start=1)]
    drawn = ["columns: " + ", ".join(column.heading for column in columns), LEGEND, *notes, *said]
    return write_figure(image, out, title=title, drawn=drawn, warnings=warnings)


def _equal(column: Column, other: Column) -> bool:
    return column.heading == other.heading and all(map(np.array_equal, column.maps, other.maps))

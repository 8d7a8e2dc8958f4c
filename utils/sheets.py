"""Sheets of images for people to look at: rows of framed cells under headings, and text that fits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .errors import named
from .files import temporary_path

FORMATS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}
RIGHT, WRONG, PLAIN = (35, 150, 70), (205, 45, 45), (90, 90, 90)
GAP, FRAME, GROUP = 10, 4, 12  # pixels between cells, of a frame around an image, and more between groups of columns
SIZE, SMALL = 14, 12  # of text, in pixels
LINE = 18


class Cell(NamedTuple):
    """An image with a frame around it and, below it, a short text."""

    image: Image.Image
    frame: tuple[int, int, int] = PLAIN
    text: str = ""


def sheet(rows: Sequence[Sequence[Cell]], headings: Mapping[int, str], *, title: Sequence[str] = (),
          notes: Sequence[str] = (), legend: Image.Image | None = None) -> Image.Image:
    """RGB. Columns are as wide as their widest image, rows as high as their highest; `headings` by the column that they
    begin at, where a group of columns begins too. Lines of `title` stand above, `legend` and lines of `notes` below; a
    long line is wrapped, other text that is too long is shortened."""
    widths = [max(cell.image.width for cell in column) for column in zip(*rows, strict=True)]
    groups = [GROUP if column in headings and column else 0 for column in range(len(widths))]
    lefts = [GAP + sum(widths[:column]) + column * GAP + sum(groups[:column + 1]) for column in range(len(widths))]
    width = lefts[-1] + widths[-1] + GAP
    font, small = (ImageFont.load_default(size) for size in (SIZE, SMALL))
    above, below = (wrapped(lines, font, width - 2 * GAP) for lines in (title, notes))
    texts = [LINE if any(cell.text for cell in row) else 0 for row in rows]
    heights = [max(cell.image.height for cell in row) for row in rows]
    head = (LINE * len(above) + 4 if above else 0) + (34 if headings else 2 * GAP)
    body = head + sum(heights) + sum(texts) + GAP * len(rows)
    foot = body + (legend.height + GAP if legend else 0)
    drawn = Image.new("RGB", (width, foot + GAP + LINE * len(below)), "white")
    draw = ImageDraw.Draw(drawn)
    if legend:
        drawn.paste(legend, (GAP, body))
    for lines, top in ((above, 9), (below, foot)):
        for number, line in enumerate(lines):
            draw.text((GAP, top + number * LINE), line, PLAIN, font)
    ends = [*(lefts[column] - GAP for column in sorted(headings) if column), width - GAP]
    for column, end in zip(sorted(headings), ends, strict=False):  # without headings there is one end
        draw.text((lefts[column], head - 25), shortened(headings[column], font, end - lefts[column]), PLAIN, font)
    top = head
    for row, height, text in zip(rows, heights, texts, strict=True):
        for cell, left, room in zip(row, lefts, widths, strict=True):
            drawn.paste(cell.image, (left, top))
            box = (left - FRAME, top - FRAME, left + cell.image.width + FRAME - 1, top + cell.image.height + FRAME - 1)
            draw.rectangle(box, outline=cell.frame, width=FRAME)
            draw.text((left, top + cell.image.height + 5), shortened(cell.text, small, room), PLAIN, small)
        top += height + text + GAP
    return drawn


def checked_format(path: Path, option: str) -> Path:
    """ValueError for a name that tells no format."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{option} {path}: expected a name that ends in {', '.join(FORMATS)}")
    return path


def write_sheet(image: Image.Image, path: Path) -> None:
    """Under a temporary name, then renamed; the format is the name's."""
    with named(path), temporary_path(path) as temporary:
        image.save(temporary, FORMATS[path.suffix.lower()], quality=88)


def into(size: tuple[int, int], image: Image.Image) -> Image.Image:
    """The image in its ratio in the middle of `size` (width, height) in pixels, white around it."""
    return ImageOps.pad(image, size, Image.Resampling.BICUBIC, color="white")


def shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """`text`, what cannot be drawn replaced by "?", as much of it as `width` pixels hold."""
    text = drawable(text)
    if font.getlength(text) <= width:
        return text
    return next((text[:end].rstrip() + "..." for end in range(len(text) - 1, 0, -1)
                 if font.getlength(text[:end].rstrip() + "...") <= width), "")


def wrapped(lines: Sequence[str], font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Lines of at most `width` pixels, broken between words; a longer word is shortened."""
    broken: list[str] = []
    for line in lines:
        broken.append("")
        for word in drawable(line).split(" "):
            longer = f"{broken[-1]} {word}" if broken[-1] else word
            if broken[-1] and font.getlength(longer) > width:
                broken.append(word)
            else:
                broken[-1] = longer
    return [shortened(line, font, width) for line in broken]


def drawable(text: str) -> str:
    """Names of files may hold anything: line breaks, bytes that are no text."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def spread(of: np.ndarray, count: int) -> list[int]:
    """`count` of these numbers, or all if there are no more, evenly over them: neighbours in a list are often alike."""
    count = min(count, len(of))
    return of[np.linspace(0, len(of) - 1, count).round().astype(int)].tolist() if count else []

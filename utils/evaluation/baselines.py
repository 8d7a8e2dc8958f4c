"""Descriptors without learning, the yardstick beside which every trained figure stands.

Each function takes image paths and returns (n, d) float32 descriptors of unit length, to be compared by exhaustive L2
search.  Raises ValueError for no path at all and what `datasets.transforms.read_image` raises for a bad one.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.preprocessing import normalize

from datasets import BenchmarkDataset
from datasets.transforms import read_image

from ..search import Searchable
from .evaluator import Evaluation, ExtractedSet, Stage, search

Describe = Callable[[Iterable[str | Path]], np.ndarray]


def _of_each(describe: Callable[[str | Path], np.ndarray]) -> Describe:
    """`describe` (path -> (d,)) for several paths: -> (n, d), unit rows; a row of zeros (an image of one colour) stays.
    """
    @functools.wraps(describe)
    def descriptors(paths):
        rows = [describe(path) for path in paths]
        if not rows:
            raise ValueError("no image given; expected at least one path")
        return normalize(np.stack(rows).astype(np.float32))

    return descriptors


def _thumbnail(path, mode, side):
    """-> (side, side[, 3]) float64 pixels 0..255 in the mode, resized without keeping the ratio, with antialiasing."""
    return np.asarray(read_image(path).convert(mode).resize((side, side), Image.BILINEAR), dtype=np.float64)


@_of_each
def grey_descriptors(path):
    """Raw grey values of the 32 x 32 thumbnail, their mean removed: -> (n, 1024)."""
    grey = _thumbnail(path, "L", 32).ravel()
    return grey - grey.mean()


@_of_each
def colour_descriptors(path):
    """Histogram, over 8 x 8 x 8 RGB bins, of the mean colours of an image's 32 x 32 cells: -> (n, 512)."""
    red, green, blue = (_thumbnail(path, "RGB", 32) // 32).astype(np.int64).reshape(-1, 3).T
    return np.bincount(64 * red + 8 * green + blue, minlength=512)


@_of_each
def hog_descriptors(path):
    """Histograms of oriented gradients (Dalal and Triggs, CVPR 2005): -> (n, 1764).

    128 x 128 grey, cells of 16 pixels, 9 unsigned orientations, blocks of 2 x 2 cells at a stride of one cell, each
    L2-normalised, clipped at 0.2 and normalised again.  A pixel votes with the magnitude of its central differences
    (zero at the image's border), shared between the two nearest orientations.
    """
    grey = _thumbnail(path, "L", 128)
    down, right = np.zeros_like(grey), np.zeros_like(grey)
    down[1:-1] = grey[2:] - grey[:-2]
    right[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    # Orientation in bins of 20 degrees, counted from the centre of the first bin.
    bins = np.arctan2(down, right) % np.pi * (9 / np.pi) - 0.5
    low = np.floor(bins).astype(np.int64)
    magnitude, share = np.hypot(down, right), bins - low
    row, column = np.indices(grey.shape) // 16
    cells = np.zeros((8, 8, 9))
    np.add.at(cells, (row, column, low % 9), magnitude * (1 - share))
    np.add.at(cells, (row, column, (low + 1) % 9), magnitude * share)
    blocks = np.concatenate([cells[:-1, :-1], cells[:-1, 1:], cells[1:, :-1], cells[1:, 1:]], axis=2)
    return normalize(np.minimum(normalize(blocks.reshape(49, 36)), 0.2)).ravel()


def search_baseline(extract: Describe, dataset: BenchmarkDataset, *, recall_values: Sequence[int],
                    centred: bool = False) -> Evaluation:
    """Extracts descriptors of a set's images without learning and searches them by flat L2.

    centred  takes the database's mean off all descriptors first, and brings them to unit length again
    """
    def retrieve(found: ExtractedSet, depth: int) -> Iterator[Stage]:
        distances, ids = found.database.search_floats(found.floats, depth)
        yield ids, distances

    listing = dataset.listing
    database, queries = (np.ascontiguousarray(extract(paths), np.float32)
                         for paths in (listing.database_paths, listing.query_paths))
    if centred:
        mean = database.mean(axis=0)
        database, queries = (normalize(descriptors - mean) for descriptors in (database, queries))
    found = ExtractedSet(Searchable(None, database), None, queries)
    return search(retrieve, found, listing, protocol="flat L2", recall_values=recall_values)


BASELINES: dict[str, Describe] = {"raw grey 32x32": grey_descriptors, "mean-colour histogram": colour_descriptors,
                                  "HOG": hog_descriptors}

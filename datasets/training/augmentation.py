"""RandAugment for images of one size and one magnitude, whose tables are made once instead of at every call."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms.autoaugment import _apply_op

Operation = Callable[[Image.Image], Image.Image]

# The arrays that a Warp works with stay in the second-level cache, and are small enough that the C library keeps their
# memory instead of handing it back and fetching it anew, page by page, for every image.
PIXELS_AT_ONCE = 1 << 14


class RandAugment:
    """RGB image -> RGB image: `num_ops` operations of RandAugment (Cubuk et al., 2020), one after the other.

    Draws and applies what `torchvision.transforms.RandAugment(num_ops, interpolation=BILINEAR)` does to a PIL image
    of `size` (H, W) in pixels, value by value: the same operations, magnitudes (9 of 31) and draws from torch's global
    CPU generator.  But torchvision makes its table of magnitudes anew for every image, and Pillow the coordinates of
    every pixel for every operation that moves them, which is most of its time.  Here all that is made once: some 400
    bytes a pixel, 20 MB at 224x224, which forked workers share.
    """

    def __init__(self, size: tuple[int, int], *, num_ops: int) -> None:
        self.num_ops = num_ops
        published = transforms.RandAugment(num_ops, interpolation=InterpolationMode.BILINEAR)
        space = published._augmentation_space(published.num_magnitude_bins, size)
        self.operations: list[tuple[Operation, ...]] = []  # for each a pair of signs, or one if it has none
        for name, (magnitudes, signed) in space.items():
            magnitude = float(magnitudes[published.magnitude]) if magnitudes.ndim else 0.0
            signs = (magnitude, -magnitude) if signed else (magnitude,)
            self.operations.append(tuple(operation(name, signed_magnitude, size) for signed_magnitude in signs))

    def __call__(self, image: Image.Image) -> Image.Image:
        for _ in range(self.num_ops):
            signs = self.operations[int(torch.randint(len(self.operations), (1,)))]
            image = signs[int(torch.randint(2, (1,))) if len(signs) > 1 else 0](image)
        return image


def operation(name: str, magnitude: float, size: tuple[int, int]) -> Operation:
    """torchvision's operation of this name and signed magnitude, for RGB images of `size` (H, W)."""
    height, width = size
    if name == "Identity":
        return _same
    if name in ("TranslateX", "TranslateY"):
        return partial(_shift, pixels=int(magnitude), axis="XY".index(name[-1]))
    if name == "ShearX":
        return Warp((1.0, magnitude, 0.0, 0.0, 1.0, 0.0), size)
    if name == "ShearY":
        return Warp((1.0, 0.0, 0.0, magnitude, 1.0, 0.0), size)
    if name == "Rotate":
        cosine, sine = math.cos(math.radians(magnitude)), math.sin(math.radians(magnitude))
        x, y = width / 2, height / 2  # stays where it is
        return Warp((cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y), size)
    return partial(_apply_op, op_name=name, magnitude=magnitude, interpolation=InterpolationMode.BILINEAR, fill=None)


class Warp:
    """RGB image -> the same moved by an affine map and sampled bilinearly, black outside; one map and one size.

    `matrix` (a, b, c, d, e, f) is that of Pillow's `Image.transform`: the output's pixel centre (x, y) takes the colour
    at (a x + b y + c, d x + e y + f) of the input, rounded down.  In fp64 as in Pillow: in fp32 many a whole number
    would come out one level lower, and a Solarize or Equalize after it makes much of one level.
    """

    def __init__(self, matrix: tuple[float, ...], size: tuple[int, int]) -> None:
        height, width = size
        strip = max(1, PIXELS_AT_ONCE // width)
        self.strips = [_Strip(matrix, size, range(top, min(top + strip, height))) for top in range(0, height, strip)]

    def __call__(self, image: Image.Image) -> Image.Image:
        # Four bytes a pixel, as Pillow keeps them: one index then fetches a whole pixel.
        pixels = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint32)
        return Image.frombytes("RGB", image.size, b"".join(strip(pixels) for strip in self.strips), "raw", "RGBX")


class _Strip:
    """Some rows of a Warp's output."""

    def __init__(self, matrix: tuple[float, ...], size: tuple[int, int], rows: range) -> None:
        height, width = size
        a, b, c, d, e, f = matrix
        y, x = np.mgrid[rows.start:rows.stop, :width] + 0.5
        x, y = a * x + b * y + c, d * x + e * y + f
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        column, row = np.floor(x - 0.5), np.floor(y - 0.5)

        def neighbour(down: int, right: int) -> np.ndarray:
            index = (row + down).clip(0, height - 1) * width + (column + right).clip(0, width - 1)
            return index.astype(np.intp).ravel()

        def weights(fraction: np.ndarray) -> np.ndarray | None:
            # One for each byte of a pixel: NumPy is slow at broadcasting over 4.
            return np.repeat(fraction.ravel(), 4) if fraction.any() else None

        self.right, self.down = weights(x - 0.5 - column), weights(y - 0.5 - row)  # None: that way nothing is mixed
        self.neighbours = [[neighbour(i, j) for j in range(2 - (self.right is None))]
                           for i in range(2 - (self.down is None))]
        self.inside = np.repeat(inside.astype(np.uint8).ravel(), 4)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        rows = [_mixed([pixels[index].view(np.uint8).astype(np.float64) for index in row], self.right)
                for row in self.neighbours]
        values = _mixed(rows, self.down).astype(np.uint8)
        values *= self.inside
        return values


def _mixed(ends: list[np.ndarray], weight: np.ndarray | None) -> np.ndarray:
    """first + (second - first) * weight, in the arrays given."""
    if weight is None:
        return ends[0]
    first, second = ends
    second -= first
    second *= weight
    first += second
    return first


def _same(image: Image.Image) -> Image.Image:
    return image


def _shift(image: Image.Image, *, pixels: int, axis: int) -> Image.Image:
    """Moved right (axis 0) or down (axis 1) by whole pixels, black where nothing comes from."""
    left, top = (-pixels, 0) if axis == 0 else (0, -pixels)
    return image.crop((left, top, left + image.width, top + image.height))

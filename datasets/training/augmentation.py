"""RandAugment for images of one size, whose table of operations is made once instead of at every call."""

import math
from collections.abc import Callable
from functools import partial

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

Operation = Callable[[Image.Image], Image.Image]


class RandAugment:
    """RGB image -> RGB image: `num_ops` operations of RandAugment (Cubuk et al., 2020), one after the other.

    Draws and applies what `torchvision.transforms.RandAugment(num_ops, interpolation=BILINEAR)` does to a PIL image
    of `size` (H, W) in pixels, value by value: the same operations, magnitudes (9 of 31) and draws from torch's global
    CPU generator.  But torchvision makes its table of magnitudes anew for every image, and moves images by whole
    pixels as slowly as by fractions.
    """

    def __init__(self, size: tuple[int, int], *, num_ops: int) -> None:
        self.num_ops = num_ops
        self.operations = operations(size)

    def __call__(self, image: Image.Image) -> Image.Image:
        for _ in range(self.num_ops):
            signs = self.operations[int(torch.randint(len(self.operations), (1,)))]
            image = signs[int(torch.randint(2, (1,))) if len(signs) > 1 else 0](image)
        return image


def operations(size: tuple[int, int]) -> list[tuple[Operation, ...]]:
    """RandAugment's 14 at magnitude 9, in torchvision's order: for each a pair of signs, or one if it has none."""
    height, width = size

    def signed(largest: float, make: Callable[[float], Operation]) -> tuple[Operation, Operation]:
        magnitude = float(torch.linspace(0.0, largest, 31)[9])
        return make(magnitude), make(-magnitude)

    def shear(x: float, y: float) -> Operation:
        return partial(functional.affine, angle=0.0, translate=[0, 0], scale=1.0, center=[0, 0],
                       shear=[math.degrees(math.atan(x)), math.degrees(math.atan(y))],
                       interpolation=InterpolationMode.BILINEAR)

    return [
        (_same,),
        signed(0.3, lambda slope: shear(slope, 0.0)),
        signed(0.3, lambda slope: shear(0.0, slope)),
        signed(150.0 / 331.0 * width, lambda pixels: partial(_shift, right=int(pixels), down=0)),
        signed(150.0 / 331.0 * height, lambda pixels: partial(_shift, right=0, down=int(pixels))),
        signed(30.0, lambda degrees: partial(functional.rotate, angle=degrees,
                                             interpolation=InterpolationMode.BILINEAR)),
        signed(0.9, lambda change: partial(functional.adjust_brightness, brightness_factor=1.0 + change)),
        signed(0.9, lambda change: partial(functional.adjust_saturation, saturation_factor=1.0 + change)),
        signed(0.9, lambda change: partial(functional.adjust_contrast, contrast_factor=1.0 + change)),
        signed(0.9, lambda change: partial(functional.adjust_sharpness, sharpness_factor=1.0 + change)),
        (partial(functional.posterize, bits=7),),  # of 8 to 4
        (partial(functional.solarize, threshold=178.5),),  # of 255 to 0
        (functional.autocontrast,),
        (functional.equalize,),
    ]


def _same(image: Image.Image) -> Image.Image:
    return image


def _shift(image: Image.Image, *, right: int, down: int) -> Image.Image:
    """Moved by whole pixels, black where nothing comes from."""
    return image.crop((-right, -down, image.width - right, image.height - down))

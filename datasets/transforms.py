"""From picture file to network input: reading, and the training and evaluation transforms."""

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

# Channel statistics (RGB, pictures in [0, 1]) of the ImageNet training set, as torchvision documents them for
# its pretrained models; DINOv2 was trained with the same.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Transform = Callable[[Image.Image], torch.Tensor]


def read_picture(path: Path | str) -> Image.Image:
    """Decode a picture file (grey, palette, RGB, with alpha, ...) as 8-bit RGB at its full size.

    Raises FileNotFoundError when there is no such file, ValueError when it cannot be decoded or is a grey
    picture of more than 8 bits, which Pillow would clip to white.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith(("I", "F")):
                raise ValueError(f"mode {picture.mode}; expected 8 bits a channel")
            return picture.convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such picture") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable picture ({error}); replace the file") from error


def training_transform(size: tuple[int, int]) -> Transform:
    """PIL picture -> (3,H,W) float32, ImageNet-normalised: resized to exactly `size`, then RandAugment(3).

    `size` is (H, W) in pixels; the ratio is not kept.  PIL's bilinear resampling is antialiased.  RandAugment
    (Cubuk et al., 2020) has torchvision's default magnitude 9 and draws from torch's global CPU generator.
    """
    height, width = size
    return transforms.Compose(
        [
            transforms.Resize((height, width), InterpolationMode.BILINEAR),
            transforms.RandAugment(num_ops=3, interpolation=InterpolationMode.BILINEAR),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def evaluation_transform(size: tuple[int, int]) -> Transform:
    """PIL picture -> (3,H,W) float32: to tensor, ImageNet-normalised, then resized to exactly `size`.

    `size` is (H, W) in pixels; the ratio is not kept.  The resize works on the tensor, as in the published
    evaluation, with antialias said outright: torchvision 0.17 changed its default, which moves values by 0.1.
    """
    height, width = size
    return transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            transforms.Resize((height, width), InterpolationMode.BILINEAR, antialias=True),
        ]
    )


def nearest_multiple(size: tuple[int, int], multiple: int = 14) -> tuple[int, int]:
    """(H, W) in pixels, each side rounded to the nearest multiple (ties upwards, at least one multiple).

    Raises ValueError for a size below 1 pixel.
    """
    height, width = size
    if min(height, width, multiple) < 1:
        raise ValueError(f"picture size {height} x {width} (H x W), multiple {multiple}: expected at least 1")
    height, width = (max(1, (side + multiple // 2) // multiple) * multiple for side in (height, width))
    return height, width

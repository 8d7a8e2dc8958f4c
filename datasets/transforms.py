"""From image file to network input: reading, and the training and evaluation transforms.

torchvision is imported where it is used: it takes as long as torch itself, for which --help need not wait.
"""

import contextlib
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn.functional import interpolate

from .files import IMAGE_FORMATS, is_regular

# Channel statistics (RGB, images in [0, 1]) of the ImageNet training set, as torchvision documents them for
# its pretrained models; DINOv2 was trained with the same.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Mean and standard deviation of each channel (RGB, images in [0, 1]) that other people's networks expect.
DEFAULT_NORMALISATION = "imagenet"
NORMALISATIONS = {
    DEFAULT_NORMALISATION: (IMAGENET_MEAN, IMAGENET_STD),
    # Images in [0, 255] less the mean that VGG was trained with: OpenIBL's (SFRS) and its NetVLAD.
    "vgg": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # [0, 1] as it is, for networks that do this themselves
}

PATCH = 14  # pixels, DINOv2's; images' sides are multiples of it unless another is asked for

# What becomes of a query's image; a database image is always resized to exactly --resize.
TEST_METHODS = {
    "hard_resize": "resized to exactly --resize",
    "central_crop": "rescaled in its ratio until it covers --resize, whose size is cut from its centre",
    "single_query": "resized in its ratio, the shorter side to the smaller of --resize; one query a batch",
}
VARYING_SIZES = frozenset({"single_query"})  # no two of these queries can share a batch

Transform = Callable[[Image.Image], torch.Tensor]

# Of an image file, told by its header, and of what an image is resized to.  No JPEG can have a longer side, and a
# panorama of 16384 x 8192 pixels just passes; its worker then takes 2 GB.
MAX_SIDE, MAX_PIXELS = 1 << 16, 1 << 27
_TURNED = {"exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp"}  # where Pillow finds an orientation


def read_image(path: Path | str) -> Image.Image:
    """Decode an image file (grey, palette, RGB, with alpha, ...) as 8-bit RGB at its full size, upright as its EXIF
    orientation says.

    Raises FileNotFoundError when there is no such file, ValueError when it is no regular file, cannot be decoded, has
    more than MAX_SIDE pixels a side or MAX_PIXELS in all, or is a grey image of more than 8 bits, which Pillow would
    clip to white.
    """
    if not is_regular(path):
        raise FileNotFoundError(f"{path}: no such image")
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            check_size(image.size)
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"mode {image.mode}; expected 8 bits a channel")
            if image.mode == "RGB":
                image.load()  # convert would copy it as well
            else:
                image = image.convert("RGB")
            if _TURNED & image.info.keys():
                with contextlib.suppress(Exception):  # damaged EXIF data, on which nothing else depends, raise anything
                    ImageOps.exif_transpose(image, in_place=True)
            return image
    except Exception as error:  # so do decoders of damaged images
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: not a readable image ({said}); replace the file") from error


def check_size(size: tuple[int, int]) -> None:
    """Raises ValueError for a (width, height) in pixels beyond the limits."""
    width, height = size
    if max(size) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels; expected at most {MAX_SIDE} a side and {MAX_PIXELS} in all")


def training_transform(size: tuple[int, int]) -> Transform:
    """RGB image -> (3,H,W) uint8: resized to exactly `size`, then RandAugment(3); see `normalise`.

    `size` is (H, W) in pixels; the ratio is not kept.  RandAugment (Cubuk et al., 2020) has torchvision's default
    magnitude 9 and draws from torch's global CPU generator.
    """
    from torchvision import transforms

    augment = transforms.RandAugment(num_ops=3, interpolation=transforms.InterpolationMode.BILINEAR)
    return transforms.Compose([partial(resize, size=tuple(size)), augment, to_uint8_tensor])


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """RGB image -> RGB image of exactly `size` (H, W) in pixels, bilinear, antialiased.

    torch has vector instructions for it: 2 to 5 times as fast as Pillow, whose values it gives but for rounding (one
    level, in some 0.2 % of a 640x480 image's values at 224x224).
    """
    height, width = size
    # Four bytes a pixel, as Pillow keeps them, need no repacking; torch leaves the fourth channel to itself.
    pixels = np.frombuffer(image.tobytes("raw", "RGBX"), np.uint8).reshape(1, image.height, image.width, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these bytes must not be written: they are only read
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    images = interpolate(images, (height, width), mode="bilinear", antialias=True)
    return Image.frombytes("RGB", (width, height), images.permute(0, 2, 3, 1).contiguous().numpy(), "raw", "RGBX")


def to_uint8_tensor(image: Image.Image) -> torch.Tensor:
    """RGB image -> (3,H,W) uint8."""
    # Band by band: Pillow takes the colours apart faster than torch permutes them.
    bands = bytearray().join(image.tobytes("raw", band) for band in "RGB")
    return torch.frombuffer(bands, dtype=torch.uint8).view(3, image.height, image.width)


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(B,3,H,W) uint8 -> float32 on the same device, to [0, 1] and then by the ImageNet statistics of each channel.

    Done to whole batches where they are used: until then an image takes a quarter of the bytes.  The statistics stay
    Python numbers, as a tensor of them would have to be copied to a GPU, which waits for it.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"images of {images.dtype}; expected torch.uint8, not normalised yet")
    images = images.to(torch.float32).div_(255)
    for channel, mean, std in zip(images.unbind(1), IMAGENET_MEAN, IMAGENET_STD, strict=True):
        channel.sub_(mean).div_(std)
    return images


def evaluation_transform(size: tuple[int, int], normalisation: str = DEFAULT_NORMALISATION) -> Transform:
    """PIL image -> (3,H,W) float32: to tensor, normalised by one of NORMALISATIONS, then resized to exactly `size`.

    `size` is (H, W) in pixels; the ratio is not kept.  The resize works on the tensor, as in the published
    evaluation, with antialias said outright: torchvision 0.17 changed its default, which moves values by 0.1.
    """
    return _evaluated(partial(_resize_tensor, size=tuple(size)), normalisation)


def query_transform(method: str, size: tuple[int, int], normalisation: str = DEFAULT_NORMALISATION,
                    multiple: int = PATCH) -> Transform:
    """PIL image -> (3,H,W) float32 as one of TEST_METHODS asks: to tensor, normalised as above, then brought to size.

    `size` is (H, W) in pixels; single_query's sides are multiples of `multiple`, see `aspect_size`, its resize is
    bilinear, antialiased.  Raises ValueError for another method.
    """
    if method == "hard_resize":
        return evaluation_transform(size, normalisation)
    if method == "central_crop":
        return _evaluated(partial(central_crop, size=tuple(size)), normalisation)
    if method == "single_query":
        return _evaluated(partial(_resize_in_ratio, shorter=min(size), multiple=multiple), normalisation)
    raise ValueError(f"test method {method!r}: expected one of {', '.join(TEST_METHODS)}")


def _evaluated(to_size: Callable[[torch.Tensor], torch.Tensor], normalisation: str) -> Transform:
    return partial(_to_tensor, to_size=to_size, statistics=tuple(zip(*NORMALISATIONS[normalisation], strict=True)))


def _to_tensor(image: Image.Image, to_size: Callable[[torch.Tensor], torch.Tensor],
               statistics: Sequence[tuple[float, float]]) -> torch.Tensor:
    """Band by band: a large image then takes a fifth of the memory, and half of the time."""
    size, bands = (1, image.height, image.width), []
    for band, (mean, std) in zip("RGB", statistics, strict=True):
        values = torch.frombuffer(bytearray(image.tobytes("raw", band)), dtype=torch.uint8).view(size)
        bands.append(to_size(values.to(torch.float32).div_(255).sub_(mean).div_(std)))
    return torch.cat(bands)


def _resize_tensor(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def _resize_in_ratio(image: torch.Tensor, shorter: int, multiple: int) -> torch.Tensor:
    return _resize_tensor(image, aspect_size(image.shape[1:], shorter, multiple))


def aspect_size(image: Sequence[int], shorter: int, multiple: int = PATCH) -> tuple[int, int]:
    """(H, W) of an image whose shorter side becomes `shorter` pixels, each side then to the nearest multiple.

    The published code leaves the longer side as it comes, which the 14-pixel patches do not take.
    Raises ValueError for a size beyond the limits, as that of a very long and thin image may be.
    """
    height, width = image
    # Cutting off the fraction of a pixel decides nothing: nearest multiples change at whole pixels.
    height, width = nearest_multiple((height * shorter // min(image), width * shorter // min(image)), multiple)
    check_size((width, height))
    return height, width


def central_crop(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(3,H,W) -> (3,*size): nearest-neighbour rescaling by max(H'/H, W'/W), then the centre, as in the published code.

    One departure: there the side that should become exactly H' or W' comes out a pixel short where its product with the
    factor is rounded down (at 322 for 2 in 100 sides, 151 the smallest), and the crop is padded with a row or column of
    zeros; here that is the image's next one.
    """
    scale = max(target / side for side, target in zip(image.shape[1:], size, strict=True))
    rows, columns = (_central_sources(side, target, scale) for side, target in zip(image.shape[1:], size, strict=True))
    return image[:, rows[:, None], columns]


def _central_sources(side: int, target: int, scale: float) -> torch.Tensor:
    """Which of `side` rows or columns the `target` central ones of the rescaled image show, int64."""
    rescaled = max(target, int(side * scale))
    first = round((rescaled - target) / 2)
    # In float32, like torch's interpolate: where the quotient is whole, rounding chooses between two neighbours.
    return (torch.arange(first, first + target, dtype=torch.float32) * (1 / scale)).long()


def nearest_multiple(size: tuple[int, int], multiple: int = PATCH) -> tuple[int, int]:
    """(H, W) in pixels, each side rounded to the nearest multiple (ties upwards, at least one multiple).

    Raises ValueError for a size below 1 pixel.
    """
    height, width = size
    if min(height, width, multiple) < 1:
        raise ValueError(f"image size {height} x {width} (H x W), multiple {multiple}: expected at least 1")
    height, width = (max(1, (side + multiple // 2) // multiple) * multiple for side in (height, width))
    return height, width

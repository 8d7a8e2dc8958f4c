"""Transforms against golden values of the published code and against Pillow."""

import os
import pickle
import socket
import struct
import zlib

import numpy as np
import pytest
import torch
from paths import DATA
from PIL import Image, ImageOps
from torchvision import transforms
from torchvision.transforms import Compose, InterpolationMode, RandAugment
from torchvision.transforms.functional import pil_to_tensor

from datasets import NORMALISATIONS, evaluation_transform, nearest_multiple, normalise, training_transform
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, MAX_PIXELS, MAX_SIDE, read_image, resize, to_uint8_tensor

# The published transforms' output [:, 100:108, 150:166] for one 360x480 image.  The image is stored black
# outside the region that those values depend on.
GOLDEN = np.load(DATA / "golden_transform.npz")
WINDOW = np.s_[:, 100:108, 150:166]


def normalised(image: Image.Image) -> np.ndarray:
    values = np.asarray(image, np.float64) / 255
    return ((values - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)


@pytest.fixture
def image():
    values = np.random.default_rng(5).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((130, 90), Image.BICUBIC)


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def without_randaugment(transform):
    return Compose([step for step in transform.transforms if not isinstance(step, RandAugment)])


def test_evaluation_golden():
    image = evaluation_transform((322, 322))(Image.fromarray(GOLDEN["image"]))
    assert image.shape == (3, 322, 322) and image.dtype == torch.float32
    np.testing.assert_allclose(image[WINDOW], GOLDEN["evaluation"], rtol=0, atol=1e-5)
    # The golden values can tell the two: without antialias the same window is elsewhere.
    assert np.abs(image[WINDOW].numpy() - GOLDEN["evaluation_without_antialias"]).max() > 0.01


def test_training_golden():
    image = without_randaugment(training_transform((224, 224)))(Image.fromarray(GOLDEN["image"]))
    assert image.shape == (3, 224, 224) and image.dtype == torch.uint8
    np.testing.assert_allclose(normalise(image[None])[0][WINDOW], GOLDEN["training"], rtol=0, atol=1e-5)


def seeded(transform, image, seed):
    """What this seed gives, and the state of torch's generator behind it."""
    torch.manual_seed(seed)
    return transform(image), torch.get_rng_state()


@pytest.mark.parametrize("size", [(42, 56), (112, 84)])
def test_training_is_the_resize_then_three_operations_of_randaugment(image, size):
    transform, published = training_transform(size), RandAugment(3, interpolation=InterpolationMode.BILINEAR)
    resized, outputs = resize(image, size), set()
    for seed in range(60):
        (found, our_state), (expected, state) = seeded(transform, image, seed), seeded(published, resized, seed)
        assert torch.equal(found, pil_to_tensor(expected)) and torch.equal(our_state, state)
        outputs.add(found.numpy().tobytes())
    assert len(outputs) > 50


def test_the_training_transform_reaches_workers_that_are_not_forked(image):
    transform = training_transform((28, 42))
    copy = pickle.loads(pickle.dumps(transform))
    for seed in range(40):
        assert torch.equal(*(seeded(made, image, seed)[0] for made in (transform, copy)))


@pytest.mark.parametrize("size", [(42, 56), (98, 140), (14, 210)])
def test_evaluation_is_pillows_resize_of_each_normalised_channel(image, size):
    height, width = size
    expected = [
        np.asarray(Image.fromarray(channel.astype(np.float32)).resize((width, height), Image.BILINEAR))
        for channel in normalised(image)
    ]
    np.testing.assert_allclose(evaluation_transform(size)(image), np.stack(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NORMALISATIONS)
@pytest.mark.parametrize("size", [(42, 56), (14, 210), (182, 98), (90, 130)])
def test_evaluation_is_torchvisions_to_the_last_bit(image, size, name):
    expected = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*NORMALISATIONS[name]),
                                   transforms.Resize(size, antialias=True)])(image)
    assert torch.equal(evaluation_transform(size, name)(image), expected)


def test_normalise_is_to_tensor_and_normalize():
    values = np.random.default_rng(1).integers(0, 256, (4, 5, 7, 3), dtype=np.uint8)
    prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    images = normalise(torch.from_numpy(values).permute(0, 3, 1, 2))
    assert images.dtype == torch.float32
    assert torch.equal(images, torch.stack([prepare(value) for value in values]))
    with pytest.raises(ValueError, match="torch.float32; expected torch.uint8"):
        normalise(images)


@pytest.mark.parametrize("size", [(28, 42), (45, 60), (112, 140), (91, 131), (126, 14)])
def test_training_resize_is_pillows_but_for_rounding(image, size):
    height, width = size
    expected = levels(image.resize((width, height), Image.BILINEAR))
    resized = levels(resize(image, size))
    assert resized.shape == expected.shape
    difference = resized - expected
    assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 0.03 and abs(difference.mean()) < 0.01


def test_planes_are_those_of_torchvision(image):
    tensor = to_uint8_tensor(image)
    assert tensor.dtype == torch.uint8 and tensor.is_contiguous() and torch.equal(tensor, pil_to_tensor(image))
    tensor.zero_()  # its own memory
    assert np.asarray(image).any()


def test_an_odd_strip_survives():
    strip = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 97, 3), dtype=np.uint8))
    image = evaluation_transform((112, 84))(strip)
    assert image.shape == (3, 112, 84) and image.isfinite().all()
    image = training_transform((112, 84))(strip)
    assert image.shape == (3, 112, 84) and image.dtype == torch.uint8


def test_nearest_multiple():
    for height in range(1, 100):
        candidates = range(14, 200, 14)
        nearest = min(abs(height - candidate) for candidate in candidates)
        expected = max(candidate for candidate in candidates if abs(height - candidate) == nearest)
        assert nearest_multiple((height, 322)) == (expected, 322)
    assert nearest_multiple((21, 20)) == (28, 14)
    assert nearest_multiple([232, 231], 16) == (240, 224)
    with pytest.raises(ValueError, match="0 x 224"):
        nearest_multiple((0, 224))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_is_read_as_rgb(tmp_path, image, mode):
    converted = image.convert(mode)
    converted.save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.mode == "RGB" and read.size == image.size
    if mode in ("RGB", "RGBA"):
        expected = np.asarray(image)
    elif mode == "P":
        palette = np.array(converted.getpalette()).reshape(-1, 3)
        expected = palette[np.asarray(converted)]
    else:
        grey = np.asarray(converted) * 255 if mode == "1" else np.asarray(converted.convert("L"))
        expected = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(np.asarray(read), expected)
    assert training_transform((14, 28))(read).shape == (3, 14, 28)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_are_read_as_pillow_converts_them(tmp_path, image, mode):
    path = tmp_path / "a.jpg"
    image.convert(mode).save(path, progressive=True)
    with Image.open(path) as file:
        expected = np.asarray(file.convert("RGB"))
    read = read_image(path)
    path.unlink()
    assert read.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(read), expected)


def test_unreadable_images_are_named(tmp_path, image):
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg: no such image"):
        read_image(tmp_path / "absent.jpg")
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(ValueError, match=r"text\.jpg: not a readable image"):
        read_image(tmp_path / "text.jpg")
    image.save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"cut\.jpg: not a readable image"):
        read_image(tmp_path / "cut.jpg")
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png: .*8 bits"):
        read_image(tmp_path / "deep.png")


# --- files that are no harmless images

def png_of(width: int, height: int) -> bytes:
    """A PNG whose header states that size; its pixels are no zlib stream."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"never read") + chunk(b"IEND", b"")


@pytest.mark.parametrize("width, height", [(13, 13_000_000), (13_000_000, 13), (MAX_SIDE + 1, 1), (16384, 8193)])
def test_the_header_tells_an_image_that_is_too_large(tmp_path, width, height):
    path = tmp_path / "thin.png"
    path.write_bytes(png_of(width, height))
    with pytest.raises(ValueError) as error:
        read_image(path)
    assert str(error.value) == (f"{path}: not a readable image ({width} x {height} pixels; expected at most {MAX_SIDE} "
                                f"a side and {MAX_PIXELS} in all); replace the file")


def test_the_largest_panorama_passes_the_check_of_its_size(tmp_path):
    for size in ((16384, 8192), (MAX_SIDE, 1)):
        (tmp_path / "large.png").write_bytes(png_of(*size))
        with pytest.raises(ValueError) as error:
            read_image(tmp_path / "large.png")
        assert "expected at most" not in str(error.value)  # but that its pixels are none


def test_no_fifo_socket_or_device_is_read(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.jpg"))
        for name in ("fifo.jpg", "device.jpg", "socket.jpg"):
            with pytest.raises(ValueError, match=f"{name}: a FIFO, socket or device; expected a regular file"):
                read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no such image"):
        read_image(tmp_path)


@pytest.mark.parametrize("kind", ["AVIF", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_another_format_under_this_name(tmp_path, image, kind):
    path = tmp_path / "a.jpg"
    image.save(path, format=kind)
    assert read_image(path).size == image.size
    whole = path.read_bytes()
    for kept in (12, len(whole) // 3, len(whole) * 2 // 3):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=r"a\.jpg: not a readable image"):
            read_image(path)


def test_no_other_program_is_asked_for_an_image(tmp_path, image):
    image.save(tmp_path / "a.jpg", format="EPS")  # for which Pillow starts Ghostscript
    with pytest.raises(ValueError, match=r"a\.jpg: not a readable image \(cannot identify image file"):
        read_image(tmp_path / "a.jpg")


# --- images that lie on their side

@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, image, kind, orientation):
    """Against the turns that the EXIF standard names: what the 0th row and the 0th column show."""
    values = np.asarray(image)
    upright = {1: values, 2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1], 5: values.swapaxes(0, 1),
               6: np.rot90(values, -1), 7: values[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(values)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "plain", format=kind, lossless=True)
    image.save(tmp_path / "turned", format=kind, lossless=True, exif=exif)
    if kind == "JPEG":  # whose pixels are not those that were saved
        plain = Image.fromarray(np.asarray(read_image(tmp_path / "plain")))
        plain.getexif()[0x0112] = orientation
        upright = np.asarray(ImageOps.exif_transpose(plain))
    read = read_image(tmp_path / "turned")
    assert read.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(read), upright)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\x7f",
                                  b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04\0\x06\0\0\0\0\0\0"])
def test_damaged_exif_data_turn_nothing(tmp_path, image, exif):
    image.save(tmp_path / "plain.jpg")
    image.save(tmp_path / "odd.jpg", exif=exif)
    np.testing.assert_array_equal(*(np.asarray(read_image(tmp_path / name)) for name in ("plain.jpg", "odd.jpg")))

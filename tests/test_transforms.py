"""Transforms against golden values of the published code and against Pillow."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose, InterpolationMode, RandAugment

from datasets import evaluation_transform, nearest_multiple, training_transform
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, read_picture

# The published transforms' output [:, 100:108, 150:166] for one 360x480 picture.  The picture is stored black
# outside the region that those values depend on.
GOLDEN = np.load(Path(__file__).parent / "data" / "golden_transform.npz")
WINDOW = np.s_[:, 100:108, 150:166]


def normalised(picture: Image.Image) -> np.ndarray:
    values = np.asarray(picture, np.float64) / 255
    return ((values - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)


@pytest.fixture
def picture():
    values = np.random.default_rng(5).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((130, 90), Image.BICUBIC)


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
    assert image.shape == (3, 224, 224) and image.dtype == torch.float32
    np.testing.assert_allclose(image[WINDOW], GOLDEN["training"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(42, 56), (98, 140), (14, 210)])
def test_evaluation_is_pillows_resize_of_each_normalised_channel(picture, size):
    height, width = size
    expected = [
        np.asarray(Image.fromarray(channel.astype(np.float32)).resize((width, height), Image.BILINEAR))
        for channel in normalised(picture)
    ]
    np.testing.assert_allclose(evaluation_transform(size)(picture), np.stack(expected), rtol=0, atol=1e-4)


def test_training_is_pillows_resize_then_randaugment(picture):
    transform = training_transform((28, 42))
    resized = picture.resize((42, 28), Image.BILINEAR)
    plain = without_randaugment(transform)(picture)
    np.testing.assert_allclose(plain, normalised(resized), rtol=0, atol=1e-5)

    augment = RandAugment(num_ops=3, magnitude=9, interpolation=InterpolationMode.BILINEAR)
    outputs = []
    for seed in range(20):
        torch.manual_seed(seed)
        expected = normalised(augment(resized))
        torch.manual_seed(seed)
        outputs.append(transform(picture))
        np.testing.assert_allclose(outputs[-1], expected, rtol=0, atol=1e-5)
    assert not all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_an_odd_strip_survives():
    strip = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 97, 3), dtype=np.uint8))
    for factory in (training_transform, evaluation_transform):
        image = factory((112, 84))(strip)
        assert image.shape == (3, 112, 84) and image.isfinite().all()


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
def test_every_mode_is_read_as_rgb(tmp_path, picture, mode):
    converted = picture.convert(mode)
    converted.save(tmp_path / "a.png")
    read = read_picture(tmp_path / "a.png")
    assert read.mode == "RGB" and read.size == picture.size
    if mode in ("RGB", "RGBA"):
        expected = np.asarray(picture)
    elif mode == "P":
        palette = np.array(converted.getpalette()).reshape(-1, 3)
        expected = palette[np.asarray(converted)]
    else:
        grey = np.asarray(converted) * 255 if mode == "1" else np.asarray(converted.convert("L"))
        expected = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(np.asarray(read), expected)


def test_unreadable_pictures_are_named(tmp_path, picture):
    with pytest.raises(FileNotFoundError, match=r"absent\.jpg: no such picture"):
        read_picture(tmp_path / "absent.jpg")
    (tmp_path / "text.jpg").write_text("not a picture")
    with pytest.raises(ValueError, match=r"text\.jpg: not a readable picture"):
        read_picture(tmp_path / "text.jpg")
    picture.save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"cut\.jpg: not a readable picture"):
        read_picture(tmp_path / "cut.jpg")
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep\.png: .*8 bits"):
        read_picture(tmp_path / "deep.png")

"""Transforms against golden values of the published code and against Pillow."""

import pickle

import numpy as np
import pytest
import torch
from paths import DATA
from PIL import Image
from torchvision import transforms
from torchvision.transforms import Compose, InterpolationMode, RandAugment
from torchvision.transforms.functional import pil_to_tensor

from datasets import evaluation_transform, nearest_multiple, normalise, training_transform
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, read_image, resize, to_uint8_tensor

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

import math

import numpy as np
import pytest
from PIL import Image

from utils.evaluation.baselines import BASELINES, colour_descriptors, grey_descriptors, hog_descriptors


@pytest.fixture
def images(tmp_path):
    """Three images with structure and noise, of different shapes, written without loss."""
    rng = np.random.default_rng(0)
    paths = []
    for index, (height, width) in enumerate([(60, 90), (128, 128), (150, 140)]):
        rows, columns = np.mgrid[:height, :width]
        wave = 127 + 90 * np.sin(rows / (5 + index) + columns / (9 - index))
        pixels = wave[..., None] + rng.integers(-30, 30, (height, width, 3)) + np.array([0, 20, -20])
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1])
    return paths


def unit(values):
    return np.array(values) / math.sqrt(sum(v * v for v in values))


def naive_hog(path):
    grey = np.asarray(Image.open(path).convert("L").resize((128, 128), Image.BILINEAR)).astype(float)

    def difference(values, i):  # central inside, none at the border
        return values[i + 1] - values[i - 1] if 0 < i < 127 else 0.0

    cells = {(r, c): [0.0] * 9 for r in range(8) for c in range(8)}
    for y in range(128):
        for x in range(128):
            down, right = difference(grey[:, x], y), difference(grey[y], x)
            degrees = math.degrees(math.atan2(down, right)) % 180
            for bin_ in range(9):
                away = abs(degrees - (20 * bin_ + 10))
                away = min(away, 180 - away)
                if away < 20:
                    cells[y // 16, x // 16][bin_] += math.hypot(down, right) * (1 - away / 20)
    blocks = []
    for r in range(7):
        for c in range(7):
            block = unit(cells[r, c] + cells[r, c + 1] + cells[r + 1, c] + cells[r + 1, c + 1])
            blocks.extend(unit([min(value, 0.2) for value in block]))
    return unit(blocks)


def test_hog_equals_naive_loops(images):
    found = hog_descriptors(images[:2])
    np.testing.assert_allclose(found, [naive_hog(path) for path in images[:2]], atol=1e-6)


def test_colour_histogram_equals_naive_counts(images):
    for path, found in zip(images, colour_descriptors(images), strict=True):
        thumbnail, counts = Image.open(path).resize((32, 32), Image.BILINEAR), [0] * 512
        for y in range(32):
            for x in range(32):
                red, green, blue = thumbnail.getpixel((x, y))
                counts[red // 32 * 64 + green // 32 * 8 + blue // 32] += 1
        np.testing.assert_allclose(found, unit(counts), atol=1e-6)


def test_grey_equals_naive_values(images):
    for path, found in zip(images, grey_descriptors(images), strict=True):
        thumbnail = Image.open(path).convert("L").resize((32, 32), Image.BILINEAR)
        values = [thumbnail.getpixel((x, y)) for y in range(32) for x in range(32)]
        mean = sum(values) / 1024
        np.testing.assert_allclose(found, unit([v - mean for v in values]), atol=1e-6)


@pytest.mark.parametrize(("name", "size"), [("raw grey 32x32", 1024), ("mean-colour histogram", 512), ("HOG", 1764)])
def test_every_baseline_gives_unit_float32_rows(images, name, size):
    found = BASELINES[name](iter(images))  # any iterable
    assert found.shape == (3, size) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("extract_rows", BASELINES.values(), ids=BASELINES)
def test_an_image_of_one_colour_stays_finite(tmp_path, extract_rows):
    Image.new("RGB", (40, 30), (90, 90, 90)).save(tmp_path / "flat.png")
    assert np.isfinite(extract_rows([tmp_path / "flat.png"])).all()


@pytest.mark.parametrize("extract_rows", BASELINES.values(), ids=BASELINES)
def test_no_image_and_a_broken_one_are_named(tmp_path, extract_rows):
    with pytest.raises(ValueError, match="no image"):
        extract_rows([])
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        extract_rows([tmp_path / "broken.jpg"])

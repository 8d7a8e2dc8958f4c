"""--test_method and --training_dataset: queries' transforms, what is extracted, which folder and cities are read."""

import logging
import math
import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from descriptors import extract_rows
from paths import DATA
from PIL import Image
from scripts import one_thread
from torch.nn.functional import interpolate
from torchvision.transforms.functional import center_crop

import utils.evaluation.extraction
from datasets import TEST_METHODS, TRAINING_SETS, BenchmarkDataset, Listing, evaluation_transform, query_transform
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, aspect_size, central_crop
from model import ModelConfig, build_model, fast_inference
from utils.data import (
    EvaluatedSet,
    EvaluationImages,
    TrainingData,
    evaluated_set,
    training_loader,
    training_set,
    validation_and_test_sets,
)

# H, W in pixels: portrait, landscape, the size that is asked for, its ratio, square, tiny, strips.
SIZES = [(97, 61), (61, 97), (42, 56), (84, 112), (75, 75), (5, 9), (1, 1), (200, 9), (9, 200)]
SIZE = (42, 56)


def drawn(height: int, width: int) -> Image.Image:
    values = np.random.default_rng((height, width)).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.BICUBIC)


def normalised(image: Image.Image) -> np.ndarray:
    return ((np.asarray(image, np.float64) / 255 - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)


def test_a_thin_query_is_refused_by_name(tmp_path):
    """Of 1 x 900 pixels, its shorter side brought to 322, 290000 would have to be extracted."""
    for name, size in (("a", (30, 20)), ("b", (900, 1))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    listing = Listing(name="two", folder=tmp_path, database_paths=[tmp_path / "a.png"],
                      query_paths=[tmp_path / "a.png", tmp_path / "b.png"], positives=None, rule="none")
    dataset = BenchmarkDataset(listing, transform=evaluation_transform(SIZE),
                               query_transform=query_transform("single_query", (322, 322)))
    assert dataset[1][0].shape == (3, 322, 490)
    with pytest.raises(ValueError, match=r"b\.png: 289800 x 322 pixels; expected at most 65536 a side"):
        dataset[2]


# --- central crop

def test_central_crop_golden():
    """The published crop of one 360x480 image: its values [:, 100:108, 150:166], and figures of all of them."""
    coarse = np.random.default_rng(3).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((480, 360), Image.BICUBIC)
    known = np.load(DATA / "golden_transform.npz")["image"]  # black where nothing was needed
    assert np.array_equal(np.asarray(image)[known.any(axis=2)], known[known.any(axis=2)])
    crop = query_transform("central_crop", (322, 322))(image)
    assert (crop.shape, crop.dtype) == ((3, 322, 322), torch.float32)
    crop = crop.double()
    golden = np.load(DATA / "golden_central_crop.npz")
    np.testing.assert_allclose(crop[:, 100:108, 150:166], golden["window"], rtol=0, atol=1e-6)
    for name, value in (("mean", crop.mean()), ("std", crop.std()), ("norm", crop.norm())):
        assert float(value) == pytest.approx(float(golden[name]), rel=1e-7), name


def exact_sources(sides: tuple[int, int], size: tuple[int, int]) -> list[list[set[int]]]:
    """Which rows, and which columns, each of the crop's may be taken from, by exact arithmetic.

    A whole quotient is a tie between two neighbours that float32 decides.
    """
    scale = max(Fraction(target, side) for side, target in zip(sides, size, strict=True))
    choices = []
    for side, target in zip(sides, size, strict=True):
        first = round(Fraction(math.floor(side * scale) - target, 2))
        places = [(first + i) / scale for i in range(target)]
        choices.append([{math.floor(place)} | ({max(0, int(place) - 1)} if place.denominator == 1 else set())
                        for place in places])
    return choices


@pytest.mark.parametrize("target", [SIZE, (56, 42), (322, 322)])
def test_central_crop_takes_the_rows_and_columns_of_exact_arithmetic(target):
    for sides in [*SIZES[::5], (151, 170), (170, 151), (360, 480)]:
        height, width = sides
        numbered = torch.stack([torch.arange(height)[:, None].expand(sides), torch.arange(width).expand(sides)]).float()
        crop = central_crop(numbered, target)
        assert crop.shape == (2, *target)
        assert (crop[0] == crop[0, :, :1]).all() and (crop[1] == crop[1, :1]).all()
        for found, choices in zip((crop[0, :, 0], crop[1, 0]), exact_sources(sides, target), strict=True):
            assert all(source in choice for source, choice in zip(found.tolist(), choices, strict=True)), sides


def published_crop(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    scale = max(size[0] / image.shape[1], size[1] / image.shape[2])
    return center_crop(interpolate(image[None], scale_factor=scale)[0], list(size))


def test_central_crop_is_the_published_one_but_for_its_padding():
    padded = []
    for height in range(30, 120):
        for width in (41, 57, 83):
            image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(height)) + 1
            crop, published = central_crop(image, SIZE), published_crop(image, SIZE)
            assert crop.min() >= 1
            if published.min() == 0:
                padded.append((height, width))
                crop[published == 0] = 0
            assert torch.equal(crop, published), (height, width)
    assert 0 < len(padded) < 90  # of 270: 83 becomes 55 instead of 56


# --- one query a batch, in its ratio

@pytest.mark.parametrize("shorter", [42, 98, 322])
def test_aspect_size_is_the_nearest_to_the_exact_ratio(shorter):
    for sides in SIZES:
        exact = [Fraction(side * shorter, min(sides)) for side in sides]
        expected = []
        for side in exact:
            multiples = range(14, math.ceil(side) + 28, 14)
            expected.append(min(multiples, key=lambda multiple: (abs(multiple - side), -multiple)))  # noqa: B023
        assert list(aspect_size(sides, shorter)) == expected, sides
        assert min(expected) == shorter
    # A tie, 49, goes upwards; less than that does not.
    assert aspect_size((6, 7), 42) == (42, 56)
    assert aspect_size((600, 699), 42) == (42, 42)


@pytest.mark.parametrize("sides", SIZES)
@pytest.mark.parametrize("size", [SIZE, (70, 28)])
def test_single_query_is_pillows_resize_of_each_normalised_channel(sides, size):
    image = drawn(*sides)
    tensor = query_transform("single_query", size)(image)
    height, width = aspect_size(sides, min(size))
    expected = [np.asarray(Image.fromarray(channel.astype(np.float32)).resize((width, height), Image.BILINEAR))
                for channel in normalised(image)]
    assert (tensor.shape, tensor.dtype) == ((3, height, width), torch.float32)
    np.testing.assert_allclose(tensor, np.stack(expected), rtol=0, atol=1e-4)


# --- what they have in common

@pytest.mark.parametrize("method", TEST_METHODS)
def test_every_method_leaves_an_image_of_the_right_size_alone_and_can_be_sent_to_a_worker(method):
    transform = query_transform(method, SIZE)
    image = drawn(*SIZE)
    np.testing.assert_allclose(transform(image), normalised(image), rtol=0, atol=1e-6)
    larger = drawn(90, 101)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(larger), transform(larger))


def test_methods_differ_and_hard_resize_is_the_databases():
    image = drawn(61, 97)
    tensors = {method: query_transform(method, SIZE)(image) for method in TEST_METHODS}
    assert torch.equal(tensors["hard_resize"], evaluation_transform(SIZE)(image))
    assert {method: tuple(tensor.shape) for method, tensor in tensors.items()} == {
        "hard_resize": (3, 42, 56), "central_crop": (3, 42, 56), "single_query": (3, 42, 70)}
    assert not torch.allclose(tensors["hard_resize"], tensors["central_crop"], atol=0.1)
    with pytest.raises(ValueError, match="'five_crops': expected one of hard_resize, central_crop, single_query$"):
        query_transform("five_crops", SIZE)


# --- a set with images of several sizes

QUERIES = [(97, 61), (61, 97), (42, 56), (5, 9), (97, 61)]
DATABASE = [(50, 60), (97, 61), (42, 56), (20, 90), (30, 30), (60, 40), (90, 120)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    for split in ("val", "test"):
        for side, sizes in (("database", DATABASE), ("queries", QUERIES)):
            target = folder / "set" / "images" / split / side
            target.mkdir(parents=True)
            for i, sides in enumerate(sizes):
                drawn(*sides).save(target / f"@{1000 + 100 * i:010.2f}@{5000:010.2f}@.png")
    return folder


def read(folder, method, **options):
    images = EvaluationImages(datasets_folder=folder, threshold_m=25.0, test_method=method,
                              size=options.pop("size", (40, 60))).fitted(14)
    return evaluated_set(EvaluatedSet(name="set", **{"split": "test", **options}), images)


@pytest.fixture(scope="module")
def model():
    return build_model(ModelConfig(backbone="dinov2-tiny"), seed=0)


@pytest.mark.parametrize("method", TEST_METHODS)
def test_queries_alone_are_treated_so(mixed, method):
    dataset = read(mixed, method)
    assert (dataset.n_database, dataset.n_queries) == (len(DATABASE), len(QUERIES))
    assert dataset.queries_vary == (method == "single_query")
    transforms = [evaluation_transform(SIZE)] * len(DATABASE) + [query_transform(method, SIZE)] * len(QUERIES)
    for index, (sides, transform) in enumerate(zip([*DATABASE, *QUERIES], transforms, strict=True)):
        image, number = dataset[index]
        assert number == index and torch.equal(image, transform(drawn(*sides)))


def test_without_a_word_queries_are_treated_like_the_database(mixed):
    dataset = evaluated_set(EvaluatedSet(name="set", split="test"), EvaluationImages(datasets_folder=mixed, size=SIZE))
    assert torch.equal(dataset[len(DATABASE)][0], evaluation_transform(SIZE)(drawn(*QUERIES[0])))
    assert not dataset.queries_vary


def test_validation_sets_are_read_like_the_test_set(mixed):
    images = EvaluationImages(datasets_folder=mixed, size=SIZE, test_method="single_query")
    validation, test = validation_and_test_sets(["set", "set"], "set", images)
    assert [dataset.listing.split for dataset in (*validation, test)] == ["val", "val", "test"]
    for dataset in (*validation, test):
        assert dataset.queries_vary
        assert dataset[len(DATABASE)][0].shape == (3, *aspect_size(QUERIES[0], 42))


def shapes_of_batches(monkeypatch) -> list[tuple[int, ...]]:
    """Filled by every later call of a network that extracts."""
    shapes = []

    def recording(model, **options):
        network = fast_inference(model, **options)

        def describe_batch(images, **branches):
            shapes.append(tuple(images.shape))
            return network(images, **branches)

        return describe_batch

    monkeypatch.setattr(utils.evaluation.extraction, "fast_inference", recording)
    return shapes


@pytest.mark.parametrize(("method", "num_workers"), [("central_crop", 0), ("single_query", 0), ("single_query", 1)])
def test_every_image_is_extracted_as_if_alone(mixed, model, method, num_workers, monkeypatch, tmp_path):
    dataset = read(mixed, method)
    with one_thread():
        expected = [model.eval()(dataset[i][0][None]) for i in range(len(dataset))]
        shapes = shapes_of_batches(monkeypatch)
        found = extract_rows(model, dataset, tmp_path, branches=("float", "binary"), batch_size=3,
                             num_workers=num_workers)
    for row, bits, alone in zip(found.floating, np.unpackbits(found.codes, axis=1), expected, strict=True):
        assert np.abs(row - alone.floating[0].detach().numpy()).max() <= 1e-5
        clear = alone.relaxed[0].abs() > 1e-5
        assert torch.equal(torch.from_numpy(bits)[clear], (alone.binary[0] > 0)[clear].byte())
    if method == "single_query":
        assert shapes == [*((images, 3, 42, 56) for images in (3, 3, 1)),
                          *((1, 3, *aspect_size(sides, 42)) for sides in QUERIES)]
        assert len({shape[2:] for shape in shapes}) == 3
    else:
        assert shapes == [(images, 3, 42, 56) for images in (3, 3, 1, 3, 2)]


# --- the training set's folder and cities

def loader(data, name, cities=None):
    chosen = TrainingData(training_dataset=str(name), datasets_folder=data, cities=cities, size=(14, 28),
                          places_per_batch=2)
    return training_loader(chosen, device=torch.device("cpu"))


def test_a_name_is_a_list_of_cities_in_the_datasets_folder(data, caplog):
    for name, cities in TRAINING_SETS.items():
        assert training_set(name, data) == (data / name, cities)
    caplog.set_level(logging.INFO, "selavprpp")
    dataset = loader(data, "gsv_cities").dataset
    assert dataset.folder == data / "gsv_cities"
    assert dataset.cities == ["Boston", "Lisbon"]
    assert set(dataset.missing_cities) == {*TRAINING_SETS["gsv_cities"]} - {"Boston", "Lisbon"}
    with pytest.raises(FileNotFoundError, match="unified_dataset: none of the 436 requested cities"):
        loader(data, "unified_dataset")


def test_a_folder_is_read_with_all_of_its_cities(data, tmp_path, monkeypatch):
    for name in ("Uusikaupunki", "Aachen", "Lisbon"):
        (tmp_path / "mine" / "Dataframes").mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / "Dataframes" / f"{name}.csv").touch()
    for name in ("._Aachen.csv", "notes.txt"):  # the first is a Mac's, beside every file that it copied
        (tmp_path / "mine" / "Dataframes" / name).touch()
    folder = tmp_path / "mine"
    assert training_set(str(folder), data) == (folder, ["Aachen", "Lisbon", "Uusikaupunki"])
    dataset = loader(tmp_path, data / "gsv_cities").dataset
    assert (dataset.folder, dataset.cities, dataset.missing_cities) == (data / "gsv_cities", ["Boston", "Lisbon"], [])
    images, labels = next(iter(loader(tmp_path, data / "gsv_cities", cities=["Lisbon"])))
    assert images.shape == (8, 3, 14, 28) and labels.unique_consecutive().shape == (2,)
    assert loader(tmp_path, data / "gsv_cities", cities=["Lisbon"]).dataset.cities == ["Lisbon"]
    # A name stays a name beside a folder that is called so.
    monkeypatch.chdir(data)
    assert training_set("gsv_cities", tmp_path) == (tmp_path / "gsv_cities", TRAINING_SETS["gsv_cities"])
    assert training_set("./gsv_cities", tmp_path) == (Path("gsv_cities"), ["Boston", "Lisbon"])


@pytest.mark.parametrize("cities", [None, ["Boston"]])
def test_neither_a_name_nor_such_a_folder(data, tmp_path, cities):
    said = (r"'{}': neither a set's name \(gsv_cities, unified_dataset\) nor a folder in the GSV-Cities layout; "
            r"expected <folder>/Dataframes/<City>\.csv, and there is {}$")
    with pytest.raises(FileNotFoundError, match=said.format("gsv_citys", "no such folder")):
        loader(data, "gsv_citys", cities)
    (tmp_path / "Dataframes").mkdir()
    with pytest.raises(FileNotFoundError, match=said.format(tmp_path, "no such table in it")):
        loader(data, tmp_path, cities)


def test_cities_that_a_folder_lacks_are_named(data, caplog):
    with pytest.raises(FileNotFoundError, match="none of the 1 requested cities.*CSVs found: Boston, Lisbon"):
        loader(data, data / "gsv_cities", ["Troy"])
    logging.getLogger("selavprpp").propagate = True
    with caplog.at_level(logging.INFO, "selavprpp"):
        loader(data, data / "gsv_cities", ["Lisbon", "Troy"])
    assert "training without 1 absent cities: Troy" in caplog.text

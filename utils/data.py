"""Image sizes, training batches and benchmark sets as the scripts ask for them."""

import dataclasses
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from datasets import (
    DEFAULT_NORMALISATION,
    NORMALISATIONS,
    PATCH,
    PROTOCOLS,
    TRAINING_SETS,
    VALIDATION_CITIES,
    VARYING_SIZES,
    BenchmarkDataset,
    CityBatchSampler,
    Listing,
    PlaceDataset,
    as_protocol,
    collate_places,
    evaluation_transform,
    nearest_multiple,
    own_images,
    query_transform,
    read_file_lists,
    resolve,
    training_transform,
    whole_city,
)
from model import ModelConfig

from .distributed import processes
from .loader import ImageLoader
from .ranks import rank

log = logging.getLogger("selavprpp")
OTHER_READINGS = {"msls_val_740": ("msls_val_740_40deg",), "msls_val_11k": ("msls_val_740", "msls_val_740_40deg")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Which places to train on, and how they come in batches.

    training_dataset  a name of TRAINING_SETS, in `datasets_folder`, or a folder in that layout
    cities            a choice among its cities; None: all
    images_per_place  drawn of each place
    size              (H, W) in pixels, see `fitted`
    places_per_batch  of all processes
    """

    training_dataset: str = "gsv_cities"
    datasets_folder: Path
    cities: Sequence[str] | None = None
    images_per_place: int = 4
    size: Sequence[int] = (224, 224)
    places_per_batch: int = 120
    seed: int = 0
    num_workers: int = 0

    def fitted(self, patch: int) -> "TrainingData":
        """The same with sides that are the nearest multiples of the backbone's patch, in pixels."""
        return dataclasses.replace(self, size=fitting(self.size, patch, "--train_resize"))

    def trained_on(self, dataset: PlaceDataset) -> dict:
        """What a page must say of the places that a model saw, as results.json and the checkpoint hold it."""
        _, all_cities = training_set(self.training_dataset, self.datasets_folder)
        cities = [city for city in dataset.cities if city not in dataset.empty_cities]
        return {"set": self.training_dataset, "places": dataset.n_places, "images": dataset.n_images,
                "images_per_place": self.images_per_place, "places_per_batch": self.places_per_batch,
                "cities": len(cities), "absent_cities": [city for city in all_cities if city not in cities]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationImages:
    """Where benchmark sets lie, and how their images are prepared.

    size           (H, W) in pixels: database images are resized to it; see `fitted`
    multiple       in pixels: of it are the sides of queries that vary
    test_method    one of TEST_METHODS: what becomes of queries
    normalisation  one of NORMALISATIONS
    threshold_m    right answers lie within it; None: the protocol's, 25 m for a folder
    """

    datasets_folder: Path | None
    size: Sequence[int] = (322, 322)
    multiple: int = PATCH
    test_method: str = "hard_resize"
    normalisation: str = DEFAULT_NORMALISATION
    threshold_m: float | None = None

    def fitted(self, patch: int) -> "EvaluationImages":
        """The same with sides that are the nearest multiples of the backbone's patch, in pixels."""
        return dataclasses.replace(self, size=fitting(self.size, patch, "--resize"), multiple=patch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluatedSet:
    """What an evaluation is of: a benchmark, or two folders of one's own.

    name        a protocol or a folder of `datasets_folder`
    split       of a folder; None: the protocol's, "test" for a folder
    file_lists  a folder of .npy lists that say what to take of the benchmark's images
    database_folder, queries_folder, coordinates, labels   as in datasets.own_images
    """

    name: str = "pitts30k"
    split: str | None = None
    file_lists: Path | None = None
    database_folder: Path | None = None
    queries_folder: Path | None = None
    coordinates: Path | None = None
    labels: bool = True


def fitting(size: Sequence[int], patch: int, flag: str) -> list[int]:
    """The sides' nearest multiples of a patch, in pixels; a change is logged under the option's name."""
    fitting = [*nearest_multiple(size, patch)]
    if fitting != [*size]:
        log.info("%s %d %d: not multiples of the %d-pixel patch, using the nearest: %d %d", flag, *size, patch,
                 *fitting)
    return fitting


def training_set(training_dataset: str, datasets_folder: Path) -> tuple[Path, Sequence[str]]:
    """Folder and cities of a set of TRAINING_SETS, which lies in `datasets_folder`, or of any folder in that layout.

    A set's name is its list of cities; a folder's cities are its tables, sorted.  `./gsv_cities` is a folder,
    `gsv_cities` a name.  Raises FileNotFoundError for what is neither.
    """
    if training_dataset in TRAINING_SETS:
        return datasets_folder / training_dataset, TRAINING_SETS[training_dataset]
    folder = Path(training_dataset)
    cities = sorted(table.stem for table in (folder / "Dataframes").glob("[!.]*.csv"))
    if not cities:
        raise FileNotFoundError(
            f"training dataset {training_dataset!r}: neither a set's name ({', '.join(TRAINING_SETS)}) nor a folder in "
            "the GSV-Cities layout; expected <folder>/Dataframes/<City>.csv, and there is "
            f"{'no such table in it' if folder.is_dir() else 'no such folder'}")
    return folder, cities


def training_loader(data: TrainingData, *, device: torch.device, places: str = ModelConfig.places) -> DataLoader:
    """Batches (images (P*K, 3, H, W) uint8, labels (P*K,)) of P places with K images each, mostly of one city.

    P is this process's share of `data.places_per_batch`; `places` of the model's configuration. Raises what
    `PlaceDataset` and `CityBatchSampler` do, and ValueError where no batch would have a pair of images to bring
    together and one to keep apart, or, where places are hard, no family, or one of a city by which models are chosen.
    """
    for option, value, what in (("--images_per_place", data.images_per_place, "images of a place are brought together"),
                                ("--train_batch_size", data.places_per_batch, "places of a batch are kept apart")):
        if value < 2:
            raise ValueError(f"{option} {value}: the loss would be 0 and nothing learn, as {what}; expected at least 2")
    folder, all_cities = training_set(data.training_dataset, data.datasets_folder)
    dataset = PlaceDataset(folder, cities=data.cities or all_cities, images_per_place=data.images_per_place,
                           seed=data.seed, transform=training_transform(data.size))
    if places != "paper":
        held_out = [city for city in dataset.cities if whole_city(city) in VALIDATION_CITIES]
        if held_out:
            raise ValueError(f"places={places} with {', '.join(held_out)}: MSLS-val, by which the best weights are "
                             "chosen, is of these cities; name others (--cities), or leave the field out")
        if data.places_per_batch < 4:
            raise ValueError(f"places={places} with --train_batch_size {data.places_per_batch}: expected at least 4, "
                             "as half of a batch are places that look alike")
    if dataset.missing_cities:
        log.warning("training without %d absent cities: %s", len(dataset.missing_cities),
                    " ".join(dataset.missing_cities))
    for repeated in dataset.repeated:
        log.warning("%s", repeated)
    if dataset.empty_cities:
        log.warning("training without %d cities in which no place has %d images: %s", len(dataset.empty_cities),
                    data.images_per_place, " ".join(dataset.empty_cities))
    if dataset.n_places < 2:
        raise ValueError(f"{dataset.folder}: a single place has {data.images_per_place} images; expected at least 2, "
                         "as the places of a batch are kept apart; add images or lower --images_per_place")
    log.info("training on %s: %d places, %d images, %d cities; %d places with fewer than %d images left out",
             dataset.folder, dataset.n_places, dataset.n_images, len(dataset.cities) - len(dataset.empty_cities),
             dataset.dropped_places, data.images_per_place)
    sampler = CityBatchSampler(dataset, places_per_batch=data.places_per_batch, seed=data.seed, process=rank(),
                               processes=processes())
    return ImageLoader(dataset, batch_sampler=sampler, num_workers=data.num_workers, collate_fn=collate_places,
                        device=device, persistent_workers=data.num_workers > 0)


def evaluated_set(chosen: EvaluatedSet, images: EvaluationImages) -> BenchmarkDataset:
    """The images of `evaluated_listings`, as `images` has them prepared."""
    return prepared(evaluated_listings(chosen, images), images)


def evaluated_listings(chosen: EvaluatedSet, images: EvaluationImages) -> list[Listing]:
    """One's own images, what lists say of a folder, a protocol, or one split of a folder's set.

    MSLS-val comes with its other readings of the same images: their figures are often confused.
    """
    folder, name, parts = images.datasets_folder, chosen.name, []
    if chosen.database_folder is not None:
        threshold = {} if images.threshold_m is None else {"threshold_m": images.threshold_m}
        listing = own_images(chosen.database_folder, chosen.queries_folder, coordinates=chosen.coordinates,
                             labels=chosen.labels, **threshold)
    elif chosen.file_lists is not None:
        root = folder / name
        listing = read_file_lists(chosen.file_lists, root if root.is_dir() else folder, name=name)
        listing = as_protocol(listing, name) if name in PROTOCOLS else listing
    else:
        listing = resolve(folder, name, split=chosen.split, threshold_m=images.threshold_m)
        for part in OTHER_READINGS.get(listing.protocol or "", ()):
            try:
                parts.append(resolve(folder, part))
            except (FileNotFoundError, ValueError) as error:
                log.warning("%s is not told beside it: %s", part, error)
    return [listing, *parts]


def validation_and_test_sets(validation: Sequence[str], test: str, images: EvaluationImages) -> tuple[
        list[BenchmarkDataset], BenchmarkDataset]:
    """The `val` splits of some sets and the `test` split of one, or protocols.

    "msls" is its 740 queries, by which the paper chooses, where they can be had; else the folder, which says so.
    `images.test_method` holds for all of them: the best weights are chosen by what they will be tested on.
    """
    folder = images.datasets_folder

    def split_of(name: str, split: str) -> str | None:
        return None if name in PROTOCOLS and not (folder / name / "images").is_dir() else split

    def choosing(name: str) -> Listing:
        warnings: tuple[str, ...] = ()
        if name == "msls" and images.threshold_m is None:
            try:
                listing = resolve(folder, "msls_val_740")
                if listing.protocol:  # drawn images are no protocol's
                    return listing
            except (FileNotFoundError, ValueError) as error:
                if not (folder / "msls" / "images").is_dir():
                    raise
                warnings = f"not msls_val_740, by which the paper chooses: {error}",
        listing = resolve(folder, name, split=split_of(name, "val"), threshold_m=images.threshold_m)
        return dataclasses.replace(listing, warnings=(*listing.warnings, *warnings))

    return ([prepared([choosing(name)], images) for name in validation],
            evaluated_set(EvaluatedSet(name=test, split=split_of(test, "test")), images))


def prepared(listings: Sequence[Listing], images: EvaluationImages) -> BenchmarkDataset:
    """The first listing's images, as `images` has them prepared; the others are readings of the same."""
    listing, *parts = listings
    return as_dataset(listing, size=images.size, multiple=images.multiple, test_method=images.test_method,
                      normalisation=images.normalisation, parts=parts)


def as_dataset(listing: Listing, *, size: Sequence[int], multiple: int = EvaluationImages.multiple,
               test_method: str = EvaluationImages.test_method, normalisation: str = EvaluationImages.normalisation,
               parts: Sequence[Listing] = ()) -> BenchmarkDataset:
    """The images of a listing, which is logged: counts, what is right, and what its reader should know.

    Their preparation is as in EvaluationImages.
    """
    found = listing.rule
    if listing.positives is not None:
        found = f"{listing.n_unanswerable} of them without a right answer ({listing.rule})"
    log.info("%s: %d database images, %d queries, %s; file list %s", listing.label, listing.n_database,
             listing.n_queries, found, listing.fingerprint()[:16])
    for warning in listing.warnings:
        log.warning("%s: %s", listing.label, warning)
    prepared = preparation(size, normalisation)
    return BenchmarkDataset(listing, transform=evaluation_transform(size, normalisation),
                            query_transform=query_transform(test_method, size, normalisation, multiple),
                            queries_vary=test_method in VARYING_SIZES,
                            prepared=(prepared, f"{prepared}, {test_method}"), parts=parts)


def preparation(size: Sequence[int], normalisation: str = EvaluationImages.normalisation) -> str:
    """The words by which kept descriptors are known, which say nothing of what is the rule."""
    return f"{size[0]}x{size[1]}" + (f", {normalisation}" if normalisation != DEFAULT_NORMALISATION else "")


def prepared_as(words: object) -> tuple[tuple[int, int], str] | None:
    """Size and normalisation that `preparation` made words of; None for others."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})(?:, (\w+))?", words) if isinstance(words, str) else None
    normalisation = found and (found[3] or DEFAULT_NORMALISATION)
    if normalisation not in NORMALISATIONS or 0 in (size := (int(found[1]), int(found[2]))):
        return None
    return size, normalisation

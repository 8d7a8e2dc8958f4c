"""Image sizes, training batches and benchmark sets as the scripts ask for them."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from datasets import (
    PROTOCOLS,
    TRAINING_SETS,
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
)

from .distributed import processes
from .ranks import rank

log = logging.getLogger("selavprpp")


@functools.cache
def _say_once(message: str) -> None:
    log.info(message)


def patch_size(size: Sequence[int], flag: str) -> tuple[int, int]:
    """(H, W) in pixels, each side moved to the nearest multiple of DINOv2's 14-pixel patches, which is said."""
    asked = tuple(size)
    fitting = nearest_multiple(asked)
    if fitting != asked:
        _say_once(f"{flag} {asked[0]} {asked[1]}: not multiples of the 14-pixel patch, using the nearest: "
                  f"{fitting[0]} {fitting[1]}")
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


def training_loader(*, training_dataset: str, datasets_folder: Path, cities: Sequence[str] | None,
                    images_per_place: int, size: Sequence[int], places_per_batch: int, seed: int, num_workers: int,
                    device: torch.device) -> DataLoader:
    """Batches (images (P*K, 3, H, W) uint8, labels (P*K,)) of P places with K images each, mostly of one city.

    P is this process's share of `places_per_batch`.  `training_dataset` is that of `training_set`, `cities` a choice
    among its cities.
    """
    folder, all_cities = training_set(training_dataset, datasets_folder)
    dataset = PlaceDataset(folder, cities=cities or all_cities, images_per_place=images_per_place, seed=seed,
                           transform=training_transform(patch_size(size, "--train_resize")))
    if dataset.missing_cities:
        log.warning("training goes on without %d absent cities: %s", len(dataset.missing_cities),
                    " ".join(dataset.missing_cities))
    log.info("training on %s: %d places, %d images, %d cities; %d places with fewer than %d images left out",
             dataset.folder, dataset.n_places, dataset.n_images, len(dataset.cities), dataset.dropped_places,
             images_per_place)
    sampler = CityBatchSampler(dataset, places_per_batch=places_per_batch, seed=seed, process=rank(),
                               processes=processes())
    # A generator of its own: otherwise starting workers would draw from torch's global one, and what the losses
    # draw there would depend on the number of workers.
    return DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers, collate_fn=collate_places,
                      generator=torch.Generator(),
                      pin_memory=device.type == "cuda", persistent_workers=num_workers > 0)


def benchmark_set(name: str, *, datasets_folder: Path, split: str | None, threshold_m: float | None,
                  file_lists: Path | None = None, **images) -> BenchmarkDataset:
    """A protocol, one split of a folder's set, or what the lists in the folder `file_lists` say of that folder.

    split, threshold_m   None: the protocol's, and "test" within 25 m for a folder
    images             as in `as_dataset`
    """
    if file_lists is None:
        listing = resolve(datasets_folder, name, split=split, threshold_m=threshold_m)
        return as_dataset(listing, parts=_parts(listing, datasets_folder), **images)
    root = datasets_folder / name
    listing = read_file_lists(file_lists, root if root.is_dir() else datasets_folder, name=name)
    return as_dataset(as_protocol(listing, name) if name in PROTOCOLS else listing, **images)


def _parts(listing: Listing, datasets_folder: Path) -> list[Listing]:
    """Both versions of MSLS-val are told, whichever was asked for in full, as their figures are often confused."""
    if listing.protocol != "msls_val_11k":
        return []
    try:
        return [resolve(datasets_folder, "msls_val_740")]
    except (FileNotFoundError, ValueError) as error:
        log.warning("msls_val_740 is not told beside it: %s", error)
        return []


def own_set(database_folder: Path, queries_folder: Path, *, coordinates: Path | None, threshold_m: float | None,
            labels: bool, **images) -> BenchmarkDataset:
    """Two folders of images of one's own; arguments as in `own_images` and `as_dataset`."""
    options = {} if threshold_m is None else {"threshold_m": threshold_m}
    return as_dataset(own_images(database_folder, queries_folder, coordinates=coordinates, labels=labels, **options),
                      **images)


def as_dataset(listing: Listing, *, size: Sequence[int], test_method: str = "hard_resize",
               parts: Sequence[Listing] = ()) -> BenchmarkDataset:
    """The images of a listing, which is logged: counts, what is right, and what its reader should know.

    Database images are resized to `size`, queries become what `test_method`, one of TEST_METHODS, makes of them.
    """
    size = patch_size(size, "--resize")
    found = listing.rule
    if listing.positives is not None:
        found = f"{listing.n_unanswerable} of them without a right answer ({listing.rule})"
    log.info("%s: %d database images, %d queries, %s; file list %s", listing.label, listing.n_database,
             listing.n_queries, found, listing.fingerprint()[:16])
    for warning in listing.warnings:
        log.warning("%s: %s", listing.label, warning)
    return BenchmarkDataset(listing, transform=evaluation_transform(size),
                            query_transform=query_transform(test_method, size),
                            queries_vary=test_method in VARYING_SIZES,
                            prepared=(f"{size[0]}x{size[1]}", f"{size[0]}x{size[1]}, {test_method}"), parts=parts)


def evaluated_set(*, name: str, own: dict | None, datasets_folder: Path | None, split: str | None,
                  threshold_m: float | None, file_lists: Path | None, **images) -> BenchmarkDataset:
    """What an evaluation is of: a benchmark, or the folders `own` (keywords of `own_set`)."""
    if own:
        return own_set(**own, threshold_m=threshold_m, **images)
    return benchmark_set(name, datasets_folder=datasets_folder, split=split, threshold_m=threshold_m,
                         file_lists=file_lists, **images)


def validation_and_test_sets(validation: Sequence[str], test: str, *, datasets_folder: Path, **options) -> tuple[
        list[BenchmarkDataset], BenchmarkDataset]:
    """The `val` splits of some sets and the `test` split of one, or protocols; options as in `benchmark_set`.

    `test_method` holds for all of them: the best weights are chosen by what they will be tested on.
    """
    def of(name: str, split: str) -> BenchmarkDataset:
        if name in PROTOCOLS and not (datasets_folder / name / "images").is_dir():
            split = None  # the protocol's
        return benchmark_set(name, split=split, datasets_folder=datasets_folder, **options)

    return [of(name, "val") for name in validation], of(test, "test")

"""Picture sizes, training batches and benchmark sets as the scripts ask for them."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from datasets import (
    TRAINING_SETS,
    VARYING_SIZES,
    BenchmarkDataset,
    CityBatchSampler,
    PlaceDataset,
    collate_places,
    evaluation_transform,
    nearest_multiple,
    query_transform,
    training_transform,
)

from .distributed import processes, rank

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
    """Batches (pictures (P*K, 3, H, W) uint8, labels (P*K,)) of P places with K pictures each, mostly of one city.

    P is this process's share of `places_per_batch`.  `training_dataset` is that of `training_set`, `cities` a choice
    among its cities.
    """
    folder, all_cities = training_set(training_dataset, datasets_folder)
    dataset = PlaceDataset(folder, cities=cities or all_cities, images_per_place=images_per_place, seed=seed,
                           transform=training_transform(patch_size(size, "--train_resize")))
    if dataset.missing_cities:
        log.warning("training goes on without %d absent cities: %s", len(dataset.missing_cities),
                    " ".join(dataset.missing_cities))
    log.info("training on %s: %d places, %d pictures, %d cities; %d places with fewer than %d pictures left out",
             dataset.folder, dataset.n_places, dataset.n_images, len(dataset.cities), dataset.dropped_places,
             images_per_place)
    sampler = CityBatchSampler(dataset, places_per_batch=places_per_batch, seed=seed, process=rank(),
                               processes=processes())
    # A generator of its own: otherwise starting workers would draw from torch's global one, and what the losses
    # draw there would depend on the number of workers.
    return DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers, collate_fn=collate_places,
                      generator=torch.Generator(),
                      pin_memory=device.type == "cuda", persistent_workers=num_workers > 0)


def benchmark_set(name: str, *, datasets_folder: Path, split: str, size: Sequence[int], threshold_m: float,
                  test_method: str = "hard_resize") -> BenchmarkDataset:
    """One split of a set; its counts are logged.

    Database pictures are resized to `size`, queries become what `test_method`, one of TEST_METHODS, makes of them.
    """
    size = patch_size(size, "--resize")
    dataset = BenchmarkDataset(datasets_folder, name, split=split, threshold_m=threshold_m,
                               transform=evaluation_transform(size), query_transform=query_transform(test_method, size),
                               queries_vary=test_method in VARYING_SIZES)
    unanswerable = sum(len(ids) == 0 for ids in dataset.positives)
    log.info("%s %s: %d database pictures, %d queries, %d of them without a positive within %g m",
             dataset.display_name, split, dataset.n_database, dataset.n_queries, unanswerable, threshold_m)
    return dataset


def validation_and_test_sets(validation: Sequence[str], test: str, **options) -> tuple[
        list[BenchmarkDataset], BenchmarkDataset]:
    """The `val` splits of some sets and the `test` split of one; options as in `benchmark_set`.

    `test_method` holds for all of them: the best weights are chosen by what they will be tested on.
    """
    return [benchmark_set(name, split="val", **options) for name in validation], benchmark_set(
        test, split="test", **options)

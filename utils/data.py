"""Picture sizes and benchmark sets as the scripts ask for them."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path

from datasets import BenchmarkDataset, evaluation_transform, nearest_multiple

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


def benchmark_set(name: str, *, datasets_folder: Path, split: str, size: Sequence[int],
                  threshold_m: float) -> BenchmarkDataset:
    """One split of a set, pictures resized to `size`; its counts are logged."""
    transform = evaluation_transform(patch_size(size, "--resize"))
    dataset = BenchmarkDataset(datasets_folder, name, split=split, threshold_m=threshold_m, transform=transform)
    unanswerable = sum(len(ids) == 0 for ids in dataset.positives)
    log.info("%s %s: %d database pictures, %d queries, %d of them without a positive within %g m",
             dataset.display_name, split, dataset.n_database, dataset.n_queries, unanswerable, threshold_m)
    return dataset


def validation_and_test_sets(validation: Sequence[str], test: str, **options) -> tuple[
        list[BenchmarkDataset], BenchmarkDataset]:
    """The `val` splits of some sets and the `test` split of one; options as in `benchmark_set`."""
    return [benchmark_set(name, split="val", **options) for name in validation], benchmark_set(
        test, split="test", **options)

"""Data: training places, benchmark sets, image transforms.  Nothing here knows the model or the losses.

A name is imported when it is first asked for: who draws a toy city or divides a data set waits for no torch.
"""

import importlib

_MODULES = {
    "GSV_CITIES": "training.cities",
    "PROTOCOLS": "protocols",
    "TEST_METHODS": "transforms",
    "TRAINING_SETS": "training.cities",
    "UNIFIED_CITIES": "training.cities",
    "VARYING_SIZES": "transforms",
    "BenchmarkDataset": "benchmark",
    "CityBatchSampler": "training.places",
    "Listing": "listing",
    "PlaceDataset": "training.places",
    "as_protocol": "protocols",
    "check_predictions": "msls.predictions",
    "collate_places": "training.places",
    "evaluation_transform": "transforms",
    "image_key": "msls.sources",
    "nearest_multiple": "transforms",
    "normalise": "transforms",
    "own_images": "readers.own_images",
    "query_transform": "transforms",
    "read_file_lists": "readers.file_lists",
    "read_folder": "readers.folders",
    "resolve": "protocols",
    "subset_of": "msls.listings",
    "training_transform": "transforms",
    "write_predictions": "msls.predictions",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)

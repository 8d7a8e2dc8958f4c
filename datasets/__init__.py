"""Data: training places, benchmark sets, image transforms.  Nothing here knows the model or the losses.

A name is imported when it is first asked for: who draws a toy city or divides a data set waits for no torch.
"""

import importlib

_EXPORTS = {
    "benchmark": ("BenchmarkDataset",),
    "listing": ("Listing",),
    "msls.frames": ("image_key",),
    "msls.listings": ("subset_of",),
    "msls.predictions": ("check_predictions", "write_predictions"),
    "protocols": ("PROTOCOLS", "as_protocol", "resolve"),
    "readers.file_lists": ("read_file_lists",),
    "readers.folders": ("read_folder",),
    "readers.own_images": ("own_images", "own_pictures"),
    "training.places": ("APART_M", "CityBatchSampler", "PlaceDataset", "collate_places"),
    "training.tables": ("GSV_CITIES", "TRAINING_SETS", "UNIFIED_CITIES", "VALIDATION_CITIES", "whole_city"),
    "training.triplets.batches": ("TripletDataset", "collate_triplets"),
    "training.triplets.listing": ("TripletListing", "read_triplet_folder"),
    "training.triplets.mining": ("MININGS", "TripletMiner"),
    "training.views": ("ImageBatchSampler", "ViewDataset"),
    "transforms": ("DEFAULT_NORMALISATION", "NORMALISATIONS", "PATCH", "TEST_METHODS", "VARYING_SIZES",
                   "evaluation_transform", "nearest_multiple", "normalise", "query_transform", "training_transform"),
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)

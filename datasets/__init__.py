"""Data: training places, benchmark sets, image transforms.  Nothing here knows the model or the losses."""

from .benchmark import BenchmarkDataset
from .cities import GSV_CITIES, TRAINING_SETS, UNIFIED_CITIES
from .file_lists import file_lists as read_file_lists
from .folders import read_folder
from .listing import Listing
from .msls import subset_of
from .msls_predictions import check_predictions, write_predictions
from .msls_sources import image_key
from .own_images import own_images
from .places import CityBatchSampler, PlaceDataset, collate_places
from .protocols import PROTOCOLS, as_protocol, resolve
from .transforms import (
    TEST_METHODS,
    VARYING_SIZES,
    evaluation_transform,
    nearest_multiple,
    normalise,
    query_transform,
    training_transform,
)

__all__ = [
    "GSV_CITIES",
    "PROTOCOLS",
    "TEST_METHODS",
    "TRAINING_SETS",
    "UNIFIED_CITIES",
    "VARYING_SIZES",
    "BenchmarkDataset",
    "CityBatchSampler",
    "Listing",
    "PlaceDataset",
    "as_protocol",
    "check_predictions",
    "collate_places",
    "evaluation_transform",
    "nearest_multiple",
    "normalise",
    "own_images",
    "image_key",
    "query_transform",
    "read_file_lists",
    "read_folder",
    "resolve",
    "subset_of",
    "training_transform",
    "write_predictions",
]

"""Data: training places, benchmark sets, image transforms.  Nothing here knows the model or the losses."""

from .benchmark import BenchmarkDataset
from .listing import Listing
from .msls.listings import subset_of
from .msls.predictions import check_predictions, write_predictions
from .msls.sources import image_key
from .protocols import PROTOCOLS, as_protocol, resolve
from .readers.file_lists import file_lists as read_file_lists
from .readers.folders import read_folder
from .readers.own_images import own_images
from .training.cities import GSV_CITIES, TRAINING_SETS, UNIFIED_CITIES
from .training.places import CityBatchSampler, PlaceDataset, collate_places
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

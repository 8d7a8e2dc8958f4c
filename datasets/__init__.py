"""Data: training places, benchmark sets, picture transforms.  Nothing here knows the model or the losses."""

from .benchmark import BenchmarkDataset
from .cities import GSV_CITIES, TRAINING_SETS, UNIFIED_CITIES
from .places import CityBatchSampler, PlaceDataset, collate_places
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
    "TEST_METHODS",
    "TRAINING_SETS",
    "UNIFIED_CITIES",
    "VARYING_SIZES",
    "BenchmarkDataset",
    "CityBatchSampler",
    "PlaceDataset",
    "collate_places",
    "evaluation_transform",
    "nearest_multiple",
    "normalise",
    "query_transform",
    "training_transform",
]

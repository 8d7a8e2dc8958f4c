"""The trainings that hard places, nested descriptors and students are measured by, each beside the paper's way."""

import dataclasses

from ..real_sets.measure import Row
from ..real_sets.plan import OURS, OURS_BINARY, PLACEMENT, SIZE, Model, World

HARD_CITY = {"train_places": 800, "val_places": 120, "test_places": 240, "lookalikes": 10}
CITY = World(training_set="gsv_cities", val="msls", test="pitts30k", drawn="hard_city")
CITY_EPOCHS = 4  # of twice the places and more
LENGTHS = (64, 128, 256, 512)  # bits of codes, and values of float descriptors
NESTED = ",".join(map(str, LENGTHS))
STUDENT_SIZE = 80  # a quarter of the teacher's patches
SIZES_IN_CITY = {SIZE: 112, STUDENT_SIZE: 64}  # of images that are drawn 126 pixels high

CODES = Model(name="codes", script="train_hashing.py")


def with_fields(model: Model, suffix: str, *fields: str) -> Model:
    return dataclasses.replace(model, name=f"{model.name}-{suffix}", fields=(*model.fields, *fields))


def in_city(model: Model) -> Model:
    """The same training there."""
    return dataclasses.replace(model, name=f"city-{model.name}", world=CITY, epochs=CITY_EPOCHS,
                               size=SIZES_IN_CITY[model.size],
                               start=model.start and in_city(model.start))


def row_in_city(row: Row) -> Row:
    return dataclasses.replace(row, model=in_city(row.model))


# The first row of each is what the others are compared with.
PLACES_ROWS = [
    Row("the paper's batches", OURS),
    Row("hard places, one loss", with_fields(OURS, "hard", "places=hard")),
    Row("hard places, a loss for each half", with_fields(OURS, "halves", "places=hard-halves")),
]

ALONE = {bits: CODES if bits == LENGTHS[-1] else with_fields(CODES, str(bits), f"code_bits={bits}")
         for bits in LENGTHS}
NESTED_CODES = with_fields(CODES, "nested", f"nested_bits={NESTED}")
DISTILLED_CODES = with_fields(NESTED_CODES, "distilled", "nested_distillation=1")


def code_rows(bits: int) -> list[Row]:
    words = () if bits == LENGTHS[-1] else ("--code_bits", str(bits))
    cut = [] if bits == LENGTHS[-1] else [Row("cut from 512, not nested", CODES, words=words)]
    return [Row("trained alone", ALONE[bits]), *cut, Row("nested", NESTED_CODES, words=words),
            Row("nested, distilled", DISTILLED_CODES, words=words)]


FLOATS_ALONE = {dim: OURS if dim == LENGTHS[-1] else with_fields(OURS, str(dim), f"float_dim={dim}")
                for dim in LENGTHS}
NESTED_FLOATS = with_fields(OURS, "nested", f"nested_floats={NESTED}")


def float_rows(dim: int) -> list[Row]:
    words = () if dim == LENGTHS[-1] else ("--float_dim", str(dim))
    cut = [] if dim == LENGTHS[-1] else [Row("cut from 512, not nested", OURS, words=words)]
    return [Row("trained alone", FLOATS_ALONE[dim]), *cut, Row("nested", NESTED_FLOATS, words=words)]


TEACHER = OURS_BINARY
LABELLED_STUDENT = Model(name="student-labels", script="train_rerank.py", words=("--variant", "joint"),
                         fields=(f"placement={PLACEMENT}",), size=STUDENT_SIZE)

"""The trainings that hard places, nested descriptors and students are measured by, each beside the paper's way."""

import dataclasses

from ..paper.runner import Step
from ..real_sets.measure import Row
from ..real_sets.plan import (
    BACKBONE,
    EPOCHS,
    MACHINE,
    OURS,
    OURS_BINARY,
    SIZE,
    Model,
    Place,
    World,
    images,
)

HARD_CITY = {"train_places": 800, "val_places": 120, "test_places": 240, "lookalikes": 10}
CITY = World(training_set="gsv_cities", val="msls", test="pitts30k", drawn="hard_city")
CITY_EPOCHS = 4  # of twice the places and more
LENGTHS = (64, 128, 256, 512)  # bits of codes, and values of float descriptors
NESTED = ",".join(map(str, LENGTHS))
STUDENT_SIZE = 80  # a quarter of the teacher's patches
STUDENT_BATCH = 16  # images: what a student learns takes many steps
SIZES_IN_CITY = {SIZE: 112, STUDENT_SIZE: 64}  # of images that are drawn 126 pixels high

CODES = Model(name="codes", script="train_hashing.py")


def with_fields(model: Model, suffix: str, *fields: str) -> Model:
    return dataclasses.replace(model, name=f"{model.name}-{suffix}", fields=(*model.fields, *fields))


def in_city(model: Model) -> Model:
    """The same training there, of smaller images and fewer epochs."""
    return dataclasses.replace(model.moved(CITY), size=SIZES_IN_CITY[model.size],
                               epochs=model.epochs * CITY_EPOCHS // EPOCHS, start=model.start and in_city(model.start))


def row_in_city(row: Row) -> Row:
    return dataclasses.replace(row, model=in_city(row.model))


# The first row of each is what the others are compared with.
PLACES_ROWS = [
    Row("the paper's batches", OURS),
    Row("hard places", with_fields(OURS, "hard", "places=hard")),
]

# In batches so small beside a city, places that look alike seldom meet by chance, as in cities of thousands of places.
SMALL_BATCH = 8
SMALL_BATCH_ROWS = [
    dataclasses.replace(row, model=in_city(dataclasses.replace(
        row.model, name=f"{row.model.name}-small", batch=SMALL_BATCH))) for row in PLACES_ROWS]

TRAINED_ALONE = (64, 256, 512)
ALONE = {bits: CODES if bits == LENGTHS[-1] else with_fields(CODES, str(bits), f"code_bits={bits}")
         for bits in TRAINED_ALONE}
NESTED_CODES = with_fields(CODES, "nested", f"nested_bits={NESTED}")
DISTILLED_CODES = with_fields(NESTED_CODES, "distilled-weakly", "nested_distillation=0.01")


def code_rows(bits: int) -> list[Row]:
    words = () if bits == LENGTHS[-1] else ("--code_bits", str(bits))
    cut = [] if bits == LENGTHS[-1] else [Row("cut from 512, not nested", CODES, words=words)]
    alone = [Row("trained alone", ALONE[bits])] if bits in ALONE else []
    return [*alone, *cut, Row("nested", NESTED_CODES, words=words),
            Row("nested, distilled", DISTILLED_CODES, words=words)]


# Of the city's 720 images: 300 of them stand for the 1,000 of a large set.
NESTED_BRANCHES = with_fields(OURS_BINARY, "nested", f"nested_bits={NESTED}")
STAGES_ROWS = [row_in_city(row) for row in (
    Row("512 bits, then floats of 100", NESTED_BRANCHES),
    Row("64 bits, then floats of 100", NESTED_BRANCHES, words=("--code_bits", "64")),
    Row("64 bits, 512 of 300, then floats of 100", NESTED_BRANCHES, words=("--code_bits", "64", "300")))]

FLOATS_ALONE = {dim: OURS if dim == LENGTHS[-1] else with_fields(OURS, str(dim), f"float_dim={dim}")
                for dim in (LENGTHS[0], LENGTHS[-1])}
NESTED_FLOATS = with_fields(OURS, "nested", f"nested_floats={NESTED}")


def float_rows(dim: int) -> list[Row]:
    words = () if dim == LENGTHS[-1] else ("--float_dim", str(dim))
    cut = [] if dim == LENGTHS[-1] else [Row("cut from 512, not nested", OURS, words=words)]
    alone = [Row("trained alone", FLOATS_ALONE[dim])] if dim in FLOATS_ALONE else []
    return [*alone, *cut, Row("nested", NESTED_FLOATS, words=words)]


TEACHER = OURS_BINARY
LABELLED_STUDENT = Model(name="student-labels", script="train_rerank.py", words=("--variant", "joint"),
                         size=STUDENT_SIZE, epochs=2 * EPOCHS, halving=4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Student(Model):
    """By utils.distil; `start` is its teacher, from which it learns on the images of the world's training set.

    mapped  and on those of the maps that it will ask, which need no labels either
    alone   describes the database, too, in place of its teacher
    """

    mapped: bool = False
    alone: bool = False

    def training(self, seed: int, place: Place) -> Step:
        assert self.start is not None
        world, root, teacher = self.world, place.root(self.world), self.start.training(seed, place)
        images_of = root / world.training_set / "Images"
        folders = [images_of / city for city in world.cities] or [images_of]
        maps = (world.test, *world.others) if self.mapped else ()
        folders += [root / name / "images" / "test" / "database" for name in maps]
        words = (*self.script.split(), "--teacher", str(teacher.best_model), "--backbone", BACKBONE,
                 "--foundation_model_path", str(place.pretrained), "--set", *self.fields, "recompute=false",
                 "--images", *map(str, folders), "--train_resize", *2 * [str(self.size)],
                 "--teacher_resize", *2 * [str(self.start.size)], "--train_batch_size", str(STUDENT_BATCH),
                 "--epochs_num", str(self.epochs), "--lr", self.lr, "--lr_halving", str(self.halving),
                 "--seed", str(seed), "--val_datasets", world.val, "--datasets_folder", str(root),
                 "--dataset_name", world.test, "--infer_batch_size", "64")
        return Step(out=place.out, name=f"{self.name}/seed{seed}/train", command=words, machine=MACHINE, after=teacher)

    def evaluation(self, seed: int, test_set: str, place: Place, words: tuple[str, ...] = ()) -> Step:
        """Queries by the student in an index that its teacher makes first, unless it is alone."""
        trained = self.training(seed, place)
        if test_set == self.world.test and not self.alone:
            return trained
        assert self.start is not None
        command = ("eval_rerank.py", "--resume", str(trained.best_model),
                   *images(self, test_set, place.root(self.world)))
        name, after = f"{self.name}/seed{seed}/{test_set}", trained
        if self.alone:
            name += "-alone"
        else:
            index = ("--index", str(place.out / "indexes" / f"{self.start.name}-seed{seed}-{test_set}"))
            command += index
            after = dataclasses.replace(self.start.evaluation(seed, test_set, place, index), after=trained)
        return Step(out=place.out, name=name, command=command, machine=MACHINE, after=after)


STUDENT = Student(name="student", script="-m utils.distil", start=TEACHER, size=STUDENT_SIZE, epochs=2 * EPOCHS,
                  halving=4)
MAPPED_STUDENT = dataclasses.replace(STUDENT, name="student-mapped", mapped=True)
# The first row is what the others are compared with; the teacher's images are larger.
STUDENT_ROWS = [
    Row("by labels", LABELLED_STUDENT),
    Row("by its teacher", STUDENT),
    Row("the same, database by the student", dataclasses.replace(STUDENT, alone=True)),
    Row("by its teacher, on the map's images, too", MAPPED_STUDENT),
    Row("teacher", TEACHER),
]
LARGER = 112  # pixels: half of the teacher's patches
LARGER_STUDENT_ROWS = [Row(row.name, dataclasses.replace(row.model, name=f"{row.model.name}-{LARGER}", size=LARGER))
                       for row in STUDENT_ROWS[:2]] + STUDENT_ROWS[-1:]


def by_codes(rows: list[Row]) -> list[Row]:
    """The same, of their first stage."""
    return [dataclasses.replace(row, stage="first_stage") for row in rows]

"""The models that are trained on real photographs, and the commands that train and evaluate them."""

import csv
import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

from utils.files import temporary_path

from ..paper.runner import Step
from ..paper.tables import HASHED, PLACED, TUNED

# Chosen on sped_thumbs val and on the drawn city's val (docs/benchmarks/real_sets.md says what else was tried).
BACKBONE, FILE = "deit-tiny", "deit_tiny/deit_tiny_patch16_224.pth"
SIZE, PLACES_A_BATCH = 160, 30
EPOCHS, LR, HALVING = 6, "0.001", 2
PLACEMENT = "last:8"

PLACES = 300
TRAINING_SET, CITIES, TEST_SET = "gsv_real_mini", ("SpedA", "SpedB"), "sped_thumbs"
RANDOM = "random"
ENOUGH_QUERIES = 50  # one is worth two points then


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """What a model learns from, and the sets whose val split chooses its best epoch and whose test split ends its
    training; no cities: all.

    others  it is tested on, too
    drawn   a folder of `Place.out` with a toy city; none: photographs
    """

    training_set: str
    cities: tuple[str, ...] = ()
    val: str
    test: str
    others: tuple[str, ...] = ()
    drawn: str = ""


PHOTOGRAPHS = World(training_set=TRAINING_SET, cities=CITIES, val=TEST_SET, test=TEST_SET, others=("corridor",))
DRAWN = World(training_set="gsv_cities", val="msls", test="pitts30k", drawn="toy_city")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """A model by its training, but for the seed.

    name    of its folder
    script  that trains it
    words   of its command, beside those that all share
    fields  of --set
    random  weights in place of the pre-trained file
    places  of the training set: so many are drawn by the seed
    start   whose best weights it begins with
    world   DRAWN: everything on the toy city
    size    of its images' sides, in pixels
    halving epochs after which the learning rate is halved
    batch   places in one
    """

    name: str
    script: str = "train.py"
    words: tuple[str, ...] = ()
    fields: tuple[str, ...] = (f"placement={PLACEMENT}",)
    lr: str = LR
    epochs: int = EPOCHS
    random: bool = False
    places: int = PLACES
    start: "Model | None" = None
    world: World = PHOTOGRAPHS
    size: int = SIZE
    halving: int = HALVING
    batch: int = PLACES_A_BATCH

    def moved(self, world: World) -> "Model":
        """The same training in a drawn world, with what it starts from."""
        return dataclasses.replace(self, name=f"{world.drawn.replace('_', '-')}-{self.name}", world=world,
                                   start=self.start and self.start.moved(world))

    def training(self, seed: int, place: "Place") -> Step:
        """Whose results.json is of its world's test set."""
        world, root = self.world, place.root(self.world)
        after = self.start.training(seed, place) if self.start else None
        start = (["--resume", str(after.best_model)] if after else
                 ["--backbone", BACKBONE, "--foundation_model_path", RANDOM if self.random else str(place.pretrained)])
        folder = root / world.training_set if self.places == PLACES else subset_folder(place, self.places, seed)
        data = ("--training_dataset", str(folder))
        learning = ("--train_batch_size", str(self.batch), "--epochs_num", str(self.epochs), "--lr", self.lr)
        if self.script == SELAVPR.script:
            own = (*data, *learning, "--patience", str(self.epochs), "--precision", "bf16", "--seed", str(seed),
                   "--val_dataset", world.val)
        else:
            cities = ("--cities", *world.cities) if world.cities else ()
            own = ("--set", *self.fields, "recompute=false", *data, *cities, *learning, "--lr_halving",
                   str(self.halving), "--seed", str(seed), "--val_datasets", world.val,
                   "--train_resize", *2 * [str(self.size)])
        words = (self.script, *start, *self.words, *own, *images(self, world.test, root))
        return Step(out=place.out, name=f"{self.name}/seed{seed}/train", command=words, machine=MACHINE, after=after)

    def evaluation(self, seed: int, test_set: str, place: "Place", words: tuple[str, ...] = ()) -> Step:
        """Of the model's best weights; the training itself for its own test set, unless there are further words."""
        trained = self.training(seed, place)
        if test_set == self.world.test and not words:
            return trained
        command = (self.script.replace("train", "eval"), "--resume", str(trained.best_model),
                   *images(self, test_set, place.root(self.world)), *words)
        what = test_set + "".join(Path(word).name for word in words).replace("--", "-")
        name = f"{self.name}/seed{seed}/{what}"
        return Step(out=place.out, name=name, command=command, machine=MACHINE, after=trained)


OURS = Model(name="float")
OURS_BINARY = Model(name="rerank", script="train_rerank.py", fields=(), start=OURS)
HEAD_ALONE = Model(name="freezing", words=("--variant", "freezing"), fields=())
SALAD = dataclasses.replace(OURS, name="salad", words=("--aggregation", "salad"))
SALAD_ALONE = dataclasses.replace(HEAD_ALONE, name="freezing-salad", words=(*HEAD_ALONE.words, *SALAD.words))
RANDOM_FLOAT = Model(name="random-float", random=True)
RANDOM_BINARY = dataclasses.replace(OURS_BINARY, name="random-rerank", start=RANDOM_FLOAT)
# The paper's larger configuration has four values a channel of the backbone's width, its smaller one 2.7.
WIDER = dataclasses.replace(OURS, name="float-768", fields=(*OURS.fields, "float_dim=768"))
WIDER_BINARY = dataclasses.replace(OURS_BINARY, name="rerank-768", start=WIDER)
SELAVPR = Model(name="selavpr", script="train_selavpr.py", fields=(), lr="0.0001")  # 0.001 and 0.0003 are worse there

# What the backbone itself learns by goes at a tenth of the rate, by custom.
TUNED_MODELS = {"Freezing": HEAD_ALONE, "MemEfficient-MCA": OURS} | {
    name: Model(name=variant, words=("--variant", variant), lr="0.0001" if variant in ("full", "partial") else LR,
                fields=(f"placement={PLACEMENT}",) if variant == "side-vanilla" else ())
    for name, variant in TUNED.items() if variant and name != "Freezing"}
# Of 12 blocks where the paper's model has 24: the last two thirds, half, third and sixth.
LAST = {"Last 16": "last:8", "Last 12": "last:6", "Last 8": "last:4", "Last 4": "last:2"}


def _placed(name: str, variant: str | None) -> Model:
    placement = LAST.get(name) or str(variant).replace("-", ":")
    if variant == "freezing":
        return HEAD_ALONE
    return OURS if placement == PLACEMENT else Model(name=f"at-{placement.replace(':', '-')}",
                                                     fields=(f"placement={placement}",))


PLACED_MODELS = {name: _placed(name, variant) for name, variant in PLACED.items()}
HASHED_MODELS = {name: Model(name=f"hashing-{variant}", script="train_hashing.py", words=("--variant", variant))
                 for name, variant in {**HASHED, "LC hashing, Gaussian error": "lc-error"}.items()}
CURVE = {places: dataclasses.replace(OURS, name=f"float-{places}places", places=places) for places in (50, 100, 200)
         } | {PLACES: OURS}
STARTS = {
    "(a) constant, as published": OURS,
    "(b) constant, reductions of width 1": dataclasses.replace(
        OURS, name="start-width1", fields=(*OURS.fields, "reduction_dim=1")),
    "(c) convolutions N(0, 1e-5)": dataclasses.replace(
        OURS, name="start-gaussian", fields=(*OURS.fields, "adapter_start=gaussian")),
    "(d) convolutions by PyTorch's default": dataclasses.replace(
        OURS, name="start-pytorch", fields=(*OURS.fields, "adapter_start=pytorch")),
}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the real sets lie, and where everything is written."""

    real: Path
    out: Path

    @property
    def pretrained(self) -> Path:
        return self.real / FILE

    @property
    def toy_city(self) -> Path:
        return self.out / DRAWN.drawn

    def root(self, world: World) -> Path:
        """The folder of its sets."""
        return self.out / world.drawn if world.drawn else self.real

    @property
    def test_sets(self) -> list[str]:
        """Folders with images/test: sped_thumbs first, the others by name."""
        found = {path.parent.parent.name for path in self.real.glob("*/images/test")
                 if (path / "database").is_dir() and (path / "queries").is_dir()}
        return sorted(found, key=lambda name: (name != TEST_SET, name))

    @property
    def telling_sets(self) -> list[str]:
        """Test sets whose queries are enough to compare models by."""
        return [name for name in self.test_sets
                if sum(1 for _ in (self.real / name / "images/test/queries").iterdir()) >= ENOUGH_QUERIES]


MACHINE = ("--num_workers", "0", "--device", "cpu")


def images(model: Model, test_set: str, root: Path) -> Sequence[str]:
    """Words of any script that evaluates."""
    return ("--datasets_folder", str(root), "--dataset_name", test_set, "--resize", *2 * [str(model.size)],
            "--infer_batch_size", "64")


def subset_folder(place: Place, places: int, seed: int) -> Path:
    return place.out / f"{TRAINING_SET}-{places}places-seed{seed}"


def write_subset(place: Place, places: int, seed: int) -> None:
    """A training set of so many of the places, equally many of each city; its images are links."""
    folder, whole = subset_folder(place, places, seed), place.real / TRAINING_SET
    (folder / "Dataframes").mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    for city in CITIES:
        with (whole / "Dataframes" / f"{city}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        kept = {*draw.sample(sorted({row["place_id"] for row in rows}), places // len(CITIES))}
        table = folder / "Dataframes" / f"{city}.csv"
        with temporary_path(table) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(row for row in rows if row["place_id"] in kept)
    if not (folder / "Images").exists():
        (folder / "Images").symlink_to(whole / "Images")

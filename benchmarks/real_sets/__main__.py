"""A pre-trained backbone on small sets of real photographs: `python -m benchmarks.real_sets FOLDER [--out OUT]`.

FOLDER holds gsv_real_mini (cities SpedA and SpedB), sped_thumbs, deit_tiny/ with the official file, and further test
sets in the benchmark's layout; they are not part of the project. Trains and evaluates by the project's scripts: a
table of all kinds of descriptors, the paper's Tables IV, VII and XI in small, a learning curve over places, and what
the start of the adapters is worth. Writes them to OUT/real_sets.md, section by section. The same call resumes where it
was interrupted; real_sets.json has the recalls of every seed. Without deit_tiny/ only the rows that need no
pre-trained weights are measured.
"""

import dataclasses
import sys
from collections.abc import Iterator

import torch

from datasets.toy_city.city import build_toy_city
from utils.run import exit_with, hardware, versions

from ..paper.plan import AVERAGE, is_part
from ..paper.tables import TABLES
from . import page
from .measure import Row, Trainer, without_learning
from .plan import (
    CURVE,
    DRAWN,
    EPOCHS,
    FILE,
    HASHED_MODELS,
    HEAD_ALONE,
    OURS,
    OURS_BINARY,
    PLACED_MODELS,
    PLACES,
    RANDOM_BINARY,
    RANDOM_FLOAT,
    SALAD,
    SALAD_ALONE,
    SELAVPR,
    STARTS,
    TEST_SET,
    TRAINING_SET,
    TUNED_MODELS,
    WIDER_BINARY,
    Model,
    Place,
)
from .sections import Section, command_parser, measure, place_of

RANDOM_ROWS = [Row("random backbone, float", RANDOM_FLOAT),
               Row("random backbone, binary", RANDOM_BINARY, "first_stage"),
               Row("random backbone, binary, re-ranked by float", RANDOM_BINARY)]
ROWS = [Row("head alone", HEAD_ALONE), Row("side network, float", OURS),
        Row("side network, binary", OURS_BINARY, "first_stage"),
        Row("side network, binary, re-ranked by float", OURS_BINARY),
        Row("SALAD's head alone", SALAD_ALONE), Row("side network with SALAD's head, float", SALAD)]
PREDECESSOR_ROWS = [
    Row("SelaVPR, global descriptor alone", SELAVPR, "first_stage"),
    Row("SelaVPR, re-ranked by local features", SELAVPR),
    Row("SelaVPR++, resource (512-d), binary alone", OURS_BINARY, "first_stage"),
    Row("SelaVPR++, resource (512-d)", OURS_BINARY),
    Row("SelaVPR++, performance (768-d), binary alone", WIDER_BINARY, "first_stage"),
    Row("SelaVPR++, performance (768-d)", WIDER_BINARY)]
IN_SMALL = {"IV": TUNED_MODELS, "XI": HASHED_MODELS, "VII": PLACED_MODELS}
REFERENCE = {"IV": "MemEfficient-MCA", "VII": "Last 16", "XI": "SC hashing + STE"}
EPOCHS_OF_RANKS = (1, 2, 4)


def main(argv: list[str] | None = None) -> None:
    parser = command_parser("real_sets", __doc__)
    parser.add_argument("--start_seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4],
                        help="of the comparison of starts; default: 0 to 4")
    args = parser.parse_args(argv)
    place = place_of(parser, args, (f"{TRAINING_SET}/Dataframes", f"{TEST_SET}/images"))
    if not place.pretrained.is_file():
        print(f"{place.pretrained}: no such file; only rows without it are measured", file=sys.stderr)
    measure("real_sets", place, introduction(place),
            lambda trainer: sections(trainer, args.seeds, args.start_seeds), jobs=args.jobs)


def sections(trainer: Trainer, seeds: list[int], start_seeds: list[int]) -> Iterator[Section]:
    """Titles, and what gives their text once their trainings, which are queued here, are done."""
    pretrained, telling = trainer.place.pretrained.is_file(), trainer.place.telling_sets
    rows = [*RANDOM_ROWS, *(ROWS if pretrained else [])]
    trainer.ask(reversed(rows), seeds, test_sets=trainer.place.test_sets)
    over = f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"
    yield f"All kinds of descriptors, {over}", lambda: page.all_rows(
        without_learning(trainer.place), rows, trainer, seeds)
    if not pretrained:
        return
    arms = [Row(name, model) for name, model in STARTS.items()]
    trainer.ask(arms, start_seeds, test_sets=telling)
    yield f"What the start of the adapters is worth, {len(start_seeds)} paired seeds", lambda: page.starts(
        arms, trainer, start_seeds)
    states = [(name, epochs, Row(name, ended_after(epochs, model))) for name, model in STARTS.items()
              if "width 1" not in name for epochs in (*EPOCHS_OF_RANKS, EPOCHS)]
    trainer.ask([row for *_, row in states], start_seeds[:1], test_sets=[TEST_SET])
    yield f"Ranks of the reductions over the epochs, seed {start_seeds[0]}", lambda: page.ranks(
        states, trainer, start_seeds[0])
    for number, models in IN_SMALL.items():
        small = [Row(name, model) for name, model in models.items() if name != REFERENCE[number]]
        small.append(Row(REFERENCE[number], models[REFERENCE[number]]))
        trainer.ask(small, seeds, test_sets=telling)
        yield f"Table {number} in small: {TABLES[number].title}, {over}", lambda small=small, number=number: (
            page.beside_the_paper(small, printed(number), trainer, seeds))
    build_toy_city(trainer.place.toy_city, train_places=PLACES)
    for one in reversed(PREDECESSOR_ROWS):
        trainer.ask([one], seeds, test_sets=telling)
        trainer.ask([page.on_toy_city(one)], seeds, test_sets=[DRAWN.test])
    yield f"Beside SelaVPR, the predecessor, {over}", lambda: page.predecessor(PREDECESSOR_ROWS, trainer, seeds)
    points = {places: Row(str(places), model) for places, model in CURVE.items()}
    trainer.ask(points.values(), seeds, test_sets=telling)
    yield f"Learning curve over places, {over}", lambda: page.curve(points, trainer, seeds)


def ended_after(epochs: int, model: Model) -> Model:
    """The same training in its state after so many epochs: nothing in it depends on how many follow."""
    return model if epochs == model.epochs else dataclasses.replace(
        model, name=f"{model.name}-{epochs}epochs", epochs=epochs)


def printed(number: str) -> dict[str, float]:
    """The paper's R@1 by row, the mean over its data sets."""
    table = TABLES[number]
    at = [position for position, column in enumerate(table.columns)
          if column.measure == "R@1" and column.of != AVERAGE and not is_part(column.of)]
    return {row.name: sum(row.paper[position] for position in at) / len(at) for row in table.rows
            if all(row.paper[position] is not None for position in at)}


def introduction(place: Place) -> str:
    machine, software = hardware(torch.device("cpu")), versions()
    return (f"# A pre-trained backbone on small sets of real photographs\n\n"
            f"`python -m benchmarks.real_sets FOLDER` trains by the project's scripts, beside `{FILE}`, and "
            f"evaluates on {', '.join(place.test_sets)}: R@1 / R@5 / R@10 in percent. {machine['cores']} cores "
            f"({machine['cpu']}), torch {software['torch']}.\n")


if __name__ == "__main__":
    exit_with(main)

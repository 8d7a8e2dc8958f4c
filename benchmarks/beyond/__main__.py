"""Hard places, nested descriptors and students, each beside the paper's way:

    python -m benchmarks.beyond FOLDER [--out OUT]

FOLDER is that of benchmarks.real_sets. Trains by the project's scripts on its photographs and on a harder toy city,
which is drawn in OUT, and writes OUT/beyond.md, section by section. The same call resumes where it was interrupted;
beyond.json has the recalls of every seed.
"""

import itertools
import json
import statistics
from collections.abc import Callable, Iterator, Sequence

import torch

from datasets.toy_city.city import build_toy_city
from utils.compare import difference_over_seeds
from utils.run import exit_with, hardware, versions

from ..real_sets.measure import Recalls, Row, Trainer
from ..real_sets.page import interval_text, recalls_text
from ..real_sets.plan import FILE, PHOTOGRAPHS, TRAINING_SET
from ..real_sets.sections import Section, command_parser, measure, place_of
from ..report import table
from . import plan

SETS = ("harder city", PHOTOGRAPHS.test, *PHOTOGRAPHS.others)


def main(argv: list[str] | None = None) -> None:
    parser = command_parser("beyond", __doc__)
    args = parser.parse_args(argv)
    place = place_of(parser, args, (FILE, TRAINING_SET, *SETS[1:]))
    build_toy_city(place.out / plan.CITY.drawn, **plan.HARD_CITY)
    measure("beyond", place, introduction(args.seeds), lambda trainer: sections(trainer, args.seeds), jobs=args.jobs)


def sections(trainer: Trainer, seeds: Sequence[int]) -> Iterator[Section]:
    """Titles, and what gives their text once their trainings, which are queued here, are done."""
    ask(trainer, plan.PLACES_ROWS, seeds)
    trainer.ask(plan.SMALL_BATCH_ROWS, seeds, test_sets=[plan.CITY.test])
    yield "Hard places", lambda: paragraphs(
        compared(plan.PLACES_ROWS, trainer, seeds),
        f"The same in batches of {plan.SMALL_BATCH} places, in which those of one estate seldom meet by chance:",
        compared(plan.SMALL_BATCH_ROWS, trainer, seeds, sets=SETS[:1]),
        "How hard the batches were, and what that cost, over epochs and seeds:", mining(trainer, seeds))
    yield "Nested codes", nested(plan.code_rows, trainer, seeds, sets=SETS)
    trainer.ask(plan.STAGES_ROWS, seeds, test_sets=[plan.CITY.test])
    yield "In three stages", lambda: paragraphs(
        compared(plan.STAGES_ROWS, trainer, seeds, sets=SETS[:1]), bytes_read(trainer, seeds[0]))
    ask(trainer, plan.STUDENT_ROWS, seeds)
    ask(trainer, plan.LARGER_STUDENT_ROWS, seeds, sets=SETS[1:])
    sizes = [f"{size}x{size}" for model in (plan.STUDENT, plan.in_city(plan.STUDENT))
             for size in (model.size, model.start.size)]
    yield "Students", lambda: paragraphs(
        f"DeiT-Tiny at {sizes[0]} pixels, of a teacher at {sizes[1]}; in the city at {sizes[2]}, of {sizes[3]}. "
        "Queries by the student, database by its teacher, but where a row says otherwise; by labels both are the "
        "student's. Re-ranked:",
        compared(plan.STUDENT_ROWS, trainer, seeds),
        "By codes alone:", compared(plan.by_codes(plan.STUDENT_ROWS), trainer, seeds),
        f"Students at {plan.LARGER}x{plan.LARGER}, re-ranked:",
        compared(plan.LARGER_STUDENT_ROWS, trainer, seeds, sets=SETS[1:]),
        "By codes alone:", compared(plan.by_codes(plan.LARGER_STUDENT_ROWS), trainer, seeds, sets=SETS[1:]))
    yield "Nested float descriptors", nested(plan.float_rows, trainer, seeds, sets=SETS[1:])


def nested(rows_of: Callable[[int], list[Row]], trainer: Trainer, seeds: Sequence[int], *, sets: Sequence[str]
           ) -> Callable[[], str]:
    """Queues every length; a table of each."""
    for length in plan.LENGTHS:
        ask(trainer, rows_of(length), seeds, sets=sets)
    return lambda: paragraphs(*itertools.chain(*(
        (f"At {length}:", compared(rows_of(length), trainer, seeds, sets=sets)) for length in plan.LENGTHS)))


def paragraphs(*texts: str) -> str:
    return "\n\n".join(text.strip() for text in texts)


def ask(trainer: Trainer, rows: Sequence[Row], seeds: Sequence[int], *, sets: Sequence[str] = SETS) -> None:
    if SETS[0] in sets:
        trainer.ask([plan.row_in_city(row) for row in rows], seeds, test_sets=[plan.CITY.test])
    trainer.ask(rows, seeds, test_sets=SETS[1:])


def compared(rows: Sequence[Row], trainer: Trainer, seeds: Sequence[int], *, sets: Sequence[str] = SETS) -> str:
    """Recalls, and how far each R@1 is from the first row's, with its interval over seeds and queries."""
    lines = []
    for row in rows:
        cells = []
        for name in sets:
            (first, of), (own, _) = (at(one, name) for one in (rows[0], row))
            cells.append(recalls_text(recalls(own, of, trainer, seeds)))
            cells.append("" if row is rows[0] else interval_text(*difference_over_seeds(
                trainer.runs(first, seeds, of), trainer.runs(own, seeds, of), k=1, stage=row.stage)))
        lines.append((row.name, *cells))
    head = ["row", *(cell for name in sets for cell in (name, f"R@1 - {rows[0].name}"))]
    return table(head, lines, figures=len(head) - 1)


def at(row: Row, name: str) -> tuple[Row, str]:
    """The row and the test set that a column of this name is of."""
    if name != SETS[0]:
        return row, name
    return (row if row.model.world is plan.CITY else plan.row_in_city(row)), plan.CITY.test


def recalls(row: Row, test_set: str, trainer: Trainer, seeds: Sequence[int]) -> list[Recalls]:
    return [trainer.recalls(row, seed, test_set) for seed in seeds]


def bytes_read(trainer: Trainer, seed: int) -> str:
    """What a query reads, in the city and, by the same count, among a million images with 1,000 in the shortlist."""
    lines = []
    for row in plan.STAGES_ROWS:
        found = json.loads(trainer.results(row, seed, plan.CITY.test).read_text())
        bits, *shortlist = [*map(int, row.words[1:])] or [plan.LENGTHS[-1]]
        whole, floats = (found["bytes_per_image"][name] for name in ("binary", "float"))
        million = 10**6 * bits // 8 + (1000 * whole if shortlist else 0) + 100 * floats
        lines.append((row.name, f"{found['bytes_read_per_query']:,}", f"{million:,}"))
    return table(("search", "bytes a query reads", "among 1,000,000 images, 1,000 for 300"), lines, figures=2)


def mining(trainer: Trainer, seeds: Sequence[int]) -> str:
    """How hard the batches were and what finding them cost, over epochs and seeds."""
    lines = []
    for name, row in (("harder city", plan.row_in_city(plan.PLACES_ROWS[1])),
                      (f"the same, batches of {plan.SMALL_BATCH}", plan.SMALL_BATCH_ROWS[1]),
                      ("photographs", plan.PLACES_ROWS[1])):
        test_set = row.model.world.test
        epochs = [json.loads(line) for run in trainer.runs(row, seeds, test_set)
                  for line in (run / "metrics.jsonl").read_text().splitlines()]
        mined = [epoch["hard_places"] for epoch in epochs if "hard_places" in epoch]
        means = {key: statistics.mean(epoch[key] for epoch in mined) for key in mined[0]}
        lines.append((name, f"{means['nearest_bits']:.1f}", f"{means['papers_nearest_bits']:.1f}",
                      f"{means['seconds']:.2f} s", f"{100 * means['share_of_epoch']:.2f} %"))
    return table(("trained on", "bits to the nearest other place of the batch", "in the paper's batches", "mining",
                  "of an epoch's batches"), lines, figures=4)


def introduction(seeds: Sequence[int]) -> str:
    machine, software = hardware(torch.device("cpu")), versions()
    city = ", ".join(f"{name} {value}" for name, value in plan.HARD_CITY.items())
    return f"""# Beyond the paper: hard places, nested descriptors, students

`python -m benchmarks.beyond FOLDER` trains DeiT-Tiny with side networks (`{FILE}`) as `benchmarks.real_sets` does,
seeds {', '.join(map(str, seeds))}: on 300 places of photographs, tested on {' and '.join(SETS[1:])}, and on a harder
toy city, tested on its {plan.CITY.test}. R@1 +- its deviation over seeds / R@5 / R@10 in percent; beside it the
difference of R@1 to the first row and its 95 % interval over seeds and queries (`utils.compare`; of three seeds it is
somewhat too narrow). {machine['cores']} cores ({machine['cpu']}), torch {software['torch']}.

The toy city is harder in two ways ({city}): there are more places, and each set of
buildings stands at ten of them (an estate), more than 100 m apart in one city, which differ in doors, signs, balconies,
blind windows, and in what stands before and behind them.
"""


if __name__ == "__main__":
    exit_with(main)

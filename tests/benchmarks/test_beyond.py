"""What is measured beyond the paper: commands that the scripts take, and a page of made-up runs."""

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from scripts import error_of

from benchmarks.beyond import __main__ as command
from benchmarks.beyond import plan
from benchmarks.real_sets.page import recalls_text
from benchmarks.real_sets.plan import BACKBONE, Place
from benchmarks.report import PAGES, RESULTS
from model import ModelConfig
from utils.cli import distillation_parser, evaluation_parser, training_parser
from utils.cli.variants import chosen_fields

FLAGS = {"train.py": ((), ("float",)), "train_hashing.py": (("hashing",), ("binary",)),
         "train_rerank.py": (("hashing", "rerank"), ("float", "binary"))}
ROWS = [*plan.PLACES_ROWS, *plan.STUDENT_ROWS, *(row for length in plan.LENGTHS
                                                 for row in (*plan.code_rows(length), *plan.float_rows(length)))]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "real", tmp_path / "out")


@pytest.mark.parametrize("row", [*ROWS, *map(plan.row_in_city, ROWS), *plan.SMALL_BATCH_ROWS, *plan.STAGES_ROWS,
                                 *plan.LARGER_STUDENT_ROWS],
                         ids=lambda row: f"{row.model.name} {' '.join(row.words)}")
def test_the_scripts_take_every_command(row, place):
    for step in row.model.evaluation(0, "corridor", place, row.words).chain:
        script, *words = step.command
        if script == "-m":
            args = distillation_parser("").parse_args(words[1:])
            assert args.teacher == step.after.best_model and args.train_resize == [row.model.size] * 2
            assert any("test/database" in folder for folder in args.images) == row.model.mapped
        elif script.startswith("eval"):
            assert evaluation_parser("", flags=FLAGS[script.replace("eval", "train")][0]).parse_args(words).resume
        else:
            flags, branches = FLAGS[script]
            args = training_parser("", flags=flags).parse_args(words)
            chosen = chosen_fields(args.variant, args.set)
            if not args.resume:
                ModelConfig(backbone=BACKBONE, branches=branches, **chosen)


def test_rows_of_a_table_are_different_models():
    for rows in (plan.PLACES_ROWS, plan.SMALL_BATCH_ROWS, plan.STAGES_ROWS, *map(plan.code_rows, plan.LENGTHS),
                 *map(plan.float_rows, plan.LENGTHS)):
        assert len({(row.model, row.words) for row in rows}) == len({row.name for row in rows}) == len(rows)
    assert plan.SMALL_BATCH_ROWS[0].model.batch < plan.PLACES_ROWS[0].model.batch


class MadeUp:
    """In place of a Trainer: each row's R@1 is its place in the table, in quarters, of queries that seeds share."""

    def __init__(self, folder, rows):
        self.folder, self.right = folder, {row.name: number for number, row in enumerate(rows)}

    def runs(self, row, seeds, test_set):
        folders = []
        for seed in seeds:
            folder = self.folder / row.model.name / str(seed)
            folder.mkdir(parents=True, exist_ok=True)
            correct = np.arange(4)[:, None] < self.right[row.name]
            np.savez(folder / "predictions.npz", query_names=["a", "b", "c", "d"], database_names=["e"],
                     final_correct=correct, first_stage_correct=correct)
            (folder / "metrics.jsonl").write_text('{"epoch": 1}\n' + json.dumps({"hard_places": {
                "seconds": seed, "nearest_bits": 10 * seed, "papers_nearest_bits": 20, "share_of_epoch": 0.01}}) + "\n")
            folders.append(folder)
        return folders

    def recalls(self, row, seed, test_set):
        return [25.0 * self.right[row.name]] * 3


def test_a_table_tells_recalls_and_what_differs_from_its_first_row(tmp_path):
    rows, trainer = plan.PLACES_ROWS, MadeUp(tmp_path, plan.PLACES_ROWS)
    lines = command.compared(rows, trainer, (1, 2)).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [row.name for row in rows]
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert cells[1:] == ["25.0 +- 0.0 / 25.0 / 25.0", "+25.0 (+0.0 .. +75.0)"] * len(command.SETS)
    one = command.compared(rows, trainer, (1, 2), sets=command.SETS[:1]).splitlines()
    assert [line.count("|") for line in one] == [4] * len(one)


def test_what_mining_cost_is_the_mean_over_epochs_and_seeds(tmp_path):
    rows = [plan.row_in_city(plan.PLACES_ROWS[1]), plan.SMALL_BATCH_ROWS[1], plan.PLACES_ROWS[1]]
    for line in command.mining(MadeUp(tmp_path, rows), (1, 3)).splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1:] == [f"{statistics.mean((10, 30)):.1f}", "20.0", "2.00 s", "1.00 %"]


def test_bytes_that_a_query_reads(tmp_path):
    class Evaluated:
        def results(self, row, seed, test_set):
            (tmp_path / "results.json").write_text(json.dumps(
                {"bytes_read_per_query": 4321, "bytes_per_image": {"binary": 64, "float": 2048}}))
            return tmp_path / "results.json"

    lines = command.bytes_read(Evaluated(), 0).splitlines()[2:]
    assert [line.strip("| ").split(" | ")[1] for line in lines] == ["4,321"] * 3
    assert [line.strip("| ").split(" | ")[2] for line in lines] == ["64,204,800", "8,204,800", "8,268,800"]


def test_what_is_missing_is_one_line(tmp_path, capsys):
    said = error_of(command.main, tmp_path, capsys=capsys)
    assert str(tmp_path / "deit_tiny") in said and "expected FOLDER to hold deit_tiny" in said


CITY, *PHOTOGRAPHS = command.SETS
CODE_ROWS, FLOAT_ROWS = ([row for length in plan.LENGTHS for row in of(length)]
                         for of in (plan.code_rows, plan.float_rows))
ALIKE = ("by labels", "by its teacher", "teacher")  # rows of students that were measured in the city
MEASURED = {  # on either machine: rows, and the sets that they were measured on
    "beyond": [([*plan.PLACES_ROWS, *CODE_ROWS], command.SETS), (plan.STAGES_ROWS, [CITY]),
               ([row for row in (*plan.STUDENT_ROWS, *plan.by_codes(plan.STUDENT_ROWS)) if row.name in ALIKE], [CITY])],
    "beyond_epyc": [([*FLOAT_ROWS, *plan.STUDENT_ROWS, *plan.by_codes(plan.STUDENT_ROWS), *plan.LARGER_STUDENT_ROWS,
                      *plan.by_codes(plan.LARGER_STUDENT_ROWS)], PHOTOGRAPHS)],
}


@pytest.mark.parametrize("store", MEASURED)
def test_the_page_has_the_means_of_what_was_measured(store):
    """docs/benchmarks/beyond.md against the recalls of every seed in benchmarks/results."""
    text, samples = (PAGES / "beyond.md").read_text(), json.loads((RESULTS / f"{store}.json").read_text())
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    for row, of in ((row, of) for rows, sets in MEASURED[store] for row in rows for of in sets):
        own, test_set = command.at(row, of)
        name = Path(own.model.evaluation(0, test_set, Place(Path(), Path()), own.words).name).name
        what = {"train": f"toy_city/{test_set}" if own.model.world is plan.CITY else test_set}.get(name, name)
        seeds = [samples[f"{own.model.name}/seed{seed}/{what}"][row.stage] for seed in range(3)]
        assert any(found[0] == row.name and recalls_text(seeds) in found for found in cells), (row.name, of)

"""The paper's tables as commands: figures against the paper's own sums and prose, commands against the scripts'
parsers, and the runner with commands that are only pretended."""

import csv
import dataclasses
import io
import itertools
import json
import os
import re
import shlex
import signal
import statistics
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from scripts import FLAGS, evaluation_options, results, run_folder

import eval
import eval_rerank
import train
from benchmarks.paper import __main__ as program
from benchmarks.paper import counts, latency, runner, toy
from benchmarks.paper.measure import Measured, check, measure
from benchmarks.paper.plan import AVERAGE, SETS, Column, Evaluated, EvaluationSet, Settings, Training, published
from benchmarks.paper.report import as_csv, markdown
from benchmarks.paper.runner import Absent, Failed, Runner
from benchmarks.paper.tables import OTHERS, TABLES, Row, Table, find
from datasets import PROTOCOLS, read_folder
from model import ModelConfig, build_model, published_state_dict
from utils import cli
from utils.cli.variants import chosen_fields
from utils.data import as_dataset
from utils.device import best_precision
from utils.hub import HubOptions
from utils.run import exit_with

MODULES = {f"benchmarks.paper.{module.__name__.rpartition('.')[2]}": module for module in (counts, latency)}


def figures(number: str, row: str) -> dict[tuple[str, str], float]:
    """A row's printed figures by (data set, measure)."""
    found = next(found for found in TABLES[number].rows if found.name == row)
    return {column[:2]: value for column, value in zip(TABLES[number].columns, found.paper, strict=True)
            if value is not None}


def printed_rows(number: str) -> list[Row]:
    return [row for row in TABLES[number].rows if any(row.paper)]


def printed_columns(number: str) -> list[Column]:
    return [column for column, *values in zip(TABLES[number].columns, *(row.paper for row in TABLES[number].rows),
                                              strict=True) if any(values)]


class Pretend:
    """Stands for running a command: notes it, and writes what a script would; recalls are `recall` for every k."""

    def __init__(self, recall: float | Callable[[list[str]], float] = 50.0, n_queries=None, failing="", interrupted=""):
        self.recall, self.n_queries, self.failing, self.interrupted = recall, n_queries, failing, interrupted
        self.calls: list[list[str]] = []

    @property
    def trainings(self) -> list[list[str]]:
        return [words for words in self.calls if Path(words[0]).name.startswith("train")]

    def __call__(self, words: list[str], folder: Path) -> Path:
        self.calls.append(words)
        assert folder.is_dir()
        line, trains = " ".join(words), Path(words[0]).name.startswith("train")
        run = folder / ("logs" if trains else "test") / "default" / f"run{len(self.calls)}"
        run.mkdir(parents=True)
        if trains:
            (run / "last_model.pth").touch()
        if self.interrupted and self.interrupted in line:
            raise KeyboardInterrupt
        if self.failing and self.failing in line:
            raise Failed("exit code 1: error: the loss is not finite")
        if trains:
            (run / "best_model.pth").touch()
        recall = self.recall(words) if callable(self.recall) else self.recall
        name = words[words.index("--dataset_name") + 1] if "--dataset_name" in words else ""
        protocol = PROTOCOLS.get(name, PROTOCOLS["pitts30k"])
        recalls = {str(k): recall for k in (1, 5, 10, 20, 100)}
        (run / "results.json").write_text(json.dumps({
            "recalls": {"first_stage": recalls, "final": recalls}, "parts": {},
            "n_queries": self.n_queries or protocol.n_queries, "n_database": protocol.n_database,
            "training": {"trainable_parameters": 2_000_000, "peak_memory_mib": 512.0, "minutes_per_epoch": 7.5}}))
        return run / "results.json"


@pytest.fixture
def sets(tmp_path):
    """Empty folders where all data lie."""
    folder = tmp_path / "data"
    for known in (*SETS.values(), SETS["Pitts30k-test"]._replace(split="val")):
        for side in ("database", "queries"):
            first = [*known.folders, known.name][0]
            (folder / first / "images" / known.split / side).mkdir(parents=True, exist_ok=True)
    for name in ("gsv_cities", "unified_dataset"):
        (folder / name / "Dataframes").mkdir(parents=True)
    return folder


def pretended(execute: Callable, obtain: Callable = lambda weights: None):
    """`execute` runs the commands and `obtain` gets the weights in this context."""
    return mock.patch.multiple(runner, run_command=execute, obtain_weights=obtain)


@pytest.fixture
def call(capsys, monkeypatch):
    """Exit code, stdout and stderr of the program with pretended commands."""
    monkeypatch.delenv("DATASETS_FOLDER", raising=False)

    def called(*words: object, execute: Pretend | None = None, obtain=lambda weights: None) -> tuple[int, str, str]:
        with pretended(execute or Pretend(), obtain), pytest.raises(SystemExit) as stop:
            exit_with(lambda: program.main([str(word) for word in words]))
        return stop.value.code, *capsys.readouterr()

    return called


def run_table(table: Table | str, settings: Settings, execute: Callable, seeds=(0,), **more) -> list[Measured]:
    with pretended(execute):
        return list(measure(TABLES.get(table, table), seeds=seeds, settings=settings, runner=Runner(), **more))


NORDLAND = Column("Nordland", "R@1")


# The figures

MISPRINTED = {("VII", "Every 6", "R@5")}  # the four sets give 97.475, the paper prints 97.6


@pytest.mark.parametrize("number", ["II", "VII", "XI"])
def test_averages_are_those_of_the_printed_columns(number):
    wrong = set()
    for row in TABLES[number].rows:
        for (of, measure_), average in figures(number, row.name).items():
            parts = [value for (other, same), value in figures(number, row.name).items()
                     if same == measure_ and other != AVERAGE]
            if of == AVERAGE and abs(statistics.mean(parts) - average) > 0.0501:
                wrong.add((number, row.name, measure_))
    assert wrong == {entry for entry in MISPRINTED if entry[0] == number}


@pytest.mark.parametrize("number", [name for name in TABLES if name not in ("I", "VI", "IX")])
def test_recalls_grow_with_k_and_are_percentages(number):
    for row, of in itertools.product(printed_rows(number), {column.of for column in printed_columns(number)}):
        values = [value for (name, _), value in figures(number, row.name).items() if name == of]
        assert values == sorted(values)
        assert values[0] > 0 and values[-1] <= 100


def test_rows_that_are_one_model_have_one_set_of_figures():
    def same(first, second):
        shared = first.keys() & second.keys()
        assert len(shared) >= 8
        return all(first[key] == second[key] for key in shared)

    assert same(figures("II", "SelaVPR++ (resource)"), figures("VIII", "Our re-ranking, DINOv2-B"))
    assert same(figures("II", "SelaVPR++ (performance)"), figures("VIII", "Our re-ranking, DINOv2-L"))
    assert same(figures("X", "Top-100"), figures("VIII", "Our re-ranking, DINOv2-L"))
    assert same(figures("IV", "MemEfficient-MCA"), figures("XII", "GSV-Cities, DINOv2-B"))
    assert same(figures("VII", "Last 16"), figures("XII", "Unified dataset, DINOv2-L"))
    for letter, dim in (("B", 2048), ("L", 4096)):
        of_float, binary, reranked = (figures("VIII", f"{row}, DINOv2-{letter}")
                                      for row in (f"Float ({dim}D)", "Binary (512D)", "Our re-ranking"))
        assert same(of_float, figures("XII", f"Unified dataset, DINOv2-{letter}"))
        assert all(reranked[column[:2]] == binary[column[:2]] for column in printed_columns("VIII")
                   if column.measure == "R@100")


def test_figures_are_those_of_the_papers_prose():
    def gains(number, better, worse):
        first, second = figures(number, better), figures(number, worse)
        return [round(first[of, "R@1"] - second[of, "R@1"], 1)
                for of in ("Pitts30k-test", "MSLS-val", "Tokyo24/7", "Nordland")]

    # "the R@1 margins on Pitts30k, MSLS-val, Tokyo247, and Nordland are 4.3%, 4.2%, 6.3%, and 16.3%"
    assert gains("VIII", "Float (2048D), DINOv2-B", "Binary (512D), DINOv2-B") == [4.3, 4.2, 6.3, 16.3]
    # "on Pitts30k, Tokyo24/7, MSLS-val, and Nordland are 0.7%, 0.6%, 1.7%, and 13.4%"
    assert gains("XII", "Unified dataset, DINOv2-B", "GSV-Cities, DINOv2-B") == [0.7, 1.7, 0.6, 13.4]
    # "by 5.9% for the average R@1 of five datasets"
    ours, before = (figures("II", row)[AVERAGE, "R@1"] for row in ("SelaVPR++ (performance)", "SelaVPR"))
    assert round(ours - before, 1) == 5.9
    # "the training time is 16.3% less than Partial-tuning"; "consumes only 6.85 min/epoch"
    minutes = {row.name: row.paper[0] for row in TABLES["VI"].rows}
    ratio = minutes["MemEfficient-MCA(4), DINOv2-L"] / minutes["Partial-tuning, DINOv2-L"]
    assert round(100 - 100 * ratio, 1) == 16.3
    assert minutes["MemEfficient-MCA, DINOv2-B"] == 6.85
    # "it is still 3.89ms", "more than 60 times faster", "6000x speedup over TransVPR"
    ms = {row.name: row.paper for row in TABLES["IX"].rows}
    assert ms["Float (512D)"][2] == 3.89
    assert ms["Float (4096D)"][2] / ms["SelaVPR++ (performance)"][2] > 60
    assert ms["TransVPR"][2] / ms["SelaVPR++ (performance)"][2] > 6000
    assert all(abs(initial + (rerank or 0) - total) < 0.006 for initial, rerank, total, *_ in ms.values())
    # Section IV-A and Table I
    assert [row.paper for row in TABLES["I"].rows] == [
        (10000, 6816), (18871, 740), (38770, 27092), (75984, 315), (27592, 27592)]


def test_there_are_all_rows_and_figures_of_all_tables():
    assert {name: len(printed_rows(name)) for name in TABLES} == {
        "I": 5, "II": 14, "III": 8, "IV": 6, "V": 6, "VI": 11, "VII": 9, "VIII": 6, "IX": 8, "X": 4, "XI": 5, "XII": 4}
    assert sum(value is not None for table in TABLES.values() for row in table.rows for value in row.paper) == 790
    assert {(name, row.name) for name, table in TABLES.items() for row in table.rows if row.how is None} == {
        ("I", "MSLS-challenge"), ("IX", "TransVPR"),
        *(("II", name) for name in ("Patch-NetVLAD", "TransVPR", "SelaVPR", "NetVLAD", "MixVPR", "SALAD-CM")),
        *(("III", name) for name in ("SelaVPR", "MixVPR", "SALAD-CM"))}
    assert find("xi") is find("11") is TABLES["XI"]
    with pytest.raises(ValueError, match="XIII"):
        find("XIII")
    for table in TABLES.values():
        assert len({row.name for row in table.rows}) == len(table.rows)
        assert {len(row.paper) for row in table.rows} == {len(table.columns)}
    assert [row.name for row in TABLES["XI"].rows if not any(row.paper)] == [
        "LC hashing, Gaussian error", "SC hashing + STE, 1/5 of the pairs"]


# The commands

def printed_commands(out: str) -> list[list[str]]:
    """Words behind `python` of what a dry run printed."""
    lines = [shlex.split(line) for line in out.splitlines() if not line.startswith("#")]
    return [line[line.index("python") + 1:] for line in lines]


def parsed(words: list[str]):
    """What the called program's own parser makes of it."""
    if words[0] == "-m":
        return MODULES[words[1]].parser().parse_args(words[2:])
    assert Path(words[0]).is_file()
    script = Path(words[0]).name
    parser = cli.training_parser if script.startswith("train") else cli.evaluation_parser
    return parser("", flags=FLAGS[script]).parse_args(words[1:])


def test_every_command_is_one_that_its_script_takes(tmp_path, call):
    asked = [["table", number, *more] for number in TABLES for more in (["--seeds", 0, 3], ["--check"])] + [["toy"]]
    lines = [words for of in asked for words in printed_commands(call(*of, "--dry_run", "--out", tmp_path)[1])]
    lines = [words for words in lines if words[1] != "datasets.toy_city"]
    assert len(lines) > 150
    variants = set()
    for options in map(parsed, lines):
        if "variant" in options:
            fields = chosen_fields(options.variant, options.set)
            if options.backbone:  # else the file of --resume has it
                ModelConfig(backbone=options.backbone, branches=("float",), **fields)
            variants.add(options.variant)
    assert variants == {None, "freezing", "full", "partial", "selavpr-global", "side-vanilla", "all", "every-2",
                        "every-3", "every-6", "last-12", "last-8", "last-4", "direct", "lc", "lc-error", "sc", "ste",
                        "sc-ste"}


SETTINGS = {  # backbone, training set, places a batch, epochs, script, as the captions and section IV-D have them
    "IV": {("dinov2-base", "gsv_cities", 120, 25, "train.py")},
    "V": {("dinov2-large", "gsv_cities", 60, 25, "train.py")},
    "VI": {("dinov2-base", "gsv_cities", 40, 1, "train.py"), ("dinov2-large", "gsv_cities", 40, 1, "train.py")},
    "VII": {("dinov2-large", "unified_dataset", 120, 25, "train.py")},
    "XI": {("dinov2-base", "gsv_cities", 120, 25, "train_hashing.py")},
    "XII": {(f"dinov2-{size}", name, 120, 25, "train.py") for size in ("base", "large")
            for name in ("gsv_cities", "unified_dataset")},
}


@pytest.mark.parametrize("number", TABLES)
def test_trainings_have_the_papers_settings(number, tmp_path, call):
    _, out, _ = call("table", number, "--dry_run", "--out", tmp_path, "--device", "cuda")
    found = set()
    for words in printed_commands(out):
        if Path(words[0]).name.startswith("train"):
            options = parsed(words)
            assert (options.lr, options.lr_halving, options.patience, options.device) == (4e-4, 3, 12, "cuda")
            assert (options.train_resize, options.resize) == (None, None)  # the protocol's
            found.add((options.backbone, options.training_dataset, options.train_batch_size, options.epochs_num,
                       Path(words[0]).name))
    assert found == SETTINGS.get(number, set())


def test_rows_of_published_files_take_the_right_file_and_stage(tmp_path):
    settings = Settings(out=tmp_path, datasets_folder=Path("data"))
    got = {}
    for row in TABLES["VIII"].rows:
        step, keys = row.how.cell(Column("Nordland", "R@100"), 0, settings)
        got[row.name] = (step.command[0], step.command[2], keys)
    assert got == {
        "Binary (512D), DINOv2-B": ("eval_rerank.py", "dinov2-base", ("recalls", "first_stage", "100")),
        "Float (2048D), DINOv2-B": ("eval.py", "dinov2-base", ("recalls", "final", "100")),
        "Our re-ranking, DINOv2-B": ("eval_rerank.py", "dinov2-base", ("recalls", "final", "100")),
        "Binary (512D), DINOv2-L": ("eval_rerank.py", "dinov2-large", ("recalls", "first_stage", "100")),
        "Float (4096D), DINOv2-L": ("eval.py", "dinov2-large", ("recalls", "final", "100")),
        "Our re-ranking, DINOv2-L": ("eval_rerank.py", "dinov2-large", ("recalls", "final", "100")),
    }


def test_published_files_stand_for_the_trainings_that_gave_them():
    found = {(number, row.name): row.how.untrained.model for number, table in TABLES.items() for row in table.rows
             if isinstance(row.how, Evaluated) and not row.how.model.published and row.how.untrained}
    assert found == {("VII", "Last 16"): published("dinov2-large", "float"),
                     ("XII", "Unified dataset, DINOv2-B"): published("dinov2-base", "float"),
                     ("XII", "Unified dataset, DINOv2-L"): published("dinov2-large", "float")}
    reranking = published("dinov2-base", "rerank")
    assert Evaluated(dataclasses.replace(reranking, published=False)).untrained == Evaluated(reranking)
    assert reranking.published_config == ModelConfig(backbone="dinov2-base", branches=("float", "binary"))


def test_depths_share_one_extraction_of_the_right_split(sets, tmp_path, call):
    lines = printed_commands(call("table", "X", "--dry_run", "--datasets_folder", sets, "--out", tmp_path)[1])
    found = {(options.dataset_name, options.split, options.rerank_num): options.index for options in map(parsed, lines)}
    names = [("pitts30k", "test"), ("msls_val_740", "val"), ("tokyo247", "test"), ("nordland_27592_w2s_10f", "test")]
    assert list(found) == [(*name, depth) for depth in (20, 50, 100, 200) for name in names]
    assert all(len({found[*name, depth] for depth in (20, 50, 100, 200)}) == 1 for name in names)
    assert len(set(found.values())) == 4

    def by_depth(words):
        return int(words[words.index("--rerank_num") + 1]) / 10

    rows = run_table("X", Settings(out=tmp_path, datasets_folder=sets), Pretend(by_depth))
    assert [row.mean(NORDLAND) for row in rows] == [2.0, 5.0, 10.0, 20.0]
    lines = printed_commands(call("table", "X", "--toy", "--dry_run", "--out", tmp_path)[1])
    assert sum("--rerank_num" in words for words in lines) == 2 * 4  # also on the set that training evaluates


def test_a_file_in_the_weights_folder_is_named_and_others_are_fetched(tmp_path):
    (tmp_path / "SelaVPRplusplus_base_rerank.pth").touch()
    (tmp_path / "dinov2_vitb14_pretrain.pth").touch()
    settings = Settings(out=tmp_path / "out", datasets_folder=Path("data"), weights_folder=tmp_path)
    resource, performance = (row.how.cell(NORDLAND, 0, settings)[0] for row in TABLES["II"].rows[-2:])
    assert resource.command[3:5] == ("--resume", str(tmp_path / "SelaVPRplusplus_base_rerank.pth"))
    assert resource.weights is None and "--resume" not in performance.command
    assert performance.weights == ModelConfig(backbone="dinov2-large", branches=("float", "binary"))
    freezing, large = (TABLES[number].rows[0].how.cell(PITTS, 0, settings)[0] for number in ("IV", "V"))
    assert freezing.command[3:5] == ("--foundation_model_path", str(tmp_path / "dinov2_vitb14_pretrain.pth"))
    assert (large.weights, "--foundation_model_path" in large.command) == ("dinov2-large", False)


def test_a_dry_run_prints_a_commented_line_for_each_command_and_touches_nothing(tmp_path, call):
    execute, words = Pretend(), ["table", "XI", "--seeds", "0", "1", "--dry_run", "--out", tmp_path / "out"]
    for asked in (words, ["toy", "--dry_run", "--out", tmp_path / "out"]):
        code, out, _ = call(*asked, execute=execute)
        lines = out.splitlines()
        assert code == 0 and not (tmp_path / "out").exists() and not execute.calls
        assert all(lines[i - 1].startswith("#") for i, line in enumerate(lines) if not line.startswith("#"))
    out = call(*words)[1]
    found = [line for line in out.splitlines() if not line.startswith("#")]
    assert len(found) == len(set(found)) == 7 * 2 * 4 and sum("train_hashing.py" in line for line in found) == 7 * 2
    assert f"# Table XI, LC hashing; in {tmp_path}/out/hashing-dinov2-base-gsv_cities-lc/seed1/train-" in out
    out = call("table", "II", "--dry_run", "--out", tmp_path / "out")[1]
    assert "# Table II, NetVLAD; not measured: the paper's figures alone" in out
    assert ("# Table II, SALAD; not measured: Pitts30k-test: quoted; --others evaluates torch.hub "
            "serizba/salad:dinov2_salad\n") in out
    assert "--dataset_name msls_test --split test" in out
    out = call("table", "VIII", "--dry_run", "--out", tmp_path / "out")[1]
    assert out.count("# Table VIII, Our re-ranking, DINOv2-B; shares ") == 4


# The runner

def test_rows_and_tables_that_share_a_training_train_once(sets, tmp_path):
    settings, execute = Settings(out=tmp_path / "out", datasets_folder=sets), Pretend()
    for number in ("IV", "VII", "XII", "XII"):
        run_table(number, settings, execute)
    assert len(execute.trainings) == 6 + 9 + 2  # of Table XII two are Table IV's and VII's
    assert len(execute.calls) == 17 * 4  # the training itself is the evaluation on Pitts30k
    execute = Pretend()
    # Binary, re-ranked and Table II's rows are one, which has the challenge beside the four sets.
    for number, calls in (("VIII", 2 * 2 * 4), ("II", 2), ("X", 4 * 4)):
        before = len(execute.calls)
        run_table(number, settings, execute)
        assert len(execute.calls) - before == calls


def test_seeds_train_anew_and_published_files_are_evaluated_once(sets, tmp_path):
    settings, execute = Settings(out=tmp_path / "out", datasets_folder=sets), Pretend()
    rows = run_table("XI", settings, execute, seeds=(0, 1, 2))
    assert sorted(words[words.index("--seed") + 1] for words in execute.trainings) == sorted("012" * 7)
    assert {len(row.values[column]) for row in rows for column in printed_columns("XI")} == {3}
    assert len(run_table("II", settings, execute, seeds=(0, 1))[-1].values[NORDLAND]) == 1


def test_an_interrupted_training_is_resumed_and_what_is_done_is_skipped(sets, tmp_path):
    settings, stopped = Settings(out=tmp_path / "out", datasets_folder=sets), Pretend(interrupted="--variant sc ")
    with pytest.raises(KeyboardInterrupt):
        run_table("XI", settings, stopped)
    assert len(stopped.calls) == 2 * 4 + 1
    (state,) = settings.out.glob("*-sc/**/last_model.pth")
    older = state.parents[1] / "an_older_run" / "last_model.pth"  # which an earlier interruption left
    older.parent.mkdir()
    older.touch()
    os.utime(older, (0, 0))
    again = Pretend()
    run_table("XI", settings, again)
    first = again.calls[0]
    assert first[-2:] == ["--resume", str(state)] and first.count("--resume") == 1
    assert "--foundation_model_path" not in first and "sc" in first
    assert len(again.calls) == 5 * 4
    run_table("XI", settings, again)
    assert len(again.calls) == 5 * 4
    (model,) = settings.out.glob("*-sc/seed0/train-*/best_model.pth")
    model.resolve().unlink()
    run_table("XI", settings, again)
    assert len(again.calls) == 5 * 4 + 1 and model.is_file()  # it is trained anew


def test_resuming_leaves_out_what_the_training_began_with(tmp_path):
    step = toy.toy_table(TABLES["VIII"]).rows[0].how.cell(PITTS, 0, toy.toy_settings(tmp_path))[0]
    assert Path(step.argv()[0]).name == "train_rerank.py"
    assert step.command[1:3] == ("--resume", str(step.after.best_model))
    words = step.argv(resume=Path("last_model.pth"))
    assert words.count("--resume") == 1 and words[words.index("--resume") + 1] == "last_model.pth"
    words = step.after.argv(resume=Path("last_model.pth"))
    assert "--foundation_model_path" not in words and "random" not in words
    assert words[1:3] == ["--backbone", "dinov2-tiny"]


def test_done_is_only_the_same_command_with_its_results(sets, tmp_path):
    settings, execute = Settings(out=tmp_path / "out", datasets_folder=sets), Pretend()
    run_table("III", settings, execute)
    assert len(execute.calls) == 7
    marks = sorted(settings.out.rglob("done.json"))
    marks[0].write_text("{")
    (marks[1].parent / json.loads(marks[1].read_text())["results"]).unlink()
    run_table("III", settings, execute)
    assert len(execute.calls) == 7 + 2
    machine = ("--device", "cuda", "--num_workers", "3")
    run_table("III", Settings(out=settings.out, datasets_folder=sets, machine=machine), execute)
    assert len(execute.calls) == 7 + 2  # on another machine it is the same command
    run_table("III", Settings(out=settings.out, datasets_folder=sets.rename(tmp_path / "other")), execute)
    assert len(execute.calls) == 7 + 2 + 7


def test_a_failing_command_is_named_and_the_others_go_on(sets, tmp_path, call):
    execute = Pretend(failing="--variant full ")
    code, out, err = call("table", "IV", "--datasets_folder", sets, "--out", tmp_path / "out", execute=execute)
    assert code == 1
    (line,) = [line for line in err.splitlines() if "failed" in line]
    assert "Table IV: failed: Full-tuning: float-dinov2-base-gsv_cities-full/seed0/train-" in line
    assert "the loss is not finite" in line
    assert len(execute.trainings) == 6  # it was tried once, and its evaluations not at all
    page = Path(out.splitlines()[-1])
    assert page == tmp_path / "out" / "table_IV.md" and "the loss is not finite" in page.read_text()
    assert "| Partial-tuning | Nordland | R@1 / R@5 | 50.0 / 50.0 | 77.4 / 88.5 | -27.4 / -38.5 |" in page.read_text()


def test_absent_data_and_weights_are_named_and_are_no_failures(sets, tmp_path, call):
    (sets / "tokyo247").rename(tmp_path / "elsewhere")

    def obtain(weights):
        return "cannot fetch SelaVPRplusplus_base_rerank.pth" if weights.backbone == "dinov2-base" else None

    execute = Pretend()
    code, _, err = call("table", "II", "--datasets_folder", sets, "--out", tmp_path / "out", execute=execute,
                        obtain=obtain)
    said = [line.partition("not measured: ")[2] for line in err.splitlines() if "not measured" in line]
    assert code == 0 and len(execute.calls) == 4  # large, on the four sets that are there
    assert ("SelaVPR++ (resource) (Pitts30k-test, MSLS-val, MSLS-val, also within 40 degrees, MSLS-challenge, "
            "Nordland): cannot fetch SelaVPRplusplus_base_rerank.pth") in said
    assert (f"SelaVPR++ (resource) (Tokyo24/7), SelaVPR++ (performance) (Tokyo24/7): "
            f"{sets}/tokyo247/images/test/database: no such folder") in said
    assert any(line.startswith("Patch-NetVLAD, TransVPR, ") for line in said)


def test_a_command_that_fails_says_why_and_one_that_ends_well_names_its_results(tmp_path, capfd):
    noise = ("import sys; print('2026-11-21 06:31:02 error: --x 3: no', file=sys.stderr); "
             "print('bye', file=sys.stderr); ")
    with pytest.raises(Failed, match=r"^exit code 2: error: --x 3: no$"):
        runner.run_command(["-c", noise + "sys.exit(2)"], tmp_path)
    with pytest.raises(Failed, match=r"^exit code 1: ZeroDivisionError: "):
        runner.run_command(["-c", "1 / 0"], tmp_path)
    with pytest.raises(Failed, match="names no results: 'nowhere'"):
        runner.run_command(["-c", "print('nowhere')"], tmp_path)
    good = ("import pathlib, benchmarks.paper; "  # whose folder is not this one
            "pathlib.Path('results.json').touch(); print('first'); print('results.json')")
    assert runner.run_command(["-c", good], tmp_path) == tmp_path / "results.json"
    assert "--x 3: no" in capfd.readouterr().err


def test_ctrl_c_waits_for_the_command_and_urges_it_where_it_did_not_hear(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "PATIENCE_S", 0.2)
    code = ("import pathlib, sys, time\ntry:\n pathlib.Path('started').touch(); time.sleep(30)\n"
            "except KeyboardInterrupt:\n pathlib.Path('cleared_up').touch()")

    def press():
        while not (tmp_path / "started").exists():
            threading.Event().wait(0.02)
        os.kill(os.getpid(), signal.SIGINT)  # this process alone, as `kill` does

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        runner.run_command(["-c", code], tmp_path)
    thread.join()
    assert (tmp_path / "cleared_up").exists()


# Reports and checks

PITTS, MSLS = Column("Pitts30k-test", "R@1"), Column("MSLS-val", "R@1")
LITTLE = Table(number="Q", title="Little",
               columns=tuple(Column(of, f"R@{k}") for of in ("Pitts30k-test", "MSLS-val", AVERAGE) for k in (1, 5)),
               rows=(Row("ours", (90, 95, 80, 85, 85, 90)), Row("theirs", (1, 2, 3, 4, 2, 3))))


def measured(name: str, *seeds: dict[Column, float]) -> Measured:
    result = Measured.of(name, LITTLE)
    for values in seeds:
        result.add(values)
    result.counts = {"Pitts30k-test": (10_000, 6816), "MSLS-val": (18_871, 740)}
    return result


def test_means_deviations_and_differences():
    row = measured("ours", {PITTS: 91.0, MSLS: 79.0}, {PITTS: 94.0, MSLS: 80.0}, {PITTS: 95.0})
    other = measured("theirs")
    assert row.mean(PITTS) == pytest.approx(280 / 3)
    assert row.deviation(PITTS) == pytest.approx(np.std([91, 94, 95], ddof=1))
    assert row.difference(PITTS) == pytest.approx(280 / 3 - 90)
    # An average belongs to a seed, and needs all sets.
    assert row.values[Column(AVERAGE, "R@1")] == [85.0, 87.0]
    assert row.mean(Column("MSLS-val", "R@5")) is None and row.deviation(Column("MSLS-val", "R@5")) is None
    assert measured("ours", {PITTS: 91.0}).deviation(PITTS) is None
    page = markdown(LITTLE, [row, other])
    assert "| ours | Pitts30k-test | R@1 / R@5 | 93.3 +- 2.1 / - | 90.0 / 95.0 | +3.3 / - |" in page
    assert "| ours | MSLS-val | R@1 / R@5 | 79.5 +- 0.7 / - | 80.0 / 85.0 | -0.5 / - |" in page
    assert "| theirs | Average | R@1 / R@5 | - | 2.0 / 3.0 | - |" in page
    lines = list(csv.DictReader(io.StringIO(as_csv(LITTLE, [row, other]))))
    assert len(lines) == 12 and lines[0]["of"] == "Pitts30k-test" and lines[0]["seeds"] == "3"
    assert float(lines[0]["measured"]) == pytest.approx(280 / 3)
    assert float(lines[0]["difference"]) == pytest.approx(10 / 3)
    assert [lines[1][field] for field in ("measured", "sd", "paper", "difference")] == ["", "", "95", ""]


@pytest.mark.parametrize(("column", "paper", "by", "differs"), [
    (PITTS, 90, 0.1, False), (PITTS, 90, 0.102, True), (PITTS, 90, -0.102, True),  # 0.1 point
    (MSLS, 80, 100 / 740, False), (MSLS, 80, -100 / 740, False), (MSLS, 80, 0.137, True)])  # one of 740 queries
def test_a_recall_may_differ_by_a_tenth_or_a_query(column, paper, by, differs):
    compared, lines = check(LITTLE, [measured("ours", {column: paper + by})])
    assert compared == 1
    assert [line.partition(":")[0] for line in lines] == ([f"ours, {column.of} R@1"] if differs else [])


def test_counts_may_not_differ_and_averages_are_not_checked(sets, tmp_path):
    assert check(LITTLE, [measured("ours", {PITTS: 90.0, MSLS: 80.0})]) == (2, [])
    rows = run_table("I", Settings(out=tmp_path, datasets_folder=sets), Pretend(n_queries=6816), checking=True)
    compared, lines = check(TABLES["I"], rows)
    assert compared == 8 and not any("Pitts30k" in line for line in lines)
    rows = run_table("I", Settings(out=tmp_path / "b", datasets_folder=sets), Pretend(n_queries=6817), checking=True)
    assert any(line.startswith("Pitts30k-test, Number queries: 6817.00, paper 6816")
               for line in check(TABLES["I"], rows)[1])


def papers_recall(words: list[str]) -> float:
    """The paper's R@1 on the sets of Table III."""
    name = words[words.index("--dataset_name") + 1]
    return {"sped": 92.9, "eynsham": 92.5, "svox_night": 98.4, "svox_rain": 99.0, "svox_overcast": 98.7}.get(name, 1.0)


def test_check_passes_fails_and_says_when_it_checked_nothing(sets, tmp_path, call):
    options = ("--datasets_folder", sets, "--check", "--out")
    code, _, err = call("table", "III", *options, tmp_path / "a", execute=Pretend(papers_recall))
    assert code == 0 and "5 figures checked, 0 differ" in err
    wrong = Pretend(lambda words: papers_recall(words) - ("svox_rain" in words))
    code, out, err = call("table", "III", *options, tmp_path / "b", execute=wrong)
    assert code == 1 and "5 figures checked, 1 differ" in err
    assert "Table III: SelaVPR++, SVOX-Rain R@1: 98.000, paper 99.0 (allowed: 0.107)" in err
    assert "98.000" in Path(out.split()[-1]).read_text()
    execute = Pretend()
    code, _, err = call("table", "XI", *options, tmp_path / "c", execute=execute)
    assert code == 1 and "nothing could be checked" in err and not execute.calls
    call("table", "XII", *options, tmp_path / "d", execute=execute)
    assert len(execute.calls) == 8 and {Path(words[0]).name for words in execute.calls} == {"eval.py"}  # published


def test_costs_are_in_the_tables_units(sets, tmp_path):
    rows = run_table("VI", Settings(out=tmp_path, datasets_folder=sets), Pretend())
    assert [rows[0].mean(column) for column in TABLES["VI"].columns] == [7.5, 2.0, 0.5]
    assert rows[0].difference(TABLES["VI"].columns[0]) == pytest.approx(7.5 - 6.75)


def test_a_warning_of_an_evaluation_stands_on_the_page(sets, tmp_path):
    """A set that is not the protocol's, and a backbone that knows nothing, must not pass for a row of the paper."""
    class Small(Pretend):
        def __call__(self, words: list[str], folder: Path) -> Path:
            path = super().__call__(words, folder)
            random = "gsv_cities" in " ".join(words) or "gsv_cities" in str(folder)
            path.write_text(json.dumps({**json.loads(path.read_text()), "model": {"pretrained": not random},
                                        "benchmark": {"warnings": ["20 database images; the protocol has 27,592"]}}))
            return path

    settings = Settings(out=tmp_path, datasets_folder=sets)
    page = markdown(TABLES["XII"], run_table("XII", settings, Small()))
    for of in ("Pitts30k-test", "Nordland"):
        assert page.count(f"* {of}: 20 database images; the protocol has 27,592\n") == 1
    names = ", ".join(row.name for row in TABLES["XII"].rows if row.name.startswith("GSV"))
    why = page.partition("Not comparable with the paper's:\n")[2].partition("\nRemarks:")[0]
    assert names and why.count(f"* {names}: the backbone's weights are random, not pre-trained\n") == 1
    for name, shown in (("GSV-Cities, DINOv2-L", "not comparable"), ("Unified dataset, DINOv2-L", "-47.0 / -49.1")):
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {name} | Nordland |")]
        assert shown in line
    found = list(csv.DictReader(io.StringIO(as_csv(TABLES["XII"], run_table("XII", settings, Small())))))
    assert {row["difference"] for row in found if row["row"].startswith("GSV")} == {""}
    assert any(row["not_comparable"].startswith("the backbone's") for row in found)


def test_a_set_of_another_size_is_not_compared_and_fails_a_check(sets, tmp_path, call):
    words = ("table", "VIII", "--datasets_folder", sets, "--out")
    small = Pretend(n_queries=20)
    _, out, _ = call(*words, tmp_path / "a", execute=small)
    page = Path(out.split()[-1]).read_text()
    assert ("| Float (2048D), DINOv2-B | Nordland | R@1 / R@5 / R@10 / R@100 | 50.0 / 50.0 / 50.0 / 50.0 | "
            "94.7 / 98.3 / 99.0 / 99.9 | not comparable |\n") in page
    assert "(Nordland): 27,592 database images and 20 queries, expected 27,592 database images and 27,592 q" in page
    exact = Pretend(lambda words: 50.0)
    for execute, lines in ((small, 4), (exact, 0)):
        code, _, err = call(*words, tmp_path / f"check{lines}", "--check", execute=execute)
        assert code == 1  # 50 is no figure of the paper's
        assert len([line for line in err.splitlines() if "database images and" in line and "expected" in line]) == lines


def test_no_ground_truth_and_no_headings_are_absent_not_damaged(sets, tmp_path):
    class Unlabelled(Pretend):
        def __call__(self, words: list[str], folder: Path) -> Path:
            path = super().__call__(words, folder)
            if "msls_test" in words:
                path.write_text(json.dumps({**json.loads(path.read_text()), "recalls": {"final": None}}))
            return path

    *_, row = run_table("II", Settings(out=tmp_path, datasets_folder=sets), Unlabelled())
    assert {of: str(reason) for of, reason in row.missing.items()} == {
        "MSLS-challenge": "no ground truth beside the images, see datasets/README.md",
        "MSLS-val, also within 40 degrees": "the headings of these images are not told"}
    assert Column(AVERAGE, "R@1") not in row.values


def test_both_readings_of_msls_val_and_the_challenge_with_its_average(sets, tmp_path):
    class Both(Pretend):
        def __call__(self, words: list[str], folder: Path) -> Path:
            path = super().__call__(words, folder)
            found = json.loads(path.read_text())
            part = {"n_queries": 740, "n_database": 18871, "recalls": {"final": dict.fromkeys(("1", "5", "10"), 30.0)}}
            path.write_text(json.dumps({**found, "parts": {"msls_val_740_40deg": part}}))
            return path

    *_, row = rows = run_table("II", Settings(out=tmp_path, datasets_folder=sets), Both())
    assert row.mean(Column("MSLS-val, also within 40 degrees", "R@1")) == 30.0
    assert row.mean(Column("MSLS-challenge", "R@1")) == row.mean(Column(AVERAGE, "R@1")) == 50.0
    assert "| MSLS-val, also within 40 degrees | R@1 / R@5 / R@10 | 30.0 / 30.0 / 30.0 | - | - |" in markdown(
        TABLES["II"], rows)


def test_other_methods_are_evaluated_by_their_hub_entry_where_asked_and_reached(sets, tmp_path, call, monkeypatch):
    lines = [parsed(words) for words in printed_commands(
        call("table", "II", "--others", "--dry_run", "--out", tmp_path)[1])]
    lines = [options for options in lines if "hub" in options and options.hub]
    of_others = {tuple(options.hub): (options.resize, options.normalise) for options in lines}
    assert of_others == {how.words: ([*how.size], how.normalise) for how in OTHERS.values()}
    assert len(lines) == 6 * 5
    for words, (_, normalise) in of_others.items():
        assert HubOptions.of(words, normalisation=normalise).to_dict()["repository"] == words[0].rpartition(":")[0]

    def fetch(options):
        if "salad" in options.repository:
            raise ValueError("https://github.com/serizba/salad cannot be fetched")

    monkeypatch.setattr(runner, "repository_folder", fetch)
    runner.obtain_repository.cache_clear()
    execute = Pretend()
    code, out, _ = call("table", "II", "--others", "--datasets_folder", sets, "--out", tmp_path, execute=execute)
    page = Path(out.split()[-1]).read_text()
    assert code == 0 and sum("--hub" in words for words in execute.calls) == 5 * 5
    assert "| BoQ | Pitts30k-test | R@1 / R@5 / R@10 | 50.0 / 50.0 / 50.0 | 93.7 / 97.1 / 97.9 | -43.7 / " in page
    assert "| SALAD | Pitts30k-test | R@1 / R@5 / R@10 | - | 92.5 / 96.4 / 97.5 | - |" in page
    assert "* SALAD: quoted: https://github.com/serizba/salad cannot be fetched\n" in page
    runner.obtain_repository.cache_clear()
    call("table", "II", "--check", "--others", "--datasets_folder", sets, "--out", tmp_path / "b",
         execute=(execute := Pretend()))
    assert not any("--hub" in words for words in execute.calls)  # the paper's figures of others are not ours to check


# Training what is published

@pytest.mark.parametrize("number", ["II", "III", "VIII", "X"])
def test_rows_of_published_files_can_be_trained(number, tmp_path, call):
    lines = printed_commands(call("table", number, "--trained", "--dry_run", "--out", tmp_path)[1])
    chains = {}
    for words in lines:
        options = parsed(words)
        if Path(words[0]).name.startswith("train"):
            chains[Path(words[0]).name, options.backbone or str(options.resume)] = options
            assert (options.training_dataset, options.train_batch_size) == ("unified_dataset", 120)
        else:
            assert options.resume.name == "best_model.pth"
    starts = {start for script, start in chains if script == "train.py"}
    assert starts == ({"dinov2-base", "dinov2-large"} if number in ("II", "VIII") else {"dinov2-large"})
    second = [start for script, start in chains if script == "train_rerank.py"]
    assert len(second) == len(starts) and all("float-dinov2-" in start for start in second)  # beside the float model


def test_tables_share_what_they_train(sets, tmp_path, call):
    execute = Pretend()
    for number in ("VIII", "II", "III", "X", "XII"):
        code, out, _ = call("table", number, "--trained", "--datasets_folder", sets, "--out", tmp_path, execute=execute)
        assert code == 0 and Path(out.split()[-1]).name == f"table_{number}_trained.md"
        trained = [Path(words[0]).name for words in execute.trainings]
        assert (trained.count("train.py"), trained.count("train_rerank.py")) == (2 + 2 * (number == "XII"), 2)


def test_svox_is_extracted_once(tmp_path, call):
    lines = [parsed(words) for words in printed_commands(call("table", "III", "--dry_run", "--out", tmp_path)[1])]
    svox = [options for options in lines if options.dataset_name.startswith("svox_")]
    assert [options.dataset_name for options in svox] == [
        f"svox_{name}" for name in ("night", "rain", "overcast", "snow", "sun")]
    assert len({options.index for options in svox}) == 1 and svox[0].index.name == "svox-index"
    assert {options.index for options in lines if options not in svox} == {None}


def test_costs_are_measured_as_published_and_with_memory_saved(tmp_path, call):
    lines = [parsed(words) for words in printed_commands(call("table", "VI", "--dry_run", "--out", tmp_path)[1])]
    kept = [chosen_fields(options.variant, options.set).get("recompute", True) for options in lines]
    assert kept == [False] * 11 + [True] * 11
    models = [(one.backbone, str(one.variant)) for one in lines]
    assert sorted(models[:11]) == sorted(models[11:])


def test_pages_say_what_is_our_reading():
    def notes(number):
        return " ".join(TABLES[number].notes)

    for number in ("VIII", "XI"):
        assert "all mined pairs" in notes(number) and '"e.g. 1/5"' in notes(number)
    assert "our reading" in notes("XI") and "second reading" in notes("XI")
    for number in ("IV", "V"):
        assert "learning rates" in notes(number) and "assumption" in notes(number)
    fifth = TABLES["XI"].rows[-1].how.model
    assert chosen_fields(fifth.variant, fifth.fields) == {"hashing": "sc+ste", "pair_fraction": 0.2}


# Other methods' predictions

def write_predictions(folder: Path, correct: list[list[bool]], database: int = 9, **results: str) -> Path:
    folder.mkdir(parents=True)
    np.savez(folder / "predictions.npz", final_correct=np.array(correct),
             query_names=[f"q{i}" for i in range(len(correct))], database_names=[f"d{i}" for i in range(database)])
    if results:
        (folder / "results.json").write_text(json.dumps({**results, "threshold_m": 25}))
    return folder / "predictions.npz"


def test_predictions_of_another_method_are_measured(sets, tmp_path, call):
    right = [[False] * 4 + [True] + [False] * 4, [True] + [False] * 8, [False] * 9, [True] * 9]
    named = write_predictions(tmp_path / "a", right, dataset="pitts30k", split="test")
    bare = write_predictions(tmp_path / "b", right)
    code, out, _ = call("table", "II", "--datasets_folder", sets, "--out", tmp_path / "out", "--predictions",
                        f"CosPlace={named}", f"CosPlace:Nordland={bare}", f"Another:Tokyo24/7={bare}")
    page = Path(out.split()[-1]).read_text()
    assert code == 0
    assert "| CosPlace | Pitts30k-test | R@1 / R@5 / R@10 | 50.0 / 75.0 / 75.0 | 88.4 / 94.5 / 95.7 | not comp" in page
    assert "* CosPlace (Pitts30k-test): 9 database images and 4 queries, expected 10,000 database images and" in page
    assert "| CosPlace | Nordland | R@1 / R@5 / R@10 | 50.0 / 75.0 / 75.0 |" in page
    assert "| Another | Tokyo24/7 | R@1 / R@5 / R@10 | 50.0 / 75.0 / 75.0 | - | - |" in page
    assert "CosPlace (Tokyo24/7, MSLS-val, MSLS-challenge), Another (" in page


@pytest.mark.parametrize(("word", "says"), [
    ("CosPlace", "expected NAME=FILE"), ("CosPlace={bare}", "no results.json beside it"),
    ("CosPlace:MSLS={bare}", "the data sets of Table II are"),
    ("SelaVPR++ (resource):Nordland={bare}", "measured by commands"),
    ("CosPlace:Nordland={few}", "3 predictions of each query; recall@5 needs 5"), ("CosPlace={other}", "of sped test")])
def test_predictions_that_do_not_fit_are_one_line(word, says, sets, tmp_path, call):
    files = {"bare": write_predictions(tmp_path / "a", [[True] * 9]),
             "few": write_predictions(tmp_path / "b", [[True] * 3]),
             "other": write_predictions(tmp_path / "c", [[True] * 9], dataset="sped", split="test")}
    code, _, err = call("table", "II", "--datasets_folder", sets, "--out", tmp_path / "out", "--predictions",
                        word.format(**files))
    assert code == 2 and says in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(("words", "says"), [
    (["table", "XIII"], "expected one of I, II"), (["table", "XI"], "--datasets_folder is missing"),
    (["table", "XI", "--datasets_folder", "nowhere"], "no such folder"), (["table", "V", "--toy"], "has no toy"),
    (["table", "XI", "--check", "--toy"], "not allowed"), (["tables"], "invalid choice")])
def test_a_wrong_call_ends_with_2(words, says, call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*words)
    assert code == 2 and says in err


def test_the_list_names_every_row_and_how_it_is_got(capsys):
    program.main(["list"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == sum(1 + len(table.rows) for table in TABLES.values())
    for line in ("Nordland: its images are counted", "MixVPR: the paper's figures alone",
                 "SALAD: torch.hub serizba/salad:dinov2_salad", "Float (512D): timed",
                 "SelaVPR++: published dinov2-large file, rerank", "STE: train_hashing.py dinov2-base gsv_cities ste",
                 "Freezing, DINOv2-B: an epoch of dinov2-base freezing recompute=false",
                 "Freezing, DINOv2-B, memory saved: an epoch of dinov2-base freezing"):
        assert f"    {line}" in lines


# The toy

def test_every_toy_row_is_another_model_and_the_tables_are_those_asked_for():
    assert {number: table.toy_seeds for number, table in TABLES.items() if table.toy_seeds} == {
        **dict.fromkeys(("IV", "VII", "VIII", "X", "XII"), (0,)), "XI": (0, 1)}
    models = {number: [row.how.model for row in toy.toy_table(table).rows] for number, table in TABLES.items()
              if table.toy_seeds}
    configs = set()
    for training in models["VII"]:
        assert (training.backbone, training.cities) == ("dinov2-narrow", ("Boston", "Lisbon", "Osaka", "PRS"))
        config = ModelConfig(backbone=training.backbone, branches=("float",), **chosen_fields(training.variant, []))
        configs.add((config.first_level, tuple(config.taps)))
    assert len(configs) == 9
    assert {(model.backbone, len(model.cities)) for model in models["XII"]} == {
        (backbone, cities) for backbone in ("dinov2-tiny", "dinov2-narrow") for cities in (2, 4)}
    assert all(len({*models[first]} & {*models[second]}) == count for first, second, count in (
        ("IV", "XII", 1), ("VII", "XII", 1), ("VIII", "XII", 2), ("X", "VIII", 1)))
    rerank = models["X"][0]
    assert (rerank.script, rerank.epochs, rerank.start.script, rerank.start.epochs) == (
        "train_rerank.py", 3, "train.py", 5)


def test_toy_tables_show_drawn_sets_alone_and_no_figure_of_the_paper():
    table = toy.toy_table(TABLES["XI"])
    assert table.groups == ("Pitts30k-test", "MSLS-val", AVERAGE)
    assert {value for row in table.rows for value in row.paper} == {None}
    page = markdown(table, [Measured.of(row.name, table) for row in table.rows])
    assert "| STE | toy MSLS-val |" in page and "| Pitts30k" not in page and "88.5" not in page


def test_the_toy_page_has_all_tables_and_keeps_what_was_written(tmp_path, call, monkeypatch):
    for name in ("pitts30k/images/test", "msls/images/val"):
        for side in ("database", "queries"):
            (tmp_path / "out/toy_city" / name / side).mkdir(parents=True)
    (tmp_path / "out/toy_city/gsv_cities/Dataframes").mkdir(parents=True)
    monkeypatch.setattr(program, "build_toy_city", lambda folder: None)
    page = tmp_path / "page.md"
    execute = Pretend(lambda words: 60.0 if any("full" in word for word in words) else 40.0)
    words = ("toy", "--out", tmp_path / "out", "--page", page)
    code, out, _ = call(*words, execute=execute)
    assert code == 0 and out.splitlines()[-1] == str(page)
    text = page.read_text()
    assert text.splitlines()[0] == "# Toy tables: paths exercised, not a reproduction"
    assert all(f"\n## Table {number}: " in text for number in ("IV", "VII", "VIII", "X", "XI", "XII"))
    assert "| Full-tuning | 60.0 | 60.0 | 60.0 | 60.0 | 1 | 5 |" in text  # 91.5 and 89.6: fifth in the paper
    assert "| Freezing | 40.0 | 40.0 | 40.0 | 40.0 | 2 | 6 |" in text
    assert "| STE | 40.0 +- 0.0 |" in text
    page.write_text(text.replace(toy.TO_WRITE, "The order agrees in part."))
    before = len(execute.calls)
    call(*words, execute=execute)
    assert len(execute.calls) == before
    assert page.read_text().endswith(f"{toy.WORDS}\n\nThe order agrees in part.\n")


# The commands of this package, and the scripts

@pytest.mark.slow
def test_rows_of_two_depths_extract_once_and_have_the_recalls_of_separate_evaluations(data, rerank_run, tmp_path,
                                                                                       monkeypatch):
    monkeypatch.setitem(SETS, "MSLS-val", EvaluationSet("msls", "test"))
    model = published("dinov2-base", "rerank")  # for which a tiny one stands
    rows = tuple(Row(f"Top-{depth}", (None,), Evaluated(model, depth=depth)) for depth in (2, 5))
    table = Table(number="Q", title="", columns=(MSLS,), rows=rows, prefix="drawn ")
    reused = []

    def execute(words: list[str], folder: Path) -> Path:
        assert words[1:3] == ["--backbone", "dinov2-base"]
        path = run_folder(eval_rerank.main, *words[3:], "--resume", rerank_run / "best_model.pth",
                          *evaluation_options(data), cwd=folder) / "results.json"
        reused.append(json.loads(path.read_text())["extraction"]["reused"])
        return path

    settings = Settings(out=tmp_path / "out", datasets_folder=data)
    found = run_table(table, settings, execute)
    assert reused == [False, True]
    for row, depth in zip(found, (2, 5), strict=True):
        run = run_folder(eval_rerank.main, "--resume", rerank_run / "best_model.pth", "--dataset_name", "msls",
                         *evaluation_options(data), "--rerank_num", depth, cwd=tmp_path)
        assert row.mean(MSLS) == results(run)["recalls"]["final"]["1"]


def test_a_check_of_files_in_the_published_format_passes_and_fails_where_it_should(data, tmp_path, monkeypatch):
    """Seeded weights in the published names; what their figures must be is computed here."""
    monkeypatch.setitem(SETS, "MSLS-val", EvaluationSet("msls", "test"))
    monkeypatch.setitem(PROTOCOLS, "pitts30k", dataclasses.replace(PROTOCOLS["pitts30k"], n_database=8, n_queries=5))
    model = build_model(ModelConfig(backbone="dinov2-tiny"), seed=3).eval()
    weights = tmp_path / "weights" / "SelaVPRplusplus_base_rerank.pth"
    weights.parent.mkdir()
    torch.save(published_state_dict(model), weights)

    def recall(name: str, stage: str) -> float:
        dataset = as_dataset(read_folder(data, name, split="test", threshold_m=25.0), size=(56, 56))
        with torch.inference_mode():
            out = model(torch.stack([dataset[i][0] for i in range(len(dataset))]))
        n, right = dataset.n_database, 0
        for query, positives in enumerate(dataset.listing.positives):
            code, floating = out.binary[n + query], out.floating[n + query]
            bits = [int((code != other).sum()) for other in out.binary[:n]]
            ranked = sorted(range(n), key=lambda i: (bits[i], i))
            if stage == "final":  # all are among the first hundred
                ranked = sorted(ranked, key=lambda i: float((floating - out.floating[i]).norm()))
            right += ranked[0] in positives
        return 100 * right / dataset.n_queries

    def execute(words: list[str], folder: Path) -> Path:
        assert words[1:5] == ["--backbone", "dinov2-base", "--resume", str(weights)]
        try:
            return run_folder(eval_rerank.main, *words[3:], *evaluation_options(data), cwd=folder) / "results.json"
        except ValueError as error:  # as the process that ends with it
            raise Failed(str(error)) from None

    base = published("dinov2-base", "rerank")
    stages = {"Binary (512D), DINOv2-B": "first_stage", "Our re-ranking, DINOv2-B": "final"}

    def checked(out: str, more: float = 0.0) -> tuple[int, list[str]]:
        rows = tuple(Row(name, tuple(recall(of, stage) + more for of in ("pitts30k", "msls")),
                         Evaluated(base, stage=stage)) for name, stage in stages.items())
        table = Table(number="Q", title="", columns=(PITTS, MSLS), rows=rows)
        settings = Settings(out=tmp_path / out, datasets_folder=data, weights_folder=weights.parent)
        return check(table, run_table(table, settings, execute, checking=True))

    assert checked("a") == (4, [])
    compared, differing = checked("a", more=20.5)  # more than one of five queries
    assert compared == 4 and len(differing) == 4
    torch.save({**published_state_dict(model), "module.odd": torch.zeros(1)}, weights)
    assert checked("b") == (0, [])  # a file of another model fails to load, and nothing is compared
    torch.save(published_state_dict(model), weights)
    monkeypatch.setitem(PROTOCOLS, "pitts30k", dataclasses.replace(PROTOCOLS["pitts30k"], n_queries=6))
    compared, differing = checked("a")
    assert compared == 4 and differing == [
        "Pitts30k-test: 8 database images and 5 queries, expected 8 database images and 6 queries"]


def test_images_are_counted(data, tmp_path):
    found = results(run_folder(counts.main, "--datasets_folder", data, "--dataset_name", "pitts30k", cwd=tmp_path))
    assert (found["n_database"], found["n_queries"], found["n_queries_without_positives"]) == (8, 5, 1)


@pytest.mark.slow
def test_a_row_from_training_to_report_by_the_scripts(data, tmp_path, monkeypatch):
    """A tiny model for an epoch, its evaluation on a second set, both read as figures."""
    monkeypatch.setitem(SETS, "MSLS-val", EvaluationSet("msls", "val"))  # these images are no MSLS
    training = Training(backbone="dinov2-tiny", dataset="gsv_cities", cities=("Boston", "Lisbon"), places=2, epochs=1,
                        validation=("msls",))
    table = Table(number="Q", title="", columns=(PITTS, MSLS), rows=(Row("tiny", (50.0, 50.0), Evaluated(training)),))
    settings = Settings(out=tmp_path, datasets_folder=data, machine=("--device", "cpu", "--num_workers", "0"),
                        random_weights=True, image_options=("--resize", "56", "56"),
                        training_image_options=("--train_resize", "56", "56"))

    def execute(words: list[str], folder: Path) -> Path:
        script = {"train.py": train, "eval.py": eval}[Path(words[0]).name]
        return run_folder(script.main, *words[1:], cwd=folder) / "results.json"

    whole, row = run_table(table, settings, execute)
    assert (row.missing, row.counts) == ({}, {"Pitts30k-test": (8, 5), "MSLS-val": (10, 9)})
    assert all(0 <= row.mean(column) <= 100 for column in table.columns)
    page = markdown(table, [whole, row])
    assert not whole.values and {type(reason) for reason in whole.missing.values()} == {Absent}
    assert "| tiny | Pitts30k-test | R@1 | - | 50.0 | - |" in page
    assert "| tiny (a part of its cities) | Pitts30k-test | R@1 |" in page
    assert "* tiny: only 2 of 23 cities of gsv_cities; absent are Bangkok, BuenosAires, LosAngeles ...\n" in page
    precision = best_precision(torch.device("cpu"))
    assert page.count(f"* train.py on gsv_cities: 7 places, 28 images, 2 cities; in {precision}\n") == 1
    assert page.count("* train.py: best epoch 1, chosen on msls val\n") == 1
    assert "* MSLS-val has the images that chose the best epoch, as in the paper\n" in page
    assert "* Pitts30k-test has the images that chose" not in page
    assert len(list(tmp_path.rglob("done.json"))) == 2 and len(list(tmp_path.rglob("train-*/best_model.pth"))) == 1


def test_latency_has_a_time_for_every_method(tmp_path):
    found = results(run_folder(latency.main, "--database", 150, "--queries", 3, "--repeats", 1, "--local_side", 3,
                               cwd=tmp_path))
    rows = run_table("IX", Settings(out=tmp_path, datasets_folder=tmp_path), lambda *_: tmp_path / "results.json")
    assert f"takes {found['calibration_ms']:.1f} ms" in markdown(TABLES["IX"], rows)
    shown = [rows[-1].mean(column) for column in TABLES["IX"].columns]
    assert shown == [found["methods"]["SelaVPR++ (performance)"][way][stage] for way in ("one", "batched")
                     for stage in ("initial", "rerank", "total")]
    assert set(found["methods"]) == {row.how.of for row in TABLES["IX"].rows if row.how}
    for name, ways in found["methods"].items():
        for ms in ways.values():
            assert ms["initial"] > 0 and (ms["rerank"] is not None) == name.startswith("SelaVPR")
            assert ms["total"] == pytest.approx(ms["initial"] + (ms["rerank"] or 0))
    binary, resource = (found["methods"][name]["one"] for name in ("Binary (512D)", "SelaVPR++ (resource)"))
    assert binary["initial"] == resource["initial"]
    assert found["calibration_ms"] > 0


def test_the_page_of_methods_says_which_rows_are_other_models():
    page = (runner.PROJECT / "docs" / "methods.md").read_text()
    (paragraph,) = [text for text in page.split("\n\n") if "are not variants" in text]
    of_hub, quoted = ({*re.findall(r"[\w+-]+", part)} for part in paragraph.split(" have a torch.hub entry"))
    names = {bool(row.how): set() for row in TABLES["II"].rows}
    for row in TABLES["II"].rows[:-2]:
        names[bool(row.how)].add(row.name)
    assert names[True] <= of_hub - quoted and names[False] <= quoted - of_hub
    assert "Of Table II's 14 rows\ntwo are SelaVPR++" in paragraph and len(TABLES["II"].rows) == 14

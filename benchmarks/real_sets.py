"""Trains on a small real set in the GSV-Cities layout and evaluates on others: `python -m benchmarks.real_sets FOLDER`.

FOLDER holds gsv_real_mini (cities SpedA and SpedB), sped_thumbs, corridor and sf_toy; they are not part of the project.
For each seed: train.py, train_rerank.py, then the three evaluations on three sets, beside descriptors without learning
and the untrained model of the same seed. Prints the table and writes it, after each seed, into <out>/real_sets.md and
.json.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

import eval as eval_float  # `eval` is a builtin
import eval_hashing
from datasets import BenchmarkDataset, evaluation_transform, read_folder
from model import ModelConfig, SelaVPRpp, build_model
from utils.demo import best_model, run
from utils.evaluation.baselines import BASELINES, search_baseline
from utils.evaluation.evaluator import EvaluationOptions
from utils.run import exit_with

from . import report

SIZE = (168, 168)
SETS = ("sped_thumbs", "corridor", "sf_toy")
RECALLS = (1, 5, 10)
SCRIPTS = {"float, L2": "eval.py", "binary, Hamming": "eval_hashing.py", "binary, re-ranked by float": "eval_rerank.py"}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds the real sets")
    parser.add_argument("--out", type=Path, required=True, help="run folders and figures are written here")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=25)
    args = parser.parse_args(argv)
    real, out = args.folder.resolve(), args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    sets = {name: BenchmarkDataset(read_folder(real, name, split="test"), transform=evaluation_transform(SIZE))
            for name in SETS}
    figures: dict[str, dict[str, list[list[float]]]] = {}  # by row and set, R@1, R@5 and R@10 of each seed

    def add(row: str, set_name: str, recalls: dict) -> None:
        figures.setdefault(row, {}).setdefault(set_name, []).append(list(recalls.values()))

    for name, describe in BASELINES.items():
        for set_name, dataset in sets.items():
            found = search_baseline(describe, dataset, recall_values=RECALLS)
            add(f"{name}, L2", set_name, found.final_recalls(RECALLS))
    minutes, begun = [], time.perf_counter()
    evaluation = EvaluationOptions(recall_values=RECALLS, batch_size=64)
    for seed in args.seeds:
        model = untrained(seed)
        for name, script in (("float, L2", eval_float), ("binary, Hamming", eval_hashing)):
            for set_name, dataset in sets.items():
                found = script.evaluator(evaluation)(model, dataset)
                add(f"untrained {name}", set_name, found.final_recalls(RECALLS))
        started = time.perf_counter()
        both = train(real, out, seed, args.epochs)
        minutes.append((time.perf_counter() - started) / 60)
        for name, script in SCRIPTS.items():
            for set_name in SETS:
                results = run(out, script, *evaluation_options(real, set_name), "--resume", both)
                recalls = json.loads(results.read_text())["recalls"]["final"]
                add(name, set_name, {k: recalls[str(k)] for k in RECALLS})
        stored = {"figures": figures, "seeds": args.seeds, "epochs": args.epochs, "minutes": minutes}
        report.write_section(out / "real_sets.md", table(figures), stored, device=torch.device("cpu"),
                             seconds=time.perf_counter() - begun)
    print(table(figures))


def untrained(seed: int) -> SelaVPRpp:
    """Both branches before their first step."""
    start, model = (build_model(ModelConfig(backbone="dinov2-tiny", branches=branches), seed=seed)
                    for branches in (("float",), ("float", "binary")))
    model.start_from(start)
    return model


def evaluation_options(real: Path, name: str) -> list[str]:
    return ["--datasets_folder", str(real), "--dataset_name", name, "--resize", *map(str, SIZE), "--num_workers", "1",
            "--infer_batch_size", "64", "--device", "cpu"]


def train(real: Path, out: Path, seed: int, epochs: int) -> str:
    """Both stages by their scripts; returns the two-branch model's file."""
    options = [*evaluation_options(real, "sped_thumbs"), "--val_datasets", "sped_thumbs", "--seed", str(seed),
               "--training_dataset", str(real / "gsv_real_mini"), "--cities", "SpedA", "SpedB", "--train_resize",
               *map(str, SIZE), "--train_batch_size", "30", "--lr_halving", "8", "--epochs_num", str(epochs)]
    trained = run(out, "train.py", *options, "--backbone", "dinov2-tiny", "--foundation_model_path", "random",
                  "--save_dir", f"float_{seed}")
    both = run(out, "train_rerank.py", *options, "--resume", best_model(trained),
               "--save_dir", f"rerank_{seed}")
    return best_model(both)


def table(figures: dict[str, dict[str, list[list[float]]]]) -> str:
    """Mean +- standard deviation over the seeds of R@1 / R@5 / R@10, a column for each set."""
    def cell(by_seed: list[list[float]]) -> str:
        return " / ".join(
            f"{statistics.mean(values):.1f}" + (f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else "")
            for values in zip(*by_seed, strict=True))

    return report.table(("descriptor, search", *(f"{name} R@1 / R@5 / R@10" for name in SETS)),
                        ((name, *(cell(by_set[set_name]) for set_name in SETS)) for name, by_set in figures.items()))


if __name__ == "__main__":
    exit_with(main)

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
from model import ModelConfig, build_model
from utils.demo import best_model, run
from utils.evaluation.baselines import BASELINES, search_baseline
from utils.evaluation.evaluator import Evaluation, EvaluationOptions
from utils.run import exit_with

from .report import write_section

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
    figures = {f"{name}, L2": {set_name: [recalls_of(search_baseline(describe, dataset, recall_values=RECALLS))]
                               for set_name, dataset in sets.items()}
               for name, describe in BASELINES.items()}
    minutes, begun = [], time.perf_counter()
    for seed in args.seeds:
        for name, recalls in untrained(sets, seed).items():
            for set_name, values in recalls.items():
                figures.setdefault(f"untrained {name}", {}).setdefault(set_name, []).append(values)
        started = time.perf_counter()
        both = train(real, out, seed, args.epochs)
        minutes.append((time.perf_counter() - started) / 60)
        for name, script in SCRIPTS.items():
            for set_name in SETS:
                results = run(out, script, *evaluation_options(real, set_name), "--resume", both)
                recalls = json.loads(results.read_text())["recalls"]["final"]
                figures.setdefault(name, {}).setdefault(set_name, []).append([recalls[str(k)] for k in RECALLS])
        found = {"figures": figures, "seeds": args.seeds, "epochs": args.epochs, "minutes": minutes}
        write_section(out / "real_sets.md", table(figures), found, device=torch.device("cpu"),
                      seconds=time.perf_counter() - begun)
    print(table(figures))


def tiny(*branches: str) -> ModelConfig:
    return ModelConfig(backbone="dinov2-tiny", branches=branches or ("float",))


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


def recalls_of(evaluation: Evaluation) -> list[float]:
    return list(evaluation.final_recalls(RECALLS).values())


def untrained(sets: dict[str, BenchmarkDataset], seed: int) -> dict[str, dict[str, list[float]]]:
    """Recalls of both branches before their first step."""
    start = build_model(tiny("float"), seed=seed)
    model = build_model(tiny("float", "binary"), seed=seed)
    model.start_from(start)
    options = EvaluationOptions(recall_values=RECALLS, batch_size=64)
    return {name: {set_name: recalls_of(script.evaluator(options)(model, dataset))
                   for set_name, dataset in sets.items()}
            for name, script in (("float, L2", eval_float), ("binary, Hamming", eval_hashing))}


def table(figures: dict[str, dict[str, list[list[float]]]]) -> str:
    """Mean +- standard deviation over the seeds of R@1 / R@5 / R@10, a column for each set."""
    lines = ["| descriptor, search | " + " | ".join(f"{name} R@1 / R@5 / R@10" for name in SETS) + " |",
             "|---|" + "---|" * len(SETS)]
    for name, by_set in figures.items():
        cells = []
        for set_name in SETS:
            columns = list(zip(*by_set[set_name], strict=True))
            cells.append(" / ".join(
                f"{statistics.mean(values):.1f}" + (f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else "")
                for values in columns))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    exit_with(main)

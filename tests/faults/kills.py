"""Trainings that are killed at random moments, alone or with their workers, or asked to end, and go on until done."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SIZES = ("--resize", "56", "56", "--train_resize", "56", "56", "--train_batch_size", "2",
         "--device", "cpu", "--cities", "Boston", "Lisbon", "--val_datasets", "msls", "--precision", "fp32",
         "--epochs_num", "6", "--patience", "6", "--save_every", "0.001")


def start(script: str, words: list[str], cwd: Path) -> subprocess.Popen:
    cwd.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen([sys.executable, str(ROOT / script), *words], cwd=cwd, stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True, start_new_session=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(script: str, words: list[str], cwd: Path) -> Path:
    """The run folder of a training that nobody stops."""
    with start(script, words, cwd) as child:
        said = child.stderr.read()
    if child.returncode:
        raise RuntimeError(said.splitlines()[-1])
    return max(path.parent for path in cwd.glob("logs/*/*/results.json"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {f"{name} {key}": value for name in ("last_model.pth", "best_model.pth")
            for key, value in torch.load(folder / name, weights_only=True)["model_state_dict"].items()}


def killed_trainings(trials: int, folder: Path, data: Path, *, seed: int = 0) -> tuple[int, list[str]]:
    """`trials` trainings of the three scripts in turn, each stopped up to three times: how many stops there were, and
    what went wrong: trainings that could not go on, or ended with other weights."""
    rng, stops, wrong = random.Random(seed), 0, []
    common = ["--datasets_folder", str(data), *SIZES]
    start_words = {"train.py": ["--backbone", "dinov2-tiny", "--foundation_model_path", "random"]}
    start_words["train_hashing.py"] = start_words["train.py"]
    straight = {"train.py": finish("train.py", [*common, *start_words["train.py"]], folder / "straight-train.py")}
    start_words["train_rerank.py"] = ["--resume", str(straight["train.py"] / "best_model.pth")]
    for script in ("train_hashing.py", "train_rerank.py"):
        straight[script] = finish(script, [*common, *start_words[script]], folder / f"straight-{script}")
    expected = {script: weights(found) for script, found in straight.items()}
    for trial in range(trials):
        script = sorted(straight)[trial % 3]
        cwd, words = folder / f"trial-{trial}", [*common, *start_words[script]]
        try:
            for _ in range(rng.randint(1, 3)):
                before = {*cwd.glob("logs/*/*/last_model.pth")}
                child = start(script, [*words, "--num_workers", rng.choice("02")], cwd)
                while child.poll() is None and {*cwd.glob("logs/*/*/last_model.pth")} == before:
                    time.sleep(0.01)
                time.sleep(rng.uniform(0, 0.6))
                rng.choice((os.kill, os.killpg))(child.pid, rng.choice(SIGNALS))
                said = child.communicate()[1]
                if "Traceback" in said:
                    raise RuntimeError(said.splitlines()[-1])
                stops += 1
                newest = max(cwd.glob("logs/*/*/last_model.pth"), key=lambda path: path.stat().st_mtime_ns)
                words = [*common, "--resume", str(newest.parent)]
            found = weights(finish(script, words, cwd))
            if not all(torch.equal(found[key], value) for key, value in expected[script].items()):
                raise RuntimeError("other weights")
        except (RuntimeError, OSError, ValueError) as error:
            wrong.append(f"{script}, trial {trial}: {error}")
    return stops, wrong

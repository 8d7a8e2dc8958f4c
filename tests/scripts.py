"""Running the scripts' main inside the test process, on the small sets of images.py."""

import contextlib
import io
import json
import logging
from pathlib import Path

import faiss
import pytest
import torch

from utils.run import exit_with

# Of the published flags, which only say what a script says, those that fit.
FLAGS = {"train.py": (), "train_hashing.py": ("hashing",), "train_rerank.py": ("hashing", "rerank"),
         "eval.py": (), "eval_hashing.py": ("hashing",), "eval_rerank.py": ("hashing", "rerank")}
RANDOM = ("--backbone", "dinov2-tiny", "--foundation_model_path", "random")
HARD = ("--set", "places=hard", "--train_batch_size", "8", "--images_per_place", "2")  # for the streets of images.py


def evaluation_options(data: Path) -> list[str]:
    return ["--datasets_folder", str(data), "--resize", "56", "56", "--device", "cpu", "--num_workers", "0"]


def training_options(data: Path) -> list[str]:
    return [*evaluation_options(data), "--train_resize", "56", "56", "--train_batch_size", "2", "--cities", "Boston",
            "Lisbon", "--val_datasets", "msls", "--precision", "fp32"]


@contextlib.contextmanager
def one_thread():
    """For these sizes: several threads gain nothing, and wait for each other where the cores are busy."""
    torch_threads, faiss_threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    yield
    torch.set_num_threads(torch_threads)
    faiss.omp_set_num_threads(faiss_threads)


def run_folder(main, *argv: object, cwd: Path) -> Path:
    """Runs main(argv) in the folder cwd; the run folder, found as a caller does: from the last line on stdout."""
    with one_thread(), contextlib.redirect_stdout(io.StringIO()) as stdout, contextlib.chdir(cwd):
        main([str(word) for word in argv])
    close_log()
    results = cwd / stdout.getvalue().splitlines()[-1]
    assert results.name == "results.json"
    assert results.is_file()
    return results.parent


def close_log() -> None:
    """Lets go of what a script logs to, pytest's stderr of the moment among it."""
    log = logging.getLogger("selavprpp")
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.propagate = True  # as before any script ran: pytest gives loggers that do not propagate a handler of its own


def error_of(main, *argv: object, capsys) -> str:
    """What a wrong usage says: one line on stderr, exit code 2."""
    with pytest.raises(SystemExit) as stop:
        exit_with(lambda: main([str(word) for word in argv]))
    output = capsys.readouterr()
    assert stop.value.code == 2
    assert output.out == ""
    said = [line for line in output.err.splitlines() if "error: " in line]
    assert len(said) == 1
    assert output.err.splitlines()[-1] == said[0]
    assert "Traceback" not in output.err and "usage: " not in output.err
    return said[0].partition("error: ")[2]


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())

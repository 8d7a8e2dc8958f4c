"""Every fault that is provoked here, in numbers, and what a wrong call says: writes the tables of docs/faults.md.

    PYTHONPATH=.:tests:tests/faults python tests/faults/everything.py [--share 0.01]

Takes an hour on two cores; --share of the counts. Exit code 1 where something fell through.
"""

import argparse
import contextlib
import datetime
import io
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import faulty_checkpoints
import fuzz_data
import indexes
import kills
import torch
from images import write_all
from scripts import close_log

import eval as eval_float
import eval_rerank
import eval_selavpr
import train
import train_rerank
import train_selavpr
from model import ModelConfig, build_model, load_model, save_checkpoint
from utils.files import temporary_path
from utils.run import exit_with, hardware, versions

PAGE = kills.ROOT / "docs" / "faults.md"
BEGIN, END = "<!-- written by tests/faults/everything.py -->\n", "<!-- end -->\n"
SCRIPTS = {"train.py": train.main, "train_rerank.py": train_rerank.main, "train_selavpr.py": train_selavpr.main,
           "eval.py": eval_float.main, "eval_rerank.py": eval_rerank.main, "eval_selavpr.py": eval_selavpr.main}
RANDOM = "--backbone dinov2-tiny --foundation_model_path random --device cpu"
WRONG_CALLS = (
    "train.py", "train.py --datasets_folder none", "train.py --datasets_folder DATA --lr -1",
    "train.py --datasets_folder DATA --epochs_num 1180591620717411303424", "train.py --datasets_folder DATA --lr nan",
    f"train.py --datasets_folder DATA {RANDOM} --resize 20000 20000",
    f"train.py --datasets_folder DATA {RANDOM} --cities Boston Atlantis --train_batch_size 1",
    f"train.py --datasets_folder DATA {RANDOM} --cities Boston --images_per_place 1",
    f"train.py --datasets_folder DATA {RANDOM} --cities Boston --images_per_place 9",
    "train.py --datasets_folder DATA --backbone vgg16", "train.py --datasets_folder DATA --pca_dim 512",
    "train.py --datasets_folder DATA --set float_dim=lots", "train.py --datasets_folder DATA --resume none.pth",
    f"train_rerank.py --datasets_folder DATA {RANDOM}",
    f"train_selavpr.py --datasets_folder DATA --dataset_name pitts30k {RANDOM}",
    "eval.py --datasets_folder DATA --dataset_name nowhere --resume DATA/text.pth",
    "eval.py --datasets_folder DATA --resume DATA/text.pth --device cpu",
    "eval.py --datasets_folder DATA --resume DATA --device cpu",
    "eval.py --datasets_folder DATA --recall_values 0",
    "eval_rerank.py --datasets_folder DATA --rerank_num 0",
    "eval_selavpr.py --datasets_folder DATA --global_weight 2")

Outcome = tuple[int, str, list[str]]  # tries, what came of them, what fell through


def said_of(call: str, data: Path) -> tuple[int, str]:
    """Exit code and last line of a wrong call."""
    script, *words = [word.replace("DATA", str(data)) for word in call.split()]
    with contextlib.redirect_stderr(io.StringIO()) as stderr, contextlib.redirect_stdout(io.StringIO()):
        try:
            exit_with(lambda: SCRIPTS[script](words))
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    close_log()
    line = (stderr.getvalue().splitlines() or [""])[-1]
    return code, line.partition("error: ")[2].replace(f"{data}/", "").replace(str(data), "DATA")


def of_kills(count: int, scratch: Path) -> Outcome:
    stops, wrong = kills.killed_trainings(count, scratch / "kills", scratch / "data")
    return stops, f"{count} trainings went on and ended with equal weights, to the last bit", wrong


def of_writers(count: int, scratch: Path) -> Outcome:
    counts: Counter = Counter()
    for processes in (2, 3):
        for turn in range(count):
            counts += indexes.write_at_once(scratch / f"writers {processes} {turn}", processes, 6)
    return 2 * count, told(counts), [f"{word}: {counts[word]}" for word in ("lost",) if counts[word]]


def of_flips(count: int, scratch: Path) -> Outcome:
    counts = indexes.flips(scratch / "flips", count)
    return count, told(counts), [f"{word}: {counts[word]}" for word in ("used", "traceback") if counts[word]]


def of_folders(count: int, scratch: Path) -> Outcome:
    counts = indexes.folders(scratch / "folders", count)
    wrong = [f"{line}: {times}" for line, times in counts.items() if line.startswith(("used", "traceback", "ended by"))]
    return count, f"{len(counts)} kinds of lines", wrong


def of_data(kind: str) -> Callable[[int, Path], Outcome]:
    def measured(count: int, _: Path) -> Outcome:
        outcomes, wrong = fuzz_data.fuzz(kind, count, 0)
        return count, told(outcomes), wrong

    return measured


def of_checkpoints(count: int, scratch: Path) -> Outcome:
    """Half of them with changed bytes, half with other contents, of a file with a training state."""
    reference, path = scratch / "reference.pth", scratch / "changed.pth"
    network = build_model(ModelConfig(backbone="dinov2-tiny", branches=("float",), float_dim=8), seed=0)
    save_checkpoint(network, reference, pretrained=False, training={
        "script": "train.py", "epoch": 1, "earlier": [{"script": "train.py", "epoch": 3}]})
    weights = load_model(reference).state_dict()
    counts = faulty_checkpoints.outcomes(faulty_checkpoints.changed_bytes(reference.read_bytes(), count // 2, seed=1),
                                         path, faulty_checkpoints.reads_as(reference))
    counts += faulty_checkpoints.outcomes(
        faulty_checkpoints.changed_content(torch.load(reference, weights_only=True), count - count // 2, seed=2), path,
        lambda path: faulty_checkpoints.same(load_model(path).state_dict(), weights))
    wrong = [f"{what}: {counts.pop(what)}" for what in [*counts] if what not in ("refused", "equal")]
    return count, told(counts), wrong


def told(counts: Counter) -> str:
    return ", ".join(f"{count:,} {word}" for word, count in sorted(counts.items()))


FAULTS: dict[str, tuple[int, Callable[[int, Path], Outcome]]] = {
    "trainings stopped at random (SIGKILL, SIGTERM, Ctrl-C), gone on": (60, of_kills),
    "rounds of two and of three processes writing one index": (100, of_writers),
    "index folders with changed bytes": (1000, of_flips),
    "index folders made to do harm": (1000, of_folders),
    "checkpoints with changed bytes or contents": (5000, of_checkpoints),
    "tables altered": (1000, of_data("tables")), "lists altered": (1000, of_data("lists")),
    "images altered": (1000, of_data("images"))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the counts")
    share = parser.parse_args().share
    torch.set_num_threads(1)
    started, fell, rows = time.monotonic(), [], []
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        scratch = Path(name)
        data = write_all(scratch / "data")
        (data / "text.pth").write_text("no weights")
        for what, (count, measured) in FAULTS.items():
            tries, outcome, wrong = measured(max(1, round(share * count)), scratch)
            rows.append(f"| {what} | {tries:,} | {outcome} | {len(wrong)} |")
            fell += [f"{what}: {one}" for one in wrong]
            print(rows[-1], *wrong[:20], sep="\n", flush=True)
        calls = [(call, *said_of(call, data)) for call in WRONG_CALLS]
    fell += [f"{call}: exit code {code}" for call, code, _ in calls if code != 2]
    machine, known = hardware(torch.device("cpu")), versions()
    text = "\n".join([
        f"{datetime.date.today()}; {machine['cpu']}, {machine['cores']} cores; python {known['python']}, torch "
        f"{known['torch']}; {(time.monotonic() - started) / 60:.0f} minutes.", "",
        "| what | tries | outcome | fell through |", "|---|---:|---|---:|", *rows, "",
        "| a wrong call | exit code | its one line, behind `error: ` |", "|---|---:|---|",
        *(f"| `{call}` | {code} | {line.replace('|', chr(92) + '|')} |" for call, code, line in calls), ""])
    head, _, rest = PAGE.read_text().partition(BEGIN)
    with temporary_path(PAGE) as temporary:
        temporary.write_text(head + BEGIN + text + END + rest.partition(END)[2])
    print(*fell, sep="\n")
    return int(bool(fell))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())

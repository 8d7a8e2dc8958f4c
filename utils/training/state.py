"""What a training finds where it goes on: whether its state is whole, the best model so far, metrics, leftovers."""

import contextlib
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from model import Checkpoint, CheckpointError

from ..run import is_alive

log = logging.getLogger("selavprpp")

BEST, LAST = "best_model.pth", "last_model.pth"
NO_SCORE = (float("-inf"), 0.0)  # before the first epoch's end
# Of StepLR's state; the rest is torch's bookkeeping, which differs between its versions.
_SCHEDULE = ("step_size", "gamma", "base_lrs", "last_epoch")
# Of a parameter group of Adam: what every file has, and what may differ. The rest is as this project makes it.
_GROUP = ("params", "lr", "initial_lr", "betas", "eps", "weight_decay")
_DIFFERING = ("lr", "initial_lr", "fused", "foreach")


@contextlib.contextmanager
def as_one_line(source: str) -> Iterator[None]:
    """What goes wrong inside, over the training state of a file, is a CheckpointError that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except (AttributeError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise CheckpointError(f"{source}: its training state cannot be used: {told}; give another file, or one without "
                              "a training state") from None


def check_state(state: dict, *, script: str, options: dict, optimiser: torch.optim.Optimizer, schedule: dict,
                scaler: dict, random: dict) -> None:
    """ValueError, saying where, unless a file's training state is made as the one that this training would write; which
    is given by its parts. What a file holds beside them is not looked at."""
    for name, kind in (("script", str), ("options", dict), ("epoch", int), ("epochs_without_gain", int),
                       ("optimiser", dict), ("schedule", dict), ("scaler", dict), ("random", dict)):
        _expect(type(state.get(name)) is kind, f"{name} is {_told(state.get(name))}, expected {kind.__name__}")
    if state["script"] != script:
        raise ValueError(f"written by {state['script']}, this is {script}")
    epoch = state["epoch"]
    _expect(0 <= state["epochs_without_gain"] <= epoch, f"epoch {epoch}, {state['epochs_without_gain']} without gain")
    for name in ("score", "best_score") if epoch else ():
        _like(state.get(name), (0.0, 0.0), name)
    _expect(bool(epoch) or state.get("best_score") == NO_SCORE, "a best score before the first epoch's end")
    best = state.get("best")
    if best is not None:
        _like(best, ["", 0], "best")
    if within := state.get("within_epoch"):
        _like(within, {"steps": 0, "images": 0, "seconds": 0.0, "memory_mib": 0.0, "sums": {}}, "within_epoch")
        _expect(min(within["steps"], within["images"]) > 0, "within_epoch has no steps")
        for name, total in within["sums"].items():
            _like(total, torch.empty(()), f"within_epoch's {name}")
    json.dumps(state["options"])  # as they were written into config.json
    _expect(not options or bool(options.keys() & state["options"].keys()), "options holds none of this script's")
    _like(state["schedule"], {name: schedule[name] for name in schedule
                              if name in _SCHEDULE or name in state["schedule"]}, "schedule")
    _expect(state["schedule"]["last_epoch"] == epoch, f"schedule is that of epoch {state['schedule']['last_epoch']}, "
                                                      f"epoch is {epoch}")
    _expect(state["schedule"]["step_size"] > 0 and state["schedule"]["gamma"] > 0, "schedule has a step or factor of 0")
    if scaler and state["scaler"]:  # empty unless it was fp16
        _like(state["scaler"], scaler, "scaler")
    _like(state["random"], {name: value for name, value in random.items() if name == "cpu" or name in state["random"]},
          "random")
    _check_optimiser(state["optimiser"], optimiser)


def _check_optimiser(found: dict, optimiser: torch.optim.Optimizer) -> None:
    own = optimiser.state_dict()["param_groups"]
    groups, states = found.get("param_groups"), found.get("state")
    _expect(isinstance(groups, list) and isinstance(states, dict) and len(groups) == len(own),
            "optimiser has other parameter groups")
    for group, expected in zip(groups, own, strict=True):
        _like(group, {name: value for name, value in expected.items()
                      if name in group or name in _GROUP}, "optimiser")
        _expect(group["lr"] >= 0, f"optimiser has lr {group['lr']}")
        for name, value in expected.items():
            _expect(name in _DIFFERING or name not in group or group[name] == value,
                    f"optimiser has {name} {_told(group.get(name))}, expected {_told(value)}")
    parameters = {number: parameter for group, expected in zip(optimiser.param_groups, own, strict=True)
                  for number, parameter in zip(expected["params"], group["params"], strict=True)}
    for number, values in states.items():
        _expect(number in parameters, f"optimiser knows a parameter {_told(number)}, of {len(parameters)}")
        moment = torch.empty_like(parameters[number], device="meta")
        _like(values, {"step": torch.empty((), device="meta"), "exp_avg": moment, "exp_avg_sq": moment},
              f"optimiser's {number}")


def _like(found: object, example: object, where: str) -> None:
    """ValueError unless `found` has the example's structure: its keys (or more), lengths, kinds, shapes and dtypes, and
    finite numbers."""
    if isinstance(example, dict):
        sound = isinstance(found, dict)
    elif isinstance(example, list | tuple):
        sound = isinstance(found, list | tuple) and len(found) == len(example)
    elif isinstance(example, Tensor):
        sound = (isinstance(found, Tensor) and found.layout is torch.strided and found.device.type != "meta"
                 and (found.shape, found.dtype) == (example.shape, example.dtype))
    elif example is None or isinstance(example, bool):
        sound = found is None or isinstance(found, bool)
    elif isinstance(example, float):
        sound = type(found) in (int, float) and abs(found) <= sys.float_info.max  # type: ignore[arg-type]
    else:
        sound = type(found) is type(example)
    _expect(sound, f"{where} is {_told(found)}, expected {_told(example)}")
    if isinstance(example, dict):
        for name, value in example.items():
            _expect(name in found, f"{where} holds no {name}")  # type: ignore[operator]
            _like(found[name], value, f"{where}'s {name}")  # type: ignore[index]
    elif isinstance(example, list | tuple):
        for one, value in zip(found, example, strict=True):  # type: ignore[call-overload]
            _like(one, value, where)


def _told(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return repr(value) if isinstance(value, int | float | str | None) else f"a {type(value).__name__}"


def _expect(sound: bool, what: str) -> None:
    if not sound:
        raise ValueError(what)


def identity(training: dict) -> list | None:
    """Who wrote a file, and after which epoch; None for files of earlier versions, which do not say."""
    return [training["run"], training.get("epoch")] if "run" in training else None


def best_beside(checkpoint: Checkpoint, read: Callable[[Path], Checkpoint]) -> tuple[Path, list | None] | None:
    """The best model so far of the training that a file goes on with, and its `identity`: the best_model.pth beside it,
    read and found to be that training's, or the file itself where it is that model. None: there is none beside it.

    A training may have ended between its two writes, the best first: then that file is one epoch ahead. Raises
    CheckpointError for another training's file and for one that cannot be read.
    """
    source, state = Path(checkpoint.source), checkpoint.training or {}
    best = source.with_name(BEST)
    if source.name == BEST:
        return source, identity(state)
    if not best.is_file():
        return None
    advice = f"put the right one there, or move it away: then {source.name} itself is taken for the best so far"
    try:
        theirs = read(best).training or {}
    except CheckpointError as error:
        raise CheckpointError(f"{error}; or {advice}") from None
    if state.get("best"):
        same = identity(theirs) == [*state["best"]]
    else:  # written by an earlier version
        same = theirs.get("score") == state["best_score"]
    ahead = (theirs.get("run"), theirs.get("epoch")) == (state.get("run"), state["epoch"] + 1)
    if not (same or ahead):
        raise CheckpointError(
            f"{best}: not the best model of the training that {source} goes on with, but another's: epoch "
            f"{theirs.get('epoch')}, score {theirs.get('score')}, expected score {state['best_score']}; {advice}")
    return best, identity(theirs)


def earlier_metrics(path: Path, epochs: int) -> str:
    """The lines of a metrics.jsonl for the epochs done, without what is torn; a warning counts what is missing."""
    kept: dict[int, str] = {}
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(KeyError, TypeError, ValueError):
            record = json.loads(line)
            number = record["epoch"]
            if type(number) is int and 0 < number <= epochs and math.isfinite(
                    record["seconds"] + record["peak_memory_mib"]):
                kept.setdefault(number, line + "\n")
    if len(kept) < epochs:
        log.warning("%s: %d of %d epochs are missing or torn and left out; the mean time of an epoch is that of the "
                    "others", path, epochs - len(kept), epochs)
    return "".join(kept[number] for number in sorted(kept))


def remove_left_behind(folder: Path) -> None:
    """Takes away the halves of checkpoints that a run left when it was killed; not while that run may be alive."""
    halves = [path for name in (BEST, LAST) for path in folder.glob(f".{name}.*.tmp")]
    if halves and not is_alive(folder):
        for path in halves:
            with contextlib.suppress(OSError):  # gone meanwhile, or another's folder
                path.unlink()
                log.info("removed %s, the half of a checkpoint that a killed run left behind", path)

"""A run's folder: resolved options, log, metrics, results; and how a script ends."""

import contextlib
import dataclasses
import datetime
import fcntl
import importlib.metadata
import itertools
import json
import logging
import logging.handlers
import os
import platform
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import torch

from . import distributed
from .distributed import processes
from .errors import named, what_to_do
from .files import write_json
from .ranks import is_first, local_rank, rank

log = logging.getLogger("selavprpp")
DESCRIPTORS, LOCAL_FEATURES = "index-", "local-"  # begin folders in a run's that its end deletes, but a kill does not


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Run folders lie in <root>/<name>; options: every option's value by name, of what JSON can hold."""

    root: Path
    name: str = "default"
    options: dict[str, object]


class Described(Protocol):
    """What config.json tells of a model: a ModelConfig, or which model of others it is."""

    def to_dict(self) -> dict: ...


class Run:
    """The folder <root>/<name>/<date_time>, with config.json, info.log, metrics.jsonl and results.json.

    Of several processes the first fills it; the others only know its path.

    resumable  the newest run's folder once it holds a state to go on from: whoever is broken off is told
    """

    resumable: ClassVar[Path | None] = None

    def __init__(self, chosen: RunOptions, *, model: Described):
        Run.resumable = None
        stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        folder = _new_folder(chosen.root / chosen.name, stamp) if is_first() else None
        self.folder = distributed.broadcast(folder)
        self.options = options = chosen.options
        if not is_first():
            return
        _log_to(self.folder / "info.log")
        config = {"options": options, "model": model.to_dict(), "processes": processes(), "versions": versions()}
        write_json(config, self.folder / "config.json")
        log.info("%s", shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
        log.info("run folder %s", self.folder)
        for what, values in config.items():
            log.info("%s %s", what, json.dumps(values))
        left = [str(path) for kind in (DESCRIPTORS, LOCAL_FEATURES)
                for path in sorted(self.folder.parent.glob(f"*/{kind}*"))
                if path.is_dir() and not is_alive(path.parent)]
        if left:
            log.info("left behind by runs that ended early: %s; an evaluation goes on from an index-* folder with "
                     "--index, else delete them", ", ".join(left))

    def add_metrics(self, record: dict) -> None:
        """Appends one line to metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        with named(path), path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def write_results(self, results: dict) -> Path:
        """Writes results.json; its path is the last line on stdout."""
        path = self.folder / "results.json"
        write_json(results, path)
        with named("standard output"):
            print(path, flush=True)
        return path


def _new_folder(parent: Path, stamp: str) -> Path:
    for number in itertools.count(1):
        folder = parent / (stamp if number == 1 else f"{stamp}_{number}")
        with contextlib.suppress(FileExistsError):  # another run began in this second
            folder.mkdir(parents=True)
            return folder


def start_log() -> None:
    """Logs to stderr, and keeps what is said before there is a run folder for that folder's info.log."""
    _set_handlers(logging.handlers.MemoryHandler(1000, flushLevel=logging.CRITICAL + 1))


def is_alive(folder: Path) -> bool:
    """Whether a run still writes into its folder: it holds a lock on its log. True where nobody can tell: without that
    log, and on disks without locks."""
    try:
        with (folder / "info.log").open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


class _LogFile(logging.FileHandler):
    """A log whose disk is full, or which cannot be written any more for another reason, says so once, and ends."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        log.removeHandler(self)
        _say(f"{self.baseFilename}: {error}{what_to_do(error)}; the log goes on here alone")


def _log_to(path: Path) -> None:
    file = _LogFile(path)
    with contextlib.suppress(OSError):
        fcntl.flock(file.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed, by a kill too: see `is_alive`
    for handler in log.handlers:
        if isinstance(handler, logging.handlers.MemoryHandler):
            handler.setTarget(file)  # which gets what was said before when that handler is closed
    _set_handlers(file)


def _set_handlers(second: logging.Handler) -> None:
    log.setLevel(logging.INFO if is_first() else logging.ERROR)  # the first of several processes speaks for all
    log.propagate = False
    speaker = "" if is_first() else f"process {rank()}: "
    before, log.handlers = log.handlers, [logging.StreamHandler(sys.stderr), second]
    for handler in log.handlers:
        handler.setFormatter(logging.Formatter(f"%(asctime)s {speaker}%(message)s", "%Y-%m-%d %H:%M:%S"))
    for handler in before:
        handler.close()


def versions() -> dict[str, str]:
    names = ("torch", "torchvision", "numpy", "Pillow", "scikit-learn")
    found = {name: importlib.metadata.version(name) for name in names}
    for name in ("faiss-gpu", "faiss-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return {"python": platform.python_version(), **found}


def hardware(device: torch.device) -> dict[str, object]:
    found = {"cpu": _processor_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
                 "processes": processes()}
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _processor_name() -> str:
    with contextlib.suppress(OSError):  # not Linux
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class Terminated(BaseException):
    """SIGTERM, which schedulers send some time before they kill."""


def exit_with(main: Callable[[], object]) -> None:
    """Runs a script's main: a user's mistake ends in one line and exit code 2, Ctrl-C in one line and 130, SIGTERM in
    one and 143; the latter two say how to go on.

    Of several processes one says it, as a rule the first; torchrun ends the others.
    """
    def terminate(*_):
        raise Terminated

    before = {number: signal.signal(number, handler) for number, handler in (
        (signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, terminate))}
    try:
        try:
            main()
        except (ValueError, OSError) as error:
            if os.environ.get("SELAVPRPP_TRACEBACK"):
                raise
            # An error of a loader's worker process carries a whole traceback, whose last line is the message.
            text = str(error).strip()
            if "\nOriginal Traceback" in text:
                text = text.splitlines()[-1].removeprefix(f"{type(error).__name__}: ")
            distributed.let_the_first_speak()
            _say(f"error: {text}{what_to_do(error)}")
            sys.exit(2)
        except (MemoryError, RuntimeError) as error:
            if _out_of_memory(error) and not os.environ.get("SELAVPRPP_TRACEBACK"):
                said = (str(error).splitlines() or ["no more"])[0]
                _say(f"error: out of memory ({said}); lower --train_batch_size, --infer_batch_size or --num_workers")
                sys.exit(1)
            if isinstance(error, MemoryError) or not distributed.lost_contact(error):
                raise
            distributed.let_the_others_speak()
            _say(f"error: another process ended, or cannot be reached: {error}")
            sys.exit(1)
    except (KeyboardInterrupt, Terminated) as ended:
        word, code = ("terminated", 143) if isinstance(ended, Terminated) else ("interrupted", 130)
        if local_rank() == 0:
            _say(word if Run.resumable is None else f"{word}; go on with: {_command_that_goes_on(Run.resumable)}")
        sys.exit(code)
    finally:
        distributed.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _out_of_memory(error: Exception) -> bool:
    # On a processor torch raises a bare RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _command_that_goes_on(folder: Path) -> str:
    launcher = "torchrun ..." if processes() > 1 else "python"
    module, script = getattr(sys.modules["__main__"], "__spec__", None), [sys.argv[0]]
    if module is not None and module.origin == sys.argv[0]:  # it was started by -m
        script = ["-m", module.name.removesuffix(".__main__")]
    return f"{launcher} {shlex.join([*script, *resumed(sys.argv[1:], folder)])}"


def resumed(words: Sequence[str], state: Path) -> list[str]:
    """The words of a training's command, such that it goes on from a state: what it began with is left out."""
    kept: list[str] = []
    left_out = False
    for word in words:
        option, equals, _ = word.partition("=")
        if option in ("--resume", "--foundation_model_path"):
            left_out = not equals  # the next word, its value
        elif left_out:
            left_out = False
        else:
            kept.append(word)
    return [*kept, "--resume", str(state)]


@contextlib.contextmanager
def deferred(*numbers: int) -> Iterator[list[int]]:
    """These signals have their effect at the end; those that came so far are in the list."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # which alone meets signals
        yield came
        return
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in {*came}:
            signal.raise_signal(number)


def interrupted_afterwards() -> contextlib.AbstractContextManager:
    """Around every backward pass of a training: Ctrl-C and SIGTERM have their effect behind it.

    Interrupted there, autograd's queue keeps computations that hold Python objects. It is emptied when the interpreter
    is gone already, which is a crash (torch 2.15).
    """
    return deferred(signal.SIGINT, signal.SIGTERM)


def _say(message: str) -> None:
    message = " ".join(message.split())
    log.error(message) if log.handlers else print(message, file=sys.stderr)

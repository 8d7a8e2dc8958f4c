"""Runs steps, commands of the project: skips what is done, resumes what was interrupted, keeps why a step failed."""

import dataclasses
import functools
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from model import CheckpointError, ModelConfig, fetch_foundation, fetch_released
from utils.files import temporary_path, write_json

from ..report import PROJECT

DONE, STDOUT = "done.json", "stdout.txt"
PATIENCE_S = 20  # for a command to clear up after Ctrl-C, before it is urged


class Absent(Exception):
    """Data or weights are not there: nothing went wrong."""


class Failed(Exception):
    """A command ended with an error, which this names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A command, what must be there before it can run, and the folder it is run in.

    out      the folder that holds all steps
    name     what it is: a path of words below `out`
    command  script (or "-m", module) and the options that decide the result: they are what makes it the same step
    machine  options that do not: device, workers
    needs    folders of data
    weights  what the command fetches where it is not in torch.hub's cache: the published file of a configuration, or
             a backbone's official DINOv2 file
    after    the training whose best_model.pth the command reads
    """

    out: Path
    name: str
    command: tuple[str, ...]
    machine: tuple[str, ...] = ()
    needs: tuple[Path, ...] = ()
    weights: ModelConfig | str | None = None
    after: "Step | None" = None

    @property
    def folder(self) -> Path:
        """Commands that differ in anything have different folders: a finished one is never written over."""
        digest = hashlib.sha256(json.dumps(self.command).encode()).hexdigest()[:8]
        return self.out / f"{self.name}-{digest}"

    @property
    def best_model(self) -> Path | None:
        """Where the runner puts a training's best weights; None: no training."""
        return self.folder / "best_model.pth" if self.command[0].startswith("train") else None

    @property
    def chain(self) -> "list[Step]":
        """The trainings that it begins with, the first one first, and itself."""
        return [*(self.after.chain if self.after else ()), self]

    @property
    def results(self) -> Path | None:
        """The results of this very command; None where it is not finished, or what it left is damaged."""
        try:
            done = json.loads((self.folder / DONE).read_text())
            results = self.folder / done["results"]
            whole = done["command"] == list(self.command) and results.is_file()
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return results if whole and (self.best_model is None or self.best_model.is_file()) else None

    @property
    def interrupted_at(self) -> Path | None:
        """The last state that an interrupted training of this command wrote."""
        states = self.folder.glob("logs/*/*/last_model.pth") if self.best_model else ()
        return max(states, key=lambda path: path.stat().st_mtime, default=None)

    def argv(self, resume: Path | None = None) -> list[str]:
        """The words behind `python`; `resume`, an interrupted training's state, holds what that began with."""
        words = list(self.command)
        if resume:
            for option in {"--foundation_model_path", "--resume"} & {*words}:
                at = words.index(option)
                del words[at:at + 2]
            words += ["--resume", str(resume)]
        if words[0] != "-m":
            words[0] = str(PROJECT / words[0])
        return [*words, *self.machine]

    def shell(self, resume: Path | None = None) -> str:
        """The command as a shell takes it, to be run in the step's folder."""
        path = ["env", f"PYTHONPATH={PROJECT}"] if self.command[0] == "-m" else []
        return shlex.join([*path, "python", *self.argv(resume)])


class Runner:
    """Gives the results of steps, each run at most once, also over several calls of the program.

    execute  runs words behind `python` in a folder and returns the path of results.json; raises Failed
    obtain   puts weights into torch.hub's cache, or says why it cannot
    """

    def __init__(self, *, execute: Callable[[list[str], Path], Path] | None = None,
                 obtain: Callable[[ModelConfig | str], str | None] | None = None):
        self._execute, self._obtain = execute or run_command, obtain or obtain_weights
        self._outcomes: dict[Path, Path | Absent | Failed] = {}

    def results(self, step: Step) -> Path:
        """The step's results.json. Raises Absent or Failed; the same again where another row asks for the step."""
        if step.folder not in self._outcomes:
            try:
                self._outcomes[step.folder] = step.results or self._run(step)
            except (Absent, Failed) as error:
                self._outcomes[step.folder] = error
        outcome = self._outcomes[step.folder]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def seconds(self) -> float:
        """What the steps asked for took, those of earlier calls included; without what an interruption lost."""
        return sum(json.loads((folder / DONE).read_text())["seconds"] for folder, outcome in self._outcomes.items()
                   if isinstance(outcome, Path))

    def _run(self, step: Step) -> Path:
        if step.after:
            self.results(step.after)
        missing = [folder for folder in step.needs if not folder.is_dir()]
        if missing:
            raise Absent(f"{missing[0]}: no such folder")
        if step.weights is not None and (reason := self._obtain(step.weights)):
            raise Absent(reason)
        step.folder.mkdir(parents=True, exist_ok=True)
        state = step.interrupted_at
        print(f"\n{step.folder}\n$ {step.shell(state)}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        try:
            results = self._execute(step.argv(state), step.folder)
            if step.best_model:
                _share_best_model(results, step.best_model)
        except Failed as error:
            raise Failed(f"{step.folder.relative_to(step.out)}: {error}") from None
        write_json({"command": step.command, "results": os.path.relpath(results, step.folder),
                    "seconds": time.perf_counter() - started}, step.folder / DONE)
        return results


def _share_best_model(results: Path, target: Path) -> None:
    """One file under two names, where the file system can do that; the second does not change from run to run."""
    source = results.with_name("best_model.pth")
    if not source.is_file():
        raise Failed(f"no best_model.pth beside {results}")
    with temporary_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


@functools.cache  # tried once a program
def obtain_weights(weights: ModelConfig | str) -> str | None:
    """Fetches a published file, or a backbone's official one, into torch.hub's cache, or says why it cannot."""
    try:
        fetch_foundation(weights) if isinstance(weights, str) else fetch_released(weights)
    except CheckpointError as error:
        return str(error)
    return None


def run_command(words: list[str], folder: Path) -> Path:
    """Runs `python words` in `folder`, passing its log on; the last line on stdout names the results."""
    # Threads that wait for each other sleep: where they spin, they take the loader's core.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": str(PROJECT)}
    last = error = ""
    with (folder / STDOUT).open("w+") as stdout, subprocess.Popen(
            [sys.executable, *words], cwd=folder, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True,
            errors="replace") as child:
        try:
            for line in child.stderr:
                sys.stderr.write(line)
                last = line.strip() or last
                error = last if "error: " in last.lower() else error
        except KeyboardInterrupt:
            _wait_for_the_end(child)
            raise
        code = child.wait()
        stdout.seek(0)
        printed = stdout.read().split()
    if code:
        line = error or last
        raise Failed(f"exit code {code}: {line[line.find(' error: ') + 1:]}")  # without the time before it, if any
    if not printed or not (folder / printed[-1]).is_file():
        raise Failed(f"the last line on stdout names no results: {' '.join(printed[-1:])!r}")
    return folder / printed[-1]


def _wait_for_the_end(child: subprocess.Popen) -> None:
    """Of a command that Ctrl-C reached as well, and that clears up; one line says that all is interrupted: ours."""
    for urge in (None, signal.SIGINT, signal.SIGKILL):
        if urge:
            child.send_signal(urge)
        try:
            child.communicate(timeout=PATIENCE_S)
            return
        except subprocess.TimeoutExpired:
            continue

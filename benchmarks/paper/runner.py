"""Runs steps, commands of the project: skips what is done, resumes what was interrupted, keeps why a step failed."""

import dataclasses
import functools
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from datasets import DEFAULT_NORMALISATION
from model import CheckpointError, ModelConfig, fetch_foundation, fetch_released
from utils.files import write_json
from utils.hub import HubOptions, repository_folder
from utils.run import resumed

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
    hub      words of --hub: the command runs a model of that repository
    after    the training whose best_model.pth the command reads
    """

    out: Path
    name: str
    command: tuple[str, ...]
    machine: tuple[str, ...] = ()
    needs: tuple[Path, ...] = ()
    weights: ModelConfig | str | None = None
    hub: tuple[str, ...] = ()
    after: "Step | None" = None

    @property
    def folder(self) -> Path:
        """Commands that differ in anything have different folders: a finished one is never written over."""
        digest = hashlib.sha256(json.dumps(self.command).encode()).hexdigest()[:8]
        return self.out / f"{self.name}-{digest}"

    @property
    def best_model(self) -> Path | None:
        """Where the runner links a training's best weights: a path without the run's date; None: no training."""
        trains = self.command[0].startswith("train") or self.command[:2] == ("-m", "utils.distil")
        return self.folder / "best_model.pth" if trains else None

    @property
    def chain(self) -> "list[Step]":
        """The trainings that it begins with, the first one first, and itself."""
        return [*(self.after.chain if self.after else ()), self]

    @property
    def results(self) -> Path | None:
        """The results of this very command; None where it is not finished, or what it left is damaged."""
        try:
            results = self.folder / json.loads((self.folder / DONE).read_text())["results"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return results if results.is_file() and (self.best_model is None or self.best_model.is_file()) else None

    @property
    def interrupted_at(self) -> Path | None:
        """The last state that an interrupted training of this command wrote."""
        states = self.folder.glob("logs/*/*/last_model.pth") if self.best_model else ()
        return max(states, key=lambda path: path.stat().st_mtime, default=None)

    def argv(self, resume: Path | None = None) -> list[str]:
        """The words behind `python`; `resume`, an interrupted training's state, holds what that began with."""
        words = list(self.command)
        if resume:
            words = resumed(words, resume)
        if words[0] != "-m":
            words[0] = str(PROJECT / words[0])
        return [*words, *self.machine]

    def shell(self, resume: Path | None = None) -> str:
        """The command as a shell takes it, to be run in the step's folder."""
        path = ["env", f"PYTHONPATH={PROJECT}"] if self.command[0] == "-m" else []
        return shlex.join([*path, "python", *self.argv(resume)])


class Runner:
    """Gives the results of steps, each run at most once, also over several calls of the program."""

    def __init__(self):
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
        if step.weights is not None and (reason := obtain_weights(step.weights)):
            raise Absent(reason)
        if step.hub and (reason := obtain_repository(step.hub)):
            raise Absent(f"quoted: {reason}")
        step.folder.mkdir(parents=True, exist_ok=True)
        state = step.interrupted_at
        print(f"\n{step.folder}\n$ {step.shell(state)}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        try:
            results = run_command(step.argv(state), step.folder)
        except Failed as error:
            raise Failed(f"{step.folder.relative_to(step.out)}: {error}") from None
        if step.best_model:
            step.best_model.unlink(missing_ok=True)  # of an earlier run whose results are gone
            step.best_model.symlink_to(os.path.relpath(results.with_name("best_model.pth"), step.folder))
        write_json({"command": step.command, "results": os.path.relpath(results, step.folder),
                    "seconds": time.perf_counter() - started}, step.folder / DONE)
        return results


@functools.cache  # tried once a program
def obtain_weights(weights: ModelConfig | str) -> str | None:
    """Fetches a published file, or a backbone's official one, into torch.hub's cache, or says why it cannot."""
    try:
        fetch_foundation(weights) if isinstance(weights, str) else fetch_released(weights)
    except CheckpointError as error:
        return str(error)
    return None


@functools.cache
def obtain_repository(words: tuple[str, ...]) -> str | None:
    """Fetches the repository of a hub model into torch.hub's folder, or says why it cannot."""
    try:
        repository_folder(HubOptions.of(words, normalisation=DEFAULT_NORMALISATION))
    except (ValueError, FileNotFoundError) as error:
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
            try:
                child.communicate(timeout=PATIENCE_S)  # Ctrl-C reached it as well, and it clears up
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGINT)
                child.communicate()
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

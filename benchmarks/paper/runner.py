"""Runs steps: skips what is done, goes on with what was interrupted, and keeps what a step could not do by its name."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from model import CheckpointError, fetch_foundation, fetch_released
from utils.files import temporary_path, write_json

from .plan import published_config
from .rows import Released
from .steps import PROJECT, Step

DONE, STDOUT = "done.json", "stdout.txt"
PATIENCE_S = 20  # for a command to clear up after Ctrl-C, before it is urged


class Absent(Exception):
    """Data or weights are not there: nothing went wrong."""


class Failed(Exception):
    """A command ended with an error, which this names."""


class Runner:
    """Gives the results of steps, each run at most once, also over several calls of the program.

    execute  runs words behind `python` in a folder and returns the path of results.json; raises Failed
    obtain   makes sure that weights are in torch.hub's cache; raises Absent
    """

    def __init__(self, *, execute: Callable[[list[str], Path], Path] | None = None,
                 obtain: Callable[[Released | str], None] | None = None):
        self._execute, self._obtain = execute or run_command, obtain or obtain_weights
        self._outcomes: dict[Path, Path | Absent | Failed] = {}

    def results(self, step: Step) -> Path:
        """The step's results.json. Raises Absent or Failed; the same again where another row asks for the step."""
        if step.folder not in self._outcomes:
            try:
                self._outcomes[step.folder] = finished(step) or self._run(step)
            except (Absent, Failed) as error:
                self._outcomes[step.folder] = error
        outcome = self._outcomes[step.folder]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def seconds(self) -> float:
        """What the steps asked for took, those of earlier calls included; without what an interruption lost."""
        done = [json.loads((folder / DONE).read_text()) for folder, outcome in self._outcomes.items()
                if isinstance(outcome, Path)]
        return sum(step["seconds"] for step in done)

    def _run(self, step: Step) -> Path:
        if step.after:
            self.results(step.after)
        missing = [folder for folder in step.needs if not folder.is_dir()]
        if missing:
            raise Absent(f"{missing[0]}: no such folder")
        if step.weights is not None:
            self._obtain(step.weights)
        step.folder.mkdir(parents=True, exist_ok=True)
        state = interrupted_at(step)
        print(f"\n{step.folder}\n$ {step.shell(goes_on_from=state)}", file=sys.stderr, flush=True)
        started = time.perf_counter()
        try:
            results = self._execute(step.argv(goes_on_from=state), step.folder)
            if step.trains and not results.with_name("best_model.pth").is_file():
                raise Failed(f"no best_model.pth beside {results}")
        except Failed as error:
            raise Failed(f"{step.folder.relative_to(step.out)}: {error}") from None
        if step.trains:
            _share(results.with_name("best_model.pth"), step.best_model)
        write_json({"command": step.command, "results": os.path.relpath(results, step.folder),
                    "seconds": time.perf_counter() - started}, step.folder / DONE)
        return results


def finished(step: Step) -> Path | None:
    """The results of a step that an earlier call finished."""
    done = read_done(step)
    results = step.folder / done["results"] if done else None
    present = results and results.is_file() and (step.best_model.is_file() or not step.trains)
    return results if present else None


def read_done(step: Step) -> dict | None:
    """done.json of this very command; None where it is not finished, or the file is damaged."""
    try:
        done = json.loads((step.folder / DONE).read_text())
        return done if done["command"] == list(step.command) and done["results"] else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def interrupted_at(step: Step) -> Path | None:
    """The last state that an interrupted training of this command wrote."""
    states = step.folder.glob("logs/*/*/last_model.pth") if step.trains else ()
    return max(states, key=lambda path: path.stat().st_mtime, default=None)


def _share(source: Path, target: Path) -> None:
    """One file under two names, where the file system can do that; the second does not change from run to run."""
    with temporary_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


@functools.cache
def _why_absent(weights: Released | str) -> str | None:
    try:
        if isinstance(weights, Released):
            fetch_released(published_config(weights))
        else:
            fetch_foundation(weights)
    except CheckpointError as error:
        return str(error)
    return None


def obtain_weights(weights: Released | str) -> None:
    """Fetches a published file, or a backbone's official one, into torch.hub's cache; tries once a program."""
    reason = _why_absent(weights)
    if reason:
        raise Absent(reason)


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
        raise Failed(f"exit code {code}: {_without_time(error or last)}")
    if not printed or not (folder / printed[-1]).is_file():
        raise Failed(f"the last line on stdout names no results: {' '.join(printed[-1:])!r}")
    return folder / printed[-1]


def _without_time(line: str) -> str:
    return line[line.index(" error: ") + 1:] if " error: " in line else line


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

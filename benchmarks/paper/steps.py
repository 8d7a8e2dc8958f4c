"""A step: one command, and the folder it is run in, which follows from the command."""

import dataclasses
import hashlib
import json
import shlex
from pathlib import Path

from .rows import Released

PROJECT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A command of the project and what must be there before it can run.

    out      the folder that holds all steps
    name     what it is: a path of words below `out`
    command  script (or "-m", module) and the options that decide the result: they are what makes it the same step
    machine  options that do not: device, workers
    needs    folders of data
    weights  what the command fetches where it is not in torch.hub's cache: a published file, or the backbone whose
             official DINOv2 file it is
    after    the training whose best_model.pth the command reads
    """

    out: Path
    name: str
    command: tuple[str, ...]
    machine: tuple[str, ...] = ()
    needs: tuple[Path, ...] = ()
    weights: Released | str | None = None
    after: "Step | None" = None

    @property
    def folder(self) -> Path:
        """Commands that differ in anything have different folders: a finished one is never written over."""
        digest = hashlib.sha256(json.dumps(self.command).encode()).hexdigest()[:8]
        return self.out / f"{self.name}-{digest}"

    @property
    def trains(self) -> bool:
        return self.command[0].startswith("train")

    @property
    def best_model(self) -> Path:
        """Where the runner puts a finished training's best weights."""
        return self.folder / "best_model.pth"

    def argv(self, *, goes_on_from: Path | None = None) -> list[str]:
        """The words behind `python`; a training can go on from its last_model.pth, which holds what it began with."""
        words = list(self.command)
        if goes_on_from is not None:
            for option in ("--foundation_model_path", "--resume"):
                if option in words:
                    at = words.index(option)
                    del words[at:at + 2]
            words += ["--resume", str(goes_on_from)]
        if words[0] != "-m":
            words[0] = str(PROJECT / words[0])
        return [*words, *self.machine]

    def shell(self, *, goes_on_from: Path | None = None) -> str:
        """The command as a shell takes it, to be run in the step's folder."""
        path = ["env", f"PYTHONPATH={PROJECT}"] if self.command[0] == "-m" else []
        return shlex.join([*path, "python", *self.argv(goes_on_from=goes_on_from)])

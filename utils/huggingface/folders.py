"""Folders and repositories of the hub, read as strictly as model files: nothing is guessed, no pickle opened."""

import contextlib
import hashlib
import importlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from model import Checkpoint, CheckpointError, DamagedCheckpointError, ModelConfig, SelaVPRpp, checkpoint_of
from model.checkpoint import FORMAT, VERSION

from ..distributed import first_on_each_node
from ..files import temporary_path, write_json

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
# Bytes: a configuration has two thousand and some for each training, a header 0.2 million for the largest backbone.
LARGEST_CONFIG, LARGEST_HEADER = 2**20, 2**22
_REPOSITORY = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w./-]+))?", re.ASCII)
_FILES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")  # whose names are never those of repositories


def load_library(name: str) -> ModuleType:
    """An optional package, by what is imported of it; ValueError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"the Hugging Face hub needs the package {error.name}, which is optional: "
                         "pip install huggingface_hub safetensors") from None


def is_folder(path: Path) -> bool:
    """Whether a folder is in the hub's form; a training's run folder is not."""
    return (path / WEIGHTS).is_file() and (path / CONFIG).is_file()


def repository_of(path: Path) -> tuple[str, str | None] | None:
    """OWNER/REPO and the revision, if any, that --resume names by OWNER/REPO or OWNER/REPO@REVISION; None for what
    exists here and for what cannot be one."""
    named = _REPOSITORY.fullmatch(str(path))
    if named is None or path.exists() or path.suffix.lower() in _FILES:
        return None
    return named[1], named[2]


def fetched(repository: str, revision: str | None = None, **download: object) -> Path:
    """The folder of the hub's cache that holds a repository, of which model and configuration alone are fetched.

    Without a network that is what was fetched before. download: as huggingface_hub.snapshot_download takes it
    (cache_dir, token, force_download, local_files_only). Raises ValueError, in one line, for what is not to be had.
    """
    what = f"{repository}@{revision}" if revision else repository
    try:
        hub = load_library("huggingface_hub")
    except ValueError as error:
        raise ValueError(f"{what}: no path here; {error}") from None
    with reaching(what):
        return Path(hub.snapshot_download(repository, revision=revision, allow_patterns=[WEIGHTS, CONFIG], **download))


@contextlib.contextmanager
def reaching(what: str) -> Iterator[None]:
    """What the hub's library raises, of whichever network library it stands on, becomes one line."""
    errors = load_library("huggingface_hub.errors")
    try:
        yield
    except errors.LocalEntryNotFoundError as error:
        raise ValueError(f"{what}: no path here, the hub cannot be reached, and nothing of it was fetched before; give "
                         "a file or folder, or try again with a network") from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{what}: the repository has no such revision; give a branch, tag or commit of it") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(f"{what}: neither a path here nor a repository of the Hugging Face hub that may be read or "
                         "written; check the name, and log in with `hf auth login` if it is private") from error
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{what}: the Hugging Face hub says: {said}") from error


def read_hub(path: Path, *, mapped: bool = False) -> Checkpoint[ModelConfig] | None:
    """The model of a folder or repository; None for what is neither. Of several processes on a node the first fetches.

    mapped  as `read_folder`
    """
    repository = repository_of(path)
    if repository is None:
        return read_folder(path, mapped=mapped) if is_folder(path) else None
    folder = first_on_each_node(lambda: fetched(*repository))
    return read_folder(folder, source=f"{repository[0]}@{folder.name}", mapped=mapped)  # it is called by its commit


def read_folder(folder: Path, *, source: str | None = None, mapped: bool = False) -> Checkpoint[ModelConfig]:
    """The model of a folder in the hub's form; `load_model` then checks that its weights fit, all of them.

    source  what to call it; the folder
    mapped  the weights are not verified (see `model.read_checkpoint`)

    Raises FileNotFoundError, DamagedCheckpointError or CheckpointError, in one line.
    """
    source = source or str(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{source}: no {name}; expected {WEIGHTS} and {CONFIG}, as python -m "
                                    "utils.huggingface save writes them")
    about = _about(folder / CONFIG, f"{source}/{CONFIG}")
    tensors, weights = load_library("safetensors.torch"), folder / WEIGHTS
    with weights.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        if header > LARGEST_HEADER:  # the library would make a tensor of each of millions of names
            raise DamagedCheckpointError(f"{source}: {WEIGHTS} cannot be read: its header would have {header:,} bytes, "
                                         f"expected at most {LARGEST_HEADER:,}; copy or fetch it again")
        file.seek(0)
        if not mapped and hashlib.file_digest(file, "sha256").hexdigest() != about.get("weights_sha256"):
            raise DamagedCheckpointError(f"{source}: the bytes of {WEIGHTS} do not fit the weights_sha256 in {CONFIG}; "
                                         "copy or fetch both again")
    try:
        state_dict = tensors.load_file(weights)
    except Exception as error:  # damaged bytes raise nearly anything
        told = " ".join(str(error).split())
        raise DamagedCheckpointError(f"{source}: {WEIGHTS} cannot be read: {told}; copy or fetch it again") from None
    if not mapped:
        for key, value in state_dict.items():
            if value.is_floating_point() and not value.float().isfinite().all():
                raise CheckpointError(f"{source}: {key} holds NaN or infinite values; give another model")
    return checkpoint_of({**about, "training": None, "model_state_dict": state_dict}, source)


def _about(path: Path, source: str) -> dict:
    """config.json, whose values `checkpoint_of` checks."""
    if path.stat().st_size > LARGEST_CONFIG:
        raise CheckpointError(f"{source}: {path.stat().st_size:,} bytes, expected at most {LARGEST_CONFIG:,}")
    try:
        about = json.loads(path.read_text(), parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source}: no JSON of this project: {error}") from None
    if not isinstance(about, dict):
        raise CheckpointError(f"{source}: holds a {type(about).__name__}, expected an object")
    return about


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def write_folder(model: SelaVPRpp, folder: Path, *, pretrained: bool | None, trainings: Sequence[dict]) -> None:
    """Weights, then the configuration that says which weights it is of."""
    save_file = load_library("safetensors.torch").save_file
    with temporary_path(folder / WEIGHTS, synced=True) as temporary:
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, temporary,
                  metadata={"format": "pt"})
        temporary.chmod(folder.stat().st_mode & 0o666)  # safetensors leaves it to its owner alone
    with (folder / WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    write_json({"format": FORMAT, "version": VERSION, "config": model.config.to_dict(), "pretrained": pretrained,
                "licence": model.config.licence(pretrained=pretrained), "history": [*map(_without_paths, trainings)],
                "weights_sha256": digest}, folder / CONFIG)


def _without_paths(training: dict) -> dict:
    """With the name of a folder in place of its whole path, which tells of the machine that trained."""
    data = training.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("set"), str):
        return training
    return {**training, "data": {**data, "set": Path(data["set"]).name}}

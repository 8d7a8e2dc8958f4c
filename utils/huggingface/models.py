"""SelaVPR++ with huggingface_hub's methods, and what the command does with them."""

import functools
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from model import SelaVPRpp, fingerprint, load_model

from ..errors import named
from ..models import Origin, read_model
from .card import model_card
from .folders import CARD, CONFIG, WEIGHTS, fetched, load_library, reaching, read_folder, repository_of, write_folder

log = logging.getLogger("selavprpp")


@functools.cache
def hub_model_class() -> type[SelaVPRpp]:
    """SelaVPRpp with the hub's `from_pretrained`, `save_pretrained` and `push_to_hub`.

    Of PyTorchModelHubMixin's own loading nothing is left: it fills what a file lacks with random weights, in silence,
    and opens pickles. Here a folder or repository is refused unless all of it fits.
    """
    mixin = load_library("huggingface_hub").PyTorchModelHubMixin
    load_library("safetensors.torch")

    class HubModel(SelaVPRpp, mixin, library_name="selavprpp"):
        """A SelaVPRpp; `origin` says where its weights come from, which what it writes says again."""

        origin = Origin(None)

        @classmethod
        def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *, revision: str | None = None,
                            cache_dir: str | Path | None = None, token: str | bool | None = None,
                            force_download: bool = False, local_files_only: bool = False) -> "HubModel":
            """The model of a folder, or of a repository OWNER/REPO, in eval mode; the arguments, as the mixin has them,
            are of repositories.

            Raises ValueError or OSError, in one line, for whatever is missing, unexpected or of another shape.
            """
            path, source = Path(pretrained_model_name_or_path), None
            if repository := repository_of(path):
                name, at = repository
                path = fetched(name, revision or at, cache_dir=cache_dir, token=token, force_download=force_download,
                               local_files_only=local_files_only)
                source = f"{name}@{path.name}"
            checkpoint = read_folder(path, source=source)
            model = load_model(checkpoint, interface=cls)
            model.origin = Origin(checkpoint.pretrained, checkpoint.trainings)
            return model

        def _save_pretrained(self, save_directory: Path) -> None:
            write_folder(self, save_directory, pretrained=self.origin.pretrained, trainings=self.origin.trainings)

        def generate_model_card(self, results: Sequence[Path] = ()):
            """`results`, run folders whose figures it tells, is what `model_card_kwargs` may hold."""
            return model_card(self.config, self.origin, fingerprint(self), results=[*map(Path, results)])

    return HubModel


def save(file: Path, folder: Path, *, results: Sequence[Path] = ()) -> None:
    """Writes a model file's model into a new folder in the hub's form, whole or not at all.

    file     whatever --resume takes
    results  run folders whose results.json the card tells: evaluations of this very model
    Raises ValueError or OSError, in one line, for what cannot be read, written, or is of another model.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists; expected an empty folder, or the name of a new one")
    kind = hub_model_class()
    checkpoint = read_model(file)
    model = load_model(checkpoint, interface=kind)
    model.origin = Origin(checkpoint.pretrained, checkpoint.trainings)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with named(folder), tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        whole = Path(temporary) / folder.name
        model.save_pretrained(whole, model_card_kwargs={"results": results})
        whole.rename(folder)


def push(folder: Path, repository: str, *, private: bool | None = None) -> str:
    """Puts a folder of `save`, its card as it is there now, into a repository OWNER/REPO, made if there is none.

    private  of a new repository; None: as the account has it
    Returns the address of the commit. Raises ValueError or OSError, in one line, for a folder that cannot be loaded,
    and for what the hub refuses.
    """
    load_model(read_folder(folder))  # nobody gets what we could not load ourselves
    if not (folder / CARD).is_file():
        raise FileNotFoundError(f"{folder}: no {CARD}; a model without a card tells nobody what it is: save it again")
    files = [CONFIG, WEIGHTS, CARD]
    left = sorted(path.name for path in folder.iterdir() if path.name not in files)
    if left:
        log.warning("%s: not published: %s", folder, ", ".join(left))
    api = load_library("huggingface_hub").HfApi()
    with reaching(repository):
        name = api.create_repo(repository, private=private, exist_ok=True).repo_id
        return str(api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=files,
                                     commit_message="SelaVPR++ model"))

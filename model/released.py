"""Files published elsewhere, fetched, verified and cached: official backbones and published SelaVPR++ models."""

import dataclasses
import hashlib
import http.client
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from .checkpoint import Checkpoint, CheckpointError, read_checkpoint, read_file
from .config import BACKBONES, ModelConfig
from .files import temporary_path

_RELEASE = "https://github.com/Lu-Feng/SelaVPRplusplus/releases/download/SelaVPR%2B%2B/"
# (backbone, aggregation, branches) -> address of the published file.
RELEASED_MODELS: dict[tuple[str, str, tuple[str, ...]], str] = {
    ("dinov2-base", "gem", ("float",)): _RELEASE + "SelaVPRplusplus_base.pth",
    ("dinov2-base", "gem", ("float", "binary")): _RELEASE + "SelaVPRplusplus_base_rerank.pth",
    ("dinov2-large", "gem", ("float",)): _RELEASE + "SelaVPRplusplus_large.pth",
    ("dinov2-large", "gem", ("float", "binary")): _RELEASE + "SelaVPRplusplus_large_rerank.pth",
}


def released_address(config: ModelConfig) -> str:
    """Where the published weights of this configuration lie; ValueError names those that exist."""
    address = RELEASED_MODELS.get((config.backbone, config.aggregation, config.branches))
    if address is None or config != ModelConfig(backbone=config.backbone, branches=config.branches):
        exist = "; ".join(f"{backbone} {aggregation} {'+'.join(branches)}"
                          for backbone, aggregation, branches in RELEASED_MODELS)
        raise ValueError(f"no weights are published for {config.backbone} {config.aggregation} "
                         f"{'+'.join(config.branches)}; published are: {exist}")
    return address


def fetch_released(config: ModelConfig) -> Checkpoint:
    """The published model of this configuration; its `source` is the cached file, its backbone is pre-trained."""
    path = fetch(released_address(config), verify=read_checkpoint)
    checkpoint = read_checkpoint(path)
    if checkpoint.config != config:
        raise CheckpointError(f"{path}: holds {checkpoint.config}, expected {config}; delete it and try again")
    return dataclasses.replace(checkpoint, pretrained=True)


def fetch_foundation(backbone: str) -> Path:
    """The official file of a backbone, from the cache or its official address."""
    url, family = BACKBONES[backbone].weights_url, BACKBONES[backbone].family
    if url is None and family.on_request:
        raise ValueError(f"the weights of {backbone} have no public address: ask for {family.files} at "
                         f"{family.on_request} ({family.licence}), and name the file by --foundation_model_path")
    if url is None:
        raise ValueError(f"no pre-trained weights exist for {backbone}; give --foundation_model_path random, "
                         "or a file of your own")
    return fetch(url, verify=read_file)


def fetch(url: str, *, verify: Callable[[Path], object]) -> Path:
    """Downloads a file once into torch.hub's cache (`torch.hub.get_dir()/checkpoints`) and returns its path.

    A new file must be readable by `verify` before it enters the cache, so that a cut or wrong download never does. The
    sources publish no checksums: the sha256 of the first good reading is kept beside the file and checked at
    every later use. Raises CheckpointError with what to do.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / url.rsplit("/", 1)[-1]
    record = path.with_name(path.name + ".sha256")
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        print(f"Fetching {url} to {path}", file=sys.stderr)
        try:
            with temporary_path(path) as partial:
                torch.hub.download_url_to_file(url, str(partial), progress=sys.stderr.isatty())
                verify(partial)
        except (OSError, http.client.HTTPException) as error:  # a URLError is an OSError
            reason = " ".join(str(getattr(error, "reason", error)).split())
            raise CheckpointError(f"cannot fetch {url} ({reason}); download it by hand to {path}") from None
        except CheckpointError:
            raise CheckpointError(f"{url} gave no readable checkpoint (cut off, or a web page); try again, "
                                  f"or download it by hand to {path}") from None
    elif not record.is_file():
        verify(path)  # put there by hand or by torch.hub
    elif _sha256(path) == record.read_text().strip():
        return path
    else:
        raise CheckpointError(f"{path}: changed since it was fetched (sha256 differs from {record.name}); "
                              "delete both and try again")
    with temporary_path(record) as temporary:
        temporary.write_text(_sha256(path) + "\n")
    return path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

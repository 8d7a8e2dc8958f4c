"""The files of an index: what they hold, their sizes and checksums, and the manifest that names them.

A folder is an index where it holds manifest.json; renaming that into place is what commits a change. It names the
model, the segments and, of each file, size and sha256. A segment never changes. Its files, `<segment>.<kind>`, are
plain little-endian arrays, which hold for n images:

    codes        (n, bits / 8) uint8                    absent from an index of the float branch alone
    values       (n, D) float32, float16 or int8        absent from an index of the binary branch alone
    scales       (n,) float32                           int8 only: a row is values * scale
    coordinates  (n, 2) float64, NaN where unknown      absent where no image of the segment has them
    offsets      (n + 1,) int64, into:
    names        all names in a row, UTF-8; bytes that are none are kept
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...files import temporary_path
from ...ranks import progress
from ..stores import STORES

MANIFEST, UNFINISHED, MARKS = "manifest.json", "unfinished.json", "unfinished.rows"
FORMAT, VERSION = "SelaVPR++ index", 1
_OURS = re.compile(r"segment-[0-9a-f]{8}\.(codes|values|scales|coordinates|offsets|names)|removed-[0-9a-f]{8}"
                   rf"|{re.escape(UNFINISHED)}|{re.escape(MARKS)}")
_VALUES = {"fp32": "<f4", "fp16": "<f2", "int8": "<i1"}
_READ_BYTES = 4 * 2**20


class ModelIdentity(NamedTuple):
    """The model that described the images: its weights' fingerprint, and a name for people, e.g. "base gem"."""

    fingerprint: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} (fingerprint {self.fingerprint[:12]})"


class RowShape(NamedTuple):
    """What an image's row holds: bytes of its code and width of its float descriptor, None for a missing branch."""

    code_bytes: int | None
    float_dim: int | None
    store: str

    def check(self) -> "RowShape":
        """Itself. Raises ValueError for an unknown store and for rows that would hold nothing."""
        if self.store not in STORES:
            raise ValueError(f"store is {self.store!r}; expected one of {', '.join(STORES)}")
        if not self.code_bytes and not self.float_dim:
            raise ValueError("an index needs codes, float descriptors or both; got neither")
        return self

    def arrays(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """By kind of file, the type and shape of one row; without names and coordinates."""
        arrays = {}
        if self.code_bytes:
            arrays["codes"] = np.dtype(np.uint8), (self.code_bytes,)
        if self.float_dim:
            arrays["values"] = np.dtype(_VALUES[self.store]), (self.float_dim,)
            if self.store == "int8":
                arrays["scales"] = np.dtype("<f4"), ()
        return arrays

    def bytes_of(self, *kinds: str) -> int:
        """Bytes of one row in files of these kinds; all of them where none is named."""
        return sum(dtype.itemsize * int(np.prod(shape)) for kind, (dtype, shape) in self.arrays().items()
                   if not kinds or kind in kinds)


def new_name(kind: str) -> str:
    """A name that no manifest refers to, also where two processes want one at once."""
    return f"{kind}-{secrets.token_hex(4)}"


def new_folder(folder: str | Path) -> Path:
    """A folder for a new index; ValueError where there is one already, finished or not."""
    folder = Path(folder)
    for name, what in ((MANIFEST, "an index"), (UNFINISHED, "an unfinished extraction")):
        if (folder / name).exists():
            raise ValueError(f"{folder} holds {what} already; give another folder or delete this one")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def first_manifest(model: ModelIdentity, shape: RowShape, segment: dict, source: dict) -> dict:
    """Of an index of one segment, as `write_manifest` wants it."""
    return {"generation": 1, "model": model._asdict(), "row": shape._asdict(), "source": source,
            "segments": [segment], "removed": None}


def describe_files(paths: Sequence[Path]) -> list[dict]:
    """Size and sha256 of files whose content is on the disk from here on, also after a loss of power."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return [{"size": path.stat().st_size, "sha256": digest}
            for path, digest in zip(paths, _sha256(paths, "checksums"), strict=True)]


def _sha256(paths: Sequence[Path], description: str) -> Iterable[str]:
    total = sum(path.stat().st_size for path in paths)
    with progress([], description, total=total, unit="B", unit_scale=True) as bar:
        for path in paths:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(_READ_BYTES):
                    digest.update(block)
                    bar.update(len(block))
            yield digest.hexdigest()


def files_of(folder: Path, manifest: dict) -> dict[Path, dict]:
    """Every file that a manifest names, with its {"size", "sha256"}."""
    files = {folder / f"{segment['name']}.{kind}": described
             for segment in manifest["segments"] for kind, described in segment["files"].items()}
    if manifest["removed"]:
        files[folder / manifest["removed"]["name"]] = manifest["removed"]["file"]
    return files


def check_sizes(files: dict[Path, dict]) -> None:
    """Raises FileNotFoundError for a missing file, ValueError for a torn one."""
    for path, described in files.items():
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is missing, which the index's manifest names; "
                                    "restore it or build the index again") from None
        if size != described["size"]:
            raise ValueError(f"{path} is torn: it holds {size} bytes, expected {described['size']}; "
                             "restore it or build the index again")


def check_contents(files: dict[Path, dict]) -> None:
    """Reads everything. Raises ValueError for the first file whose sha256 is not that of the manifest."""
    check_sizes(files)
    for (path, described), digest in zip(files.items(), _sha256(list(files), "verifying"), strict=True):
        if digest != described["sha256"]:
            raise ValueError(f"{path} has sha256 {digest[:12]}, expected {described['sha256'][:12]}: its content "
                             "changed; restore it or build the index again")


def _seal(manifest: dict) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def write_manifest(folder: Path, manifest: dict) -> None:
    """Commits: from the rename on, the folder is the index that `manifest` describes."""
    manifest = {"format": FORMAT, "version": VERSION, **manifest}
    sync_folder(folder)
    write_durably({**manifest, "sha256": _seal(manifest)}, folder / MANIFEST)


def read_manifest(folder: Path) -> dict:
    """The manifest of an index. Raises FileNotFoundError where there is none, ValueError for one that is damaged, of
    another format, or not there yet because an extraction did not finish."""
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if (folder / UNFINISHED).exists():
            marks = folder / MARKS
            rows = np.memmap(marks, np.uint8, mode="r") if marks.exists() and marks.stat().st_size else np.zeros(1)
            raise ValueError(f"{folder} holds an unfinished extraction, {np.count_nonzero(rows)} of {len(rows)} "
                             "images are written; run the same command again to finish it") from None
        raise FileNotFoundError(f"{folder} holds no index; expected a folder with {MANIFEST}") from None
    try:
        manifest = json.loads(text)
        seal = manifest.pop("sha256")
    except (ValueError, AttributeError, KeyError):
        raise ValueError(f"{path} is damaged or no manifest of an index; restore it or build the index again") from None
    if (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise ValueError(f"{path} has format {manifest.get('format')!r}, version {manifest.get('version')!r}; "
                         f"expected {FORMAT!r}, version {VERSION}")
    if seal != _seal(manifest):
        raise ValueError(f"{path} is damaged: its checksum is not that of its content; "
                         "restore it or build the index again")
    return manifest


def delete_unnamed(folder: Path, manifest: dict) -> None:
    """Deletes files of ours that the manifest does not name. Processes that have them open keep what they see."""
    named = files_of(folder, manifest)
    for path in folder.iterdir():
        if path not in named and _OURS.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_durably(content: dict, path: Path) -> None:
    """JSON under a temporary name, renamed; on the disk before this returns."""
    with temporary_path(path) as temporary, temporary.open("w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the folder's list of files durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

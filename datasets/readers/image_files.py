"""The names of all images below a folder, fast and small enough for millions of them."""

import os
from pathlib import Path

from ..commands import progress

EXTENSIONS = (b".jpg", b".jpeg", b".png")


def list_images(folder: Path | str) -> list[bytes]:
    """Paths below `folder` of its .jpg, .jpeg and .png files (any case), sorted; bytes with "/", see os.fsdecode.

    Each folder is read once and no file is asked for anything: about 150 bytes of memory an image (a Path takes ten
    times that).  Links are followed; what begins with a dot is no image (a half-written file, a thumbnail).  Empty
    where there is none.  Raises FileNotFoundError or NotADirectoryError, and ValueError for a link to a folder above,
    and a folder that cannot be listed.
    """
    if not Path(folder).exists():
        raise FileNotFoundError(f"{folder}: no such folder; expected images in it")
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder}: a file; expected a folder of images")
    root, found = os.fsencode(folder) + b"/", []
    for parent, folders, files in progress(os.walk(root, onerror=_refuse, followlinks=True), f"folders of {folder}"):
        folders[:] = [name for name in folders if not name.startswith(b".")]
        below = parent.removesuffix(b"/") + b"/"
        for link in filter(Path.is_symlink, (Path(os.fsdecode(below + name)) for name in folders)):
            # It would be followed for ever.
            if link.parent.resolve().is_relative_to(target := link.resolve()):
                raise ValueError(f"{link}: a link to {target}, a folder above it; remove the link")
        found += [below[len(root):] + name for name in files
                  if not name.startswith(b".") and name.lower().endswith(EXTENSIONS)]
    found.sort()
    return found


def _refuse(error: OSError) -> None:
    """os.walk would pass over what it cannot list."""
    raise ValueError(f"{os.fsdecode(error.filename)}: this folder cannot be listed ({error.strerror}); make it "
                     "readable") from error


def some_images(folder: Path, expected: str) -> list[bytes]:
    """As `list_images`.  A missing or empty folder is a FileNotFoundError, which tells what is there instead."""
    names = list_images(folder) if folder.is_dir() else None
    if not names:
        raise FileNotFoundError(f"{folder}: {'no such folder' if names is None else 'no image in it'}; expected "
                                f"{expected}; {folders_near(folder)}")
    return names


def folders_near(folder: Path) -> str:
    """The sub-folders of the nearest folder above that there is, in words, for errors."""
    present = next(parent for parent in folder.absolute().parents if parent.is_dir())
    names = sorted(path.name for path in present.iterdir() if path.is_dir()) or ["none"]
    return f"sub-folders of {present}: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"

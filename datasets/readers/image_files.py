"""The names of all images below a folder, fast and small enough for millions of them."""

import os
from pathlib import Path

EXTENSIONS = (b".jpg", b".jpeg", b".png")


def list_images(folder: Path | str) -> list[bytes]:
    """Paths below `folder` of its .jpg, .jpeg and .png files (any case), sorted; bytes with "/", see os.fsdecode.

    Each folder is read once and no file is asked for anything: about 150 bytes of memory an image (a Path takes ten
    times that).  Links are followed; what begins with a dot is no image (a half-written file, a thumbnail).  Empty
    where there is none.  Raises FileNotFoundError or NotADirectoryError, and ValueError for a link to a folder above.
    """
    root = os.fsencode(folder)
    if not Path(folder).exists():
        raise FileNotFoundError(f"{folder}: no such folder; expected images in it")
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder}: a file; expected a folder of images")
    found, waiting = [], [b""]
    while waiting:
        below = waiting.pop()
        with os.scandir(root + b"/" + below) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(b"."):
                    continue
                if entry.is_dir():
                    # A link to a folder that contains it would be followed for ever.
                    if entry.is_symlink() and (os.path.realpath(root + b"/" + below) + b"/").startswith(
                            (target := os.path.realpath(entry.path)) + b"/"):
                        raise ValueError(f"{os.fsdecode(entry.path)}: a link to {os.fsdecode(target)}, a folder above "
                                         "it; remove the link")
                    waiting.append(below + name + b"/")
                elif name.lower().endswith(EXTENSIONS):
                    found.append(below + name)
    found.sort()
    return found


def some_images(folder: Path, expected: str) -> list[bytes]:
    """As `list_images`; what was `expected` is in errors.

    Raises FileNotFoundError, which tells what is there instead, for a missing or empty folder, ValueError for one that
    cannot be listed.
    """
    try:
        names = list_images(folder) if folder.is_dir() else None
    except PermissionError as error:
        raise ValueError(f"{os.fsdecode(error.filename)}: this folder cannot be listed ({error.strerror}); make it "
                         "readable") from error
    if not names:
        raise FileNotFoundError(f"{folder}: {'no such folder' if names is None else 'no image in it'}; expected "
                                f"{expected}; {folders_near(folder)}")
    return names


def folders_near(folder: Path) -> str:
    """The sub-folders of the nearest folder above that there is, in words, for errors."""
    present = next(parent for parent in folder.absolute().parents if parent.is_dir())
    names = sorted(path.name for path in present.iterdir() if path.is_dir()) or ["none"]
    return f"sub-folders of {present}: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"

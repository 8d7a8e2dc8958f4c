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

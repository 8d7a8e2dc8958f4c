"""What errors say: of a command line, what was wrong; of the disk, which file, and what to do."""

import argparse
import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

_TO_DO = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some of your quota, or choose another folder",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or choose a folder on another disk",
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "change its permissions, or choose another folder",
    errno.EPERM: "change its permissions, or choose another folder",
    errno.ENOTDIR: "a part of that path is a file, expected a folder: give another path",
    errno.EISDIR: "expected a file: give another path, or remove the folder",
    errno.EEXIST: "expected nothing or a folder there: give another path, or remove it",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or take fewer --num_workers",
    errno.EIO: "check that disk",
}


class Parser(argparse.ArgumentParser):
    """As datasets.commands.Parser, without that package, which LanceDB cannot be loaded beside."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message} (--help lists the options)\n")


def what_to_do(error: BaseException) -> str:
    """Behind what an OSError says, as far as it is known."""
    advice = _TO_DO.get(getattr(error, "errno", None) or 0)
    return f"; {advice}" if advice else ""


@contextlib.contextmanager
def named(path: Path | str) -> Iterator[None]:
    """Errors of the operating system in here name this file, which those of writing do not."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise

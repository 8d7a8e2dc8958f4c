"""What the commands `python -m datasets.<name>` share: how they are asked and end, and show that they are at work."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """A mistake is one line and exit code 2: argparse would print 20 lines of usage before the one that counts."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message} (--help lists the options)\n")


def exit_with(main: Callable[[], int | None], *, interrupted: str) -> None:
    """Exits with main's code, with 2 and one line for a user's mistake, with 130 and what is left for a Ctrl-C."""
    try:
        code = main()
    except (ValueError, OSError) as error:
        if os.environ.get("SELAVPRPP_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        code = 130
    sys.exit(code)


def progress(things: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """`things`, with a bar where somebody watches, from the third second on."""
    return tqdm(things, description, total, leave=False, disable=not sys.stderr.isatty(), unit_scale=True, delay=3)

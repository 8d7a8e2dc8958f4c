"""What the commands `python -m datasets.<name>` share: how they end, and how they show that they are at work."""

import os
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


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

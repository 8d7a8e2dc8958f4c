"""How the commands `python -m datasets.<name>` end."""

import os
import sys
from collections.abc import Callable


def exit_with(main: Callable[[], int | None], *, interrupted: str) -> None:
    """Runs a command's main and exits with its code; a user's mistake ends in one line and 2, Ctrl-C in one and 130.

    interrupted   what is left after a Ctrl-C, in words
    """
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

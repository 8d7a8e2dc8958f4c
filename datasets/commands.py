"""How the commands `python -m datasets.<name>` end."""

import os
import sys
from collections.abc import Callable


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

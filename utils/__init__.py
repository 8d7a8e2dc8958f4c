"""Plumbing of the scripts: command line, run folder, training state, evaluation."""

import signal
import sys

# `python -m utils.<command>`, as long as Python looks for it; who imports this package keeps their signals.
if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)].removeprefix("-m").startswith(f"{__name__}."):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the libraries load

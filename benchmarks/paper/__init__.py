"""Every table of the paper as commands: see `python -m benchmarks.paper --help`."""

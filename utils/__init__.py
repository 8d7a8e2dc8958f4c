"""Plumbing of the scripts: command line, run folder, training state, evaluation."""

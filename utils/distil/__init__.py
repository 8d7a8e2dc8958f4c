"""Trains a student to give a larger model's descriptors, without labels: `python -m utils.distil`."""

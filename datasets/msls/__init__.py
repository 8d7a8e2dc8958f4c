"""Mapillary Street-Level Sequences: its versions, tables and prediction files."""

"""A pre-trained backbone on small sets of real photographs: `python -m benchmarks.real_sets FOLDER --out OUT`."""

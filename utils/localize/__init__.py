"""A map that answers: `python -m utils.localize INDEX IMAGE...`, and its `build`, `add` and `remove`.

The command line is __main__.py; maps.py opens and changes a map, answers.py asks it, labelled.py fits its confidence.
"""

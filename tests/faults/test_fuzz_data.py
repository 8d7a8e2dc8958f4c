"""A short form of fuzz_data.py."""

import pytest
from fuzz_data import KINDS, fuzz


@pytest.mark.parametrize("kind", KINDS)
def test_altered_files_are_read_or_refused_in_one_line(kind):
    outcomes, wrong = fuzz(kind, 30, 0)
    assert wrong == []
    assert outcomes["read"] + outcomes["refused"] == 30 and outcomes["refused"] > 10

"""What `datasets` exports, and what its rooms import."""

import subprocess
import sys

import pytest
from paths import ROOT

import datasets


def loaded(modules, names):
    """Those of `names` that a fresh interpreter has behind the import of `modules`."""
    code = f"import sys, {modules}; print(*(name for name in {names} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_every_exported_name_is_there():
    for name in datasets.__all__:
        assert getattr(datasets, name) is not None
    assert [name for name in datasets.__all__ if name.isupper()] == sorted(filter(str.isupper, datasets.__all__))
    lower = [name for name in datasets.__all__ if not name.isupper()]
    assert lower == sorted(lower)
    with pytest.raises(AttributeError, match="module 'datasets' has no attribute 'nothing'"):
        _ = datasets.nothing


def test_a_name_brings_its_module_alone():
    assert loaded("datasets", ("torch", "sklearn", "numpy", "PIL")) == []


@pytest.mark.slow
def test_reading_folders_needs_no_torch():
    rooms = "datasets.protocols, datasets.prepare.__main__, datasets.readers.own_images, datasets.readers.file_lists"
    assert loaded(rooms, ("torch", "torchvision", "numpy")) == ["numpy"]

import signal
from collections import Counter

import pytest
import torch
from images import write_all, write_streets
from scripts import HARD, RANDOM, close_log, run_folder, training_options

import train
import train_rerank
from utils.training import memory
from utils.training.curves import Curves

REFRESH = Curves.refresh


def pytest_collection_modifyitems(items):
    """Files with many slow tests come first, so that both processes of `make test` end at about the same time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard():
    """Also by tests in the background, where a shell has what it starts ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def impatient_loaders():
    """A loader whose worker met an error waits for it so many seconds (torch: 5); here nobody should."""
    before = torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL
    torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.2
    yield
    torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = before


@pytest.fixture(scope="session", autouse=True)
def memory_not_measured():
    """What a step takes is measured for a second, and a hundred trainings start here; `memory_measured` has it
    measured. Gives the function that measures."""
    measure = memory.step_memory
    memory.step_memory = lambda model, *, images, **step: memory.StepMemory(images, fixed=0, kept=0, peak=images)
    yield measure
    memory.step_memory = measure


@pytest.fixture
def memory_measured(monkeypatch, memory_not_measured):
    monkeypatch.setattr(memory, "step_memory", memory_not_measured)


@pytest.fixture(scope="session", autouse=True)
def curves_not_drawn():
    """A picture takes a third of a second, and a hundred epochs run here; `drawn` has them drawn."""
    Curves.refresh = lambda self: None
    yield
    Curves.refresh = REFRESH


@pytest.fixture
def drawn(monkeypatch):
    monkeypatch.setattr(Curves, "refresh", REFRESH)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The small sets of images.py; shared, so never written to."""
    return write_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def float_run(data, tmp_path_factory):
    """Run folder of train.py, two epochs."""
    return run_folder(train.main, *training_options(data), *RANDOM, "--epochs_num", 2,
                      cwd=tmp_path_factory.mktemp("float"))


@pytest.fixture(scope="session")
def rerank_run(data, float_run, tmp_path_factory):
    """Run folder of train_rerank.py, two epochs from the float model."""
    return run_folder(train_rerank.main, *training_options(data), "--resume", float_run / "last_model.pth",
                      "--epochs_num", 2, cwd=tmp_path_factory.mktemp("rerank"))


@pytest.fixture(scope="session")
def streets(tmp_path_factory):
    """Places that look alike (images.py); shared, so never written to."""
    return write_streets(tmp_path_factory.mktemp("streets"))


@pytest.fixture(scope="session")
def hard_run(streets, tmp_path_factory):
    """Run folder of train.py with hard places, three epochs."""
    return run_folder(train.main, *training_options(streets), *HARD, *RANDOM, "--epochs_num", 3,
                      cwd=tmp_path_factory.mktemp("hard"))


@pytest.fixture(autouse=True)
def closed_log():
    """Lets go of the log files and of pytest's stderr, which end with the test."""
    yield
    close_log()

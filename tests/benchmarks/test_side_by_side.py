"""SelaVPR beside SelaVPR++: bytes against stored features, memory against a training's, and a whole small run."""

import numpy as np
import pytest
import torch
from scripts import one_thread

from benchmarks import side_by_side
from benchmarks.side_by_side import IMAGES_A_QUERY, System, columns, measure
from model import ModelConfig, SelaVPRConfig, build_model, build_selavpr
from utils.search.local_store import LocalFeatures, write_local

BACKBONE = "dinov2-tiny"
SYSTEMS = (System("SelaVPR", BACKBONE, predecessor=True), System("SelaVPR++ (resource)", BACKBONE))


@torch.inference_mode()
def test_bytes_an_image_are_those_of_what_is_stored(tmp_path):
    image = torch.zeros(1, 3, 56, 56)
    before, ours = SYSTEMS
    found = build_selavpr(SelaVPRConfig(backbone=BACKBONE), seed=0)(image)
    with write_local(tmp_path / "local.npy", images=1, shape=found.local.shape[1:]) as write:
        write(0, found.local.numpy())
    assert [*before.bytes_an_image(56).values()] == [
        found.floating.nbytes, LocalFeatures(tmp_path / "local.npy").bytes_per_image]
    described = build_model(ModelConfig(backbone=BACKBONE), seed=0)(image)
    assert [*ours.bytes_an_image(56).values()] == [np.packbits(described.binary > 0).nbytes, described.floating.nbytes]


def test_the_paper_s_sizes():
    """956,672 and 8,256 and 16,448 bytes an image (Table IX's systems)."""
    assert [sum(one.bytes_an_image(224).values()) for one in side_by_side.SYSTEMS] == [
        4 * 1024 + 2 * 61 * 61 * 128, 64 + 4 * 2048, 64 + 4 * 4096]


@pytest.mark.slow
def test_every_system_has_every_figure(monkeypatch):
    monkeypatch.setattr(side_by_side, "TOGETHER", 8)
    monkeypatch.setattr(side_by_side, "PAPER_BATCH", 16)
    with one_thread():
        found = measure(SYSTEMS, size=56, database=120, local_side=9, repeats=1)
    first, second = found["systems"].values()
    assert [*first] == [*second] and len(first) == 12
    lines = columns(found).splitlines()
    assert lines[0] == "| what | SelaVPR | SelaVPR++ (resource) |" and len(lines) == 2 + len(first)
    assert set(found["samples"]) >= {"training step: SelaVPR: the whole",
                                     "training step: SelaVPR++ (resource): binary branch"}
    rows = {name: float(row["training, kept for the gradient, bf16"].split()[0])
            for name, row in found["systems"].items()}
    assert rows["SelaVPR"] > 5 * rows["SelaVPR++ (resource)"] > 0


def test_a_step_of_the_predecessor_has_a_gradient_for_all_that_learns(monkeypatch):
    monkeypatch.setattr(side_by_side, "TOGETHER", 2 * IMAGES_A_QUERY)
    step = side_by_side.PredecessorStep(BACKBONE, size=56)
    step.model.initialise_adapters()
    step()
    learning = {name for name, p in step.model.named_parameters() if p.requires_grad}
    assert learning == {name for name, p in step.model.named_parameters() if p.grad is not None}

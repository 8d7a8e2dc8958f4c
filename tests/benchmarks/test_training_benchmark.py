"""benchmarks/training.py on a tiny model, and what it measures with against things of known size."""

import json

import pytest
import torch
from scripts import one_thread

from benchmarks import training
from benchmarks.plain import plain_forward
from benchmarks.report import alternate
from benchmarks.training import saved_bytes
from losses import mine_pairs, multi_similarity_loss
from model import ModelConfig, build_model
from utils.run import hardware


def test_the_plain_path_computes_what_the_model_does():
    model = build_model(ModelConfig(backbone="dinov2-tiny"), seed=0).train()
    images = torch.randn(4, 3, 42, 56, generator=torch.Generator().manual_seed(0))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for branch in ("float", "binary"):
        output, binary = plain_forward(model, images, branch)
        model.load_state_dict(state)
        ours = model(images, branches=(branch,))
        model.load_state_dict(state)
        assert (output - (ours.floating if branch == "float" else ours.relaxed)).abs().max() < 1e-6
        assert binary is None if branch == "float" else torch.equal(binary, ours.binary)


def test_measures_count_what_is_there():
    x = torch.ones(1000, requires_grad=True)  # 4000 bytes
    assert saved_bytes(lambda: (x.exp() * 2).sin(), excluded=[]) == 2 * 4000  # exp keeps its result, sin its input
    assert saved_bytes(lambda: x * x, excluded=[x]) == 0


def test_runs_alternate_and_the_first_of_each_does_not_count():
    calls = []
    seconds = alternate({name: lambda name=name: calls.append(name) for name in "ab"}, repeats=2)
    assert calls == list("ababab")
    assert [len(values) for values in seconds.values()] == [2, 2]


@pytest.mark.slow
def test_the_command_writes_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SIZE", 28)
    with one_thread():
        this = f"{hardware(torch.device('cpu'))['cpu']}, 1 thread"
        (tmp_path / "training.md").write_text(
            f"# Training\n\nAbout.\n\n## {this}\n\nreplaced\n\n## Another machine\n\nkept\n")
        training.main(["--backbone", "dinov2-tiny", "--out", str(tmp_path)])
    page = (tmp_path / "training.md").read_text()
    assert "replaced" not in page
    assert page.startswith("# Training\n\nAbout.\n\n## Another machine\n\nkept\n\n## ")
    assert page.count("\n## ") == 2
    (stored,) = json.loads((tmp_path / "training.json").read_text()).values()
    measured = {row["what"]: row["measured"] for row in stored["rows"]}
    assert len(measured) == len(stored["rows"]) == page.count("\n| ") - 1
    assert len(stored["samples"]["train, dinov2-tiny, 16: ours bf16"]) == 5
    for script in ("train", "train_rerank"):
        assert float(measured[f"{script}.py, dinov2-tiny, gradient's cosine, bf16 to fp32"]) > 0.99


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_the_rows_of_a_gpu(monkeypatch):
    """Of two batches, one of which does not fit by one path."""
    call = training.Step.__call__

    def too_much(self, kind, precision):
        if (kind, precision) == ("plain", "fp16") and len(self.images) == 16:
            raise torch.cuda.OutOfMemoryError
        call(self, kind, precision)

    monkeypatch.setattr(training.Step, "__call__", too_much)
    report = training.Report()
    for images in (16, 20):
        training.steps(report, "dinov2-tiny", "train", images, dict.fromkeys(training.PRECISIONS, 1e13),
                       torch.device("cuda"), size=28)
    measured = {row["what"]: row for row in report.rows}
    assert measured["train.py, dinov2-tiny, 16 x 28, plain fp16"]["measured"] == "does not fit"
    for run in training.GPU_RUNS:
        row = measured[f"train.py, dinov2-tiny, 20 x 28, {run}"]
        assert float(row["measured"].removesuffix(" s")) > 0 and float(row["beside"].partition(" GB")[0]) > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_a_step_on_a_gpu_does_not_wait_for_it():
    device = torch.device("cuda")
    model = build_model(ModelConfig(backbone="dinov2-tiny", branches=("float",)), seed=0).to(device).train()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], fused=True)
    images, labels = torch.randn(8, 3, 56, 56, device=device), torch.arange(8, device=device) // 2

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            descriptors = model(images).floating
        multi_similarity_loss(descriptors, mine_pairs(descriptors, labels)).backward()
        optimiser.step()
        optimiser.zero_grad()

    with model.backbone.rounded(torch.bfloat16):
        step()  # libraries start here, and may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")

"""model/inference.py against the readable modules, and benchmarks/plain.py's evaluation against both."""

import copy
from types import SimpleNamespace

import pytest
import torch
from fill import batch
from scripts import one_thread
from torch import nn
from torch.nn import functional as F

from benchmarks import extraction
from benchmarks.plain import plain_extract
from benchmarks.report import Report
from model import AGGREGATORS, BACKBONES, ModelConfig, PublishedInterface, build_model, fast_inference, fingerprint
from model.config import ViT
from model.layers import processor
from model.layers.batch_norm import BatchNorm
from model.layers.block import Attention

SWIGLU = ViT(64, 3, 2, "last:2", 96, None, swiglu=160, registers=4)  # the giant's blocks


def trained_like(**config) -> nn.Module:
    """A model in which no BatchNorm, scale or adapter is what it starts from."""
    model = build_model(ModelConfig(**config), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point() and value.ndim == 1 and ".pool." not in name:
                value.copy_(0.5 + torch.rand(value.shape, generator=generator) if not name.endswith("bias")
                            else 0.1 * torch.randn(value.shape, generator=generator))
    return model


def distance(ours, exact) -> float:
    assert [x is None for x in ours] == [x is None for x in exact]
    return max((a - b).abs().max().item() for a, b in zip(ours, exact, strict=True) if a is not None)


CASES = {
    "both, wide": ({"backbone": "dinov2-tiny"}, (42, 56)),
    "last levels": ({"backbone": "dinov2-narrow", "branches": ("float",)}, (56, 42)),
    "every second": ({"backbone": "dinov2-tiny", "branches": ("binary",), "placement": "every:2"}, (28, 28)),
    "bare": ({"backbone": "dinov2-tiny", "branches": ("float",), "placement": "none"}, (28, 42)),
    "vanilla": ({"backbone": "dinov2-tiny", "adapter": "vanilla"}, (28, 42)),
    "selavpr": ({"backbone": "dinov2-tiny", "branches": ("float",), "tuning": "selavpr"}, (28, 42)),
    "partial": ({"backbone": "dinov2-tiny", "branches": ("float",), "tuning": "partial:2"}, (28, 42)),
    "boq": ({"backbone": "dinov2-tiny", "branches": ("float",), "aggregation": "boq"}, (28, 42)),
    "salad": ({"backbone": "dinov2-tiny", "branches": ("float",), "aggregation": "salad"}, (126, 126)),
    "registers": ({"backbone": "swiglu"}, (42, 28)),
}


@pytest.fixture(autouse=True)
def giant_in_small(monkeypatch):
    monkeypatch.setitem(BACKBONES, "swiglu", SWIGLU)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_model(case):
    config, size = CASES[case]
    model, images = trained_like(**config), batch(range(5), *size)
    fast, rough = fast_inference(model), fast_inference(model, dtype=torch.bfloat16)
    before = fingerprint(model)
    with one_thread(), torch.no_grad():
        ours, low = fast(images), rough(images)  # five images by twos
        assert model.training and fingerprint(model) == before
        exact = model.eval()(images)
    assert distance(ours[:1] + ours[2:], exact[:1] + exact[2:]) < 1e-5
    for a, b in ((low.relaxed, exact.relaxed), (low.floating, exact.floating)):
        assert a is None or (a.dtype == torch.float32 and F.cosine_similarity(a, b).min() > 0.999)
    if exact.binary is not None:
        assert torch.equal(ours.binary, torch.where(ours.relaxed >= 0, 1.0, -1.0))
        assert (ours.binary != exact.binary)[exact.relaxed.abs() > 1e-5].sum() == 0
    assert not any(x is not None and x.requires_grad for x in ours)


def test_folding_takes_statistics_of_every_size():
    model = trained_like(backbone="dinov2-tiny", branches=("float",))
    torch.manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, BatchNorm):
            for value in (norm.running_mean, norm.weight, norm.bias):
                nn.init.normal_(value)
            nn.init.uniform_(norm.running_var, 1e-4, 1e-2)  # beside it the BatchNorms' epsilon of 1e-3 is seen
    images = batch(range(2), 56, 70)
    with one_thread(), torch.no_grad():
        ours, exact = fast_inference(model)(images).floating, model.eval()(images).floating
    assert (ours - exact).abs().max() < 1e-6


PROCESSORS = {"AMD without AMX": {"AuthenticAMD", "avx512_bf16"}, "Intel with AMX": {"GenuineIntel", "amx_bf16"},
              "another": set()}


@pytest.mark.parametrize("flags", PROCESSORS.values(), ids=PROCESSORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["both, wide", "selavpr", "boq"])
def test_every_processor_gives_the_same(case, dtype, flags, monkeypatch):
    config, size = CASES[case]
    model, images = trained_like(**{**config, "branches": ("float",)}), batch(range(3), *size)
    monkeypatch.setattr(processor, "features", lambda: frozenset(flags))
    with one_thread():
        ours = fast_inference(model, dtype=dtype)(images).floating
        monkeypatch.setattr("model.inference.quicken", lambda model: None)  # the file is optional
        plain = fast_inference(model, dtype=dtype)(images).floating
    assert F.cosine_similarity(ours, plain).min() > (0.999999 if dtype == torch.float32 else 0.9999)


@pytest.mark.parametrize("missing", ["_reorder_linear_weight", "_linear_pointwise"])
def test_bfloat16_without_the_operators_of_the_compiler(missing, monkeypatch):
    kept = {name: getattr(processor.mkldnn, name) for name in ("_is_mkldnn_bf16_supported", "_reorder_linear_weight",
                                                               "_linear_pointwise") if name != missing}
    monkeypatch.setattr(processor, "features", lambda: frozenset(PROCESSORS["AMD without AMX"]))
    monkeypatch.setattr(processor, "mkldnn", SimpleNamespace(**kept))
    model, images = trained_like(backbone="dinov2-tiny"), batch(range(2), 28, 28)
    with one_thread(), torch.no_grad():
        found, exact = fast_inference(model, dtype=torch.bfloat16)(images).floating, model.eval()(images).floating
    assert F.cosine_similarity(found, exact).min() > 0.999


def test_attention_by_products_where_it_matters_where_a_token_looks(monkeypatch):
    monkeypatch.setattr(processor, "features", frozenset)
    torch.manual_seed(0)
    exact = Attention(64, 2)
    with torch.no_grad():
        exact.qkv.weight[:128] *= 3  # scores of a wide range
    ours = copy.deepcopy(exact).bfloat16()
    processor.quicken_attention(ours)
    x = torch.randn(3, 20, 64)
    with one_thread():
        expected, found = exact(x), ours(x.bfloat16()).float()
        assert ((found - expected).norm() / expected.norm()) < 0.03
        expected.square().sum().backward(), found.square().sum().backward()
    assert F.cosine_similarity(ours.qkv.weight.grad.float().flatten(), exact.qkv.weight.grad.flatten(), dim=0) > 0.999


def test_branches_and_errors_are_the_model_s():
    model, images = trained_like(backbone="dinov2-tiny"), batch(range(2), 28, 28)
    fast = fast_inference(model)
    both, alone = fast(images), fast(images, branches=("binary",))
    assert alone.floating is None and torch.equal(alone.relaxed, both.relaxed)
    with pytest.raises(ValueError, match="each once"):
        fast(images, branches=("float", "float"))
    with pytest.raises(ValueError, match="no branch 'binary'"):
        fast_inference(trained_like(backbone="dinov2-tiny", branches=("float",)))(images, branches=("binary",))
    with pytest.raises(ValueError, match="multiples of 14"):
        fast(images[..., :-1])
    with pytest.raises(ValueError, match="float64"):
        fast_inference(model, dtype=torch.float64)


class MeanHead(nn.Module):
    """Of one's own: it knows fp32 alone."""

    fixed_dim = None

    def __init__(self, dim, out_dim):
        super().__init__()
        self.expand = nn.Linear(dim, out_dim)

    def forward(self, tokens, grid):
        return F.normalize(self.expand(tokens[:, -grid[0] * grid[1]:].mean(dim=1)), dim=-1)


def test_a_head_of_one_s_own(monkeypatch):
    monkeypatch.setitem(AGGREGATORS, "mean", MeanHead)
    model = trained_like(backbone="dinov2-tiny", branches=("float",), aggregation="mean")
    images = batch(range(2), 28, 28)
    with torch.no_grad():
        exact = model.eval()(images).floating
    assert (fast_inference(model)(images).floating - exact).abs().max() < 1e-5
    assert F.cosine_similarity(fast_inference(model, dtype=torch.bfloat16)(images).floating, exact).min() > 0.999


def test_a_model_from_the_hub():
    config, images = ModelConfig(backbone="dinov2-tiny"), batch(range(2), 28, 28)
    model = PublishedInterface(config).eval()
    with torch.no_grad():
        relaxed, _, floating = model(images)
    found = fast_inference(model)(images)
    assert max((found.relaxed - relaxed).abs().max(), (found.floating - floating).abs().max()) < 1e-5


def test_the_backbone_is_not_held_twice():
    model = trained_like(backbone="dinov2-tiny")
    extract_rows = fast_inference(model).__wrapped__
    copied, = (cell.cell_contents for cell in extract_rows.__closure__ if isinstance(cell.cell_contents, nn.Module))
    own = {p.data_ptr() for p in model.backbone.parameters()}
    assert {p.data_ptr() for p in copied.backbone.parameters()} == own


def test_compiled_blocks_share_the_function(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda function: lambda *x: calls.append(1) or function(*x))
    model, images = trained_like(backbone="dinov2-tiny", branches=("float",)), batch(range(2), 28, 28)
    with one_thread():
        exact = fast_inference(model)(images)
        assert torch.equal(fast_inference(model, compiled=True)(images).floating, exact.floating)
    assert len(calls) == 4  # blocks


def test_the_plain_path_extracts_as_the_model_does():
    model, images = trained_like(backbone="dinov2-tiny"), batch(range(3), 42, 56)
    before = fingerprint(model)
    plain = plain_extract(model, images, ("float", "binary"))
    alone = plain_extract(model, images, ("binary",))
    assert fingerprint(model) == before
    with torch.no_grad():
        exact = model.eval()(images)
    assert distance((plain.relaxed, plain.floating), (exact.relaxed, exact.floating)) < 1e-5
    assert alone.floating is None and torch.equal(alone.binary, plain.binary)


@pytest.mark.slow
def test_the_rows(monkeypatch):
    monkeypatch.setattr(extraction, "SIZE", 28)
    monkeypatch.setattr(extraction, "calibrate", lambda report, device: {"fp32": 1e11, "bf16": 4e11})
    report = Report()
    with one_thread():
        extraction.rows(report, device=torch.device("cpu"), backbones=("dinov2-tiny", "dinov2-narrow"), repeats=2,
                        batch=3)
    verdicts = {row["what"]: row["met"] for row in report.rows}
    assert len(verdicts) == len(report.rows)
    assert all(met for what, met in verdicts.items() if "folded" in what or "cosine" in what)
    assert sum("bits" in what for what in verdicts) == 2
    assert len(report.samples["extraction, dinov2-tiny, float, 3 x 28: ours bf16"]) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_on_a_gpu(dtype):
    model, images = trained_like(backbone="dinov2-tiny").cuda(), batch(range(3), 42, 56).cuda()
    ours = fast_inference(model, dtype=dtype)(images)
    with torch.no_grad():
        exact = model.eval()(images)
    assert F.cosine_similarity(ours.floating, exact.floating).min() > (0.999 if dtype.itemsize == 2 else 0.99999)

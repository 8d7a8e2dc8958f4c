"""Exported models beside the models themselves, at sizes they were not traced at; and the program of docs/onnx.md."""

import importlib.util
import json
import re
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from backbones import SMALL
from fill import batch
from images import image
from paths import ROOT
from scripts import error_of, one_thread
from torch.nn import functional as F

from datasets import evaluation_transform
from model import (
    BACKBONES,
    Descriptors,
    ModelConfig,
    SelaVPRConfig,
    build_model,
    build_selavpr,
    fingerprint,
    published_selavpr_state_dict,
    save_checkpoint,
    save_selavpr,
)
from model import exportable as graphs
from model.config import ViT
from model.layers.salad import share_out
from utils import export_model
from utils.search.exact import pack_codes, rerank_l2, search_hamming

# One block each: what an export takes is for every operation.
KINDS = {name: vit._replace(depth=1, placement="all") for name, vit in {
    "dinov2": ViT(32, 1, 2, "all", 48, None), "registers": ViT(32, 1, 2, "all", 48, None, registers=4), **SMALL,
}.items()}
SIZES = ((1, 23, 9), (3, 37, 37), (2, 50, 12))  # images, patches down and across; 37: the table as it is


@pytest.fixture(scope="module", autouse=True)
def small_backbones():
    with pytest.MonkeyPatch.context() as patch, one_thread():
        for name, vit in KINDS.items():
            patch.setitem(BACKBONES, name, vit)
        yield


def saved(path, kind="dinov2", **fields):
    """A model whose descriptors depend on positions and on every part, and its file."""
    model = build_model(ModelConfig(backbone=kind, code_bits=32, **fields), seed=0).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("pos_embed", "cls_token", "tokens")):
                p.normal_(generator=torch.Generator().manual_seed(1))
            elif p.ndim > 1:
                p.mul_(3)
    save_checkpoint(model, path, pretrained=False)
    return model


def outputs(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    assert [given.name for given in session.get_inputs()] == ["images"]
    return dict(zip(names, session.run(names, {"images": images.numpy()}), strict=True))


@torch.no_grad()
def assert_equal(model, found, images, branches=("float", "binary")):
    wanted = {name: values for name, values in model(images, branches)._asdict().items() if values is not None}
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        assert found[name].dtype == np.float32
        if name == "binary":
            clear = wanted["relaxed"].abs() > 1e-4
            assert torch.equal(torch.from_numpy(found[name])[clear], values[clear])
        else:
            assert np.abs(found[name] - values.numpy()).max() < 1e-5, name


@pytest.mark.parametrize("kind", ["dinov2", "registers", "deit"])
@pytest.mark.parametrize("grid", [(37, 37), (14, 14), (23, 23), (10, 41), (60, 37), (2, 3)])
def test_positions_by_products_are_those_of_interpolate(kind, grid):
    backbone = build_model(ModelConfig(backbone=kind), seed=0).backbone
    found, expected = graphs.positions(backbone, *grid), backbone.position_embedding(*grid)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-6
    assert grid != (backbone.vit.family.table,) * 2 or torch.equal(found, expected)


@pytest.mark.parametrize("size", [(30, 100), (112, 40), (64, 64)])
def test_photographs_are_resized_as_by_interpolate(size):
    images = batch([0], 64, 48)
    found = graphs.resample(images, graphs.averaging(64, size[0], graphs.triangle),
                            graphs.averaging(48, size[1], graphs.triangle))
    assert (found - F.interpolate(images, size, mode="bilinear", antialias=True)).abs().max() < 2e-6


@pytest.mark.slow
def test_shares_do_not_keep_the_number_of_patches_they_were_traced_with():
    class Shares(torch.nn.Module):
        def forward(self, scores):
            return share_out(scores, torch.tensor(1.0))

    draw = torch.Generator().manual_seed(0)
    program = torch.export.export(Shares(), (torch.randn(1, 64, 100, generator=draw),),
                                  dynamic_shapes=({2: torch.export.Dim("patches", min=66, max=3000)},))
    scores = torch.randn(1, 64, 300, generator=draw)
    assert torch.equal(program.module()(scores), share_out(scores, torch.tensor(1.0)))


@pytest.mark.slow
def test_an_onnx_file_of_any_size(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = saved(tmp_path / "m.pth", aggregation="salad")
    export_model.main([str(tmp_path / "m.pth")])
    assert {path.name for path in tmp_path.iterdir()} == {"m.pth", "m.onnx"}
    for count, rows, columns in SIZES:
        images = batch(range(count), 14 * rows, 14 * columns)
        assert_equal(model, outputs(tmp_path / "m.onnx", images), images)
    told = onnxruntime.InferenceSession(tmp_path / "m.onnx").get_modelmeta().custom_metadata_map
    assert told["model"] == "dinov2 salad"
    assert told["fingerprint"] == fingerprint(model)
    assert json.loads(told["branches"]) == ["float", "binary"]
    assert (told["size"], told["patch"], told["pretrained"]) == ("null", "14", "false")
    assert json.loads(told["normalisation"]) == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.slow
def test_a_program_of_torch(tmp_path):
    """Of a backbone with rotary positions, and of BoQ, which torch exports for one number of images."""
    model = saved(tmp_path / "m.pth", "dinov3-plus", aggregation="boq")
    export_model.main([str(tmp_path / "m.pth"), "--format", "torch_export", "--branches", "float", "--batch", "2"])
    told = {"selavprpp.json": ""}
    network = torch.export.load(tmp_path / "m.pt2", extra_files=told).module()
    assert json.loads(told["selavprpp.json"])["branches"] == ["float"]
    for _, rows, columns in SIZES:
        images = batch(range(2), 16 * rows, 16 * columns)
        assert_equal(model, {name: values.detach().numpy() for name, values in network(images).items()}, images,
                     ["float"])
    with pytest.raises(AssertionError):
        network(batch([0], 16 * 23, 16 * 9))


@pytest.mark.slow
def test_what_is_not_the_model_is_not_written(tmp_path, monkeypatch, capsys):
    right = graphs.positions
    monkeypatch.setattr(graphs, "positions", lambda *grid: 1.01 * right(*grid))
    saved(tmp_path / "m.pth")
    error = error_of(export_model.main, tmp_path / "m.pth", "--format", "torch_export", "--batch", 2, capsys=capsys)
    assert re.match(r"what was exported is not the model: \w+ descriptors are .* apart .*; nothing was written$", error)
    assert [path.name for path in tmp_path.iterdir()] == ["m.pth"]


def test_what_counts_as_equal():
    relaxed, binary = torch.tensor([[0.6, -5e-5, 0.8]]), torch.tensor([[1.0, -1.0, 1.0]])

    def compared(found_relaxed, found_binary):
        found = {"relaxed": np.array([found_relaxed]), "binary": np.array([found_binary])}
        return export_model.compare(lambda *_: Descriptors(relaxed, binary), ["binary"], lambda _: found,
                                    torch.zeros(1, 3, 14, 14), size=None)

    assert 5e-5 < compared([0.6, 4e-5, 0.8], [1, 1, 1]) <= 1e-4  # a sign may differ where the value is nearly 0
    with pytest.raises(ValueError, match="1 bits of its codes differ"):
        compared([0.6, -5e-5, 0.8], [1, -1, -1])
    for wrong in (0.601, float("nan")):
        with pytest.raises(ValueError, match="descriptors are .* apart"):
            compared([wrong, -5e-5, 0.8], [1, -1, 1])


def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys):
    path = tmp_path / "m.pth"
    saved(path, branches=("float",))
    assert "m.pth holds a float model" in error_of(export_model.main, path, "--branches", "binary", capsys=capsys)
    assert "is the model file itself" in error_of(export_model.main, path, "--output", path, capsys=capsys)
    assert "torch reads .pt2 files" in error_of(export_model.main, path, "--format", "torch_export", "--output",
                                                tmp_path / "m.t", capsys=capsys)
    older = build_selavpr(SelaVPRConfig(backbone="dinov2"), seed=0)
    save_selavpr(older, path.with_name("s.pth"), pretrained=False)
    torch.save({"model_state_dict": published_selavpr_state_dict(older)}, path.with_name("p.pth"))
    for name in ("s.pth", "p.pth"):
        said = error_of(export_model.main, path.with_name(name), capsys=capsys)
        assert name in said and "a SelaVPR model" in said and "expected a SelaVPR++ one" in said
        path.with_name(name).unlink()

    def of_another_version(*_, **__):
        raise ModuleNotFoundError("No module named 'onnxscript.a'")

    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "export", of_another_version)
        assert "needs another onnxscript (No module named 'onnxscript.a'): pip" in error_of(
            export_model.main, path, capsys=capsys)
    find = export_model.importlib.util.find_spec
    monkeypatch.setattr(export_model.importlib.util, "find_spec",
                        lambda name: None if name.startswith("onnx") else find(name))
    assert "pip install onnx onnxruntime onnxscript" in error_of(export_model.main, path, capsys=capsys)
    assert [found.name for found in tmp_path.iterdir()] == ["m.pth"]


@pytest.mark.slow
def test_the_page_retrieves_without_torch(tmp_path, monkeypatch):
    """The program of docs/onnx.md, in an environment without torch, against this project's own searches; with weights
    in a file of their own, as those of large models are."""
    monkeypatch.setattr(export_model, "LARGEST", 1)
    pytest.importorskip("onnxruntime")
    program, = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "onnx.md").read_text(), re.DOTALL)
    (tmp_path / "search.py").write_text(program)
    bare = tmp_path / "bare"  # a Python with what the page asks for, and nothing else
    venv.create(bare, symlinks=True)
    library, = bare.glob("lib/python*/site-packages")
    packages = [Path(importlib.util.find_spec(name).origin).parent for name in (
        "numpy", "faiss", "packaging", "PIL", "onnxruntime")]
    beside = [found for package in packages for what in ("*.libs", "nvidia") for found in package.parent.glob(what)]
    for part in {*packages, *beside}:  # nvidia: libraries that faiss-gpu loads
        (library / part.name).symlink_to(part)
    model = saved(tmp_path / "m.pth")
    export_model.main([str(tmp_path / "m.pth"), "--preprocess", "--resize", "70", "90"])
    assert (tmp_path / "m.onnx.data").stat().st_size > 0
    described = {}
    for side, count in (("map", 12), ("photographs", 5)):
        (tmp_path / side).mkdir()
        transform, prepared = evaluation_transform((70, 84)), []
        for place in range(count):
            shown = image(place, side == "map").resize((90 + place, 77))
            shown.save(tmp_path / side / f"{place:02d}.png")
            prepared.append(transform(shown))
        with torch.no_grad():
            described[side] = model(torch.stack(prepared))

    def run(*words):
        done = subprocess.run([bare / "bin" / "python", "search.py", *words], cwd=tmp_path, capture_output=True,
                              text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    run("m.onnx", "index", "map")
    told = run("m.onnx", "query", "photographs")
    codes = {side: pack_codes(found.binary) for side, found in described.items()}
    candidates = search_hamming(codes["map"], codes["photographs"], 12)[1]
    ranked = rerank_l2(described["map"].floating.numpy(), described["photographs"].floating.numpy(), candidates, 12)[0]
    assert told == [" ".join([f"photographs/{query:02d}.png:", *(f"map/{row:02d}.png" for row in nearest[:5])])
                    for query, nearest in enumerate(ranked)]
    blocked = subprocess.run([bare / "bin" / "python", "-c", "import torch"], capture_output=True, text=True)
    assert "No module named 'torch'" in blocked.stderr

"""torch.hub.load from a user's side: each call in a process of its own, as a local repository."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fill import batch
from paths import ROOT
from published import filled_weights, model_of

from model import ModelConfig

HEADER = """
import sys, torch
repository = sys.argv[1]
torch.hub.set_dir(sys.argv[2])
def load(**options):
    return torch.hub.load(repository, "SelaVPRplusplus", source="local", **options)
def attempt(**options):
    try:
        load(**options)
    except ValueError as error:
        return str(error)
"""


def run_hub(tmp_path: Path, code: str, *arguments) -> str:
    result = subprocess.run(
        [sys.executable, "-c", HEADER + code, str(ROOT), str(tmp_path / "hub"), *map(str, arguments)],
        cwd=tmp_path, text=True, timeout=120, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_each_mode_gives_what_the_published_code_gives(tmp_path):
    run_hub(tmp_path, """
images = torch.randn(3, 3, 28, 42)
def call(**options):
    model = load(pretrained=False, **options)
    assert isinstance(model, torch.nn.Module) and not isinstance(model, torch.nn.DataParallel)
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        outputs = model(images)
    for part in (outputs if type(outputs) is tuple else [outputs]):
        assert part.dtype == torch.float32 and not part.requires_grad
    return outputs

for rerank in (False, True):  # without hashing it is the float model, whatever rerank says
    floating = call(backbone="dinov2-tiny", aggregation="gem", hashing=False, rerank=rerank)
    assert type(floating) is torch.Tensor and floating.shape == (3, 512)
    assert torch.allclose(floating.norm(dim=1), torch.ones(3))
relaxed, binary = call(backbone="dinov2-tiny", hashing=True, rerank=False)
assert relaxed.shape == binary.shape == (3, 512)
assert torch.equal(binary, torch.where(relaxed >= 0, 1.0, -1.0))
relaxed, binary, floating = call(backbone="dinov2-small")  # both by default
assert relaxed.shape == binary.shape == (3, 512) and floating.shape == (3, 1024)
assert torch.equal(binary, torch.where(relaxed >= 0, 1.0, -1.0))

torch.manual_seed(5)
first = load(backbone="dinov2-tiny", pretrained=False).state_dict()
torch.manual_seed(5)
second = load(backbone="dinov2-tiny", pretrained=False).state_dict()
assert all(torch.equal(second[name], value) for name, value in first.items())
""")


@pytest.mark.slow
def test_published_weights_load_into_the_same_numbers(tmp_path):
    config = ModelConfig(backbone="dinov2-tiny")
    weights = filled_weights(config)
    torch.save({"model_state_dict": {f"module.{name}": value for name, value in weights.items()}},
               tmp_path / "released.pth")
    images = batch(range(2), 42, 28)
    with torch.no_grad():
        relaxed, binary, floating = model_of(weights)(images)
    torch.save([images, relaxed, binary, floating], tmp_path / "expected.pt")
    run_hub(tmp_path, """
load(backbone="dinov2-tiny", pretrained=False)
package, = [module for name, module in sys.modules.items() if name.startswith("selavprpp_") and "." not in name]
addresses = sys.modules[package.__name__ + ".released"].RELEASED_MODELS
addresses["dinov2-tiny", "gem", ("float", "binary")] = sys.argv[3]
model = load(backbone="dinov2-tiny", aggregation="gem", hashing=True, rerank=True)
assert not model.training
assert not any(parameter.is_meta for parameter in model.parameters())
images, *expected = torch.load(sys.argv[4])
with torch.no_grad():
    outputs = model(images)
assert len(outputs) == 3
assert all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, expected))
""", (tmp_path / "released.pth").as_uri(), tmp_path / "expected.pt")


@pytest.mark.slow
def test_what_does_not_exist_is_one_line_before_any_download(tmp_path):
    output = run_hub(tmp_path, """
import urllib.request, socket
def forbidden(*_, **__):
    raise AssertionError("a download was tried")
urllib.request.urlopen = torch.hub.urlopen = torch.hub.download_url_to_file = socket.create_connection = forbidden
print(attempt(backbone="dinov2-large", hashing=True, rerank=False))
print(attempt(backbone="dinov2-base", aggregation="boq"))
print(attempt(backbone="dinov2-tiny"))
print(attempt(backbone="resnet50"))
print(attempt(backbone="dinov2-tiny", aggregation="netvlad", pretrained=False))
""")
    *unpublished, backbone, aggregation = output.splitlines()
    assert len(unpublished) == 3
    for line, asked in zip(unpublished, ["dinov2-large gem binary", "dinov2-base boq float+binary",
                                         "dinov2-tiny gem float+binary"], strict=True):
        assert line.startswith(f"no weights are published for {asked}; published are: dinov2-base gem float;")
        assert "dinov2-large gem float+binary" in line
    assert "'resnet50'" in backbone
    assert "dinov2-base, dinov2-base-reg, dinov2-large" in backbone
    assert aggregation == "unknown aggregation 'netvlad'; choose one of gem, boq, salad"
    assert not (tmp_path / "hub").exists()


FOREIGN = """
def foreign():
    return torch.hub.load(sys.argv[3], "answer", source="local")
def ours():
    model = load(backbone="dinov2-tiny", pretrained=False)
    with torch.no_grad():
        return len(model(torch.zeros(1, 3, 28, 28)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("order", ["foreign() == 42; assert ours() == 3", "ours() == 3; assert foreign() == 42",
                                   "ours() == 3; assert foreign() == 42; assert ours() == 3; assert foreign() == 42"])
def test_it_works_beside_another_repository_with_a_package_called_model(tmp_path, order):
    (tmp_path / "other" / "model").mkdir(parents=True)
    (tmp_path / "other" / "model" / "__init__.py").write_text("")
    (tmp_path / "other" / "model" / "network.py").write_text("def answer():\n    return 42\n")
    (tmp_path / "other" / "hubconf.py").write_text("from model.network import answer\n")
    run_hub(tmp_path, f"""{FOREIGN}
assert {order}
assert sys.modules["model"].__file__.startswith(sys.argv[3])
assert sys.modules["model.network"].answer() == 42
""", tmp_path / "other")


@pytest.mark.slow
def test_loading_ours_leaves_the_name_model_free(tmp_path):
    run_hub(tmp_path, """
before = list(sys.path)
load(backbone="dinov2-tiny", pretrained=False)
assert "model" not in sys.modules and sys.path == before
import importlib.util
spec = importlib.util.spec_from_file_location("hubconf", repository + "/hubconf.py")
hubconf = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hubconf)
# torch.hub.list calls every public callable of the file an entry point.
assert [name for name in dir(hubconf) if callable(getattr(hubconf, name)) and name[0] != "_"] == [
    "SelaVPR", "SelaVPRplusplus"]
assert hubconf.dependencies == ["torch"] and "322" in hubconf.SelaVPRplusplus.__doc__
""")


@pytest.mark.slow
def test_list_and_help_tell_all_there_is(tmp_path):
    """Of a repository on GitHub, as torch.hub has it in its cache: help shows the text alone, without the signature."""
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "owner_repo_main").symlink_to(ROOT)
    run_hub(tmp_path, """
import inspect
name = "owner/repo:main"
assert sorted(torch.hub.list(name, trust_repo=True)) == ["SelaVPR", "SelaVPRplusplus"]
sys.path.insert(0, repository)
import hubconf
for entry in ("SelaVPR", "SelaVPRplusplus"):
    text = torch.hub.help(name, entry, trust_repo=True)
    assert f'torch.hub.load("OWNER/REPO", "{entry}"' in text and "<" not in text
    for parameter in inspect.signature(getattr(hubconf, entry)).parameters.values():
        assert parameter.name in text
        assert isinstance(parameter.default, bool) or f'"{parameter.default}" (default)' in text
""")


@pytest.mark.slow
def test_it_needs_torch_alone(tmp_path):
    run_hub(tmp_path, """
for name in ("numpy", "torchvision", "faiss", "PIL", "tqdm", "sklearn", "utm"):
    sys.modules[name] = None
model = load(backbone="dinov2-tiny", pretrained=False)
with torch.no_grad():
    assert len(model(torch.zeros(1, 3, 28, 28))) == 3
""")

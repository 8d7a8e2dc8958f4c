"""Models of other repositories: a made-up one, whose modules are called like ours, through eval.py."""

import json
import shutil
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from images import SIDE
from paths import ROOT
from PIL import Image
from scripts import error_of, evaluation_options, results, run_folder

import eval as eval_float  # `eval` is a builtin
import eval_rerank
import model
import utils
from datasets import TEST_METHODS, query_transform, read_folder
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD
from model import ModelConfig, build_model, save_checkpoint
from utils.compare import compare_predictions
from utils.hub import HubModules, HubOptions

FILES = {
    "hubconf.py": """
        dependencies = ["torch", "json"]
        import torch
        from model import Net

        def get_model(kind="plain", scale=1.0, cells=4):
            print("said on stdout")
            return Net(kind, scale, cells)

        def wrapped(**options):
            return torch.nn.DataParallel(Net(**options))

        def function():
            return torch.sum

        def asking():
            input("Do you trust this? ")

        def lacking():
            import a_package_that_nobody_has

        def offline():
            import urllib.error
            raise urllib.error.URLError("no route to host")
    """,
    "model/__init__.py": """
        import torch
        from .layers import Pool

        class Net(torch.nn.Module):
            def __init__(self, kind="plain", scale=1.0, cells=4):
                super().__init__()
                self.kind, self.scale, self.pool = kind, scale, Pool(cells)
                self.mix = torch.nn.Linear(3, 3)
                with torch.no_grad():
                    self.mix.weight.copy_(torch.eye(3)), self.mix.bias.zero_()

            def forward(self, x):
                import colorsys  # a library, lazily
                from utils.tools import flat  # ours has no such module
                if x.shape[2] % 8:
                    raise AssertionError(f"height {x.shape[2]} is no multiple of 8")
                x = self.scale * flat(self.mix(self.pool(x).permute(0, 2, 3, 1)))
                if self.kind == "crossed":  # over the batch, as CricaVPR does
                    x = x - 0.5 * x.mean(dim=0)
                return {"plain": x, "crossed": x, "unit": torch.nn.functional.normalize(x), "listed": [[x[:, None]], x],
                        "named": {"descriptor": x}, "local": x[:, None]}[self.kind]
    """,
    "model/layers.py": """
        import torch

        class Pool(torch.nn.AdaptiveAvgPool2d):
            pass
    """,
    "utils/tools.py": """
        def flat(x):
            return x.flatten(1)
    """,
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """`utils` has no __init__.py: Python would take any other package of that name first."""
    folder = tmp_path_factory.mktemp("hub") / "repository"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join(line[8:] for line in text.splitlines()))
    return folder


@pytest.fixture
def evaluate(data, repository, tmp_path):
    """Runs eval.py on an entry's arguments and options; the run folder."""
    def run(*words, folder=repository, entry="get_model"):
        return run_folder(eval_float.main, *evaluation_options(data), "--hub", f"{folder}:{entry}", *words,
                          cwd=tmp_path)

    return run


@pytest.fixture
def fails(data, repository, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words, entry=None):
        hub = [] if entry is None else ["--hub", f"{repository}:{entry}"]
        return error_of(eval_float.main, *evaluation_options(data), *hub, *words, capsys=capsys)

    return run


def warnings(folder: Path) -> list[str]:
    """What results.json says of the model, as it does of the set."""
    return [line for line in results(folder)["benchmark"]["warnings"] if "get_model" in line]


def descriptors(paths, mean, std) -> np.ndarray:
    """The made-up model's for scale=0.5 and cells=1, of images that have the size already: half the mean colour."""
    images = np.stack([np.asarray(Image.open(path).convert("RGB"), np.float64) / 255 for path in paths])
    return 0.5 * ((images - mean) / std).reshape(len(images), SIDE * SIDE, 3).mean(axis=1)


@pytest.mark.parametrize(("normalise", "mean", "std"), [
    (None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("none", 0, 1),
    ("vgg", (0.48501960784313836, 0.4579568627450961, 0.4076039215686255), 0.00392156862745098),  # OpenIBL's README
])
def test_a_hub_model_is_evaluated_as_numpy_does(normalise, mean, std, data, repository, evaluate):
    options = [] if normalise is None else ["--normalise", normalise]
    folder = evaluate("scale=0.5", "cells=1", *options, "--dataset_name", "msls", "--recall_values", "1", "2")
    listing = read_folder(data, "msls", split="test")
    database, queries = (descriptors(paths, mean, std) for paths in (listing.database_paths, listing.query_paths))
    distances = ((queries[:, None] - database) ** 2).sum(axis=2)
    order = distances.argsort(axis=1)
    with np.load(folder / "predictions.npz") as found:
        assert np.array_equal(found["final_ids"], order)
        np.testing.assert_allclose(found["final_distances"], np.sort(distances), rtol=1e-4)
    written = results(folder)
    for k in (1, 2):
        right = [len({*order[q, :k]} & {*listing.positives[q]}) > 0 for q in range(len(order))]
        assert written["recalls"]["final"][str(k)] == pytest.approx(100 * np.mean(right))
    assert 0 < written["recalls"]["final"]["1"] < 100
    assert written["model"]["checkpoint"] == f"{repository}:get_model"
    told, lengths = written["model"], np.linalg.norm(database[:8], axis=1)
    assert (told["backbone"], told["config"], told["pretrained"], told["trainings"]) == (None, None, None, [])
    assert told["hub"] | {"length": None, "changed_by_batch": None} == {
        "repository": str(repository), "entry": "get_model", "arguments": {"scale": 0.5, "cells": 1},
        "normalisation": normalise or "imagenet", "float_dim": 3, "batch_size": 16, "length": None,
        "changed_by_batch": None}
    assert told["hub"]["length"] == pytest.approx([lengths.min(), lengths.max()], rel=1e-4)
    assert told["hub"]["changed_by_batch"] < 1e-5
    warning, = warnings(folder)
    assert "not of unit length" in warning and "searched by L2 as they are" in warning
    assert json.loads((folder / "config.json").read_text())["model"]["entry"] == "get_model"


@pytest.mark.parametrize("method", TEST_METHODS)
def test_queries_are_normalised_as_the_database(method, data):
    image = Image.open(read_folder(data, "msls", split="test").query_paths[0])
    plain = query_transform(method, (28, 42), "none")(image)
    assert plain.min() >= 0 and plain.max() <= 1
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(query_transform(method, (28, 42))(image), (plain - mean) / std, atol=1e-5, rtol=0)


def test_unit_length_and_the_first_tensor_of_a_list_are_told(evaluate):
    plain, listed, unit = evaluate(), evaluate("kind=listed"), evaluate("kind='unit'")
    assert warnings(unit) == []
    assert results(unit)["model"]["hub"]["length"] == pytest.approx([1, 1])
    assert "gives of an image a list of (a list of (a tensor (1, 1, 48)" in (listed / "info.log").read_text()
    same = compare_predictions(plain, listed)
    assert {line.difference for line in same.recalls} == {0}
    with np.load(plain / "predictions.npz") as one, np.load(listed / "predictions.npz") as other:
        assert np.array_equal(one["final_distances"], other["final_distances"])


def test_descriptors_that_depend_on_the_batch_are_noticed(evaluate):
    folder = evaluate("kind=crossed", "--infer_batch_size", "4")
    hub, (warning, _) = results(folder)["model"]["hub"], warnings(folder)
    assert hub["changed_by_batch"] > 0.01 and hub["batch_size"] == 4
    assert f"in batches of 4 and alone, they differ by up to {100 * hub['changed_by_batch']:.2g} %" in warning
    assert warning in (folder / "info.log").read_text()
    alone = evaluate("kind=crossed", "--infer_batch_size", "1")
    assert len(warnings(alone)) == 1 and results(alone)["model"]["hub"]["changed_by_batch"] == 0


def test_the_repositorys_modules_come_and_go(repository, evaluate, capsys):
    before, path = {name: sys.modules[name] for name in ("model", "utils", "model.network", "utils.hub")}, sys.path[:]
    sys.modules.pop("colorsys", None)
    evaluate()
    assert "said on stdout" in capsys.readouterr().err  # on stdout programs look for the results
    assert {name: sys.modules[name] for name in before} == before and sys.path == path
    assert "utils.tools" not in sys.modules and "colorsys" in sys.modules
    assert (sys.modules["model"], sys.modules["utils"]) == (model, utils)

    modules = HubModules(repository)
    with pytest.raises(ImportError), modules.in_use():
        assert "model" not in sys.modules and str(ROOT) not in sys.path
        sys.path.append(str(repository / "utils"))
        import tools  # theirs, by the path that they have just added

        from model import Net
        Net.seen = tools
        import eval_hashing  # noqa: F401  # ours, which they have not
    assert sys.path == path and "tools" not in sys.modules and model.SelaVPRpp
    with modules.in_use():
        from model import Net
        assert Net.seen is sys.modules["tools"] and sys.path[-1] == str(repository / "utils")


@pytest.mark.slow
def test_our_own_entry_scores_as_our_model(data, tmp_path):
    with torch.random.fork_rng(devices=[]):
        ours = build_model(ModelConfig(backbone="dinov2-tiny", branches=("float",)), seed=0)
    save_checkpoint(ours, tmp_path / "ours.pth", pretrained=False)
    runs = [run_folder(eval_float.main, *evaluation_options(data), *words, cwd=tmp_path) for words in (
        ("--resume", tmp_path / "ours.pth"),
        ("--hub", f"{ROOT}:SelaVPRplusplus", "backbone=dinov2-tiny", "hashing=False", "pretrained=False"))]
    distances = []
    for run in runs:
        with np.load(run / "predictions.npz") as found:
            distances.append(found["final_distances"])
    np.testing.assert_allclose(*distances, atol=1e-5)
    assert results(runs[0])["recalls"] == results(runs[1])["recalls"]


def test_kept_descriptors_are_used_again_and_others_refused(evaluate, fails, repository, tmp_path):
    words = ("kind=unit", "--index", tmp_path / "index")
    moved = shutil.copytree(repository, tmp_path / "elsewhere" / "repository")
    first, again, elsewhere = (results(evaluate(*words, folder=folder)) for folder in (repository, repository, moved))
    assert [run["extraction"]["reused"] for run in (first, again, elsewhere)] == [False, True, True]
    assert first["recalls"] == elsewhere["recalls"] and first["model"] == again["model"]
    other = "holds an index of other descriptors: model is 'repository:get_model (fingerprint"
    assert other in fails("kind=plain", *words[1:], entry="get_model")
    assert "prepared is '56x56' there, '56x56, none' here" in fails(*words, "--normalise", "none", entry="get_model")
    with (moved / "utils" / "tools.py").open("a") as file:
        file.write("\nchanged = True\n")
    assert other in fails("--hub", f"{moved}:get_model", *words)


def test_sizes_are_not_rounded_and_precision_is_told(evaluate):
    folder = evaluate("kind=unit", "--resize", "64", "40", "--precision", "bf16", "--store", "fp16")
    assert "using the nearest" not in (folder / "info.log").read_text()
    assert 0.99 < results(folder)["extraction"]["rounding"]["least_cosine"] <= 1
    assert results(folder)["bytes_per_image"] == {"binary": None, "float": 96}


@pytest.mark.parametrize(("entry", "words", "message"), [
    ("get_modle", [], ".py has no get_modle; it has Net, asking, function, get_model, lacking, offline, wrapped"),
    ("get_model", ["size=3"], "TypeError: get_model() got an unexpected keyword argument 'size'"),
    ("get_model", ["kind=named"], "from 8 images came a dict with descriptor; expected a float tensor"),
    ("get_model", ["kind=local"], "from 8 images came a tensor (8, 1, 48) of torch.float32"),
    ("get_model", ["--resize", "60", "40"], "failed on images of 60 x 40 pixels (--resize): AssertionError: height 60"),
    ("get_model", ["--resize", "48", "48", "--test_method", "single_query"], "failed on images of 42 x 42 pixels"),
    ("function", [], "gave a builtin_function_or_method; expected a torch.nn.Module"),
    ("asking", [], "failed: EOFError"),
    ("lacking", [], "needs what is not installed: a_package_that_nobody_has ("),
    ("offline", [], "its files cannot be fetched (<urlopen error no route to host>)"),
    ("get_model", ["cells"], "'cells': expected KEY=VALUE, each argument of get_model once"),
    ("get_model", ["cells=1", "cells=2"], "'cells=2': expected KEY=VALUE"),
    ("get_model", ["--backbone", "dinov2-base"], "--backbone beside --hub: it is of our own models"),
    ("get_model", ["--resume", "x.pth"], "--resume beside --hub"),
    ("get_model", ["--compile"], "--compile beside --hub"),
    (None, ["--normalise", "none"], "--normalise is of --hub"),
    (None, ["--hub", "./nowhere:get_model"], "nowhere/hubconf.py; expected the folder of a torch.hub repository"),
    (None, ["--hub", "repository:get_model"], "expected OWNER/REPO:ENTRY, OWNER/REPO:REF:ENTRY or ./FOLDER:ENTRY"),
])  # fmt: skip
def test_mistakes_are_one_line_and_leave_no_run_folder(entry, words, message, fails, tmp_path):
    assert message in fails(*words, entry=entry)
    assert not (tmp_path / "test").exists()


def test_a_missing_dependency_is_named(repository, fails, tmp_path):
    other = shutil.copytree(repository, tmp_path / "other")
    text = (other / "hubconf.py").read_text()
    (other / "hubconf.py").write_text(text.replace('"json"]', '"json", "timmy", "einopsy"]'))
    assert "needs what is not installed: timmy einopsy (" in fails("--hub", f"{other}:get_model")


def test_a_wrapper_for_several_gpus_is_taken_off(evaluate):
    assert results(evaluate("cells=2", entry="wrapped"))["model"]["hub"]["float_dim"] == 12


def test_other_scripts_know_no_hub(data, capsys):
    assert "unrecognized arguments: --hub" in error_of(eval_rerank.main, *evaluation_options(data), "--hub", "a/b:c",
                                                       capsys=capsys)


def test_a_repository_on_github_is_fetched_once_without_a_question(data, repository, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    calls = []

    def fetch(name, *, trust_repo):
        calls.append((name, trust_repo))
        if name.startswith("Some-One/nothing"):
            raise urllib.error.URLError("no route to host")
        shutil.copytree(repository, tmp_path / "hub" / "Some-One_repository_v1_a")

    monkeypatch.setattr(torch.hub, "list", fetch)
    words = [*evaluation_options(data), "--hub", "Some-One/repository:v1/a:get_model", "kind=unit"]
    first, again = (results(run_folder(eval_float.main, *words, cwd=tmp_path)) for _ in range(2))
    assert calls == [("Some-One/repository:v1/a", True)] and first["model"] == again["model"]
    assert first["model"]["hub"]["repository"] == "Some-One/repository:v1/a"
    line = error_of(eval_float.main, *evaluation_options(data), "--hub", "Some-One/nothing:get_model", capsys=capsys)
    assert "https://github.com/Some-One/nothing cannot be fetched (URLError: <urlopen error no route to host>)" in line
    assert "Some-One_nothing_main or give its folder, ./FOLDER:get_model" in line


def test_words_become_arguments():
    options = HubOptions.of(["a/b:v2:c", "x=1", "y=[1, 'z']", "name=ResNet50", "on=True", "eq=a=b", "none=None"],
                            normalisation="none")
    assert (options.repository, options.entry, str(options)) == ("a/b:v2", "c", "a/b:v2:c")
    assert options.arguments == {"x": 1, "y": [1, "z"], "name": "ResNet50", "on": True, "eq": "a=b", "none": None}
    assert json.loads(json.dumps(options.to_dict()))["arguments"]["y"] == "[1, 'z']"


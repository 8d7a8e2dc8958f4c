"""Folders and repositories of the Hugging Face hub: written, read as strictly as model files, and taken by --resume."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from backbones import SMALL
from fill import batch
from hub_server import COMMIT, served
from paths import ROOT
from PIL import Image
from scripts import error_of, evaluation_options, one_thread, results, run_folder

import eval_rerank
import eval_selavpr
import train_selavpr
from model import (
    BACKBONES,
    Checkpoint,
    ModelConfig,
    build_model,
    fingerprint,
    load_model,
    read_checkpoint,
    save_checkpoint,
)
from utils.huggingface.__main__ import main
from utils.huggingface.folders import read_folder, repository_of
from utils.huggingface.models import hub_model_class, save
from utils.models import ModelOptions, model_for_evaluation, model_to_train, read_model, read_resume

huggingface_hub = pytest.importorskip("huggingface_hub")
safetensors = pytest.importorskip("safetensors.torch")

TRAINING = {
    "script": "train_rerank.py", "precision": "bf16", "selected_by": "msls_val_740", "epoch": 7, "score": 150.0,
    "data": {"set": "/somebody/private/gsv_cities", "places": 300, "images": 1200, "absent_cities": ["Oslo"]},
    "validation": {"msls_val_740": {"files_sha256": "ab", "warnings": ["739 queries, expected 740"]}},
    "earlier": [{"script": "train.py", "data": {"set": "unified_dataset", "places": 5, "images": 20}, "epoch": 3,
                 "precision": "fp32", "selected_by": "pitts30k val", "validation": {}}]}


@pytest.fixture(scope="module", autouse=True)
def small():
    BACKBONES["small"] = SMALL["deit"]
    yield
    del BACKBONES["small"]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A model of two branches, no weight of which is that of a fresh one, as its training left it."""
    model = build_model(ModelConfig(backbone="small", float_dim=24, code_bits=16), seed=3)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for value in model.state_dict().values():
            if value.is_floating_point():
                value += 0.1 * torch.rand_like(value)
    path = tmp_path_factory.mktemp("model") / "best_model.pth"
    save_checkpoint(model, path, pretrained=True, training=TRAINING)
    return path


@pytest.fixture(scope="module")
def run(file, data, tmp_path_factory) -> Path:
    """An evaluation of that model, whose 100 candidates are the whole database, which asks for a warning."""
    return run_folder(eval_rerank.main, *evaluation_options(data), "--dataset_name", "msls", "--resume", file,
                      cwd=tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def saved(file, run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "folder"
    save(file, folder, results=[run])
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """To be changed."""
    return Path(shutil.copytree(saved, tmp_path / "hub"))


def described(model) -> list[torch.Tensor]:
    with torch.inference_mode(), one_thread():
        return [*model(batch(range(2), 32, 48))]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def test_what_is_saved_gives_equal_descriptors(file, saved, tmp_path):
    expected = described(load_model(file))
    model = hub_model_class().from_pretrained(saved)
    assert not model.training and same(described(model), expected)
    model.save_pretrained(tmp_path / "again")
    for chosen in (saved, tmp_path / "again"):
        for mapped in (False, True):
            found, checkpoint = model_for_evaluation(ModelOptions(resume=chosen), branches=("float",), mapped=mapped)
            assert same(described(found), expected)
            assert checkpoint.source == str(chosen)
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (saved / "model.safetensors").stat().st_mode == (saved / "config.json").stat().st_mode


def test_it_says_of_its_trainings_what_the_file_said(file, saved, run, data, tmp_path):
    whole, found = read_checkpoint(file), read_model(saved)
    assert found.config == whole.config and found.pretrained is True and found.licence == "Apache-2.0"
    expected = whole.trainings
    expected[1]["data"]["set"] = "gsv_cities"  # no path of the machine that trained
    assert found.trainings == expected
    assert hub_model_class().from_pretrained(saved).origin == (True, expected)
    again = run_folder(eval_rerank.main, *evaluation_options(data), "--dataset_name", "msls", "--resume", saved,
                       cwd=tmp_path)
    before, after = results(run), results(again)
    assert after["model"]["trainings"] == expected
    assert [after["model"][name] for name in ("fingerprint", "pretrained", "licence")] == [
        before["model"][name] for name in ("fingerprint", "pretrained", "licence")]
    assert after["recalls"] == before["recalls"]


def test_a_training_starts_from_it_and_knows_what_came_before(file, saved, tmp_path):
    chosen = ModelOptions(resume=saved)
    checkpoint, config = read_resume(chosen, branches=("float", "binary"))
    model, origin = model_to_train(checkpoint, config, chosen)
    assert checkpoint.training is None and fingerprint(model) == fingerprint(load_model(file))
    assert [training["script"] for training in origin.trainings] == ["train.py", "train_rerank.py"]
    save_checkpoint(build_model(ModelConfig(backbone="small", branches=("float",)), seed=0),
                    tmp_path / "float.pth", pretrained=False, training={**TRAINING, "earlier": []})
    save(tmp_path / "float.pth", tmp_path / "float")
    chosen = ModelOptions(resume=tmp_path / "float")
    checkpoint, config = read_resume(chosen, branches=("float", "binary"))
    _, origin = model_to_train(checkpoint, config, chosen)
    assert origin.pretrained is False
    assert [training["script"] for training in origin.trainings] == ["train_rerank.py"]


def test_the_card_has_the_figures_of_results_json_and_no_others(saved, run):
    card, told = huggingface_hub.ModelCard.load(saved / "README.md"), results(run)
    figures = {(stage, f"recall_at_{k}"): value for stage in ("first_stage", "final")
               for k, value in told["recalls"][stage].items()}
    names = {"Hamming": "first_stage", told["protocol"]: "final"}
    found = {(names[result.metric_name.partition(", ")[2]], result.metric_type): result.metric_value
             for result in card.data.eval_results}
    assert found == figures and len(card.data.eval_results) == len(figures)
    whole = f"all {told['n_database']} database images were re-ranked: the final stage says nothing of the first"
    warnings = [*told["benchmark"]["warnings"], "validation set msls_val_740: 739 queries, expected 740", whole]
    for result in card.data.eval_results:
        assert {*warnings} <= {*result.dataset_args["warnings"]}
        assert result.dataset_revision == told["benchmark"]["files_sha256"]
    text = " ".join(card.text.split())
    for warning in warnings:
        assert f"**Warning:** {warning}".replace("<", "&lt;") in text
    for name, stage in names.items():
        row = next(line for line in card.text.splitlines() if line.startswith(f"| {name} |"))
        cells = [cell.split(" (")[0].strip() for cell in row.split("|")[2:-1]]
        assert cells == [f"{value:.1f}" for value in told["recalls"][stage].values()]


def test_the_card_says_where_weights_come_from(saved):
    card = huggingface_hub.ModelCard.load(saved / "README.md")
    assert card.data.license == "apache-2.0"
    assert "gsv_cities: 300 places, 1,200 images (train_rerank.py, bf16; epoch 7, chosen by msls_val_740)" in card.text
    assert "training set gsv_cities: CC BY-NC-ND 4.0" in card.text and "without Oslo" in card.text
    assert "unified_dataset: 5 places, 20 images (train.py, fp32; epoch 3, chosen by pitts30k val)" in card.text
    assert "/somebody" not in (saved / "README.md").read_text() + (saved / "config.json").read_text()


@pytest.mark.parametrize(("backbone", "pretrained", "licence", "said"), [
    ("dinov2-tiny", False, None, "nothing inherited"), ("dinov2-tiny", None, "apache-2.0", "not known; Apache-2.0"),
    ("dinov3-small", True, "other", "DINOv3 License, inherited from DINOv3's")])
def test_licences(backbone, pretrained, licence, said):
    from utils.huggingface.card import model_card
    from utils.models import Origin

    card = model_card(ModelConfig(backbone=backbone), Origin(pretrained), "ab")
    assert card.data.license == licence
    assert f"weights: {said}" in card.text
    assert card.data.eval_results is None and "None were given" in card.text
    assert "not known: the file that these weights come from does not say" in card.text


def test_the_code_in_the_card_runs(file, saved, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").save("query.jpg")
    text = (saved / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    found: dict = {}
    with one_thread():
        exec(code.replace("OWNER/REPO", str(saved)), found)
    with torch.inference_mode(), one_thread():
        expected = load_model(file)(found["image"][None])
    assert [*found["image"].shape[1:]] == results(run)["options"]["resize"]
    assert same([found["relaxed"], found["binary"], found["floating"]], [*expected])


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in safetensors.load_file(folder / "model.safetensors").items()}


def rewrite(folder: Path, **about: object) -> None:
    """Whoever means harm also says the sum of what he wrote."""
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    told = {**json.loads((folder / "config.json").read_text()), "weights_sha256": digest, **about}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in told.items() if value is not ...}))


def tensors(change):
    """Of a changed dictionary of weights."""
    def damage(folder: Path) -> None:
        state = weights_of(folder)
        change(state)
        safetensors.save_file(state, folder / "model.safetensors")
        rewrite(folder)
    return damage


def content(change):
    """Of changed bytes."""
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))
        rewrite(folder)
    return damage


def configured(**changed: object):
    def damage(folder: Path) -> None:
        rewrite(folder, config={**json.loads((folder / "config.json").read_text())["config"], **changed})
    return damage


def flipped(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-1000] ^= 1
    path.write_bytes(whole)


HEAD = "float_branch.head.expand.weight"
HARM = {
    "missing key": (tensors(lambda state: state.pop(HEAD)), f"does not fit: missing {HEAD}"),
    "extra key": (tensors(lambda state: state.update(more=torch.zeros(1))), "does not fit: unexpected more"),
    "wrong shape": (tensors(lambda state: state.update({HEAD: state[HEAD][:-1].clone()})),
                    f"{HEAD} is (23, 32), expected (24, 32)"),
    "integers": (tensors(lambda state: state.update({HEAD: state[HEAD].to(torch.int8)})), f"{HEAD} is int8"),
    "NaN": (tensors(lambda state: state[HEAD].fill_(float("nan"))), f"{HEAD} holds NaN"),
    "cut": (content(lambda whole: whole[:-10]), "model.safetensors cannot be read"),
    "empty": (content(lambda whole: b""), "model.safetensors cannot be read"),
    "huge header": (content(lambda whole: (2**62).to_bytes(8, "little") + whole[8:]), "its header would have 4,611,"),
    "long header": (content(lambda whole: (2**23).to_bytes(8, "little") + 2**23 * b" "), "header would have 8,388,608"),
    "a pickle": (content(lambda whole: b"\x80\x04]."), "model.safetensors cannot be read"),
    "a changed bit": (flipped, "do not fit the weights_sha256"),
    "no sum": (lambda folder: rewrite(folder, weights_sha256=...), "do not fit the weights_sha256"),
    "another model's": (configured(float_dim=25), "another size of model"),
    "huge sizes": (configured(float_dim=2**31 - 1), "another size of model"),
    "an unknown field": (configured(layers=3), "unknown fields ['layers']"),
    "no backbone": (lambda folder: rewrite(folder, config={}), "model configuration cannot be used"),
    "NaN in it": (configured(quantization_weight=float("nan")), "NaN is no number of JSON"),
    "another version": (lambda folder: rewrite(folder, version=2), "format version 2, this project reads 1"),
    "another project's": (lambda folder: rewrite(folder, format=...), "format None, expected 'selavprpp'"),
    "odd trainings": (lambda folder: rewrite(folder, history=[1]), "what it says of its training cannot be used"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "no JSON of this project"),
    "deep JSON": (lambda folder: (folder / "config.json").write_text(100_000 * "["), "no JSON of this project"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "holds a list, expected an object"),
    "large JSON": (lambda folder: (folder / "config.json").write_text(2_000_000 * " "), "2,000,000 bytes, expected"),
    "weights lost": (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors; expected"),
    "no card": (lambda folder: (folder / "README.md").unlink(), "no README.md"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_folder_made_to_do_harm_ends_in_one_line(harm, folder, capsys):
    damage, said = HARM[harm]
    damage(folder)
    line = error_of(main, "push", folder, "owner/model", capsys=capsys)  # which reads it before it asks anybody
    assert said in line and str(folder) in line


def test_pickles_are_not_taken(folder, capsys):
    weights = weights_of(folder)
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="no model.safetensors"):
        hub_model_class().from_pretrained(folder)


def test_results_must_be_of_this_model(file, run, tmp_path, capsys):
    other = build_model(dataclasses.replace(read_checkpoint(file).config), seed=4)
    save_checkpoint(other, tmp_path / "other.pth", pretrained=True)
    line = error_of(main, "save", tmp_path / "other.pth", tmp_path / "new", "--results", run, capsys=capsys)
    assert f"{run}/results.json is of another model" in line and fingerprint(other) in line
    assert [path.name for path in tmp_path.iterdir()] == ["other.pth"]  # nothing half written


def test_what_gives_no_card_ends_in_one_line(file, run, folder, tmp_path, capsys):
    unlabelled = Path(shutil.copytree(run, tmp_path / "unlabelled"))
    told = results(run)
    (unlabelled / "results.json").write_text(json.dumps({**told, "recalls": {"first_stage": None, "final": None}}))
    line = error_of(main, "save", file, tmp_path / "new", "--results", unlabelled, capsys=capsys)
    assert f"{unlabelled}: no labels, so that there are no figures" in line
    odd = Path(shutil.copytree(run, tmp_path / "odd"))
    (odd / "results.json").write_text(json.dumps({**told, "n_queries": "many"}))
    line = error_of(main, "save", file, tmp_path / "new", "--results", odd, capsys=capsys)
    assert line.startswith("no model card: what the model's file or results.json says cannot be used")
    rewrite(folder, history=[{"data": 5}])
    line = error_of(main, "save", folder, tmp_path / "new", capsys=capsys)
    assert line.startswith("no model card: what the model's file or results.json says cannot be used")
    assert not (tmp_path / "new").exists()


def test_loading_takes_no_other_way(saved):
    with pytest.raises(TypeError):
        hub_model_class().from_pretrained(saved, strict=False)


def test_nothing_is_overwritten(file, folder, capsys):
    assert "exists; expected an empty folder" in error_of(main, "save", file, folder, capsys=capsys)


@pytest.mark.parametrize(("text", "expected"), [
    ("owner/model", ("owner/model", None)), ("Owner-1/a.b_c@v1.0", ("Owner-1/a.b_c", "v1.0")),
    ("owner/model@refs/pr/3", ("owner/model", "refs/pr/3")), ("here/model", None), ("logs/best_model.pth", None),
    ("model", None), ("a/b/c", None), ("/a/b", None), ("../model", None), ("owner/model@", None)])
def test_what_names_a_repository(text, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here/model").mkdir(parents=True)
    assert repository_of(Path(text)) == expected


@pytest.mark.parametrize("missing", ["huggingface_hub", "safetensors.torch"])
def test_a_missing_package_is_named(missing, saved, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, missing, None)
    chosen = "owner/model" if missing == "huggingface_hub" else saved
    line = error_of(eval_rerank.main, *evaluation_options(data), "--dataset_name", "msls", "--resume", chosen,
                    capsys=capsys)
    assert missing in line and "pip install huggingface_hub safetensors" in line


FETCHING = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests"]
from backbones import SMALL
from model import BACKBONES
BACKBONES["small"] = SMALL["deit"]
from utils.huggingface.__main__ import main
from utils.huggingface.models import hub_model_class
from utils.models import ModelOptions, model_for_evaluation
from model import fingerprint
folder, step = sys.argv[2:]
def found(name):
    model, checkpoint = model_for_evaluation(ModelOptions(resume=Path(name)), branches=("float", "binary"))
    print(checkpoint.source, fingerprint(model), len(checkpoint.trainings))
def refused(name):
    try:
        found(name)
    except ValueError as error:
        assert "\\n" not in str(error)
        print(error)
if step == "push":
    print(hub_model_class().from_pretrained(folder).push_to_hub("owner/model"))
    main(["push", folder, "owner/model", "--private"])
    found("owner/model@v1")
    print(fingerprint(hub_model_class().from_pretrained("owner/model")))
    refused("owner/model@v2")
    refused("owner/none")
else:
    found("owner/model")
    refused("owner/none")
"""


@pytest.mark.slow
def test_a_repository_is_published_and_fetched_again(saved, file, folder, tmp_path):
    (folder / "notes.txt").write_text("mine")
    number = fingerprint(load_model(file))

    def said(step: str, address: str, **more: str) -> list[str]:
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_none",
                       "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **more}
        done = subprocess.run([sys.executable, "-c", FETCHING, str(ROOT), str(folder), step], env=environment,
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert step != "push" or "not published: notes.txt" in done.stderr
        return done.stdout.splitlines()

    with served() as hub:
        online = said("push", hub.address)
        by_method, by_command = hub.commits
        whole = {path.name: path.read_bytes() for path in saved.iterdir()}
        assert by_command == whole  # without notes.txt
        assert by_method.keys() >= whole.keys()
        assert all(by_method[name] == whole[name] for name in ("config.json", "model.safetensors"))
        assert hub.made["visibility"] == "private"
        assert online[:2] == 2 * [f"{hub.address}/owner/model/commit/{COMMIT}"]
    online = online[1:]
    assert online[1:3] == [f"owner/model@{COMMIT} {number} 2", number]
    assert online[3].startswith("owner/model@v2: the repository has no such revision")
    assert online[4].startswith("owner/none: neither a path here nor a repository")
    offline = said("offline", "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert offline[0] == f"owner/model@{COMMIT} {number} 2"  # as it was fetched before
    assert offline[1].startswith("owner/none: no path here, the hub cannot be reached, and nothing of it was fetched")


def test_the_predecessor_has_no_such_form(saved, data, capsys):
    for script in (train_selavpr, eval_selavpr):
        line = error_of(script.main, "--datasets_folder", data, "--dataset_name", "msls", "--device", "cpu", "--resume",
                        saved, capsys=capsys)
        assert f"--resume {saved}: a SelaVPR++ model, in the hub's form; expected a SelaVPR file" in line


def test_a_checkpoint_without_trainings_has_none():
    assert Checkpoint(ModelConfig(backbone="dinov2-tiny"), {}).trainings == []


def test_the_folder_of_a_run_is_not_the_hubs(run):
    with pytest.raises(FileNotFoundError, match="no model.safetensors"):
        read_folder(run)

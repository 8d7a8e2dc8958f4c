"""The command lines: the published ones are understood; every wrong usage ends in one line and exit code 2."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from images import write_benchmark, write_city
from paths import ROOT
from scripts import FLAGS, RANDOM, error_of, evaluation_options, metrics, one_thread, run_folder, training_options

import eval as eval_float  # `eval` is a builtin
import eval_hashing
import eval_rerank
import train
import train_hashing
import train_rerank
from model import BACKBONES, load_model, published_state_dict
from utils import cli
from utils.data import EvaluatedSet, EvaluationImages, TrainingData, training_loader
from utils.evaluation.evaluator import EvaluationOptions
from utils.evaluation.results import ShownOptions
from utils.models import ModelOptions
from utils.run import RunOptions
from utils.training.loop import TrainingOptions

COMMANDS = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
                  for path in (ROOT / "utils").rglob("*.py") if 'if __name__ == "__main__"' in path.read_text())
MAINS = {"train.py": train.main, "train_hashing.py": train_hashing.main, "train_rerank.py": train_rerank.main,
         "eval.py": eval_float.main, "eval_hashing.py": eval_hashing.main, "eval_rerank.py": eval_rerank.main}


def parsed(command: str):
    script, *argv = command.split()
    return (cli.training if script.startswith("train") else cli.evaluation)("", argv, flags=FLAGS[script])


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATASETS_FOLDER", raising=False)
    with one_thread():
        yield


@pytest.fixture
def fails(capsys):
    return lambda script, *argv: error_of(MAINS[script], *argv, capsys=capsys)


# --- what is understood

# Word for word from the README of the published code.
PUBLISHED_COMMANDS = [
    "train.py --datasets_folder=/path/to/your/datasets_vg/datasets --dataset_name=pitts30k --backbone=dinov2-large"
    " --aggregation=gem --epochs_num=25 --lr=0.0004 --patience=12 --train_batch_size=120"
    " --foundation_model_path=/path/to/pre-trained/dinov2_vitl14_pretrain.pth --training_dataset=gsv_cities",
    "train_rerank.py --datasets_folder=/path/to/your/datasets_vg/datasets --dataset_name=pitts30k"
    " --backbone=dinov2-large --aggregation=gem --epochs_num=25 --lr=0.0004 --patience=12 --train_batch_size=120"
    " --resume=/path/to/trained/model/SelaVPRplusplus_large.pth --training_dataset=gsv_cities --hashing --rerank",
    "train_hashing.py --datasets_folder=/path/to/your/datasets_vg/datasets --dataset_name=pitts30k"
    " --backbone=dinov2-large --aggregation=gem --epochs_num=25 --lr=0.0004 --patience=12 --train_batch_size=120"
    " --foundation_model_path=/path/to/pre-trained/dinov2_vitl14_pretrain.pth --training_dataset=gsv_cities --hashing",
    "eval.py --datasets_folder=/path/to/your/datasets_vg/datasets --dataset_name=pitts30k --backbone=dinov2-large"
    " --aggregation=gem --resume=/path/to/trained/model/SelaVPRplusplus_large.pth",
    "eval_rerank.py --datasets_folder=/path/to/your/datasets_vg/datasets --dataset_name=pitts30k"
    " --backbone=dinov2-large --aggregation=gem --resume=/path/to/trained/model/SelaVPRplusplus_large_rerank.pth"
    " --hashing --rerank",
    "eval_hashing.py --datasets_folder=/path/to/your/datasets_vg/datasets --dataset_name=pitts30k"
    " --backbone=dinov2-large --aggregation=gem --resume=/path/to/trained/model/your_model.pth --hashing",
]


@pytest.mark.parametrize("command", PUBLISHED_COMMANDS, ids=lambda command: command.split()[0])
def test_the_published_commands_parse_word_for_word(command):
    options = parsed(command)
    assert options.images.datasets_folder == Path("/path/to/your/datasets_vg/datasets")
    assert (options.model.backbone, options.model.aggregation) == ("dinov2-large", "gem")
    if command.startswith("train"):
        training = options.training
        assert (training.epochs, training.lr, training.patience, options.data.places_per_batch) == (25, 4e-4, 12, 120)
        assert (options.data.training_dataset, options.test) == ("gsv_cities", "pitts30k")
    else:
        assert options.chosen.name == "pitts30k"


def test_defaults_are_the_protocol():
    options = parsed("train_rerank.py --datasets_folder sets")
    training, data, images = options.training, options.data, options.images
    assert (training.epochs, training.patience, training.lr, training.lr_halving) == (25, 12, 4e-4, 3)
    assert (data.places_per_batch, data.images_per_place, data.size) == (120, 4, (224, 224))
    assert (options.model.fields, options.seed, data.seed, options.model.seed) == ({}, 0, 0, 0)
    assert (options.validation, options.test) == (["pitts30k", "msls"], "pitts30k")
    assert (images.test_method, images.size) == ("hard_resize", (322, 322))
    assert (options.rerank_num, options.evaluation.recall_values) == (100, [1, 5, 10, 20, 100])
    assert images.threshold_m is None  # the protocol's, 25 m for a folder
    assert options.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert options.training.precision in ("bf16", "fp16", "fp32")
    assert options.evaluation.precision == "fp32"  # of validation sets too


def test_every_option_reaches_its_record(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=None))
    options = parsed("train_rerank.py --datasets_folder sets --resume a.pth --backbone dinov2-base --aggregation boq "
                     "--training_dataset b --cities Oslo Rome --images_per_place 2 --train_resize 14 28 "
                     "--train_batch_size 3 --val_datasets c d --dataset_name e --epochs_num 4 --patience 5 --lr 0.5 "
                     "--lr_halving 6 --precision fp16 --compile --seed 7 --variant ste --set code_bits=64 "
                     "--resize 42 56 --infer_batch_size 8 --num_workers 0 --tensorboard "
                     "--val_positive_dist_threshold 9 --device cpu --save_dir f --save_every 0.5")
    device = torch.device("cpu")
    assert options == cli.TrainingCommand(
        model=ModelOptions(resume=Path("a.pth"), backbone="dinov2-base", aggregation="boq", seed=7,
                           fields={"hashing": "ste", "code_bits": 64}),
        data=TrainingData(training_dataset="b", datasets_folder=Path("sets"), cities=["Oslo", "Rome"],
                          images_per_place=2, size=[14, 28], places_per_batch=3, seed=7, num_workers=0),
        images=EvaluationImages(datasets_folder=Path("sets"), size=[42, 56], threshold_m=9.0),
        validation=["c", "d"], test="e",
        training=TrainingOptions(device=device, precision="fp16", compiled=True, lr=0.5, lr_halving=6, epochs=4,
                                 patience=5, save_every=0.5, tensorboard=True),
        evaluation=EvaluationOptions(recall_values=[1, 5, 10, 20, 100], batch_size=8, num_workers=0, device=device),
        run=RunOptions(root=Path("logs"), name="f", options=options.run.options), seed=7, rerank_num=100)
    assert options.run.options["set"] == ["code_bits=64"] and options.run.options["resume"] == "a.pth"
    options = parsed("eval_hashing.py --datasets_folder sets --split val --file_lists g --precision bf16 --compile "
                     "--store int8 --index h --device cpu --num_workers 2 --test_method central_crop "
                     "--recall_values 3 1 --report --num_preds_to_save 4 --save_only_wrong_preds")
    assert options == cli.EvaluationCommand(
        model=ModelOptions(), chosen=EvaluatedSet(split="val", file_lists=Path("g")),
        images=EvaluationImages(datasets_folder=Path("sets"), test_method="central_crop"),
        evaluation=EvaluationOptions(recall_values=[1, 3], num_workers=2, precision="bf16", compiled=True,
                                     store="int8", index=Path("h"), device=device, resumable=True),
        shown=ShownOptions(report=True, panels=4, only_wrong=True),
        run=RunOptions(root=Path("test"), options=options.run.options), device=device, answers=None, rerank_num=0)
    options = parsed("eval_rerank.py --datasets_folder sets --code_bits 64 1000 --float_dim 256")
    assert (options.code_bits, options.shortlist, options.model.float_dim) == (64, 1000, 256)
    for words, bits in (("", None), ("--code_bits 8", 8)):
        options = parsed(f"eval_hashing.py --datasets_folder sets {words}")
        assert (options.code_bits, options.shortlist, options.model.float_dim) == (bits, 0, None)
    options = parsed("eval.py --database_folder a --queries_folder b --coordinates c --no_labels --answers 3")
    assert options.answers == 3
    assert not torch.are_deterministic_algorithms_enabled()
    try:
        parsed("train.py --datasets_folder sets --deterministic")
        assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"]
    finally:
        torch.use_deterministic_algorithms(False)
    assert options.chosen == EvaluatedSet(database_folder=Path("a"), queries_folder=Path("b"), coordinates=Path("c"),
                                          labels=False)


def test_environment_names_the_datasets_folder(monkeypatch):
    monkeypatch.setenv("DATASETS_FOLDER", "elsewhere")
    assert parsed("eval.py").images.datasets_folder == Path("elsewhere")


@pytest.mark.parametrize("script", MAINS)
def test_help(script, capsys):
    with pytest.raises(SystemExit) as stop:
        MAINS[script](["--help"])
    assert stop.value.code == 0
    assert "--datasets_folder" in capsys.readouterr().out


# --- what is refused by the command line itself

@pytest.mark.parametrize(("script", "options", "expected"), [
    ("train.py", "--margins 0.1", "unrecognized arguments: --margins 0.1"),
    ("train.py", "--margin 0.1", "--margin: in neither the paper nor its README"),
    ("eval.py", "--pca_dim=512", "--pca_dim: in neither the paper nor its README"),
    ("eval.py", "--dataset pitts30k", "unrecognized arguments: --dataset"),  # no abbreviations
    ("train.py", "--epochs_num many", "'many' is not a whole number of at least 1"),
    ("train.py", "--epochs_num 2.5", "'2.5' is not a whole number"),
    ("train.py", "--train_batch_size -4", "--train_batch_size: '-4' is not a whole number of at least 1"),
    ("train.py", "--train_batch_size 0", "'0' is not a whole number of at least 1"),
    ("train.py", "--lr -0.1", "--lr: '-0.1' is not a positive number"),
    ("train.py", "--lr nan", "'nan' is not a positive number"),
    ("train.py", "--patience 0", "--patience: '0'"),
    ("train.py", "--seed -1", "--seed: '-1' is not a whole number from 0"),
    ("train.py", "--train_resize 224", "--train_resize: expected 2 arguments"),
    ("train.py", "--precision fp8", "--precision: invalid choice: 'fp8'"),
    ("eval.py", "--test_method stretch", "--test_method: invalid choice: 'stretch'"),
    ("eval.py", "--variant ste", "unrecognized arguments: --variant"),
    ("eval.py", "--backbone resnet50", "--backbone: invalid choice: 'resnet50'"),
    ("eval.py", "--aggregation netvlad", "--aggregation: invalid choice: 'netvlad'"),
    ("eval.py", "--resize 322 -322", "--resize: '-322'"),
    ("eval.py", "--recall_values 1 0", "--recall_values: '0'"),
    ("eval.py", "--num_workers -2", "--num_workers: '-2' is not a whole number of at least 0"),
    ("eval.py", "--val_positive_dist_threshold 0", "'0' is not a positive number"),
    ("eval.py", "--num_preds_to_save -1", "--num_preds_to_save: '-1' is not a whole number of at least 0"),
    ("eval.py", "--split training", "--split: invalid choice: 'training'"),
    ("eval.py", "--device tpu", "--device: invalid choice: 'tpu'"),
    ("eval_rerank.py", "--rerank_num 0", "--rerank_num: '0'"),
    ("eval_rerank.py", "--code_bits 64 1000 100", "--code_bits 64 1000 100: expected N, or N and M"),
    ("eval_rerank.py", "--code_bits 64 99", "float descriptors re-rank 100 candidates, so the"),
    ("eval_hashing.py", "--code_bits 64 1000", "unrecognized arguments: 1000"),
    ("eval_hashing.py", "--float_dim 64", "unrecognized arguments: --float_dim"),
    ("eval.py", "--code_bits 64", "unrecognized arguments: --code_bits"),
    ("eval.py", "--float_dim 64 --hub a/b:c", "--float_dim beside --hub: it is of our own models"),
    ("eval.py", "--rerank_num 5", "unrecognized arguments: --rerank_num"),
    ("train_rerank.py", "--rerank_num 5", "unrecognized arguments: --rerank_num"),
    ("train.py", "--hashing", "--hashing does not belong to this script; use train_hashing.py or eval_hashing.py"),
    ("train.py", "--hashing --rerank", "use train_rerank.py or eval_rerank.py"),
    ("train_hashing.py", "--hashing --rerank", "--rerank does not belong to this script; use train_rerank.py"),
    ("eval.py", "--hashing", "--hashing does not belong to this script"),
    ("eval_hashing.py", "--rerank", "--rerank does not belong to this script"),
    ("eval.py", "--save_only_wrong_preds", "--save_only_wrong_preds is of --num_preds_to_save; give both"),
    ("eval.py", "--database_folder a --queries_folder b --no_labels --num_preds_to_save 3 --save_only_wrong_preds",
     "--save_only_wrong_preds beside --no_labels: nothing is known to be wrong"),
    ("train.py", "--foundation_model_path random --resume x.pth", "--foundation_model_path beside --resume"),
    ("eval.py", f"--recall_values 1 {2**70}", f"--recall_values: '{2**70}' is not a whole number of at least 1, below"),
    ("eval.py", f"--resize {2**70} 14", f"--resize: '{2**70}' is not a whole number"),
    ("eval.py", f"--num_workers {2**31}", "is not a whole number of at least 0, at most 1024"),
    ("eval_rerank.py", f"--rerank_num {'9' * 5000}", f"--rerank_num: '{'9' * 50}...' is not a whole number"),
    ("train.py", f"--train_batch_size {2**63}", "--train_batch_size"),
    ("train.py", "--lr 1e400", "--lr: '1e400' is not a positive number"),
    ("train.py", f"--set float_dim={2**63}", "float_dim is a whole number of at most 1048576"),
    ("eval.py", "--resize 20000 20000", "--resize 20000 20000: 20000 x 20000 pixels; expected at most 65536 a side"),
    ("train.py", "--resize 1 70000", "--resize 1 70000: 70000 x 1 pixels; expected at most 65536 a side"),
    ("train.py", "--train_resize 20000 20000", "--train_resize 20000 20000: 20000 x 20000 pixels; expected at most"),
    ("eval.py", "--infer_batch_size 2000000000", "--resize 322 322: a batch of 2000000000 such images takes 2.49PB of"),
    ("train.py", "--train_batch_size 2000000000", "are free; lower --train_resize or --train_batch_size"),
])
def test_wrong_options(script, options, expected, fails):
    assert expected in fails(script, "--datasets_folder", "sets", *options.split())


@pytest.mark.parametrize("script", MAINS)
def test_no_datasets_folder(script, fails):
    assert fails(script).startswith("--datasets_folder is missing (or set DATASETS_FOLDER)")


def test_a_report_needs_its_libraries(fails, monkeypatch):
    """Which is said before anything is evaluated."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert fails("eval.py", "--datasets_folder", "sets", "--report") == (
        "a report needs matplotlib, which is not installed: pip install -r requirements.txt (--help lists the options)")


def test_cuda_asked_for_in_vain(fails, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch finds no CUDA device here; use --device cpu" in fails(
        "eval.py", "--datasets_folder", "sets", "--device", "cuda")


@pytest.mark.slow
def test_the_command_line_as_a_caller_meets_it():
    """Once in a process of its own: exit code, one line on stderr, nothing on stdout."""
    script = ROOT / "eval_rerank.py"
    done = subprocess.run([sys.executable, script, "--datasets_folder", "sets", "--resume", "none.pth"],
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    line, = done.stderr.splitlines()
    assert "error: pitts30k: no such folders in sets; expected pitts30k/images/test/{database,queries}" in line


# --- files that do not fit

def test_a_resume_path_that_is_none(data, fails):
    for script in MAINS:
        options = training_options(data) if script.startswith("train") else evaluation_options(data)
        assert fails(script, *options, "--resume", "none.pth") == "no checkpoint file at none.pth"
        assert fails(script, *options, "--resume", data) == (
            f"{data}: a folder without last_model.pth; expected a training's run folder, or a file"
            if script.startswith("train") else f"no checkpoint file at {data}")


def test_rerank_training_needs_a_trained_branch(data, fails):
    for options in ([], RANDOM):
        assert fails("train_rerank.py", *training_options(data), *options).startswith(
            "--resume is missing: this script starts from a trained branch")


def test_a_float_file_has_no_codes(data, float_run, fails):
    file = float_run / "best_model.pth"
    for script in ("eval_rerank.py", "eval_hashing.py"):
        assert fails(script, *evaluation_options(data), "--resume", file) == (
            f"--resume {file} holds a float model; this script needs its binary branch (train_rerank.py trains both)")
    assert "holds a float model; this script trains binary models" in fails(
        "train_hashing.py", *training_options(data), "--resume", file)


@pytest.mark.slow
def test_a_rerank_file_serves_all_evaluations_but_not_train(data, rerank_run, fails, tmp_path):
    file = rerank_run / "best_model.pth"
    for script in ("eval.py", "eval_hashing.py", "eval_rerank.py"):
        run_folder(MAINS[script], *evaluation_options(data), "--resume", file, cwd=tmp_path)
    for script, trains in (("train.py", "float"), ("train_hashing.py", "binary")):
        assert fails(script, *training_options(data), "--resume", file) == (
            f"--resume {file} holds a float + binary model; this script trains {trains} models")


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_flags_that_contradict_the_file(script, data, float_run, fails):
    options = training_options(data) if script == "train.py" else evaluation_options(data)
    file = float_run / "best_model.pth"
    assert fails(script, *options, "--resume", file, "--backbone", "dinov2-base") == (
        f"--backbone dinov2-base contradicts {file}, which holds dinov2-tiny; leave it out, or give another file")


def test_files_that_are_no_models(data, float_run, fails, tmp_path):
    (tmp_path / "text.pth").write_text("not a model")
    torch.save({"weights": os.system}, tmp_path / "malicious.pth")
    whole = (float_run / "best_model.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    state = published_state_dict(load_model(float_run / "best_model.pth"))
    torch.save({name: value for name, value in state.items() if name != "linear2.bias"}, tmp_path / "missing.pth")
    torch.save({**state, "linear9.bias": torch.zeros(1)}, tmp_path / "unexpected.pth")
    torch.save({name.removeprefix("backbone."): value for name, value in state.items()
                if name.startswith("backbone.") and "adapters" not in name}, tmp_path / "dinov2.pth")
    for name, expected in {
        "text.pth": "not a readable torch checkpoint", "cut.pth": "not a readable torch checkpoint",
        "malicious.pth": "refused, it asks to run posix.system", "missing.pth": "does not fit: missing",
        "unexpected.pth": "does not fit: unexpected linear9.bias",
        "dinov2.pth": "a backbone's file belongs to --foundation_model_path",
    }.items():
        message = fails("eval.py", *evaluation_options(data), "--resume", name)
        assert name in message
        assert expected in message
    for name, expected in {"text.pth": "not a readable torch checkpoint", "missing.pth": "not a DINOv2 file",
                           "none.pth": "no checkpoint file at none.pth"}.items():
        assert expected in fails("train.py", *training_options(data), "--backbone", "dinov2-tiny",
                                 "--foundation_model_path", name)
    assert "dinov2.pth (into dinov2-small) does not fit: another size of model" in fails(
        "train.py", *training_options(data), "--backbone", "dinov2-small", "--foundation_model_path", "dinov2.pth")


# --- data that do not fit

def test_no_datasets_there(float_run, fails):
    assert "pitts30k: no such folders in nowhere; expected pitts30k/images/test/{database,queries}" in fails(
        "eval.py", *evaluation_options(Path("nowhere")), "--resume", float_run / "best_model.pth")
    assert "nowhere/gsv_cities: none of the 2 requested cities (Boston, ...) is there" in fails(
        "train.py", *training_options(Path("nowhere")), *RANDOM)


def test_another_name_or_split(data, float_run, fails):
    options = [*evaluation_options(data), "--resume", float_run / "best_model.pth"]
    assert "'nordland' is neither a protocol (pitts30k, " in fails("eval.py", *options, "--dataset_name", "nordland")
    assert "images/train/database: no such folder" in fails("eval.py", *options, "--split", "train")
    assert "'msls2' is neither a protocol" in fails(
        "train.py", *training_options(data), *RANDOM, "--val_datasets", "msls", "msls2")


def test_an_empty_database(float_run, fails, tmp_path):
    write_benchmark(tmp_path / "sets", "pitts30k", "test", database=2, queries=1, first_place=0)
    database = tmp_path / "sets" / "pitts30k" / "images" / "test" / "database"
    shutil.rmtree(database)
    database.mkdir()
    assert f"{database}: no image in it" in fails(
        "eval.py", *evaluation_options(tmp_path / "sets"), "--resume", float_run / "best_model.pth")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_in_the_database(workers, float_run, fails, tmp_path):
    write_benchmark(tmp_path / "sets", "pitts30k", "test", database=3, queries=1, first_place=0)
    bad = sorted((tmp_path / "sets" / "pitts30k" / "images" / "test" / "database").iterdir())[1]
    bad.write_bytes(bad.read_bytes()[:200])
    message = fails("eval.py", *evaluation_options(tmp_path / "sets"), "--resume", float_run / "best_model.pth",
                    "--num_workers", workers)
    assert message.startswith(f"{bad}: not a readable image")
    assert message.endswith("replace the file")


@pytest.mark.slow
def test_a_corrupt_training_image(data, fails, tmp_path):
    write_city(tmp_path / "city", "Boston", places=2)
    bad = next((tmp_path / "city" / "Images" / "Boston").iterdir())
    bad.write_bytes(b"not an image")
    assert f"{bad}: not a readable image" in fails(
        "train.py", *training_options(data), *RANDOM, "--training_dataset", tmp_path / "city", "--cities", "Boston")


@pytest.mark.parametrize(("option", "what"), [("--images_per_place", "images of a place are brought together"),
                                             ("--train_batch_size", "places of a batch are kept apart")])
def test_batches_that_teach_nothing(data, fails, option, what, tmp_path):
    """Their loss was 0.0000, without a word."""
    assert fails("train.py", *training_options(data), *RANDOM, option, 1) == (
        f"{option} 1: the loss would be 0 and nothing learn, as {what}; expected at least 2")
    write_city(tmp_path / "city", "Boston", places=1)
    assert "a single place has 4 images; expected at least 2" in fails(
        "train.py", *training_options(data), *RANDOM, "--training_dataset", tmp_path / "city", "--cities", "Boston")


def test_a_city_without_places_is_named_and_not_counted(tmp_path, caplog):
    write_city(tmp_path, "Boston", places=2)
    write_city(tmp_path, "Oslo", places=3, shots=3, first_place=2)
    chosen = TrainingData(training_dataset=str(tmp_path), datasets_folder=tmp_path, size=(56, 56), places_per_batch=2)
    with caplog.at_level("INFO", logger="selavprpp"):
        loader = training_loader(chosen, device=torch.device("cpu"))
    assert "training without 1 cities in which no place has 4 images: Oslo" in caplog.text
    assert "2 places, 8 images, 1 cities; 3 places with fewer than 4 images left out" in caplog.text
    told = chosen.trained_on(loader.dataset)
    assert (told["places"], told["cities"], told["absent_cities"]) == (2, 1, ["Oslo"])
    assert [len(labels) for _, labels in loader] == [8]


@pytest.mark.slow
def test_cities(data, fails, tmp_path):
    options = [*training_options(data), *RANDOM, "--epochs_num", 1]
    folder = run_folder(train.main, *options, "--cities", "Boston", "Paris", "Lisbon", "Rome", cwd=tmp_path)
    log = (folder / "info.log").read_text()
    assert "training without 2 absent cities: Paris Rome" in log
    assert "7 places, 28 images, 2 cities" in log
    by_default = options[:options.index("--cities")] + options[options.index("--val_datasets"):]
    folder = run_folder(train.main, *by_default, cwd=tmp_path)
    assert "without 21 absent cities: Bangkok BuenosAires" in (folder / "info.log").read_text()
    assert "none of the 1 requested cities (Atlantis, ...) is there" in fails(
        "train.py", *options, "--cities", "Atlantis")
    assert "each named once" in fails("train.py", *options, "--cities", "Boston", "Boston")
    assert "none of the 3 places has images_per_place = 9 images" in fails(
        "train.py", *options, "--cities", "Boston", "--images_per_place", "9")


def test_a_learning_rate_that_is_too_high(data, fails):
    message = fails("train.py", *training_options(data), *RANDOM, "--lr", "1e30")
    assert "lower" in message
    assert "learning rate" in message or "--lr" in message


# --- files that are fetched

@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """The cache is empty, and port 9 of this machine answers nothing."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(BACKBONES, "dinov2-small", BACKBONES["dinov2-small"]._replace(
        weights_url="http://127.0.0.1:9/dinov2_vits14_pretrain.pth"))
    monkeypatch.setattr("model.released.RELEASED_MODELS", {
        ("dinov2-tiny", "gem", ("float",)): "http://127.0.0.1:9/SelaVPRplusplus_tiny.pth"})


def test_downloads_out_of_reach(no_network, data, fails, tmp_path):
    cache = tmp_path / "cache" / "hub" / "checkpoints"
    message = fails("train.py", *training_options(data), "--backbone", "dinov2-small")
    assert message.startswith("cannot fetch http://127.0.0.1:9/dinov2_vits14_pretrain.pth (")
    assert message.endswith(f"download it by hand to {cache / 'dinov2_vits14_pretrain.pth'}")
    message = fails("eval.py", *evaluation_options(data), "--backbone", "dinov2-tiny")
    assert message.startswith("cannot fetch http://127.0.0.1:9/SelaVPRplusplus_tiny.pth (")
    assert list(cache.iterdir()) == []


def test_nothing_to_download(no_network, data, fails):
    assert "no pre-trained weights exist for dinov2-tiny; give --foundation_model_path random" in fails(
        "train.py", *training_options(data), "--backbone", "dinov2-tiny")
    for script in ("eval_hashing.py", "eval_rerank.py"):
        message = fails(script, *evaluation_options(data), "--backbone", "dinov2-tiny")
        assert message == ("no weights are published for dinov2-tiny gem float+binary; published are: "
                           "dinov2-tiny gem float")


# --- Ctrl-C

@pytest.mark.slow
@pytest.mark.parametrize("script", MAINS)
def test_interrupted_while_the_libraries_load(script, tmp_path):
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run([sys.executable, ROOT / script, "--help"], env={**os.environ, "PYTHONPATH": str(tmp_path)},
                          capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_interrupted_while_its_libraries_load(command, tmp_path):
    (tmp_path / "numpy.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run([sys.executable, "-m", command, "query", "a", "b"], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("words", [["-c", "import theirs"], ["-m", "theirs"], ["-m", "theirs.command"],
                                   ["-m", "theirs", "-mutils.compare"]])
def test_who_imports_utils_keeps_their_signals(words, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text(
        "import signal, utils\nprint(signal.getsignal(signal.SIGINT) is signal.default_int_handler)\n")
    for name in ("__main__.py", "command.py"):
        (tmp_path / "theirs" / name).write_text("")
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_interrupted_and_taken_up_again(data, tmp_path):
    script = ROOT / "train.py"
    command = [sys.executable, script, *training_options(data), *RANDOM, "--epochs_num", "10000"]
    with (tmp_path / "stderr").open("w") as stderr:
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=stderr, cwd=tmp_path,
                                   env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("logs/*/*/last_model.pth")):
            assert process.poll() is None, (tmp_path / "stderr").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    said = (tmp_path / "stderr").read_text()
    assert (process.returncode, stdout) == (130, b"")
    words = shlex.split(said.splitlines()[-1].partition(" interrupted; go on with: ")[2])
    assert said.count("interrupted") == 1
    assert "Traceback" not in said

    last, = tmp_path.glob("logs/*/*/last_model.pth")
    assert json.loads((last.parent / "config.json").read_text())["options"]["epochs_num"] == 10000
    assert [path.name for path in last.parent.iterdir() if path.name.startswith(".")] == []
    epochs = torch.load(last, weights_only=True)["training"]["epoch"]
    assert words[:2] == ["python", str(script)], said[-1000:]
    again = run_folder(train.main, *words[2:], "--epochs_num", epochs + 1, cwd=tmp_path)
    assert [record["epoch"] for record in metrics(again)] == [*range(1, epochs + 2)]

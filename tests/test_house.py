"""Rules of the house: layers, sizes, options, imports without effects, nothing of one machine."""

import ast
import dataclasses
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from scripts import FLAGS

from utils.cli import distil, selavpr
from utils.cli import options as cli
from utils.data import EvaluatedSet, EvaluationImages, TrainingData
from utils.distil.training import DistillationData
from utils.evaluation.evaluator import EvaluationOptions
from utils.evaluation.results import ShownOptions
from utils.models import ModelOptions
from utils.run import RunOptions
from utils.selavpr.local import LocalOptions
from utils.selavpr.models import SelaVPROptions
from utils.selavpr.training import TripletData
from utils.training.loop import TrainingOptions

PARSERS = {"train": cli.training_parser, "eval": cli.evaluation_parser}
SELAVPR = {"train_selavpr.py": selavpr.training_parser, "eval_selavpr.py": selavpr.evaluation_parser}
SCRIPTS = sorted([*FLAGS, *SELAVPR])
COMMAND_LINES = [Path("utils/cli") / f"{name}.py" for name in ("distil", "learning", "options", "parsing", "selavpr")]
PACKAGES = ("utils", "datasets", "losses", "model")
MODULES = sorted(path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).glob("**/*.py"))
LOWER = {"utils": {"datasets", "losses", "model"}, "datasets": set(), "losses": set(), "model": set()}


def tree(path: Path | str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def options_of(script: str) -> list[str]:
    if script in SELAVPR:
        parser = SELAVPR[script]("")
    else:
        parser = PARSERS[script.split("_")[0].removesuffix(".py")]("", flags=FLAGS[script])
    return [action.dest for action in parser._actions if action.dest != "help"]


def attributes_of_args(node: ast.AST) -> set[str]:
    return {inner.attr for inner in ast.walk(node)
            if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name) and inner.value.id == "args"
            and isinstance(inner.ctx, ast.Load)}


def test_there_are_six_scripts_and_two_of_the_predecessor():
    assert sorted(path.name for path in ROOT.glob("*.py")) == sorted([*SCRIPTS, "hubconf.py"])


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_short(script):
    assert len((ROOT / script).read_text().splitlines()) <= 200


def longest_common_block(first: list[str], second: list[str]) -> int:
    longest, previous = 0, [0] * (len(second) + 1)
    for line in first:
        current = [0] * (len(second) + 1)
        for j, other in enumerate(second):
            if line == other:
                current[j + 1] = previous[j] + 1
                longest = max(longest, current[j + 1])
        previous = current
    return longest


def test_the_longest_common_block_is_found():
    assert longest_common_block(list("xabcdy"), list("abzabcdq")) == 4


def test_no_two_scripts_share_a_long_block():
    def normalised(script):
        lines = (re.sub(r"\s+", " ", line).strip() for line in (ROOT / script).read_text().splitlines())
        return [line for line in lines if line and not line.startswith("#")]

    shared = {pair: longest_common_block(*map(normalised, pair)) for pair in itertools.combinations(SCRIPTS, 2)}
    assert {pair: lines for pair, lines in shared.items() if lines > 25} == {}


@pytest.mark.parametrize("script", SCRIPTS)
def test_at_most_30_options_and_each_is_read(script):
    options = options_of(script)
    assert len(set(options)) == len(options)
    assert len(set(options) - {"hashing", "rerank"}) <= 30  # which --help does not show: they change nothing
    kind = "training" if script.startswith("train") else "evaluation"
    own = {f"selavpr_{kind}", "_local"} if script in SELAVPR else {kind}
    functions = {(path.stem, node.name): node for path in COMMAND_LINES for node in tree(path).body
                 if isinstance(node, ast.FunctionDef)}
    used = {("selavpr" if script in SELAVPR else "options", name) for name in own}
    used |= {("parsing", name) for name in ("images_of", "run_options", "shown_of", "evaluation_of")}
    used |= {("learning", "learning_of")} if kind == "training" else set()
    read = set().union(*(attributes_of_args(functions[name]) for name in used))
    # The published flags are looked up by name: they are only checked against the script.
    read |= {node.value for node in ast.walk(functions["options", "_parse"])
             if isinstance(node, ast.Constant) and node.value in ("hashing", "rerank")}
    assert set(options) - read == set()


def test_every_option_of_the_student_s_training_is_read():
    options = {action.dest for action in distil.distillation_parser("")._actions} - {"help"}
    read = set().union(*(attributes_of_args(tree(Path("utils/cli") / f"{name}.py"))
                         for name in ("distil", "learning", "parsing")))
    assert len(options) <= 30
    assert options - read == set()


def test_every_field_of_a_record_is_read():
    """A record's field that nobody reads is an option without effect."""
    records = {kind.__name__: kind for kind in (
        cli.TrainingCommand, cli.EvaluationCommand, ModelOptions, TrainingData, EvaluationImages, EvaluatedSet,
        TrainingOptions, EvaluationOptions, ShownOptions, RunOptions, selavpr.SelaVPRTrainingCommand,
        selavpr.SelaVPREvaluationCommand, SelaVPROptions, TripletData, LocalOptions, distil.DistillationCommand,
        DistillationData)}
    read = {node.attr for path in [*MODULES, *map(Path, SCRIPTS)] if path not in COMMAND_LINES
            for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    assert {(name, field.name) for name, kind in records.items() for field in dataclasses.fields(kind)
            if field.name not in read} == set()


def imported(path: Path | str) -> set[str]:
    """Top-level names of absolute imports, and "." and ".." with the first name behind for relative ones."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_layers(module):
    package = module.parts[0]
    names = imported(module)
    assert names & ({*PACKAGES} - LOWER[package]) == set()  # its own package is imported relatively
    climbs = "." * len(module.parts)  # out of its package
    assert not [name for name in names if name.startswith(climbs)]
    assert names & {*(Path(script).stem for script in SCRIPTS), "hubconf"} == set()
    if package == "model":
        assert {name for name in names if not name.startswith(".")} <= {*sys.stdlib_module_names, "torch"}


def test_scripts_import_packages_only():
    """And a training script the evaluation script of its kind, whose search it validates by."""
    allowed = {*PACKAGES, "torch", *sys.stdlib_module_names}
    for script in SCRIPTS:
        own = {Path(script).stem.replace("train", "eval")} if script.startswith("train") else set()
        assert imported(script) <= allowed | own
    assert imported("hubconf.py") <= {"torch", *sys.stdlib_module_names}


@pytest.mark.parametrize("module", [path for path in MODULES if path not in COMMAND_LINES], ids=str)
def test_no_bag_of_options_below_the_scripts(module):
    names = {argument.arg for node in ast.walk(tree(module))
             if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
             for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
    assert names & {"args", "cfg", "opt", "opts", "namespace"} == set()


def test_every_command_tells_a_mistake_in_one_line():
    """None has a parser of argparse itself, which prints all its usage first."""
    modules = [*MODULES, *(path.relative_to(ROOT) for path in (ROOT / "benchmarks").glob("**/*.py"))]
    assert [path for path in modules if "ArgumentParser(" in (ROOT / path).read_text()] == []


def test_every_torch_load_is_weights_only():
    calls = []
    for path in [*MODULES, *SCRIPTS, "hubconf.py"]:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                    "torch.load", "torch.hub.load_state_dict_from_url", "pickle.load", "pickle.loads"):
                calls.append((str(path), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}))
    assert calls  # the check looks at something
    assert [call for call in calls if call[1].get("weights_only") != "True"] == []


IMPORTING = """
import importlib, logging, os, pathlib, sys, warnings
sys.path.insert(0, {root!r})
sys.dont_write_bytecode = True
if {module!r} == "model":
    sys.modules["numpy"] = None
import torch.utils.checkpoint
if {module!r} != "model":
    import faiss, numpy, sklearn.neighbors, torchvision, tqdm, PIL.Image
def state():
    return (dict(os.environ), sorted(map(str, pathlib.Path().rglob("*"))), torch.get_rng_state().tolist(),
            torch.get_num_threads(), torch.cuda.is_initialized(), torch.backends.cudnn.benchmark,
            torch.is_grad_enabled(), logging.root.handlers, logging.getLogger("selavprpp").handlers, sys.path,
            len(warnings.filters), torch.get_default_dtype())
before = state()
for name in {modules!r}:
    importlib.import_module(name)
assert state() == before
assert {module!r} != "model" or "torchvision" not in sys.modules
"""


@pytest.mark.slow
def test_a_mistake_need_not_wait_for_large_libraries():
    """torchvision brings torch._dynamo, and takes as long as torch; both are imported where they are used."""
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import train_rerank, eval_rerank; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {*done.stdout.split()}
    assert {"torch", "datasets.transforms"} <= loaded and not {"torchvision", "sklearn", "torch._dynamo"} & loaded


@pytest.mark.slow
@pytest.mark.parametrize("module", ["model", "the rest"])
def test_importing_has_no_effects(module, tmp_path):
    dotted = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in MODULES]
    if module == "model":  # in a process where NumPy cannot be imported
        modules = [name for name in dotted if name.split(".")[0] == "model"]
    else:
        modules = [name for name in dotted if name.split(".")[0] != "model"]
        modules += ["hubconf", *(Path(script).stem for script in SCRIPTS)]
    code = IMPORTING.format(root=str(ROOT), module=module, modules=modules)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "CUDA_VISIBLE_DEVICES": "7"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_of_one_machine_in_tracked_files():
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout")
    home, work, index = "/" + "home/", "/" + "work/", "py" + "pi.org"
    foreign = re.compile(rf"(?<![\w.<>])({home}\w|/Users/\w|/root/|{work}|C:\\\\)|{index}|\bindex-url\b|extra-index")
    found = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if not path.is_file() or path == Path(__file__).resolve():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # an image or an archive
        found += [f"{name}: {match[0]}" for match in foreign.finditer(text)]
    assert found == []

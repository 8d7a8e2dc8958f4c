"""docs/walk.md against what runs: files that an image passes on its way to its recall, the hops of `--rerank_num`."""

import inspect
import re
import sys

from paths import ROOT
from scripts import evaluation_options, run_folder

import eval_rerank
from model import ModelConfig, build_model, save_checkpoint
from utils.cli import EvaluationCommand
from utils.search import Searchable, exact

PAGE = (ROOT / "docs" / "walk.md").read_text()


def test_the_walk_names_files_that_an_evaluation_runs(data, tmp_path):
    listed = re.findall(r"^\| \d+ \| \[`(.*?)`\]", PAGE, re.MULTILINE)
    save_checkpoint(build_model(ModelConfig(backbone="dinov2-tiny"), seed=0), tmp_path / "m.pth", pretrained=False)
    files = set()

    def trace(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(f"{ROOT}/"):
            files.add(frame.f_code.co_filename.removeprefix(f"{ROOT}/"))

    sys.setprofile(trace)
    try:
        run_folder(eval_rerank.main, *evaluation_options(data), "--resume", tmp_path / "m.pth", cwd=tmp_path)
    finally:
        sys.setprofile(None)
    assert 10 < len(listed) <= 15
    assert set(listed) <= files


def test_the_hops_of_rerank_num():
    assert "rerank_num" in EvaluationCommand.__dataclass_fields__
    assert "rerank_num=options.rerank_num" in inspect.getsource(eval_rerank.main)
    assert "found.database.rerank(found.floats, candidates, rerank_num" in inspect.getsource(eval_rerank.retrieve)
    assert "return rerank_l2(" in inspect.getsource(Searchable.rerank)
    assert Searchable.rerank.__globals__["rerank_l2"] is exact.rerank_l2
    hops = re.findall(r"^\d\. \[?`?(\S+?\.py|the same file)", PAGE, re.MULTILINE)
    assert len(hops) <= 5

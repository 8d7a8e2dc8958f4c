"""benchmarks/gpu.py: what a stage's crash costs, what the page says, and a stage by the command itself."""

import json
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from paths import ROOT

from benchmarks import gpu, gpu_stages

WRITES = """
import sys
from pathlib import Path
from benchmarks.report import Report
report = Report(kept=Path(sys.argv[1]))
report.add("first", "1", goal="1", met=True)
"""


@pytest.fixture
def page_of(monkeypatch, tmp_path):
    """Runs `main` with scripts in place of its stages and returns what it raised, the page and its JSON."""
    def run(limit: int = 20, **scripts: str) -> tuple[str, str, dict]:
        monkeypatch.setattr(gpu, "STAGES", {name: gpu.Stage("Says.", limit, {"HEARD": name}) for name in scripts})
        monkeypatch.setattr(gpu, "command_of", lambda name, kept, _: [sys.executable, "-c", scripts[name], str(kept)])
        said = ""
        try:
            gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path)])
        except ValueError as error:
            said = str(error)
        (stored,) = json.loads((tmp_path / "gpu.json").read_text()).values()
        return said, (tmp_path / "gpu.md").read_text(), stored
    return run


@pytest.mark.slow
def test_a_stage_that_crashes_costs_the_rows_behind_it_alone(page_of, tmp_path):
    said, page, stored = page_of(
        broken=f"{WRITES}\nraise RuntimeError('no kernel image')",
        whole=f"{WRITES}\nimport os\nreport.add(os.environ['HEARD'], '2', goal='3', met=False)")
    assert said == f"not complete: broken; {tmp_path / 'gpu.md'} says why"
    assert [row["what"] for row in stored["stages"]["broken"]["rows"]] == ["first"]
    assert [row["what"] for row in stored["stages"]["whole"]["rows"]] == ["first", "whole"]
    assert stored["stages"]["broken"]["ended"] == "exit code 1: RuntimeError: no kernel image"
    assert stored["stages"]["whole"]["ended"] == "complete"
    broken, whole = page.split("### ")[1:]
    assert "**exit code 1: RuntimeError: no kernel image**" in broken and "| first | 1 | 1 |  | met |" in broken
    assert "exit code" not in whole and "| whole | 3 | 2 |  | **missed** |" in whole
    assert gpu.QUICK in page


@pytest.mark.slow
def test_what_the_page_has_of_other_stages_stays(page_of, monkeypatch, tmp_path):
    """A machine may be lent for less time than all stages take."""
    page_of(first=WRITES, second=WRITES)
    failing = f"{WRITES}\nraise SystemExit('no memory')"
    monkeypatch.setattr(gpu, "command_of", lambda name, kept, _: [sys.executable, "-c", failing, str(kept)])
    with pytest.raises(ValueError, match="not complete: second; "):
        gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path), "--stages", "second"])
    (stored,) = json.loads((tmp_path / "gpu.json").read_text()).values()
    assert {name: stage["ended"] for name, stage in stored["stages"].items()} == {
        "first": "complete", "second": "exit code 1: no memory"}
    parts = (tmp_path / "gpu.md").read_text().split("### ")[1:]
    assert [part.partition("\n")[0] for part in parts] == ["first", "second"]


@pytest.mark.slow
def test_a_stage_is_stopped_with_what_it_started(page_of, tmp_path):
    child = tmp_path / "child"
    said, page, stored = page_of(2, endless=f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(4); open({str(child)!r}, 'w')"])
time.sleep(30)
""")
    assert stored["stages"]["endless"]["ended"] == "stopped after 2 s" and "**stopped after 2 s**" in page
    assert 2 <= stored["stages"]["endless"]["seconds"] < 4 and "endless" in said
    time.sleep(3)
    assert not child.exists()


@pytest.mark.slow
def test_a_stage_by_the_command(tmp_path):
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu", "--quick", "--device", "cpu", "--stages", "methods",
                           "--out", tmp_path], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (stored,) = json.loads((tmp_path / "gpu.json").read_text()).values()
    (methods,) = stored["stages"].values()
    peaks = {row["what"].rpartition(", ")[2]: float(row["measured"].split()[0]) for row in methods["rows"]}
    assert len(methods["rows"]) == 6 + 3 and peaks["Freezing: peak"] <= peaks["MemEfficient-MCA: peak"]
    assert peaks["MemEfficient-MCA: peak"] < peaks["Full-tuning: peak"]


def test_what_only_a_gpu_runs_is_called_as_it_can_be(monkeypatch):
    """The stages at their full size, with what they measure replaced by mocks of the same signature."""
    called = {}
    for module, names in ((gpu_stages, ("calibrate",)), (gpu_stages.training, ("steps",)),
                          (gpu_stages.extraction, ("rows", "rows_from_files")),
                          (gpu_stages.searching, ("rows", "beside_the_processor"))):
        for name in names:
            called[module.__name__, name] = create_autospec(getattr(module, name))
            monkeypatch.setattr(module, name, called[module.__name__, name])
    for stage in ("training", "extraction", "retrieval"):
        gpu_stages.STAGES[stage](gpu_stages.Report(), gpu.torch.device("cuda"), False)
    assert {name: mock.call_count for (_, name), mock in called.items() if name != "rows"} == {
        "calibrate": 1, "steps": 5, "rows_from_files": 1, "beside_the_processor": 2}


def test_without_a_gpu_the_command_says_so(capsys, tmp_path):
    if gpu.torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="--device cuda: torch finds no CUDA device here; use --device cpu"):
        gpu.main(["--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder_for_the_page(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        gpu.main(["--device", "cpu", "--quick", "--out", str(tmp_path / "file")])
    assert stop.value.code == 2
    assert f"argument --out: {tmp_path / 'file'}: File exists; expected a folder" in capsys.readouterr().err


def test_the_limits_are_twenty_minutes_in_all():
    assert sum(stage.limit for stage in gpu.STAGES.values()) <= 20 * 60
    assert [*gpu.STAGES] == [*gpu_stages.STAGES]
    assert {*gpu.STAGES} == {line.split("|")[1].strip() for line in
                            (Path(ROOT) / "docs/benchmarks/gpu.md").read_text().splitlines()
                            if line.startswith("| ")} & {*gpu.STAGES}

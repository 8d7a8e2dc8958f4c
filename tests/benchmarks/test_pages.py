"""The pages of docs/benchmarks: written by hand around what the scripts measured, whose samples they agree with."""

import json
import re

import pytest
import torch
from scripts import one_thread

from benchmarks import loader, precision, scale_page, side_by_side
from benchmarks.report import PAGES, PROJECT, Report, store_of, write_section
from datasets.toy_city.city import build_toy_city
from utils.run import hardware


def rows(found: dict) -> list[str]:
    report = Report()
    report.rows = found["rows"]
    return [report.markdown()]


TABLES = {"training": rows, "student": rows, "retrieval": rows, "local_matching": rows,
          "side_by_side": lambda found: [side_by_side.columns(found)],
          "precision": lambda found: [precision.table(found["sets"])],
          "loader": lambda found: [loader.table(seconds) for seconds in found["seconds_an_image"].values()],
          "scale": lambda found: [scale_page.tables(found["sizes"])]}


@pytest.mark.parametrize("name", TABLES)
def test_each_machines_section_has_what_it_measured(name):
    stored = json.loads(store_of(PAGES / f"{name}.md").read_text())
    sections = {section.partition("\n")[0]: section for section in (PAGES / f"{name}.md").read_text().split("\n## ")}
    for machine, found in stored.items():
        assert all(table in sections[machine] + "\n" for table in TABLES[name](found))
        assert found["date"] in sections[machine] and found["versions"]["torch"] in sections[machine]


def test_links_lead_somewhere():
    pages = *PAGES.glob("*.md"), *PAGES.parent.glob("*.md"), *PROJECT.glob("*.md"), PROJECT / "datasets/README.md"
    links = [(page, link) for page in pages
             for link in re.findall(r"(?:\]\(|src=\")([^)#\"]+)", page.read_text()) if not link.startswith("http")]
    assert len(links) > 60
    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []


def test_a_section_is_replaced_and_other_machines_stay(tmp_path):
    page, device = tmp_path / "some_page.md", torch.device("cpu")
    for text in ("first", "second"):
        write_section(page, text, {"figure": text}, device=device, seconds=1.0)
        assert page.read_text().startswith("# some_page\n\n## ") and page.read_text().endswith(f"\n\n{text}\n")
        page.write_text(page.read_text() + "\n## Another machine\n\nkept\n")
    write_section(page, "third", {"figure": "third"}, device=device, seconds=1.0)
    assert re.findall("first|second|third|kept", page.read_text()) == ["kept", "kept", "third"]
    (stored,) = json.loads((tmp_path / "some_page.json").read_text()).values()
    assert (stored["figure"], stored["hardware"]) == ("third", hardware(device))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", stored["date"]) and f"\n{stored['date']}; python 3." in page.read_text()


@pytest.mark.slow
def test_the_loader_is_measured_on_a_folder_and_on_drawn_images(tmp_path, monkeypatch):
    monkeypatch.setattr(loader, "IMAGES", 16)
    with one_thread():
        loader.main(["--repeats", "1", "--out", str(tmp_path / "drawn")])
        toy = build_toy_city(tmp_path / "toy", train_places=4, val_places=1, test_places=1)
        loader.main([str(toy / "gsv_cities"), "--size", "28", "42", "--repeats", "2", "--out", str(tmp_path)])
    (stored,) = json.loads((tmp_path / "drawn" / "loader.json").read_text()).values()
    assert [name.partition("->")[2] for name in stored["seconds_an_image"]] == [" 112x112", " 224x224"]
    (stored,) = json.loads((tmp_path / "loader.json").read_text()).values()
    ((name, found),) = stored["seconds_an_image"].items()
    assert name == f"{toy / 'gsv_cities'} -> 42x28" and len(found) == 6
    assert all(len(samples) == 2 and min(samples) > 0 for by in found.values() for samples in by.values())
    page = (tmp_path / "loader.md").read_text()
    assert loader.table(found) in page and page.count("images/s") == 2

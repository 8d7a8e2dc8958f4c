"""The paper's figures: which queries are chosen, what is drawn of them and where, and the pages beside them."""

import functools
import importlib
import itertools
import json
import shutil
import sys

import numpy as np
import pytest
from images import write_benchmark
from PIL import Image, ImageFont
from scripts import error_of, evaluation_options, run_folder

import eval
import eval_rerank
from benchmarks.paper import figures
from benchmarks.paper.figures import costs
from benchmarks.paper.figures.__main__ import main
from benchmarks.paper.figures.costs import Point, chart, printed
from benchmarks.paper.figures.runs import found_by, images_of, read_runs
from model import ModelConfig, build_model, load_model, save_checkpoint
from utils.maps import attention_maps, overlay
from utils.sheets import LINE, PLAIN, RIGHT, WRONG, Cell, sheet, shortened, wrapped

CELL = 144, 108
BLUE, ORANGE = (31, 95, 168), (217, 95, 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder with a hard set, `both.pth`, and runs `first` and `second` of two untrained models on that set."""
    folder = tmp_path_factory.mktemp("figures")
    write_benchmark(folder, "hard", "test", database=12, queries=9, unanswerable=2, first_place=700, noise=1.5)
    for seed, (name, script, branches) in enumerate((("first", eval, ("float",)), ("second", eval_rerank,
                                                                                   ("float", "binary")))):
        model = folder / f"{name}.pth"
        save_checkpoint(build_model(ModelConfig(backbone="dinov2-tiny", branches=branches), seed=seed), model,
                        pretrained=False)
        made = run_folder(script.main, *evaluation_options(folder), "--dataset_name", "hard", "--resume", model,
                          "--save_dir", name, "--val_positive_dist_threshold", 150, cwd=folder)
        made.rename(folder / name)
    return folder


@pytest.fixture
def copied(runs, tmp_path):
    """A copy of `first` to change: its folder, and a function that changes its results.json."""
    folder = tmp_path / "copied"
    shutil.copytree(runs / "first", folder)

    def change(**fields):
        path = folder / "results.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return folder, change


def page(image):
    return image.with_suffix(".md").read_text()


def frame(image, row, column, *, groups):
    """Colour of a cell's left frame: columns are 154 pixels apart, rows 136, groups 12 more."""
    top = 2 * LINE + 4 + 34 + row * (CELL[1] + 10 + LINE)
    left = 10 + column * (CELL[0] + 10) + 12 * sum(column >= group for group in groups)
    return image.getpixel((left - 2, top + CELL[1] // 2))


def drawn_as(pixel, colour):
    """But for what JPEG changes."""
    return np.abs(np.subtract(pixel, colour)).max() < 60


def test_a_runs_predictions_are_matched_to_its_images_by_name(runs, copied):
    folder, _ = copied
    with np.load(folder / "predictions.npz") as file:
        arrays = dict(file)
    rows, columns = np.random.default_rng(0).permutation(11), np.random.default_rng(1).permutation(12)
    order = {name: arrays[name][rows] for name in ("query_names", "final_ids", "final_correct")}
    order["final_ids"] = np.argsort(columns)[order["final_ids"]]
    np.savez(folder / "predictions.npz", **{**arrays, **order, "database_names": arrays["database_names"][columns]})
    run, mixed = read_runs([f"{runs / 'first'}", f"mixed={folder}"])
    listing = images_of(run)
    one, other = found_by(run, listing, "final"), found_by(mixed, listing, "final")
    np.testing.assert_array_equal(one.ids, other.ids)
    np.testing.assert_array_equal(one.correct, other.correct)
    for query, ids in enumerate(one.ids):  # by the listing's own right answers
        right = [image in listing.positives[query] for image in ids]
        assert one.correct[query].tolist() == right
        assert one.rank()[query] == (right.index(True) if any(right) else len(right)) + 1


def test_a_trainings_images_are_its_test_set(runs, copied):
    """Whose results.json has the options of a training script: no split, no folders of one's own."""
    folder, change = copied
    options = json.loads((folder / "results.json").read_text())["options"]
    training = {name: options[name] for name in ("dataset_name", "datasets_folder", "val_positive_dist_threshold")}
    change(options=training)
    listings = [images_of(run) for run in read_runs([f"a={folder}", f"b={runs / 'first'}"])]
    assert listings[0].fingerprint() == listings[1].fingerprint() and listings[0].folder == listings[1].folder


def test_figure_5_draws_first_the_queries_on_which_runs_differ(runs, tmp_path):
    read = read_runs([f"a={runs / 'first'}", f"b={runs / 'second'}"])
    listing = images_of(read[0])
    found = [found_by(run, listing, "final") for run in read]
    differing = {i for i in range(11) if found[0].correct[i, 0] != found[1].correct[i, 0]}
    assert 0 < len(differing) < 9
    image = figures.draw(number="5", runs=[f"a={runs / 'first'}", f"b={runs / 'second'}"], out=tmp_path / "five.jpg",
                         rows=len(differing) + 1, top=2)
    text, names = page(image), listing.names("query")
    drawn = [names.index(line.partition(": ")[2]) for line in text.splitlines() if line.startswith("* row ")]
    assert {*drawn[:-1]} == differing and drawn[-1] not in differing
    assert f"right at rank 1 and others not ({len(differing)} are)" in text
    sheet_drawn = Image.open(image)
    for row, query in enumerate(drawn):
        assert drawn_as(frame(sheet_drawn, row, 0, groups=(1, 3)), PLAIN)
        for run, one in enumerate(found):
            for rank in range(2):
                colour = RIGHT if one.correct[query, rank] else WRONG
                assert drawn_as(frame(sheet_drawn, row, 1 + 2 * run + rank, groups=(1, 3)), colour)
    assert "pretrained: false" in text and str(runs / "second") in text


def test_figure_5_by_name_and_first_stage(runs, tmp_path):
    image = figures.draw(number="5", runs=[str(runs / "second")], queries=["@0001300.00@"], stage="first_stage",
                         out=tmp_path / "five.png")
    assert "row 1: queries/@0001300.00@" in page(image) and "row 2" not in page(image)


def test_figure_8_draws_the_worst_queries_with_their_nearest_right_answer(runs, tmp_path):
    run, = read_runs([str(runs / "first")])
    listing = images_of(run)
    rank = found_by(run, listing, "final").rank()
    image = figures.draw(number="8", runs=[str(runs / "first")], out=tmp_path / "eight.png", rows=3, top=2)
    text, names = page(image), listing.names("query")
    drawn = [names.index(line.partition(": ")[2]) for line in text.splitlines() if line.startswith("* row ")]
    assert sorted(rank[drawn])[::-1] == rank[drawn].tolist() == sorted(rank[:9])[::-1][:3]
    assert "left out: 2 queries without a right answer" in text
    assert f"{(rank[:9] > 1).sum()} of 11 queries have right images, but not at rank 1" in text
    # In the last column the database image of the same place, 10 m south; its neighbours are right too.
    cell = np.asarray(Image.open(image))[2 * LINE + 4 + 34:, 10 + 3 * 154 + 24:][:CELL[1], 18:126].astype(float)
    shown = Image.open(listing.database_paths[drawn[0]]).resize((108, 108), Image.Resampling.BICUBIC)
    assert np.abs(cell - np.asarray(shown, dtype=float)).mean() < 12


def test_figures_1_and_6_draw_every_column_that_a_model_has(runs, tmp_path):
    Image.new("RGB", (90, 30), (200, 30, 30)).save(tmp_path / "w\xefde \u6771.png")
    photographs = runs / "hard" / "images" / "test" / "queries"
    image = figures.draw(number="6", models=[f"one={runs / 'first.pth'}", f"two={runs / 'second.pth'}"], device="cpu",
                         images=[tmp_path / "w\xefde \u6771.png", photographs], rows=2, resize=(56, 70),
                         out=tmp_path / "six.png")
    text = page(image)
    assert "one: float branch, dinov2-tiny, frozen, two: float branch, two: binary branch\n" in text
    assert "one: no binary branch" in text and "seen at 56x70 pixels" in text and "\u6771.png" in text
    assert text.count("pretrained: false") == 2
    # The same weights: one column of the frozen backbone.
    shutil.copy(runs / "second.pth", tmp_path / "again.pth")
    image = figures.draw(number="1", models=[str(tmp_path / "again.pth"), str(runs / "second.pth")], device="cpu",
                         images=[photographs], rows=1, resize=(56, 56), out=tmp_path / "one.png")
    assert page(image).count("dinov2-tiny, frozen") == 1
    # And what is drawn is the map over its image.
    from datasets import evaluation_transform
    first = sorted(photographs.iterdir())[0]
    shown = Image.open(first)
    maps = attention_maps(load_model(runs / "second.pth"), evaluation_transform((56, 56))(shown)[None])
    expected = np.asarray(overlay(shown.resize((224, 224), Image.Resampling.BICUBIC), maps["binary"][0]), dtype=int)
    cell = np.asarray(Image.open(image), dtype=int)[LINE + 4 + 34:, 10 + 3 * 234 + 36:][:224, :224]
    assert np.abs(cell - expected).max() <= 1


def test_a_trained_backbone_has_no_frozen_column(tmp_path, runs):
    config = ModelConfig(backbone="dinov2-tiny", branches=("float",), tuning="partial:1")
    save_checkpoint(build_model(config, seed=0), tmp_path / "tuned.pth", pretrained=None)
    image = figures.draw(number="1", models=[str(tmp_path / "tuned.pth")], images=[runs / "hard"], rows=1, device="cpu",
                         out=tmp_path / "one.jpg")
    assert "columns: float branch\n" in page(image)
    assert "no frozen DINOv2: the backbone is trained (partial:1)" in page(image)
    assert "does not say whether its DINOv2 was pre-trained" in page(image) and "322x322 pixels" in page(image)


def test_figure_7_has_the_papers_points():
    points = {point.label: point for point in printed("MSLS-val", 1)}
    assert len(points) == 10 and not any(point.measured for point in points.values())
    assert points["MemEfficient-MCA, L"][:3] == (None, 11.97, 93.4)  # Tables VI and V
    assert points["Freezing, B"][:3] == (None, 6.75, 87.2)  # Tables VI and IV
    assert printed("MSLS-val", 10) == []


def colours(image):
    """Of the marks of Figure 7."""
    return {(BLUE, ORANGE)[i] for i, colour in enumerate((BLUE, ORANGE))
            if (np.asarray(Image.open(image)) == colour).all(axis=2).any()}


def test_figure_7_of_trainings(copied, tmp_path, capsys):
    folder, change = copied
    options = {"train_resize": [56, 56], "train_batch_size": 2, "images_per_place": 4, "precision": "fp32"}
    change(training={"trainable_parameters": 2_500_000, "peak_memory_mib": 2048.0, "minutes_per_epoch": 7.5},
           options=options, hardware={"cpu": "x", "cores": 4, "threads": 2, "gpu": "Some GPU"})
    image = figures.draw(number="7", runs=[f"mine={folder}"], out=tmp_path / "seven.png")
    assert "mine: 2.50 million trained parameters, 2048 MiB, 7.5 minutes an epoch, R@1 " in page(image)
    assert "measured on Some GPU: 2 places of 4 images a batch, 56x56 pixels, fp32" in page(image)
    assert "printed" not in page(image)  # the paper has no such data set
    assert colours(image) == {BLUE}
    change(dataset="pitts30k")
    again = [figures.draw(number="7", runs=[f"mine={folder}"], out=tmp_path / name) for name in ("a.png", "b.png")]
    assert "Freezing, L: 8.8 minutes an epoch, R@1 92.2 (printed)" in page(again[0])
    assert colours(again[0]) == {BLUE, ORANGE}
    assert again[0].read_bytes() == again[1].read_bytes()
    change(benchmark={"warnings": ["expected 3 queries"]})
    warned = figures.draw(number="7", runs=[f"mine={folder}"], out=tmp_path / "warned.png")
    heights = [Image.open(path).size[1] for path in (again[0], warned)]
    assert "* expected 3 queries" in page(warned) and heights[1] == heights[0] + LINE  # in the picture too
    change(training=None)
    assert "no costs of a training" in error_of(main, "7", "--runs", folder, capsys=capsys)


def test_a_drawn_set_is_called_so(copied, tmp_path):
    folder, change = copied
    change(dataset="toy_city/hard", benchmark={**json.loads((folder / "results.json").read_text())["benchmark"],
                                               "warnings": ["expected 3 queries"]})
    image = figures.draw(number="8", runs=[str(folder)], out=tmp_path / "eight.jpg")
    assert "* toy city: drawn images" in page(image) and "* expected 3 queries" in page(image)


def test_mistakes_are_one_line(runs, copied, tmp_path, capsys):
    error = functools.partial(error_of, main, capsys=capsys)
    folder, change = copied
    model, out = runs / "first.pth", ("--out", tmp_path / "figure.png")
    assert "no_such" in error("1", "--models", model, "--images", tmp_path / "no_such", *out)
    assert "no checkpoint file" in error("1", "--models", tmp_path / "no.pth", "--images", runs / "hard", *out)
    assert "ends in .jpg" in error("8", "--runs", folder, "--out", tmp_path / "figure.pdf")
    assert "--rows 0" in error("8", "--runs", folder, "--rows", 0, *out)
    assert "results.json: no such file" in error("5", "--runs", tmp_path, *out)
    assert "NAME=PATH" in error("5", "--runs", folder, runs / "first", folder, *out)
    assert "part of 11 of 11" in error("5", "--runs", folder, "--queries", "queries", *out)
    assert "no first_stage in it" in error("8", "--runs", folder, "--stage", "first_stage", *out)
    assert "say --datasets_folder" in error("8", "--runs", folder, "--datasets_folder", tmp_path, *out)
    write_benchmark(tmp_path, "hard", "test", database=3, queries=2, first_place=0)
    assert "other images" in error("8", "--runs", folder, "--datasets_folder", tmp_path, *out)
    change(dataset="elsewhere")
    assert "several data sets" in error("7", "--runs", f"a={folder}", f"b={runs / 'first'}", *out)
    (folder / "results.json").write_text("{}")
    assert "expected the results of a run" in error("5", "--runs", folder, *out)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".", "figure"))]


@pytest.fixture
def crowded():
    """Points of which some lie close, two on one another; every third is measured, and has its memory."""
    rng = np.random.default_rng(0)
    minutes, recalls = np.append(rng.uniform(6, 25, 15), (250, 8, 8)), np.append(rng.uniform(91, 94, 15), (30, 92, 92))
    return [Point(1 + i / 10 if i % 3 == 0 else None, x, y, f"${i}_x$ \udcff\n{i}", i % 3 == 0)
            for i, (x, y) in enumerate(zip(minutes.tolist(), recalls.tolist(), strict=True))]


def test_each_number_stands_for_its_point(crowded):
    figure = chart(crowded, 5)
    ranked = sorted(crowded, key=lambda point: -point.recall)
    listed, = figure.legends
    assert [text.get_text() for text in listed.get_texts()] == [
        f"{number}  {point.label}".replace("\udcff\n", "??") for number, point in enumerate(ranked, start=1)]
    assert not any(text.get_parse_math() for text in listed.get_texts())
    assert [axes.get_xlabel().split(" ")[-1] for axes in figure.axes] == ["GiB", "epoch"]
    for axes, cost in zip(figure.axes, ("memory", "minutes"), strict=True):
        shown = {number: point for number, point in enumerate(ranked, start=1) if getattr(point, cost) is not None}
        places = [(getattr(point, cost), point.recall) for point in shown.values()]
        assert [line.get_xydata().tolist() for line in axes.lines] == [[[*place]] for place in places]
        assert {int(text.get_text()): text.xy for text in axes.texts} == dict(zip(shown, places, strict=True))
        for line, mark, point in zip(axes.lines, (listed.legend_handles[i - 1] for i in shown), shown.values(),
                                     strict=True):
            look = ("o", "#1f5fa8", "#1f5fa8") if point.measured else ("D", "#d95f02", "white")
            assert look == (line.get_marker(), line.get_color(), line.get_markerfacecolor())
            assert look == (mark.get_marker(), mark.get_color(), mark.get_markerfacecolor())


def test_numbers_cover_nothing(crowded):
    """By the boxes that matplotlib draws texts in; a mark reaches 5.2 pixels from its middle."""
    from matplotlib.text import Text
    figure = chart(crowded, 1)
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [Text.get_window_extent(number) for number in axes.texts]  # an annotation's own is with its line
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
        marks = axes.transData.transform([text.xy for text in axes.texts])
        for box in boxes:
            assert np.linalg.norm(marks - np.clip(marks, box.min, box.max), axis=1).min() > 5.2


def test_figure_7_says_that_it_needs_matplotlib(tmp_path, capsys, monkeypatch):
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it raises ModuleNotFoundError
    importlib.reload(costs)  # only drawing needs it
    assert "pip install -r requirements.txt" in error_of(main, "7", "--out", tmp_path / "7.png", capsys=capsys)
    assert not [*tmp_path.iterdir()]


def test_text_fits():
    font = ImageFont.load_default(14)
    assert shortened("short", font, 100) == "short"
    long = shortened("a very long name of an image", font, 100)
    assert long.startswith("a very") and long.endswith("...") and font.getlength(long) <= 100
    assert shortened("bytes \udcff, line\nbreak", font, 300) == "bytes ?, line?break"
    lines = wrapped(["one two three four five six", "word" * 30], font, 100)
    assert " ".join(lines[:-1]) == "one two three four five six" and len(lines) > 2
    assert max(map(font.getlength, lines)) <= 100


def test_a_sheet_holds_images_of_several_sizes():
    rows = [[Cell(Image.new("RGB", (30, 20))), Cell(Image.new("RGB", (50, 10)), RIGHT, "a text that is far too long")],
            [Cell(Image.new("RGB", (20, 40)), WRONG), Cell(Image.new("RGB", (10, 10)))]]
    drawn = sheet(rows, {0: "one", 1: "two"}, title=["title"], notes=["note"], legend=Image.new("RGB", (9, 9), RIGHT))
    top = LINE + 4 + 34
    assert drawn.size == (10 + 30 + 10 + 12 + 50 + 10, top + (20 + LINE + 10) + (40 + 10) + (9 + 10) + 10 + LINE)
    assert [drawn.getpixel((8, top)), drawn.getpixel((60, top)), drawn.getpixel((8, top + 48))] == [PLAIN, RIGHT, WRONG]
    assert drawn.getpixel((12, top + 98)) == RIGHT  # the legend


def test_a_sheet_needs_no_headings():
    image = Image.new("RGB", (40, 30), "red")
    assert sheet([[Cell(image)]], {}).size == (60, 70)  # 10 around it, 20 above

import json
import shutil
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import images
import numpy as np
import pytest
import utm
from PIL import Image
from scripts import close_log, error_of, evaluation_options, one_thread, run_folder

import eval_rerank
from model import ModelConfig, build_model, save_checkpoint
from utils.localize.__main__ import main
from utils.search import TwoStageIndex


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.pth"
    save_checkpoint(build_model(ModelConfig(backbone="dinov2-tiny", branches=("float", "binary")), seed=0), path,
                    pretrained=False)
    return path


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A folder "map" of eight places, 100 m apart, and one with a photograph of each."""
    for place in range(8):
        for side, shot in (("map", 0), ("photos", 1)):
            (tmp_path / side).mkdir(exist_ok=True)
            name = f"@{400000 + 100 * place + shot}@5000000@31@T@{place}@.png"
            images.image(place, shot, noise=0.05).save(tmp_path / side / name)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    close_log()


def said(*words: object) -> list[str]:
    """What the command writes on stdout."""
    with one_thread(), redirect_stdout(StringIO()) as out:
        main([str(word) for word in words])
    return out.getvalue().splitlines()


def asked(*words: object) -> list[dict]:
    return [json.loads(line) for line in said(*words, "--json")]


def built(model: Path, *more: object) -> None:
    said("build", "index", "map", "--resume", model, "--resize", "56", "56", *more)


def test_a_map_answers_with_coordinates(home, model, capsys):
    built(model)
    found = asked("index", "photos", "--resume", model)
    assert [answer["query"] for answer in found] == sorted(map(str, (home / "photos").iterdir()))
    for place, answer in enumerate(found):
        assert answer["database"] == f"map/@{400000 + 100 * place}@5000000@31@T@{place}@.png"
        lat, lon = utm.to_latlon(400000 + 100 * place, 5000000, 31, "T")
        assert (answer["east"], answer["north"], answer["zone"]) == (400000 + 100 * place, 5000000, "31N")
        assert (answer["lat"], answer["lon"]) == pytest.approx((lat, lon), abs=1e-7)
        assert answer["confidence"] is answer["sure"] is None
        assert len(answer["answers"]) == 5 and answer["distance"] == min(a["distance"] for a in answer["answers"])
    assert "no confidence: none was fitted" in capsys.readouterr().err
    first, second = said("query", "index/database", found[3]["query"], "--resume", model)
    assert "400300.00 east 5000000.00 north in UTM zone 31N, latitude 45." in first and "@400300@" in second


def test_panels_are_drawn(home, model):
    built(model)
    photos = sorted((home / "photos").iterdir())[:2]
    said("index", *photos, "--resume", model, "--panel", "all.jpg")
    said("index", *photos, "--resume", model, "--panel", "each")
    with Image.open("all.jpg") as both, Image.open(next(Path("each").glob("0001-*.jpg"))) as one:
        assert (both.format, both.width) == ("JPEG", one.width) and both.height > 1.5 * one.height
        pixels = np.asarray(one).astype(int)
    assert pixels.std(axis=(0, 1)).min() > 30  # colours, where white and grey alone would be without images
    assert len([*Path("each").iterdir()]) == 2


def test_images_come_and_go(home, model, capsys):
    built(model)
    taken = sorted(Path("map").iterdir())[2]
    said("remove", "index", taken)
    assert asked("index", f"photos/{taken.name.replace('200@', '201@')}", "--resume", model)[0]["east"] != 400200
    said("add", "index", taken, "--resume", model)
    answer, = asked("index", f"photos/{taken.name.replace('200@', '201@')}", "--resume", model)
    assert (answer["database"], answer["east"]) == (f"map/{taken.name}", 400200)
    with one_thread():
        assert "in index/database already; remove them first" in error_of(
            main, "add", "index", taken, "--resume", model, capsys=capsys)
    assert "no image is named nowhere.png; expected names like map/@400000" in error_of(
        main, "remove", "index", "nowhere.png", capsys=capsys)


def test_degrees_are_added_in_the_plane_of_the_map(home, model):
    built(model)
    lat, lon = utm.to_latlon(400777, 5000000, 31, "T")
    images.image(77, 0).save("more.png")
    Path("where.csv").write_text(f"path,lat,lon\nmore.png,{lat},{lon}\n")
    said("add", "index", "more.png", "--resume", model, "--coordinates", "where.csv")
    answer, = asked("index", "more.png", "--resume", model)
    assert (answer["database"], answer["distance"]) == ("more.png", pytest.approx(0, abs=1e-2))
    assert (answer["east"], answer["north"]) == pytest.approx((400777, 5000000), abs=0.02)
    assert (answer["lat"], answer["lon"]) == pytest.approx((lat, lon), abs=1e-6)


def test_what_cannot_be_read_is_named_and_counted(home, model, capsys):
    Path("map/@1@2@31@T@.jpg").write_bytes(b"no image")
    Path("map/torn.png").write_bytes(sorted(Path("map").iterdir())[3].read_bytes()[:60])
    built(model)
    err = capsys.readouterr().err
    assert "map/@1@2@31@T@.jpg: not a readable image" in err and "map/torn.png: not a readable image" in err
    assert "2 of 10 images cannot be read and are left out" in err and "index: 8 images" in err
    TwoStageIndex.open("index/database").verify()
    shutil.copy("map/torn.png", "photos/torn.png")
    with pytest.raises(ValueError, match="1 of 9 images could not be read, first .*torn.png; 8 are answered"):
        asked("index", "photos", "--resume", model)
    close_log()


def test_a_build_goes_on_where_it_was_broken_off(home, model, monkeypatch):
    from utils.localize import maps

    seen, read = [], maps.read_image

    def counted(path):
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append(path)
        return read(path)

    monkeypatch.setattr(maps, "BATCH", 2)
    monkeypatch.setattr(maps, "LOADERS", 0)  # what they read would not be counted
    monkeypatch.setattr(maps, "read_image", counted)
    with pytest.raises(KeyboardInterrupt):
        built(model)
    with pytest.raises(ValueError, match="unfinished extraction, 4 of 8 images are written"):
        TwoStageIndex.open("index/database")
    rest = []
    monkeypatch.setattr(maps, "read_image", lambda path: rest.append(path) or read(path))
    built(model)
    assert len(rest) == 4 and not {*rest} & {*seen}
    assert len(TwoStageIndex.open("index/database")) == 8


def test_another_model_is_refused_by_name_before_an_image_is_read(home, model, capsys):
    built(model)
    save_checkpoint(build_model(ModelConfig(backbone="dinov2-tiny"), seed=1), "other.pth", pretrained=False)
    Path("broken.png").write_bytes(b"")
    said_of = error_of(main, "index", "broken.png", "--resume", "other.pth", capsys=capsys)
    assert "is an index of dinov2-tiny gem (fingerprint" in said_of and "the queries are from dinov2-tiny" in said_of
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    Path("damaged.pth").write_bytes(content)
    assert "damaged.pth: damaged" in error_of(main, "index", "broken.png", "--resume", "damaged.pth", capsys=capsys)


def test_confidence_is_fitted_kept_and_told(home, model, capsys):
    for place in range(8, 40):  # of which the map has none
        images.image(place, 1).save(f"photos/@{400000 + 100 * place}@5000000@31@T@{place}@.png")
    for place in range(8):
        images.image(place, 2, noise=0.1).save(f"photos/@{400002 + 100 * place}@5000000@31@T@{place}@.png")
    built(model)
    said("index", "--fit_confidence", "photos", "--resume", model, "--false_discoveries", "0.6")
    assert "confidence fitted on 48 queries, 16 of them answered right" in capsys.readouterr().err
    found = {answer["query"]: answer for answer in asked("index", "photos", "--resume", model)}
    shown = [answer["confidence"] for query, answer in found.items() if float(query.split("@")[1]) < 400799]
    others = [answer["confidence"] for query, answer in found.items() if float(query.split("@")[1]) > 400799]
    assert min(map(len, (shown, others))) == 16 and np.mean(shown) > np.mean(others) + 0.3
    kept = TwoStageIndex.open("index/database")
    fitted = kept.notes["confidence"]
    assert fitted["fitted_on"]["model"] == kept.model.fingerprint and kept.generation == 1
    sure = [answer["sure"] for answer in found.values()]
    assert sure == [answer["confidence"] >= fitted["threshold"] and not answer["unlike"] for answer in found.values()]
    assert 0 < sum(sure) < 48
    lines = said("index", "photos", "--resume", model)[1::2]
    assert ["I do not know" in line for line in lines] == [not known for known in sure]
    capsys.readouterr()
    shorter = "index", "photos", "--resume", model, "--code_bits", "8"
    assert {answer["confidence"] for answer in asked(*shorter)} == {None}
    assert "fitted with another --code_bits; give the same, or fit it again" in capsys.readouterr().err
    said("index", "--fit_confidence", *shorter[1:])
    assert None not in {answer["confidence"] for answer in asked(*shorter)}
    said("remove", "index", "map/@400000@5000000@31@T@0@.png")
    capsys.readouterr()
    asked(*shorter)
    assert "fitted when it held 8 images; some were added or removed, so that it holds 7" in capsys.readouterr().err


def test_shorter_codes_and_float_descriptors(home, model, capsys):
    built(model)
    rows = TwoStageIndex.open("index/database").rows(range(8))
    said("build", "short", "map", "--resume", model, "--resize", "56", "56", "--float_dim", "16")
    assert "float descriptors were not trained to be cut at 16 dimensions" in capsys.readouterr().err
    assert TwoStageIndex.open("short/database").shape.float_dim == 16
    cut = rows[1][:, :16] / np.linalg.norm(rows[1][:, :16], axis=1, keepdims=True)
    photos = sorted(Path("map").iterdir())  # which the map shows in its own order
    for query, answer in enumerate(asked("short", *photos, "--resume", model)):
        expected = np.sort(np.linalg.norm(cut[query] - cut, axis=1))[:5]
        assert [near["distance"] for near in answer["answers"]] == pytest.approx(expected, abs=1e-3)

    bits = np.unpackbits(rows[0], axis=1)
    place = {f"map/{photo.name}": row for row, photo in enumerate(photos)}
    shot = sorted(Path("photos").iterdir())
    said("add", "index", *shot, "--resume", model)
    asking = np.unpackbits(TwoStageIndex.open("index/database").rows(range(8, 16))[0], axis=1)
    said("remove", "index", *shot)
    capsys.readouterr()
    for words, length in ((["8"], 8), (["8", "100"], None), ([], None)):
        given = ["--code_bits", *words] if words else []
        for query, answer in enumerate(asked("index", *shot, "--resume", model, *given)):
            assert answer["hamming"] == (asking[query] != bits[place[answer["database"]]])[:length].sum()
        assert ("codes were not trained to be cut at 8 bits" in capsys.readouterr().err) == bool(words)
    for words, says in ((["12"], "--code_bits 12: expected a multiple of 8, at most the 512 bits of"),
                        (["8", "99"], "float descriptors re-rank 100 candidates"),
                        (["8", "9", "9"], "expected N, or N")):
        assert says in error_of(main, "index", shot[0], "--resume", model, "--code_bits", *words, capsys=capsys)


def test_codes_alone_in_two_steps_and_a_map_without_codes(home, capsys):
    for branch in ("binary", "float"):
        made = build_model(ModelConfig(backbone="dinov2-tiny", branches=(branch,)), seed=0)
        save_checkpoint(made, f"{branch}.pth", pretrained=False)
        said("build", branch, "map", "--resume", f"{branch}.pth", "--resize", "56", "56")
    kept = TwoStageIndex.open("binary/database")
    bits, photos = np.unpackbits(kept.rows(range(8))[0], axis=1), sorted(Path("map").iterdir())
    for words, length in ((["8"], 8), (["8", "100"], None)):
        for query, answer in enumerate(asked("binary", *photos, "--resume", "binary.pth", "--code_bits", *words)):
            distances = np.sort((bits[query] != bits)[:, :length].sum(axis=1))[:5]
            assert [near["distance"] for near in answer["answers"]] == distances.tolist()
    assert "--code_bits 8: float/database has no codes; leave it out" in error_of(
        main, "float", photos[0], "--resume", "float.pth", "--code_bits", "8", capsys=capsys)


def test_the_index_of_an_evaluation_answers(tmp_path, model, monkeypatch):
    images.write_benchmark(tmp_path / "data", "toy", "test", database=8, queries=4, first_place=0)
    folder = tmp_path / "data/toy/images/test"
    run_folder(eval_rerank.main, *evaluation_options(tmp_path / "data")[2:], "--database_folder", folder / "database",
               "--queries_folder", folder / "queries", "--resume", model, "--index", "index", "--float_dim", 128,
               cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    found = asked("index", folder / "queries", "--resume", model)
    assert [answer["database"] for answer in found] == [
        f"database/@{1000 + 100 * i:010.2f}@{5000:010.2f}@database.jpg" for i in range(4)]
    assert (found[0]["east"], found[0]["zone"], found[0]["lat"]) == (1000, None, None)
    close_log()


@pytest.mark.parametrize(("words", "says"), [
    (["nowhere", "photos"], "nowhere holds no index"),
    (["index", "nowhere.png"], "nowhere.png: no such image or folder"),
    (["index"], "no IMAGE to localise and no --fit_confidence"),
    (["build", "index", "nowhere"], "nowhere: no such folder; expected one of images"),
    (["build", "index"], "the following arguments are required: FOLDER"),
    (["index", "photos", "--coordinates", "x.csv"], "--coordinates are of --fit_confidence"),
    (["index", "photos", "--false_discoveries", "2"], "--false_discoveries 2: expected a share between 0 and 1"),
])
def test_mistakes_are_one_line(home, capsys, words, says):
    assert says in error_of(main, *words, capsys=capsys)

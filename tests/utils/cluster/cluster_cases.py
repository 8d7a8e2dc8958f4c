"""An index in parts on a Ray of two nodes: its answers beside one index's, and what a death does to them.

test_cluster.py runs this file in a process of its own: Ray starts threads and takes SIGTERM.
"""

import io
import json
import threading
import time
from contextlib import redirect_stdout

import images
import numpy as np
import pytest
import ray
from made_up import MODEL, OTHER, tied_codes
from ray.cluster_utils import Cluster
from scripts import close_log, error_of

import utils.cluster
from model import ModelConfig, build_model, save_checkpoint
from utils.cluster import ROOM
from utils.cluster.__main__ import main
from utils.cluster.describing import describe
from utils.cluster.searching import Parts, parts_of, stop
from utils.search import ModelIdentity, TwoStageIndex

N, DIM, QUERIES = 600, 16, 5


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    cluster.add_node(num_cpus=4)
    try:
        ray.init(cluster.address, namespace=ROOM, logging_level="ERROR", log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(autouse=True)
def quiet():
    yield
    close_log()


def rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tied codes, and floats, of which two thirds come twice."""
    rng = np.random.default_rng(seed)
    codes = tied_codes(n, rng)
    floats = rng.standard_normal((n, DIM), np.float32)
    floats[n // 3: 2 * (n // 3)] = floats[:n // 3]
    return codes, floats


def in_parts(folder, parts: int, *, model: ModelIdentity = MODEL) -> list[int]:
    """Writes the rows as an index in parts, the first one short, each without its last row; returns where they end."""
    codes, floats = rows(N, 0)
    edges = [0, *[17 + 200 * i for i in range(parts - 1)], N]
    for number, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
        index = TwoStageIndex.build(folder / f"part-{number:05d}", names=[f"{row}.jpg" for row in range(start, end)],
                                    codes=codes[start:end], floats=floats[start:end], model=model,
                                    coordinates=np.stack([np.arange(start, end)] * 2, axis=1))
        index.remove([f"{end - 1}.jpg"])
        index.save()
    return edges[1:]


@pytest.fixture(scope="module")
def city(cluster, tmp_path_factory) -> tuple[Parts, list[int]]:
    """Three parts and where they end."""
    folder = tmp_path_factory.mktemp("city")
    ends = in_parts(folder, 3)
    return Parts([folder]), ends


def expected(ends: list[int], *, k: int = 10, depth: int = 40) -> tuple[list[list[str]], np.ndarray]:
    """By numpy: names and distances."""
    (codes, floats), names, distances = rows(N, 0), [], []
    live = np.delete(np.arange(ends[-1]), np.array(ends) - 1)
    for code, query in zip(*rows(QUERIES, 1), strict=True):
        bits = np.unpackbits(codes[live] ^ code, axis=1).sum(axis=1)
        first = live[np.lexsort((live, bits))[:depth]]
        apart = np.sqrt(((floats[first] - query) ** 2).sum(axis=1, dtype=np.float32))
        best = np.argsort(apart, kind="stable")[:k]
        names.append([f"{row}.jpg" for row in first[best]])
        distances.append(apart[best])
    return names, np.array(distances)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_parts_answer_as_one_index(city, parts):
    whole, ends = city
    served = Parts(whole.parts[:parts])  # whose actors are there already
    assert (len(served.parts), served.images) == (parts, ends[parts - 1] - parts)
    names, distances = expected(ends[:parts])
    found = served.search(*rows(QUERIES, 1), k=10, depth=40)
    assert found.names.tolist() == names
    assert np.allclose(found.distances, distances, rtol=1e-5)
    assert found.coordinates[..., 0].astype(int).tolist() == [[int(name[:-4]) for name in row] for row in names]
    assert served.search(*rows(QUERIES, 1), k=700, depth=700).names.shape == (QUERIES, served.images)


def test_actors_that_die_while_they_are_asked_cost_no_answer(city):
    served, ends = city
    names, _ = expected(ends)
    wrong, answered, end = [], [], time.monotonic() + 240

    def ask():
        while len(answered) < 40 and time.monotonic() < end:
            found = served.search(*rows(QUERIES, 1), depth=40).names.tolist()
            (answered if found == names else wrong).append(found)

    asking = threading.Thread(target=ask)
    asking.start()
    for part in served.parts[:2]:
        before = len(answered)
        while len(answered) < before + 3 and time.monotonic() < end:
            time.sleep(0.01)
        ray.kill(ray.get_actor(f"{part}#0"), no_restart=False)
    asking.join()
    assert (len(answered), wrong) == (40, [])


def test_actors_stay_take_turns_and_end(cluster, tmp_path, capsys):
    in_parts(tmp_path, 1)
    assert "1 parts, 599 images, are served" in said("serve", tmp_path, "--replicas", 2)
    found = Parts([tmp_path])  # takes these
    assert len([name for name in ray.util.list_named_actors() if name.startswith(str(tmp_path))]) == 2
    assert len({tuple(found.search(*rows(1, 1)).names[0]) for _ in range(3)}) == 1
    index = TwoStageIndex.open(found.parts[0])
    index.remove(["20.jpg"])
    index.save()
    assert "was changed since it is served; stop that" in error_of(
        main, "serve", tmp_path, "--address", "auto", capsys=capsys)
    assert said("serve", tmp_path, "--stop") == "2 actors ended\n"


@pytest.mark.parametrize("who", ["search", "describe"])
def test_who_finds_no_place_is_told(who, city, cluster, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(utils.cluster, "PATIENCE", 0.5)
    in_parts(tmp_path / "city", 2)

    @ray.remote(num_cpus=4)
    class Holder:
        def ready(self): ...

    holders = [Holder.remote() for _ in range(2)]
    ray.get([holder.ready.remote() for holder in holders])

    def make_room():
        end = time.monotonic() + 20
        while "waiting" not in caplog.text and time.monotonic() < end:
            time.sleep(0.05)
        for holder in holders:
            ray.kill(holder)

    making = threading.Thread(target=make_room)
    making.start()
    if who == "search":
        served = Parts([tmp_path / "city"])
        assert served.search(*rows(1, 1)).names.shape == (1, 10)
        expected = f"{served.parts[0]} and 1 more: no answer for 0.5 s; to start it takes a machine with 1 free cores, "
    else:
        images.image(0, 0).save(tmp_path / "0.png")
        with pytest.raises(FileNotFoundError, match="none.pth"):
            describe(tmp_path / "new", tmp_path, resume=tmp_path / "none.pth", cpus=3)
        expected = "a process that describes: no answer for 0.5 s; to start it takes a machine with 3 free cores, "
    making.join()
    said, = [record.getMessage() for record in caplog.records]
    assert said == f"{expected}this Ray has 8, 0 free: add a machine, or end what holds them; waiting"


def test_parts_of_two_models_are_refused(cluster, tmp_path):
    in_parts(tmp_path / "one", 1)
    in_parts(tmp_path / "two", 1, model=OTHER)
    with pytest.raises(ValueError, match="is an index of large boq"):
        Parts([tmp_path / "one", tmp_path / "two"])


def test_a_node_dies_while_it_describes(city, cluster, tmp_path):
    """And every image is there once."""
    assert stop(city[0].parts) == 3
    (tmp_path / "map").mkdir()
    for place in range(24):
        images.image(place, 0, noise=0.05).save(tmp_path / "map" / f"{place:02d}.png")
    (tmp_path / "map" / "20.png").write_bytes(b"no image")
    model = tmp_path / "tiny.pth"
    save_checkpoint(build_model(ModelConfig(backbone="dinov2-tiny", branches=("float", "binary")), seed=0), model,
                    pretrained=False)

    def kill():
        while not (tmp_path / "city" / "part-00001").exists():  # of two nodes, which describe one each
            time.sleep(0.01)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    killing = threading.Thread(target=kill)
    killing.start()
    words = tmp_path / "city", tmp_path / "map", "--resume", model, "--resize", 56, 56, "--cpus", 4
    assert said("describe", *words, "--parts", 3) == f"{words[0]}: 23 images\n"
    killing.join()
    indexes = [TwoStageIndex.open(part) for part in parts_of([tmp_path / "city"])]
    names = [name for index in indexes for ids in index.live_ids() for name in index.names(ids)]
    assert names == [f"map/{place:02d}.png" for place in range(24) if place != 20]
    with pytest.raises(ValueError, match="of an index in more parts"):
        describe(tmp_path / "city", tmp_path / "map", parts=2)
    answers = json.loads(said("search", indexes[0].folder, tmp_path / "map" / "07.png", "--resume", model,
                              "-k", 2))["answers"]
    assert answers[0] == {"database": "map/07.png", "distance": answers[0]["distance"], "east": None, "north": None}
    assert answers[0]["distance"] < 1e-3 < answers[1]["distance"]


def said(*words: object) -> str:
    with redirect_stdout(io.StringIO()) as out:
        main([*map(str, words), "--address", "auto"])
    return out.getvalue()

"""Fetching published files: a loopback web server plays the release page."""

import contextlib
import hashlib
import http.server
import io
import socket
import socketserver
import threading

import pytest
import torch
from published import filled_weights

from model import CheckpointError, ModelConfig, fetch_foundation, fetch_released, released_address
from model.config import BACKBONES
from model.released import RELEASED_MODELS, fetch

TINY = ModelConfig(backbone="dinov2-tiny")


def file_bytes(content: dict) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


class ReleasePage(http.server.BaseHTTPRequestHandler):
    """Serves `answers`: path -> (status, body, announced length)."""

    answers: dict[str, tuple[int, bytes, int]] = {}
    requests: list[str] = []

    def do_GET(self):
        self.requests.append(self.path)
        if self.path == "/garbage":
            self.wfile.write(b"this is no HTTP\r\n\r\n")
            return
        status, body, length = self.answers.get(self.path, (404, b"no such file", 12))
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def page():
    ReleasePage.answers, ReleasePage.requests = {}, []
    # Not http.server's own server class: it looks its name up, which can take seconds without a network.
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), ReleasePage) as server:
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """torch.hub's cache, moved here by the environment: `set_dir` would outlive the test."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def published(page, monkeypatch):
    """A released model of the tiny backbone; its answer can be changed by the test."""
    body = file_bytes({"model_state_dict": {f"module.{k}": v for k, v in filled_weights(TINY).items()}})
    ReleasePage.answers["/model.pth"] = (200, body, len(body))
    monkeypatch.setitem(RELEASED_MODELS, ("dinov2-tiny", "gem", TINY.branches), f"{page.url}/model.pth")
    return body


def files(cache) -> list[str]:
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def test_a_published_model_is_fetched_verified_and_fetched_once(cache, published):
    checkpoint = fetch_released(TINY)
    assert checkpoint.config == TINY
    assert checkpoint.pretrained is True
    assert checkpoint.source == str(cache / "model.pth")
    assert (cache / "model.pth").read_bytes() == published
    assert (cache / "model.pth.sha256").read_text().strip() == hashlib.sha256(published).hexdigest()
    assert files(cache) == ["model.pth", "model.pth.sha256"]
    fetch_released(TINY)
    assert ReleasePage.requests == ["/model.pth"]


def test_a_cached_file_that_changed_is_refused(cache, published):
    fetch_released(TINY)
    path = cache / "model.pth"
    changed = bytearray(published)
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    with pytest.raises(CheckpointError, match=r"model.pth: changed since it was fetched .*delete both"):
        fetch_released(TINY)
    path.unlink()
    path.with_name("model.pth.sha256").unlink()
    fetch_released(TINY)
    assert ReleasePage.requests == ["/model.pth"] * 2


def test_a_file_put_into_the_cache_by_hand_is_verified_and_used(cache, published):
    cache.mkdir(parents=True)
    (cache / "model.pth").write_bytes(published[:-100])
    with pytest.raises(CheckpointError, match="model.pth: not a readable torch checkpoint"):
        fetch_released(TINY)
    assert files(cache) == ["model.pth"]  # a person's file is not deleted
    (cache / "model.pth").write_bytes(published)
    assert fetch_released(TINY).config == TINY
    assert files(cache) == ["model.pth", "model.pth.sha256"]
    assert ReleasePage.requests == []


@pytest.mark.parametrize(("answer", "message"), [
    (lambda body: (200, body[: len(body) // 2], len(body)), "no readable checkpoint|IncompleteRead"),
    (lambda body: (200, body[: len(body) // 2], len(body) // 2), "no readable checkpoint"),
    (lambda _: (200, b"", 0), "no readable checkpoint"),
    (lambda _: (200, b"<html>Log in first</html>", 25), "no readable checkpoint"),
    (lambda _: (404, b"", 0), "cannot fetch .*Not Found"),
    (lambda _: (500, b"", 0), "cannot fetch .*Internal Server Error"),
], ids=["cut off", "cut at the source", "empty", "web page", "404", "500"])
def test_a_failed_download_is_one_clear_error_and_leaves_nothing(cache, published, answer, message):
    ReleasePage.answers["/model.pth"] = answer(published)
    with pytest.raises(CheckpointError, match=message) as error:
        fetch_released(TINY)
    assert "/model.pth" in str(error.value)
    assert str(cache / "model.pth") in str(error.value)  # where to put it by hand
    assert "\n" not in str(error.value)
    assert files(cache) == []
    ReleasePage.answers["/model.pth"] = (200, published, len(published))
    assert fetch_released(TINY).config == TINY


def test_no_server_and_no_http_are_one_clear_error(cache, page):
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/model.pth", f"{page.url}/garbage"):
        with pytest.raises(CheckpointError, match="cannot fetch .*download it by hand to") as error:
            fetch(url, verify=lambda path: pytest.fail("nothing arrived"))
        assert "\n" not in str(error.value)
        assert files(cache) == []


def test_another_model_than_promised_is_refused(cache, published):
    config = ModelConfig(backbone="dinov2-tiny", branches=("float",))
    body = file_bytes(filled_weights(config))
    ReleasePage.answers["/model.pth"] = (200, body, len(body))
    with pytest.raises(CheckpointError, match="expected"):
        fetch_released(TINY)


def test_released_addresses_are_those_of_the_published_files():
    release = "https://github.com/Lu-Feng/SelaVPRplusplus/releases/download/SelaVPR%2B%2B/"
    for backbone in ("base", "large"):
        for branches, suffix in ((("float",), ""), (("float", "binary"), "_rerank")):
            config = ModelConfig(backbone=f"dinov2-{backbone}", branches=branches)
            assert released_address(config) == f"{release}SelaVPRplusplus_{backbone}{suffix}.pth"


@pytest.mark.parametrize("config", [
    ModelConfig(backbone="dinov2-base", branches=("binary",)),
    ModelConfig(backbone="dinov2-large", branches=("binary",)),
    ModelConfig(backbone="dinov2-base", aggregation="boq"),
    ModelConfig(backbone="dinov2-small"),
    ModelConfig(backbone="dinov2-base", code_bits=256),
    ModelConfig(backbone="dinov2-large", placement="all"),
])
def test_an_unpublished_combination_names_the_published_ones(page, config):
    with pytest.raises(ValueError, match="no weights are published for .*") as error:
        fetch_released(config)
    assert "\n" not in str(error.value)
    for existing in ("dinov2-base gem float;", "dinov2-base gem float+binary", "dinov2-large gem float+binary"):
        assert existing in str(error.value)
    assert ReleasePage.requests == []


def test_official_foundation_files(cache, page, monkeypatch):
    official = "https://dl.fbaipublicfiles.com/dinov2/dinov2_{0}/dinov2_{0}_pretrain.pth"
    for name, letter in (("small", "s"), ("base", "b"), ("large", "l")):
        assert BACKBONES[f"dinov2-{name}"].weights_url == official.format(f"vit{letter}14")
    with pytest.raises(ValueError, match="no pre-trained weights exist for dinov2-tiny; give --foundation_model_path"):
        fetch_foundation("dinov2-tiny")
    body = file_bytes({"cls_token": torch.zeros(1, 1, 192)})
    ReleasePage.answers["/dinov2_vitt14_pretrain.pth"] = (200, body, len(body))
    monkeypatch.setitem(BACKBONES, "dinov2-tiny", BACKBONES["dinov2-tiny"]._replace(
        weights_url=f"{page.url}/dinov2_vitt14_pretrain.pth"))
    assert fetch_foundation("dinov2-tiny") == cache / "dinov2_vitt14_pretrain.pth"
    assert fetch_foundation("dinov2-tiny").read_bytes() == body
    assert ReleasePage.requests == ["/dinov2_vitt14_pretrain.pth"]

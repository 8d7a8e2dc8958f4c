"""A Hugging Face hub of one repository on the loopback interface: what huggingface_hub asks it, and no more."""

import base64
import contextlib
import http.server
import json
import threading
from collections.abc import Iterator

COMMIT = "c0ffee" + 34 * "0"


class Hub:
    """files: of the repository owner/model, by name, None before it is made; commits: what each brought; made: what was
    asked for last when it was made; address: for HF_ENDPOINT."""

    def __init__(self, port: int):
        self.address, self.files = f"http://127.0.0.1:{port}", None
        self.made: dict = {}
        self.commits: list[dict[str, bytes]] = []

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object, dict]:
        """(status, bytes or what becomes JSON, headers)."""
        path = path.partition("?")[0]
        if path == "/api/repos/create":
            self.made = json.loads(body)
            self.files = self.files or {}
            return 200, {"url": f"{self.address}/owner/model", "name": "owner/model"}, {}
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}, {}
        if self.files is None or "owner/model" not in path:
            return 404, {}, {"x-error-code": "RepoNotFound"}
        if "/preupload/" in path:
            return 200, {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                                   for file in json.loads(body)["files"]]}, {}
        if "/commit/" in path:
            operations = map(json.loads, body.splitlines())
            self.commits.append({operation["value"]["path"]: base64.b64decode(operation["value"]["content"])
                                 for operation in operations if operation["key"] == "file"})
            self.files |= self.commits[-1]
            return 200, {"commitOid": COMMIT, "commitUrl": f"{self.address}/owner/model/commit/{COMMIT}"}, {}
        if "/revision/" in path:
            if path.rpartition("/")[2] not in ("main", "v1", COMMIT):
                return 404, {}, {"x-error-code": "RevisionNotFound"}
            return 200, {"id": "owner/model", "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files],
                         "private": False, "tags": []}, {}
        if "/tree/" in path:
            return 200, [{"type": "file", "path": name, "size": len(content), "oid": 40 * "a"}
                         for name, content in self.files.items()], {}
        content = self.files[path.rpartition("/")[2]]
        return 200, content, {"etag": f'"{len(content):040d}"', "x-repo-commit": COMMIT}


@contextlib.contextmanager
def served() -> Iterator[Hub]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, content, headers = hub.answer(self.command, self.path, body)
            if not isinstance(content, bytes):
                content, headers = json.dumps(content).encode(), {"content-type": "application/json", **headers}
            self.send_response(status)
            for name, value in {"content-length": len(content), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_POST = do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(server.server_port)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()

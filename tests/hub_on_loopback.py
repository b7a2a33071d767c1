"""A Hub on loopback: it tells the commit of a branch, serves small files, and sends readers of large ones elsewhere."""

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path

from stores_on_loopback import Ranges, Web

TOKEN, SIGNATURE = "hf_t0ken0fn0b0dy", "s1gnature0fn0b0dy"
COMMIT = "5" * 40


@dataclass
class Hub:
    """The Hub and the servers behind it.

    Attributes:
        endpoint: its address.
        commits: by model, what its branches mean.
        elsewhere: the server that has the tensors.
        asked: path and Authorization of each request to the Hub.
        told: path and Authorization of each request to the other server.
        private: whether it tells nothing without the token.
    """

    endpoint: str = ""
    commits: dict = field(default_factory=dict)
    elsewhere: Web = field(default_factory=Web)
    small: Web = field(default_factory=Web)
    asked: list = field(default_factory=list)
    told: list = field(default_factory=list)
    private: bool = False

    def put(self, folder, model, commit=COMMIT):
        """Serve a folder's files as those of a model."""
        self.commits[model] = commit
        for path in (each for each in Path(folder).iterdir() if each.is_file()):
            content, place = path.read_bytes(), f"/{model}/resolve/{commit}/{path.name}"
            web = self.elsewhere if path.suffix == ".safetensors" else self.small
            web.files[place] = content, len(content)


class Front(Ranges):
    def _answer(self, body):
        hub, path = self.server.hub, self.path.partition("?")[0]
        hub.asked.append((path, self.headers.get("Authorization")))
        if hub.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._say(401, b"", ("X-Error-Code", "RepoNotFound"))
        elif path.startswith("/api/models/"):
            model, _, branch = path.removeprefix("/api/models/").partition("/revision/")
            if (commit := hub.commits.get(model)) is None or branch not in ("", "main", commit):
                code = "RepoNotFound" if commit is None else "RevisionNotFound"
                self._say(404, b"{}", ("X-Error-Code", code))
            else:
                self._say(200, json.dumps({"id": model, "sha": commit, "siblings": []}).encode())
        elif self.path in hub.elsewhere.files:
            self._say(302, b"", ("Location", f"{hub.elsewhere.url}{path}?X-Signature={SIGNATURE}"))
        else:
            super()._answer(body)

    def _say(self, status, content, *headers):
        self.send_response(status)
        for name, value in (("Content-Length", str(len(content))), *headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


class Behind(Ranges):
    def _answer(self, body):
        self.server.hub.told.append((self.path, self.headers.get("Authorization")))
        self.path, _, signature = self.path.partition("?X-Signature=")
        if signature == SIGNATURE:
            super()._answer(body)
        else:
            self.send_error(403)


@contextmanager
def hub(monkeypatch):
    """A Hub without models, which huggingface_hub takes for the real one."""
    from huggingface_hub import constants

    found = Hub()
    front, behind = (ThreadingHTTPServer(("127.0.0.1", 0), each) for each in (Front, Behind))
    front.hub = behind.hub = found
    front.web, behind.web = found.small, found.elsewhere
    found.endpoint = f"http://127.0.0.1:{front.server_port}"
    found.elsewhere.url = f"http://localhost:{behind.server_port}"  # another host by its name
    for server in (front, behind):
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", found.endpoint)
    monkeypatch.setenv("HF_ENDPOINT", found.endpoint)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    try:
        yield found
    finally:
        for server in (front, behind):
            server.shutdown()
            server.server_close()

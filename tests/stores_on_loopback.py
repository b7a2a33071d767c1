"""Stores on loopback: moto's S3 behind a layer that breaks what it is told to, and a plain web server with ranges."""

import os
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import obstore
from obstore.store import from_url
from werkzeug.serving import WSGIRequestHandler, make_server

SECRET = "s3cr3t-of-nobody"


class Quiet(WSGIRequestHandler):
    def log(self, *arguments):
        """Nothing: a request is no event of a test."""


@dataclass
class Store:
    """An S3 store.

    Attributes:
        url: of its server.
        requests: method, path and range of each.
        answer: called with method, path and range before each answer; what it returns happens: "500", "slow" or
            "short" (half of the body), or None.
        sent: bytes of bodies.
    """

    url: str = ""
    requests: list = field(default_factory=list)
    answer: object = None
    sent: int = 0

    def put(self, folder, prefix):
        """Upload a folder to the bucket."""
        store = from_url("s3://bucket", client_options={"allow_http": True})
        for above, _, names in os.walk(folder):
            for name in names:
                path = Path(above, name)
                obstore.put(store, f"{prefix}/{path.relative_to(folder)}", path.read_bytes())


@contextmanager
def s3(monkeypatch):
    """A store with an empty bucket called `bucket`, whose credentials are in the environment."""
    from moto.backends import get_backend
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    real, store = DomainDispatcherApplication(create_backend_app), Store()

    def served(environ, start):
        request = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE", "")
        store.requests.append(request)
        fault = store.answer(*request) if store.answer else None
        if fault == "500":
            start("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        body = b"".join(real(environ, start))
        store.sent += len(body)
        if fault == "slow":
            return slowly(body)
        return [body[: len(body) // 2]] if fault == "short" else [body]

    server = make_server("127.0.0.1", 0, served, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    store.url = f"http://127.0.0.1:{server.port}"
    for name, value in {
        "ENDPOINT_URL": store.url, "ALLOW_HTTP": "true", "REGION": "us-east-1", "ACCESS_KEY_ID": "someone",
        "SECRET_ACCESS_KEY": SECRET,
    }.items():  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", value)
    get_backend("s3").reset()
    get_backend("s3")["123456789012"]["aws"].create_bucket("bucket", "us-east-1")
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()


def slowly(body):
    for start in range(0, len(body), 1 << 16):
        time.sleep(0.02)
        yield body[start : start + (1 << 16)]

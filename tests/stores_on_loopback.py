"""Stores on loopback: moto's S3 behind a layer that breaks what it is told to, and a plain web server with ranges."""

import os
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote

import obstore
import trustme
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
        answer: called with method, path and range before each answer; what it returns happens: "500", "403",
            "slow" or "short" (half of the body), or None.
        sent: bytes of bodies.
    """

    url: str = ""
    requests: list = field(default_factory=list)
    answer: object = None
    sent: int = 0

    def objects(self, prefix=""):
        """What is in the bucket: content by key."""
        store = from_url("s3://bucket", client_options={"allow_http": True})
        found = [each["path"] for some in obstore.list(store, prefix) for each in some]
        return {path: bytes(obstore.get(store, path).bytes()) for path in found}

    def names(self):
        """The keys in the bucket, without a request."""
        from moto.backends import get_backend

        return list(get_backend("s3")["123456789012"]["aws"].buckets["bucket"].keys)

    def unfinished(self):
        """Uploads in parts that are neither completed nor aborted."""
        from moto.backends import get_backend

        return list(get_backend("s3")["123456789012"]["aws"].buckets["bucket"].multiparts)

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
        if fault in ("500", "403"):
            start({"500": "500 Internal Server Error", "403": "403 Forbidden"}[fault], [("Content-Length", "0")])
            return [b""]
        body = b"".join(real(environ, start))
        store.sent += len(body)
        if fault == "slow":
            return slowly(body)
        return [body[: len(body) // 2]] if fault == "short" else [body]

    server = make_server("127.0.0.1", 0, served, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
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


class Ranges(BaseHTTPRequestHandler):
    """Answers for files of which the server knows the beginning, the size and an ETag; the rest is zeros."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        web = self.server.web
        content, size = web.files.get(self.path, (None, 0))
        web.requests.append((self.command, self.path, self.headers.get("Range", "")))
        if content is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, last = 0, size - 1
        if (asked := self.headers.get("Range")) and not web.ranges:
            asked = None
        if asked:
            first, last = (int(each) for each in asked.removeprefix("bytes=").split("-"))
            last = min(last, size - 1)
        part = content[first : last + 1] if body else b""
        part += bytes(last + 1 - first - len(part)) if body else b""
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(last + 1 - first))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        if web.etag:
            self.send_header("ETag", web.etag)
        if web.modified:
            self.send_header("Last-Modified", web.modified)
        self.end_headers()
        self.wfile.write(part)
        web.sent += len(part)

    def log_message(self, *arguments):
        """Nothing."""


@dataclass
class Web:
    """A web server with TLS.

    Attributes:
        url: of it.
        files: by path, the content, or its beginning, and the size.
        requests: method, path and range of each.
        etag: of all files; None where none is told.
        modified: their last change; None likewise.
        ranges: whether parts of files are given.
        sent: bytes of bodies.
    """

    url: str = ""
    files: dict = field(default_factory=dict)
    requests: list = field(default_factory=list)
    etag: str | None = '"one"'
    modified: str | None = "Sat, 28 Nov 2026 10:00:00 GMT"
    ranges: bool = True
    sent: int = 0

    def put(self, folder, prefix):
        """Serve a folder's files."""
        for path in (each for each in Path(folder).iterdir() if each.is_file()):
            content = path.read_bytes()
            self.files[f"/{prefix}/{path.name}"] = content, len(content)


@contextmanager
def web(folder):
    """A web server whose certificate is signed by an authority of its own, in `folder/authority.pem`."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # a client that does not trust it
    server.web = Web(f"https://localhost:{server.server_port}")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.web
    finally:
        server.shutdown()
        server.server_close()


class Blobs(BaseHTTPRequestHandler):
    """Answers as Azure does for blobs of a container: by ranges, and listed without the quotes around an ETag."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        path, _, query = self.path.partition("?")
        path = unquote(path)
        if "comp=list" in query:
            said = dict(parse_qsl(query))
            return self._send(200, listed(self.server.files, path, said.get("prefix", "")), {})
        if (content := self.server.files.get(path)) is None:
            return self._send(404, b"", {})
        told = {"ETag": '"0x8D"', "Last-Modified": "Sat, 28 Nov 2026 10:00:00 GMT"}
        if asked := self.headers.get("Range") or self.headers.get("x-ms-range"):
            first, last = (int(each) for each in asked.removeprefix("bytes=").split("-"))
            part = content[first : last + 1]
            told["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
            return self._send(206, part, told)
        return self._send(200, content, told, body=body)

    def _send(self, status, content, told, body=True):
        self.send_response(status)
        for name, value in {**told, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments):
        """Nothing."""


def listed(files, container, prefix):
    """What Azure says of the blobs and folders right below a prefix."""
    names = [path.removeprefix(f"{container}/") for path in files if path.startswith(f"{container}/{prefix}")]
    folders = sorted(
        {prefix + name.removeprefix(prefix).partition("/")[0] for name in names if "/" in name[len(prefix) :]}
    )
    blobs = "".join(
        f"<Blob><Name>{name}</Name><Properties><Last-Modified>Sat, 28 Nov 2026 10:00:00 GMT</Last-Modified>"
        f"<Etag>0x8D</Etag><Content-Length>{len(files[f'{container}/{name}'])}</Content-Length>"
        "<Content-Type>x</Content-Type></Properties></Blob>"
        for name in names if "/" not in name[len(prefix):]
    )  # fmt: skip
    prefixes = "".join(f"<BlobPrefix><Name>{name}/</Name></BlobPrefix>" for name in folders)
    return f"<EnumerationResults><Blobs>{blobs}{prefixes}</Blobs><NextMarker/></EnumerationResults>".encode()


@contextmanager
def azure(monkeypatch, files):
    """A store of Azure's kind with files by `/container/name`; the account in the environment is another one."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Blobs)
    server.files = files
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    for name, value in {
        "STORAGE_ACCOUNT_NAME": "another", "STORAGE_ACCOUNT_KEY": "bm9uZQ==", "ALLOW_HTTP": "true",
        "ENDPOINT": f"http://127.0.0.1:{server.server_port}",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"AZURE_{name}", value)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()

"""A stand-in for Google Cloud Storage on this machine, over a local folder, so that tests need no network.

TensorStore, which reads and writes arrays, speaks to it by HTTP: what it uses of the JSON API is here. `epath` goes
through fsspec, and gets the same folder.
"""

import http.server
import json
import os
import re
import threading
import urllib.parse
from pathlib import Path
from typing import ClassVar

import fsspec
from etils.epath import backend
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem


class _Objects(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: ClassVar[Path]

    def do_GET(self) -> None:
        path, name, query = self._asked()
        if not name:
            names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
            first, end = query.get("startOffset", ""), query.get("endOffset", "\U0010ffff")
            return self._answer(200, {"items": [_describe(path / name, name) for name in names if first <= name < end]})
        if not path.is_file():
            return self._answer(404, {})
        if query.get("alt") != "media":
            return self._answer(200, _describe(path, name))
        content, first = path.read_bytes(), 0
        if asked := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first = int(asked[1]) if asked[1] else len(content) - int(asked[2])
            end = int(asked[2]) + 1 if asked[1] and asked[2] else len(content)
            whole, content = len(content), content[first:end]
            return self._send(206, content, path, f"bytes {first}-{first + len(content) - 1}/{whole}")
        return self._send(200, content, path)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        folder, _, query = self._asked()
        path = folder / query["name"]
        now = _generation(path) if path.exists() else "0"
        if query.get("ifGenerationMatch", now) != now:
            return self._answer(412, {})
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return self._answer(200, _describe(path, query["name"]))

    def do_DELETE(self) -> None:
        path, _, _ = self._asked()
        path.unlink(missing_ok=True)
        self._answer(200, {})

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _asked(self) -> tuple[Path, str, dict[str, str]]:
        """Returns the file, or the bucket's folder; the object's name; and the query."""
        url = urllib.parse.urlsplit(self.path)
        bucket, name = re.fullmatch(r"(?:/upload)?/storage/v1/b/([^/]+)/o/?(.*)", url.path).groups()
        name = urllib.parse.unquote(name)
        return self.root / bucket / name, name, dict(urllib.parse.parse_qsl(url.query))

    def _answer(self, status: int, record: dict) -> None:
        self._send(status, json.dumps(record).encode())

    def _send(self, status: int, content: bytes, path: Path | None = None, part: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if path:
            self.send_header("x-goog-generation", _generation(path))
        if part:
            self.send_header("Content-Range", part)
        self.end_headers()
        self.wfile.write(content)


class _Files(DirFileSystem):
    """What gcsfs is to fsspec."""

    protocol = ("gcs", "gs")
    root: ClassVar[Path]

    def __init__(self, **options: object):
        super().__init__(str(self.root), LocalFileSystem(auto_mkdir=True))

    @classmethod
    def _strip_protocol(cls, path):
        return re.sub("^(gs|gcs)://", "", path).rstrip("/") if isinstance(path, str) else path


def serve(root: Path) -> http.server.ThreadingHTTPServer:
    """Makes `gs://BUCKET/...` the folder `root/BUCKET/...`, for the rest of the process, until it is shut down."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Objects", (_Objects,), {"root": root}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["TENSORSTORE_GCS_HTTP_URL"] = f"http://127.0.0.1:{server.server_port}"
    os.environ["GOOGLE_AUTH_TOKEN_FOR_TESTING"] = "token"
    files = type("Files", (_Files,), {"root": root})
    for name in _Files.protocol:
        fsspec.register_implementation(name, files, clobber=True)
    backend.fsspec_backend._get_filesystem.cache_clear()  # of another server, before this one
    return server


def _generation(path: Path) -> str:
    return str(path.stat().st_mtime_ns)


def _describe(path: Path, name: str) -> dict[str, str]:
    return {"name": name, "size": str(path.stat().st_size), "generation": _generation(path), "metageneration": "1"}

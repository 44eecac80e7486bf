"""A small API server of Kubernetes to test against: real TLS, real sockets, and faults on demand.

It keeps objects by their paths, applies patches by replacing whole objects, lists and deletes by label, watches pods,
and notes each request in order. `refuse` and `cut` have it answer so many requests to paths that contain a word by a
status, or not at all.
"""

from __future__ import annotations

import json
import queue
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import trustme
import yaml

TOKEN = "of-the-tests"  # noqa: S105 - nobody else has such a server


class ApiDouble:
    """The server; `objects` are what it keeps by path, `requests` what it was asked in order."""

    def __init__(self, folder: Path) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.version = 100
        self._history: list[tuple[int, dict[str, Any]]] = []
        self._turn = threading.Lock()
        self._watchers: list[queue.SimpleQueue[dict[str, Any]]] = []
        self._faults: list[tuple[str, int, list[int]]] = []
        self._folder = folder
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.crt"))
        (folder / "token").write_text(TOKEN, encoding="ascii")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        double = self

        class Handler(_Handler):
            server_of = double

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end_watches()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    @property
    def account(self) -> Path:
        """A folder as a pod's service account has it."""
        return self._folder

    def kubeconfig(self, context: str = "double") -> str:
        """Return a kubeconfig file's text."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "clusters": [
                {
                    "name": "c",
                    "cluster": {
                        "server": f"https://127.0.0.1:{self.port}",
                        "certificate-authority": str(self._folder / "ca.crt"),
                    },
                }
            ],
            "users": [{"name": "u", "user": {"token": TOKEN}}],
            "contexts": [{"name": context, "context": {"cluster": "c", "user": "u"}}],
        }
        return yaml.safe_dump(config)

    def refuse(self, word: str, status: int, times: int = 1) -> None:
        """Answer the next requests whose method and path contain a word by a status."""
        self._faults.append((word, status, [times]))

    def cut(self, word: str, times: int = 1) -> None:
        """Cut the connection of the next requests whose method and path contain a word."""
        self._faults.append((word, 0, [times]))

    def fault_of(self, line: str) -> int | None:
        """Return the status that a request is to be answered by, 0 for none at all; None where nothing is wrong."""
        for word, status, left in self._faults:
            if word in line and left[0] > 0:
                left[0] -= 1
                return status
        return None

    def put(self, path: str, found: dict[str, Any], event: str = "") -> None:
        """Keep an object, and tell those who watch."""
        known = path in self.objects
        self.version += 1
        found["metadata"]["resourceVersion"] = str(self.version)
        found["metadata"].setdefault("uid", path)
        self.objects[path] = found
        self._tell(event or ("MODIFIED" if known else "ADDED"), found)

    def delete(self, path: str) -> None:
        """Forget an object, and tell those who watch."""
        found = self.objects.pop(path)
        self.version += 1
        self._tell("DELETED", found)

    def end_watches(self) -> None:
        """Close the connections of those who watch, as a server that is restarted does."""
        with self._turn:
            for watcher in self._watchers:
                watcher.put({})
            self._watchers.clear()

    def watch(self, version: int) -> queue.SimpleQueue[dict[str, Any]]:
        """Return a queue that gets each event after a version; an empty one ends it."""
        fresh: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        with self._turn:
            for number, event in self._history:
                if number > version:
                    fresh.put(event)
            self._watchers.append(fresh)
        return fresh

    def error(self, code: int) -> None:
        """Send those who watch an error event, as for a version that is too old."""
        self._tell("ERROR", {"kind": "Status", "code": code, "message": "too old resource version"})

    def _tell(self, event: str, found: dict[str, Any]) -> None:
        told = {"type": event, "object": found}
        with self._turn:
            if event != "ERROR":
                self._history.append((self.version, told))
            for watcher in self._watchers:
                watcher.put(told)


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that go away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: ApiDouble

    def log_message(self, *_: object) -> None:
        """Print nothing: `requests` has them."""

    def _begin(self) -> bool:
        double = self.server_of
        double.requests.append((self.command, self.path))
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else b""
        fault = double.fault_of(f"{self.command} {self.path}")
        if fault == 0:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return False
        if fault is not None:
            self._status(fault, "made up")
            return False
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._status(401, "Unauthorized")
            return False
        return True

    def _answer(self, found: Any, status: int = 200) -> None:
        data = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _status(self, code: int, words: str) -> None:
        self._answer({"kind": "Status", "code": code, "message": words}, code)

    def do_GET(self) -> None:
        """Answer with an object, a list, or a watch."""
        if not self._begin():
            return
        double, place = self.server_of, urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(place.query).items()}
        if place.path == "/readyz":
            self._answer(b"ok")
        elif place.path in double.objects:
            self._answer(double.objects[place.path])
        elif query.get("watch"):
            self._watch(query)
        else:
            items = [
                found for path, found in double.objects.items() if _listed(path, place.path, found, query)
            ]
            if items or _is_collection(place.path):
                self._answer({"metadata": {"resourceVersion": str(double.version)}, "items": items})
            else:
                self._status(404, "not found")

    def _watch(self, query: dict[str, str]) -> None:
        double = self.server_of
        events = double.watch(int(query.get("resourceVersion", "0")))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        while event := events.get():
            self.wfile.write(json.dumps(event).encode() + b"\n")
            self.wfile.flush()

    def do_PATCH(self) -> None:
        """Keep what is applied."""
        if self._begin():
            path = urlsplit(self.path).path
            known = path in self.server_of.objects
            self.server_of.put(path, yaml.safe_load(self.body))
            self._answer(self.server_of.objects[path], 200 if known else 201)

    def do_DELETE(self) -> None:
        """Forget an object, or all of a kind with a label."""
        if not self._begin():
            return
        double, place = self.server_of, urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(place.query).items()}
        gone = [path for path, found in double.objects.items() if _listed(path, place.path, found, query)]
        if place.path in double.objects:
            gone = [place.path]
        for path in gone:
            double.delete(path)
        self._answer({"kind": "Status", "code": 200}) if gone else self._status(404, "not found")


def _is_collection(path: str) -> bool:
    """Tell whether a path is of all objects of a kind, and not of one."""
    _, root, *rest = path.split("/")
    rest = rest[1:] if root == "api" else rest[2:]
    return len(rest[2:] if rest[0] == "namespaces" and len(rest) > 2 else rest) == 1


def _listed(path: str, asked: str, found: dict[str, Any], query: dict[str, str]) -> bool:
    """Tell whether an object is in a list: of its own namespace, or of all."""
    folder = path.rpartition("/")[0]
    parts = folder.split("/namespaces/")
    everywhere = parts[0] + "/" + parts[1].partition("/")[2] if len(parts) == 2 else folder
    if asked not in (folder, everywhere):
        return False
    labels = found["metadata"].get("labels", {})
    wanted = filter(None, query.get("labelSelector", "").split(","))
    if any(labels.get(word.partition("=")[0]) != word.partition("=")[2] for word in wanted):
        return False
    node = query.get("fieldSelector", "").partition("spec.nodeName=")[2]
    return not node or found.get("spec", {}).get("nodeName") == node

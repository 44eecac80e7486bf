"""Watches a node's pods by the Kubernetes API, and writes what the route controller beside it is to make of them.

`python3 -m harness.programs.pod_watch CONFIG.json`. The configuration:

    {"namespaces": ["spk-apps"], "selector": {"matchLabels": {...}, "matchExpressions": [...]},
     "state": {...}, "write": "/run/egresslab/routes.json"}

`state` is the state of route_policy.py without its workloads; these are the node's pods (NODE_NAME) in the namespaces
that the selector selects, with the address that each has now. The state file is replaced whole whenever that changes.

Pods are listed once and then watched from there (Kubernetes, "Efficient detection of changes"); when the API forgot
that point (410) or the connection breaks, they are listed anew. What is printed: `state` for each one that is written,
`lost` for each time that the API could not be asked, with the reason. The last state holds on meanwhile.

Exit statuses: 0 after SIGTERM, 2 unusable configuration, 74 the log broke.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

if not __package__:
    # Started as a file: its folder is the package, wherever it was put, so that its neighbours are found.
    _parent, _, __package__ = __file__.rpartition("/")[0].rpartition("/")
    sys.path.append(_parent or "/")

from .events import EventLog, read_config, refuse

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where a pod finds what its service account proves itself with (EGRESSLAB_ACCOUNT names another folder)."""
WATCH_SECONDS = 300
"""How long the API keeps a watch open; then it is asked for another."""
RETRY_SECONDS = 1.0
_GONE = 410


class Api:
    """The API server, as pods reach it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Read where it is and how to prove who we are; raises KeyError or OSError."""
        self._account = Path(environment.get("EGRESSLAB_ACCOUNT", ACCOUNT))
        self._host = environment["KUBERNETES_SERVICE_HOST"]
        self._port = int(environment.get("KUBERNETES_SERVICE_PORT", "443"))
        self._context = ssl.create_default_context(cafile=str(self._account / "ca.crt"))

    def ask(self, path: str, seconds: float) -> http.client.HTTPResponse:
        """Return the answer to a GET; raises OSError or http.client.HTTPException."""
        link = http.client.HTTPSConnection(self._host, self._port, timeout=seconds, context=self._context)
        # the token is read each time: the kubelet replaces it before it expires
        token = (self._account / "token").read_text(encoding="ascii").strip()
        link.request("GET", path, headers={"Authorization": f"Bearer {token}", "Accept": "application/json"})
        answer = link.getresponse()
        if answer.status != http.client.OK:
            words = answer.read(500).decode(errors="replace")
            link.close()
            raise Refused(answer.status, f"{answer.status} {answer.reason}: {words}")
        return answer


class Refused(Exception):
    """The API answered, and not with what was asked for."""

    def __init__(self, status: int, words: str) -> None:
        self.status = status
        super().__init__(words)


def selector_text(selector: Mapping[str, Any]) -> str:
    """Return a label selector as the API's query has it (Kubernetes, "Labels and Selectors", API)."""
    words = [f"{key}={value}" for key, value in selector.get("matchLabels", {}).items()]
    for one in selector.get("matchExpressions", ()):
        key, values = one["key"], ",".join(one.get("values", ()))
        match one["operator"]:
            case "In":
                words.append(f"{key} in ({values})")
            case "NotIn":
                words.append(f"{key} notin ({values})")
            case "Exists":
                words.append(key)
            case "DoesNotExist":
                words.append(f"!{key}")
    return ",".join(words)


def workload_of(pod: Mapping[str, Any]) -> dict[str, str] | None:
    """Return a pod as a workload of a state; None while it has no address, or when it has none of its own any more."""
    status, metadata = pod.get("status", {}), pod["metadata"]
    ended = status.get("phase") in ("Succeeded", "Failed") or pod.get("spec", {}).get("hostNetwork")
    address = status.get("podIP")
    if not address or ended:
        return None
    return {"name": f"{metadata['namespace']}/{metadata['name']}", "primary": str(address)}


class Watch:
    """The node's pods as they are now, and the state file that says so."""

    def __init__(self, config: Mapping[str, Any], api: Api, node: str, log: EventLog) -> None:
        self._api, self._log = api, log
        self._namespaces = set(config["namespaces"])
        self._state = dict(config["state"])
        self._file = Path(config["write"])
        self._query = {"fieldSelector": f"spec.nodeName={node}"}
        if words := selector_text(config.get("selector") or {}):
            self._query["labelSelector"] = words
        self._workloads: dict[str, dict[str, str]] = {}
        self._written = ""
        self.stopped = threading.Event()

    def run(self) -> None:
        """List and watch until stopped."""
        while not self.stopped.is_set():
            try:
                version = self._list()
                for event in self._events(version):
                    self._take(event)
            except (OSError, http.client.HTTPException, ValueError, Refused) as error:
                if getattr(error, "status", None) != _GONE:
                    self._log.write("lost", reason=f"{type(error).__name__}: {error}")
                    self.stopped.wait(RETRY_SECONDS)

    def _list(self) -> str:
        answer = self._api.ask(f"/api/v1/pods?{urlencode(self._query)}", 30.0)
        found = json.loads(answer.read())
        self._workloads = {}
        for pod in found.get("items", ()):
            self._put(pod)
        self._write()
        return str(found["metadata"]["resourceVersion"])

    def _events(self, version: str) -> Iterator[dict[str, Any]]:
        query = self._query | {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        answer = self._api.ask(f"/api/v1/pods?{urlencode(query)}", WATCH_SECONDS + 30.0)
        while not self.stopped.is_set() and (line := answer.readline()):
            event: dict[str, Any] = json.loads(line)
            yield event

    def _take(self, event: Mapping[str, Any]) -> None:
        kind, pod = event["type"], event["object"]
        if kind == "ERROR":
            raise Refused(int(pod.get("code", 0)), str(pod.get("message", "the watch failed")))
        if kind == "DELETED":
            self._workloads.pop(pod["metadata"]["uid"], None)
        elif kind in ("ADDED", "MODIFIED"):
            self._put(pod)
        self._write()

    def _put(self, pod: Mapping[str, Any]) -> None:
        metadata = pod["metadata"]
        found = workload_of(pod) if metadata["namespace"] in self._namespaces else None
        if found is None:
            self._workloads.pop(metadata["uid"], None)
        else:
            self._workloads[metadata["uid"]] = found

    def _write(self) -> None:
        """Replace the state file where it would say something else; whole or not at all."""
        workloads = sorted(self._workloads.values(), key=lambda workload: workload["name"])
        text = json.dumps({**self._state, "workloads": workloads}, indent=1) + "\n"
        if text == self._written:
            return
        fresh = self._file.with_name(self._file.name + ".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self._file)
        self._written = text
        self._log.write("state", workloads=[workload["name"] for workload in workloads])


def main(argv: list[str]) -> int:
    """Run until SIGTERM."""
    config = read_config(argv)
    try:
        watch = Watch(config, Api(os.environ), os.environ["NODE_NAME"], EventLog())
    except (KeyError, TypeError, OSError) as error:
        refuse(f"{argv[1]}: {type(error).__name__}: {error}")

    def stop(*_: object) -> None:
        watch.stopped.set()
        # a read that waits for the next event would go on for minutes
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    watch.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))

"""The watcher of a node's pods writes the route controller's state as pods come, change and go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_double import ApiDouble
from program_process import ProgramProcess

from harness.programs.pod_watch import selector_text, workload_of
from harness.programs.route_policy import state_of

STATE = {
    "mode": "regular",
    "guard": True,
    "direct": ["10.53.0.0/16"],
    "primary": {"table": 1, "via": "10.1.30.242", "dev": "shim1"},
}


def pod(name: str, address: str, **more: Any) -> dict[str, Any]:
    """Return a pod of namespace `apps` on node `here`."""
    labels, node = more.get("labels", {"app": "web"}), more.get("node", "here")
    return {
        "metadata": {"name": name, "namespace": more.get("namespace", "apps"), "uid": name, "labels": labels},
        "spec": {"nodeName": node},
        "status": {"podIP": address, "phase": more.get("phase", "Running")} if address else {},
    }


def path(name: str) -> str:
    """Return the path of a pod of namespace `apps`."""
    return f"/api/v1/namespaces/apps/pods/{name}"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiDouble]:
    """Yield an API server with two pods on the node, and others that are not meant."""
    with ApiDouble(tmp_path) as double:
        double.put(path("one"), pod("one", "10.53.0.1"))
        double.put(path("two"), pod("two", "10.53.0.2"))
        double.put(path("far"), pod("far", "10.53.0.3", node="there"))
        double.put(path("pending"), pod("pending", ""))
        double.put("/api/v1/namespaces/other/pods/x", pod("x", "10.53.0.4", namespace="other"))
        yield double


class Watching:
    """A running watcher, and the state file that it writes."""

    def __init__(self, api: ApiDouble, folder: Path, selector: dict[str, Any] | None = None) -> None:
        self.file = folder / "routes.json"
        config = {"namespaces": ["apps"], "selector": selector or {}, "state": STATE, "write": str(self.file)}
        self.process = ProgramProcess(
            "pod_watch",
            config,
            folder,
            {
                "KUBERNETES_SERVICE_HOST": "127.0.0.1",
                "KUBERNETES_SERVICE_PORT": str(api.port),
                "EGRESSLAB_ACCOUNT": str(api.account),
                "NODE_NAME": "here",
            },
        )

    def until(self, *names: str) -> dict[str, str]:
        """Wait until the state has exactly these pods; returns their addresses."""
        self.process.until("state", workloads=[f"apps/{name}" for name in names])
        found = json.loads(self.file.read_text(encoding="utf-8"))
        state_of(found)  # it is what the controller can read
        return {workload["name"]: workload["primary"] for workload in found["workloads"]}


def test_a_nodes_pods_are_followed(api: ApiDouble, tmp_path: Path) -> None:
    """Pods of the node and the namespaces are in the state, also those that come later; those that go are not.

    A connection that breaks, an API that is busy, and a version that is too old, cost a moment and no pod.
    """
    watching = Watching(api, tmp_path)
    try:
        assert watching.until("one", "two") == {"apps/one": "10.53.0.1", "apps/two": "10.53.0.2"}
        api.put(path("pending"), pod("pending", "10.53.0.9"))
        assert watching.until("one", "pending", "two")["apps/pending"] == "10.53.0.9"
        api.delete(path("one"))
        watching.until("pending", "two")
        api.put(path("two"), pod("two", "10.53.0.2", phase="Succeeded"))
        watching.until("pending")
        api.refuse("GET /api/v1/pods", 503)
        api.end_watches()
        api.put(path("later"), pod("later", "10.53.0.7"))
        watching.until("later", "pending")
        assert [event for event in watching.process.events if event["event"] == "lost"]
        watching.process.events.clear()
        api.error(410)
        api.delete(path("later"))
        watching.until("pending")
    finally:
        watching.process.__exit__()


def test_only_selected_pods_are_asked_for(api: ApiDouble, tmp_path: Path) -> None:
    """The label selector is the API's to apply: it stands in the query, as does the node."""
    watching = Watching(api, tmp_path, {"matchLabels": {"app": "none"}})
    try:
        assert watching.until() == {}
        asked = next(target for method, target in api.requests if method == "GET")
        assert "labelSelector=app%3Dnone" in asked
        assert "fieldSelector=spec.nodeName%3Dhere" in asked
    finally:
        watching.process.__exit__()


def test_without_an_account_it_says_so(tmp_path: Path) -> None:
    """A pod without a service account gets one sentence and exit status 2."""
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    config = {"namespaces": ["apps"], "state": STATE, "write": str(tmp_path / "x")}
    place = {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "EGRESSLAB_ACCOUNT": str(tmp_path / "none"),
        "NODE_NAME": "n",
    }
    process = ProgramProcess("pod_watch", config, tmp_path, place)
    assert process.process.wait(20) == 2
    process.__exit__()


def test_selectors_are_written_as_the_api_reads_them() -> None:
    """Each operator has its form in a query."""
    expressions = [
        {"key": "tier", "operator": "In", "values": ["a", "b"]},
        {"key": "zone", "operator": "NotIn", "values": ["c"]},
        {"key": "x", "operator": "Exists"},
        {"key": "y", "operator": "DoesNotExist"},
    ]
    text = selector_text({"matchLabels": {"app": "web"}, "matchExpressions": expressions})
    assert text == "app=web,tier in (a,b),zone notin (c),x,!y"


def test_a_pod_of_the_nodes_own_network_is_no_workload() -> None:
    """Its address is the node's, and all of the node's traffic would be led away."""
    found = pod("one", "10.53.0.1")
    assert workload_of(found) == {"name": "apps/one", "primary": "10.53.0.1"}
    found["spec"]["hostNetwork"] = True
    assert workload_of(found) is None

"""Objects are applied in order, transport failures tried again, refusals told in the API's own words."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_double import ApiDouble

from harness.drivers.k3d.api import Api, Refused, Unreachable, connected
from harness.drivers.k3d.objects import Object, Settings, made
from harness.errors import MissingCapability, StartError

SETTINGS = Settings("copy", "image")
KINDS = (("v1", "Pod"), ("networking.istio.io/v1", "Gateway"), ("v1", "Namespace"))


@pytest.fixture
def double(tmp_path: Path) -> Iterator[ApiDouble]:
    """Yield an API server."""
    with ApiDouble(tmp_path) as found:
        yield found


@pytest.fixture
def api(double: ApiDouble) -> Iterator[Api]:
    """Yield a connection to it that does not wait between tries."""
    found = connected(double.kubeconfig())
    found._sleep, found._patience = lambda _: None, 5.0
    yield found
    found.close()


def pod(name: str, namespace: str = "shop") -> Object:
    """Return a pod of the lab."""
    return made("Pod", "v1", name, SETTINGS, namespace, spec={"containers": []})


def test_objects_are_applied_in_their_order(double: ApiDouble, api: Api) -> None:
    """Each is one server-side apply at its own path, with our manager's name, and carries the lab's label."""
    told: list[str] = []
    api.apply_all([made("Namespace", "v1", "shop", SETTINGS), pod("a")], told.append)
    assert told == ["Namespace shop", "Pod shop/a"]
    query = "?fieldManager=egresslab&force=true"
    assert double.requests == [
        ("PATCH", f"/api/v1/namespaces/shop{query}"),
        ("PATCH", f"/api/v1/namespaces/shop/pods/a{query}"),
    ]
    kept = double.objects["/api/v1/namespaces/shop/pods/a"]
    assert kept["metadata"]["labels"]["egresslab.lab"] == "copy"


def test_what_did_not_arrive_is_sent_again(double: ApiDouble, api: Api) -> None:
    """A connection that breaks, and an API that is not ready, cost a try each."""
    double.cut("PATCH")
    double.refuse("PATCH", 503, times=2)
    api.apply(pod("a"))
    assert len(double.requests) == 4
    assert "/api/v1/namespaces/shop/pods/a" in double.objects


def test_a_refusal_is_not_tried_again(double: ApiDouble, api: Api) -> None:
    """What the API says no to is told once, with the object's name and its own words."""
    double.refuse("PATCH", 422)
    with pytest.raises(Refused, match="Pod shop/a: made up"):
        api.apply(pod("a"))
    assert len(double.requests) == 1


def test_nobody_there_is_said_after_patience(tmp_path: Path) -> None:
    """An API that never answers ends the matter with its address."""
    double = ApiDouble(tmp_path)
    double._server.server_close()
    found = connected(double.kubeconfig())
    found._sleep, found._patience = lambda _: None, 0.05
    with pytest.raises(Unreachable, match=f"https://127.0.0.1:{double.port}"):
        found.get("/api/v1/nodes")
    assert not found.answers()
    found.close()


def test_only_what_carries_the_label_is_removed(double: ApiDouble, api: Api) -> None:
    """Objects of other labs and of nobody stay; a kind that the cluster does not know is no error."""
    api.apply(pod("ours"))
    api.apply(made("Pod", "v1", "theirs", Settings("other", "image"), "shop", spec={}))
    api.apply(made("Namespace", "v1", "shop", SETTINGS))
    double.put(
        "/api/v1/namespaces/shop/pods/nobodys",
        {"kind": "Pod", "metadata": {"name": "nobodys", "namespace": "shop"}},
    )
    double.refuse("GET /apis/networking.istio.io", 404)
    api.remove("egresslab.lab=copy", KINDS)
    assert sorted(double.objects) == [
        "/api/v1/namespaces/shop/pods/nobodys",
        "/api/v1/namespaces/shop/pods/theirs",
    ]


def test_a_pod_is_made_anew(double: ApiDouble, api: Api) -> None:
    """A pod of a run before is deleted, and gone, before another of its name is applied."""
    api.create_pod(pod("a"))
    double.requests.clear()
    api.create_pod(pod("a"))
    methods = [method for method, _ in double.requests]
    assert methods == ["GET", "DELETE", "GET", "PATCH"]


def test_a_wait_names_itself_and_the_reason(api: Api) -> None:
    """What did not come in time is told by its name, with why."""
    with pytest.raises(
        StartError, match=r"waited for the nodes to be ready within 0\.01 s: agent-0 is NotReady"
    ):
        api.wait_until(
            "the nodes to be ready", lambda: False, seconds=0.01, why=lambda: "agent-0 is NotReady"
        )


def test_an_unknown_context_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, double: ApiDouble
) -> None:
    """A context that no kubeconfig has is a missing capability, with the way to list those that there are."""
    config = tmp_path / "config"
    config.write_text(double.kubeconfig("known"), encoding="utf-8")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config))
    with pytest.raises(MissingCapability, match="context 'nope'"):
        connected(context="nope")
    began = time.monotonic()
    found = connected(context="known")
    assert found.answers()
    assert time.monotonic() - began < 10
    found.close()

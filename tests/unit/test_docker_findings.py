"""What doctor says of machines with and without Docker, k3d, cgroup version 2 and CAP_SYS_RESOURCE."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from harness import docker_findings, doctor
from harness.drivers.k3d.pins import pins
from harness.findings import CLUSTER, Finding

INFO = {
    "ServerVersion": "28.1",
    "CgroupVersion": "2",
    "Name": "somewhere",
    "SecurityOptions": ["name=seccomp"],
}
EVERYTHING = "000001ffffffffff"


@contextmanager
def docker(path: Path, info: dict[str, Any] | None = None, images: tuple[str, ...] = ()) -> Iterator[None]:
    """Have an engine answer at a socket; with `info` None it answers every question by 500."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer what doctor asks."""
            found: Any = [{"RepoTags": list(images)}] if self.path == "/images/json" else info
            self.send_response(500 if info is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def address_string(self) -> str:
            """Return whose request it is: clients of unix sockets have no address."""
            return "doctor"

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    path.parent.mkdir(parents=True, exist_ok=True)
    with socketserver.UnixStreamServer(str(path), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        try:
            yield
        finally:
            server.shutdown()
            serving.join()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the root of a machine with all capabilities and cgroup version 2, and nothing on PATH."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text(f"CapBnd:\t{EVERYTHING}\n", encoding="utf-8")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cgroup.controllers").write_text("cpu\n", encoding="utf-8")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def install(machine: Path, name: str, prints: str) -> None:
    """Put a program on PATH that prints something."""
    file = machine / "bin" / name
    file.write_text(f"#!/bin/sh\necho '{prints}'\n", encoding="utf-8")
    file.chmod(0o755)


def examined(machine: Path, **environment: str) -> dict[str, Finding]:
    """Return the findings by name."""
    return {one.name: one for one in docker_findings.examine(machine, environment)}


def socket_of(machine: Path) -> Path:
    """Return where the engine's socket is by habit."""
    return machine / "var/run/docker.sock"


def works(found: dict[str, Finding]) -> dict[str, bool]:
    """Return which drivers work."""
    return doctor.verdict(tuple(found.values()))


def test_a_machine_that_has_everything(machine: Path) -> None:
    """With an engine, k3d and every image, both forms of the driver work and nothing is to be mended."""
    install(machine, "k3d", "k3d version v5.9.0")
    with docker(socket_of(machine), INFO, pins().images):
        found = examined(machine)
    assert {one.state for one in found.values()} == {"ok"}
    assert works(found) == {"netns": True, "k3d": True, CLUSTER: True}


def test_without_docker_only_namespaces_work(machine: Path) -> None:
    """No engine: what installs one is told, and a last line says which driver works all the same."""
    found = examined(machine)
    assert found["Docker"].state == "missing"
    assert "apt-get install docker.io" in str(found["Docker"].mend)
    assert works(found) == {"netns": True, "k3d": False, CLUSTER: False}
    assert "driver netns: works" in doctor.lines(tuple(found.values()))
    assert "driver k3d: does not work here; mend Docker" in doctor.lines(tuple(found.values()))


def test_an_engine_that_is_installed_is_to_be_started(machine: Path) -> None:
    """Where the program is there and nobody answers, starting it is the remedy."""
    install(machine, "dockerd", "")
    assert "systemctl start docker" in str(examined(machine)["Docker"].mend)


def test_docker_host_is_named_where_it_leads_nowhere(machine: Path) -> None:
    """A DOCKER_HOST without an engine is named, with both remedies; a scheme that is not tried is said."""
    nowhere = f"unix://{machine}/nowhere.sock"
    found = examined(machine, DOCKER_HOST=nowhere)["Docker"]
    assert nowhere in found.detail
    assert "unset DOCKER_HOST" in str(found.mend)
    assert "unix:// and tcp:// only" in examined(machine, DOCKER_HOST="ssh://me@there")["Docker"].detail
    refused = examined(machine, DOCKER_HOST="tcp://127.0.0.1:1")["Docker"]
    assert "Connection refused" in refused.detail


def test_an_engine_that_fails_is_no_engine(machine: Path) -> None:
    """An answer of 500 is told as it is."""
    with docker(socket_of(machine), None):
        found = examined(machine)
    assert (found["Docker"].state, "500" in found["Docker"].detail) == ("missing", True)


def test_without_k3d_clusters_are_simulated(machine: Path) -> None:
    """The driver works with an engine alone; the last lines say in what form."""
    with docker(socket_of(machine), INFO):
        found = examined(machine)
    assert works(found) == {"netns": True, "k3d": True, CLUSTER: False}
    lines = doctor.lines(tuple(found.values()))
    assert "driver k3d: works, with simulated cluster nodes" in lines
    assert "driver k3d, with a real cluster: does not work here; mend k3d" in lines
    assert "k3d-io/k3d/releases/tag/v" in str(found["k3d"].mend)


def test_an_old_k3d_is_a_reservation(machine: Path) -> None:
    """A k3d of another major version may not read the configuration."""
    install(machine, "k3d", "k3d version v4.4.8")
    with docker(socket_of(machine), INFO):
        found = examined(machine)
    assert (found["k3d"].state, "4.4.8" in found["k3d"].detail) == ("limited", True)


def test_the_engines_cgroups_count(machine: Path) -> None:
    """What the engine says of its machine is believed before this machine's files; version 1 is a reservation."""
    with docker(socket_of(machine), {**INFO, "CgroupVersion": "1"}):
        found = examined(machine)["cgroups"]
    assert (found.state, "fail-cgroupv1=false" in found.detail) == ("limited", True)
    assert "unified_cgroup_hierarchy" in str(found.mend)
    (machine / "sys/fs/cgroup/cgroup.controllers").unlink()
    assert examined(machine)["cgroups"].state == "limited"


def test_without_sys_resource_no_node_of_k3d_starts(machine: Path) -> None:
    """Simulated nodes are not privileged and work; the remedy names an engine elsewhere too."""
    (machine / "proc/self/status").write_text("CapBnd:\t000001fffeffffff\n", encoding="utf-8")
    install(machine, "k3d", "k3d version v5.9.0")
    with docker(socket_of(machine), INFO):
        found = examined(machine)
    assert found["CAP_SYS_RESOURCE"].state == "missing"
    assert "DOCKER_HOST" in str(found["CAP_SYS_RESOURCE"].mend)
    assert works(found) == {"netns": True, "k3d": True, CLUSTER: False}


def test_images_that_are_missing_are_named(machine: Path) -> None:
    """What the first start would pull is told, with the way without a registry."""
    first, *rest = pins().images
    with docker(socket_of(machine), INFO, tuple(rest)):
        found = examined(machine)["images"]
    assert (found.state, first in found.detail) == ("limited", True)
    assert "docker load" in str(found.mend)
    assert not any(one in found.detail for one in rest)


def test_a_rootless_engine_is_a_reservation(machine: Path) -> None:
    """Its containers' networks are not this machine's."""
    with docker(socket_of(machine), {**INFO, "SecurityOptions": ["name=rootless"]}):
        assert examined(machine)["Docker"].state == "limited"

"""A cluster is made by k3d, followed with named waits, and ends with its reason: a fake k3d, an API double."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_double import ApiDouble
from small_tenants import LAB, plan_of

from harness.drivers.k3d import cluster_file, host_sysctls
from harness.drivers.k3d.api import Api, connected
from harness.drivers.k3d.cluster import (
    Cluster,
    plain,
    program,
    ready_nodes,
    ready_pods,
    reason_in,
    restored_sysctls,
    with_sysctls_kept,
)
from harness.drivers.k3d.objects import Object
from harness.errors import MissingCapability, StartError

PINS = {"image": "rancher/k3s:v1.35.5-k3s1", "pause": "rancher/mirrored-pause:3.6"}
K3D = """\
#!/bin/sh
echo "$@" >> {folder}/calls
case "$1 $2" in
"cluster create") cp "$4" {folder}/config; echo "INFO[0000] Creating node"
  cat {folder}/says; exit $(cat {folder}/status);;
"kubeconfig get") test -e {folder}/kubeconfig || exit 1; cat {folder}/kubeconfig;;
*) echo done;;
esac
"""


@pytest.fixture
def k3d(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a fake k3d on PATH; returns the folder where it notes its calls and finds what to do."""
    file = tmp_path / "k3d"
    file.write_text(K3D.format(folder=tmp_path), encoding="utf-8")
    file.chmod(0o755)
    (tmp_path / "says").touch()
    (tmp_path / "status").write_text("0", encoding="ascii")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


@pytest.fixture
def double(tmp_path: Path) -> Iterator[ApiDouble]:
    """Yield an API server."""
    with ApiDouble(tmp_path) as found:
        yield found


@pytest.fixture
def api(double: ApiDouble) -> Iterator[Api]:
    """Yield a connection to it."""
    found = connected(double.kubeconfig())
    yield found
    found.close()


def calls(folder: Path) -> list[str]:
    """Return what k3d was called with, in order."""
    return (folder / "calls").read_text(encoding="utf-8").splitlines()


def cluster(told: list[str], ended: dict[str, str] | None = None) -> Cluster:
    """Return the lab's cluster; `ended` are containers' last words."""
    return Cluster("copy", ["k3d-egresslab-copy-server-0"], (ended or {}).get, told.append)


def configuration() -> Object:
    """Return the configuration of the lab's cluster."""
    return cluster_file.configuration(plan_of(LAB), "copy", "egresslab-copy-nodes", PINS, second=True)


def test_a_cluster_is_made_and_its_api_answers(k3d: Path, double: ApiDouble) -> None:
    """k3d gets the configuration; then its kubeconfig is asked for, and the API, which may not be ready at once."""
    (k3d / "kubeconfig").write_text(double.kubeconfig(), encoding="utf-8")
    double.refuse("GET /readyz", 503)
    told: list[str] = []
    api = cluster(told).create(configuration(), seconds=20)
    api.close()
    assert "egresslab-copy-nodes" in (k3d / "config").read_text(encoding="utf-8")
    assert [call.split()[0] for call in calls(k3d)[:2]] == ["cluster", "kubeconfig"]
    assert [path for _, path in double.requests] == ["/readyz", "/readyz"]
    assert told == ["k3d: Creating node", "waiting for the cluster's API server"]


@pytest.mark.parametrize(
    ("says", "sentence"),
    [
        ("FATA[0001] failed: flag provided but not defined: -flanel", "k3s does not know the flag -flanel"),
        (
            "kubelet is configured to not run on a host using cgroup v1",
            "kubelet does not start on cgroup version 1",
        ),
        ("runc: error setting rlimits for ready process", "the machine lacks CAP_SYS_RESOURCE"),
        ("Bind for 127.0.0.1:6443 failed: port is already allocated", "a port is taken"),
        ("docker failed to pull image 'rancher/k3s:x'", "an image is not there and cannot be pulled"),
        ("something else altogether", "INFO[0000] Creating node / something else altogether"),
    ],
)
def test_a_failed_start_ends_with_its_reason(k3d: Path, says: str, sentence: str) -> None:
    """What k3d printed becomes one sentence with the line that says so, and what was made is deleted."""
    (k3d / "says").write_text(says + "\n", encoding="utf-8")
    (k3d / "status").write_text("1", encoding="ascii")
    with pytest.raises(StartError) as caught:
        cluster([]).create(configuration(), seconds=5)
    assert f"k3d create failed (exit status 1): {sentence}" in str(caught.value)
    assert says[-20:] in str(caught.value)
    assert calls(k3d)[-1] == "cluster delete egresslab-copy"


def test_a_node_that_ends_ends_the_wait(k3d: Path) -> None:
    """Nobody waits for minutes for a node whose container has ended: its last words are the reason."""
    ended = {"k3d-egresslab-copy-server-0": 'level=fatal msg="flag provided but not defined: -nope"'}
    with pytest.raises(StartError, match="server-0 ended: k3s does not know the flag -nope"):
        cluster([], ended).create(configuration(), seconds=60)
    assert calls(k3d)[-1] == "cluster delete egresslab-copy"


def test_an_api_that_never_answers_is_named(k3d: Path) -> None:
    """The wait has a name and a limit, and says where to look."""
    with pytest.raises(
        StartError, match=r"waited for the cluster's API server to answer within 0\.2 s; `docker logs"
    ):
        cluster([]).create(configuration(), seconds=0.2)
    assert calls(k3d)[-1] == "cluster delete egresslab-copy"


def test_images_are_copied_and_the_cluster_deleted(k3d: Path) -> None:
    """Both name the lab's cluster, and nothing else."""
    told: list[str] = []
    ours = cluster(told)
    ours.bring(["a:1", "b:2"])
    assert ours.delete() == []
    assert calls(k3d) == ["image import --cluster egresslab-copy a:1 b:2", "cluster delete egresslab-copy"]
    assert told[0] == "copying 2 images into the cluster's nodes"


def test_without_k3d_it_is_a_missing_capability(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The capability has a name, and the sentence leads to doctor."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingCapability, match="no k3d is on PATH") as caught:
        program()
    assert caught.value.capability == "k3d"


def node(name: str, ready: str = "True") -> Object:
    """Return a cluster's node."""
    conditions = [{"type": "Ready", "status": ready}]
    addresses = [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": "172.19.128.2"}]
    return {"metadata": {"name": name}, "status": {"conditions": conditions, "addresses": addresses}}


def test_nodes_are_awaited_by_name(double: ApiDouble, api: Api) -> None:
    """The wait ends when enough are ready, with their addresses; else with who is not."""
    double.put("/api/v1/nodes/server-0", node("server-0"))
    assert ready_nodes(api, 1, 1.0) == {"server-0": "172.19.128.2"}
    double.put("/api/v1/nodes/agent-0", node("agent-0", "False"))
    with pytest.raises(StartError, match=r"waited for 2 cluster nodes to be ready.*agent-0 not ready"):
        ready_nodes(api, 2, 0.05)


def test_a_pod_that_crashes_again_and_again_is_not_ready(double: ApiDouble, api: Api) -> None:
    """Running is not ready; the kubelet's own reason is told, with the container's name."""
    pod: Object = {
        "metadata": {"name": "client", "namespace": "red", "labels": {"egresslab.lab": "copy"}},
        "status": {
            "phase": "Running",
            "podIP": "10.53.0.1",
            "conditions": [{"type": "Ready", "status": "False"}],
            "containerStatuses": [
                {
                    "name": "sidecar",
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                }
            ],
        },
    }
    double.put("/api/v1/namespaces/red/pods/client", pod)
    with pytest.raises(StartError, match="red/client: sidecar: CrashLoopBackOff back-off 10s"):
        ready_pods(api, "egresslab.lab=copy", 1, 0.05)
    pod["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    assert ready_pods(api, "egresslab.lab=copy", 1, 1.0) == {"red/client": "10.53.0.1"}


def test_host_sysctls_are_restored(tmp_path: Path) -> None:
    """What differs is put back and told; what cannot be written is told with the command, and is kept saved."""
    proc = tmp_path / "sys"
    for name in host_sysctls.CHANGED:
        (proc / name).parent.mkdir(parents=True, exist_ok=True)
        (proc / name).write_text("0\n", encoding="ascii")
    saved = tmp_path / "saved"
    saved.write_text("".join(f"{name}=0\n" for name in host_sysctls.CHANGED), encoding="utf-8")
    (proc / "kernel/panic").write_text("10\n", encoding="ascii")
    assert restored_sysctls(saved, proc) == ["kernel.panic is 0 again: kubelet had made it 10"]
    assert host_sysctls.read(proc)["kernel/panic"] == "0"
    assert not saved.exists()
    assert restored_sysctls(saved, proc) == []


def test_what_a_killed_run_saved_is_kept(tmp_path: Path) -> None:
    """The values from before the first run are the machine's own; those that a kubelet left are not."""
    saved = tmp_path / "saved"
    saved.write_text("kernel/panic=7\n", encoding="utf-8")
    with_sysctls_kept(saved, lambda _: None)
    assert saved.read_text(encoding="utf-8") == "kernel/panic=7\n"


def test_logs_become_sentences() -> None:
    """Colours and levels of k3d's log go; a log that says nothing is told as that."""
    assert plain("\x1b[36mINFO\x1b[0m[0003] Starting node 'x'\n") == "Starting node 'x'"
    assert reason_in("") == "it said nothing"

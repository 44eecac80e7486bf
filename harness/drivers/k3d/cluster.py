"""A cluster of k3d on a lab's network: made, followed until its API answers, given its images, and deleted.

k3d's own wait ends after minutes and knows no reason. So it is told not to wait: what it prints is passed on as it
comes, the nodes' containers are looked at meanwhile, and a node that ended tells why by its last lines.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from harness.drivers.k3d import host_sysctls
from harness.drivers.k3d.api import Api, connected
from harness.drivers.k3d.cluster_file import cluster_name
from harness.drivers.k3d.manifest import written
from harness.drivers.k3d.objects import Object
from harness.errors import MissingCapability, StartError
from harness.ready import NotInTime, until

Told = Callable[[str], None]
LastWords = Callable[[str], str | None]
"""What a container that has ended printed last, None while it runs or is not there yet."""

START_SECONDS = 180.0
EVERY = 0.5
_PATTERNS = (
    (r"flag provided but not defined: (\S+)|unknown flag: (\S+)", "k3s does not know the flag {}"),
    (r"cgroup v1.*not|not.*cgroup v1|cgroups? v2 is required", "kubelet does not start on cgroup version 1"),
    (
        r"error setting rlimits?.*|CAP_SYS_RESOURCE|.*oom_score_adj.*denied",
        "the machine lacks CAP_SYS_RESOURCE",
    ),
    (r"port is already allocated|address already in use", "a port is taken"),
    (
        r"pull access denied|manifest unknown|failed to pull image|failed to resolve|no such host|No such image",
        "an image is not there and cannot be pulled",
    ),
    (r"operation not permitted", "a privileged container was refused something"),
)


def program() -> str:
    """Return the path of k3d; raises MissingCapability."""
    found = shutil.which("k3d")
    if found is None:
        raise MissingCapability("k3d", "no k3d is on PATH; `egresslab doctor` says where it is to be had")
    return found


def reason_in(text: str) -> str:
    """Return why something failed, in one sentence, with the line that says so; else the last lines as they are."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    for pattern, words in _PATTERNS:
        for line in lines:
            found = re.search(pattern, line, re.IGNORECASE)
            if found:
                name = next(filter(None, found.groups()), "")
                return f"{words.format(name)}: {line[-300:]}"
    return " / ".join(lines[-3:])[-600:] or "it said nothing"


class Cluster:
    """The cluster of one lab; `last_words` looks at its containers, `told` hears what happens."""

    def __init__(self, lab: str, containers: Sequence[str], last_words: LastWords, told: Told) -> None:
        self.name = cluster_name(lab)
        self._containers = tuple(containers)
        self._last_words = last_words
        self._told = told

    def create(self, configuration: Object, seconds: float = START_SECONDS) -> Api:
        """Make the cluster and return its API once that answers; raises StartError with the reason.

        Whatever of it was made is deleted again when it does not come up.
        """
        try:
            with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
                file.write(written(configuration))
                file.flush()
                self._run("create", "cluster", "create", "--config", file.name)
            return self._api(seconds)
        except BaseException:
            self.delete()
            raise

    def bring(self, images: Iterable[str]) -> None:
        """Copy images from the engine into the cluster's nodes, which have no way to a registry."""
        wanted = list(images)
        self._told(f"copying {len(wanted)} images into the cluster's nodes")
        self._run("image import", "image", "import", "--cluster", self.name, *wanted)

    def delete(self) -> list[str]:
        """Delete the cluster, if it is there; returns what could not be done, and why."""
        done = subprocess.run(
            [program(), "cluster", "delete", self.name], capture_output=True, text=True, check=False
        )
        if done.returncode == 0 or "No clusters found" in done.stderr + done.stdout:
            return []
        return [f"k3d cluster delete {self.name}: {reason_in(done.stderr or done.stdout)}"]

    def _api(self, seconds: float) -> Api:
        """Wait for the API server; a node that ends meanwhile ends the wait with its last words."""
        self._told("waiting for the cluster's API server")
        api: list[Api] = []

        def answers() -> bool:
            self._look()
            if not api:
                config = self._kubeconfig()
                if config is None:
                    return False
                api.append(connected(config))
            return api[0].answers()

        try:
            until("the cluster's API server to answer", answers, seconds=seconds, every=EVERY)
        except NotInTime as error:
            raise StartError(f"waited for {error}; `docker logs {self._containers[0]}` says more") from error
        return api[0]

    def _look(self) -> None:
        """See that every node's container runs; raises StartError."""
        for container in self._containers:
            words = self._last_words(container)
            if words is not None:
                raise StartError(f"the cluster's node {container} ended: {reason_in(words)}")

    def _kubeconfig(self) -> str | None:
        """Return the kubeconfig's text, None while there is none; nobody's own file is touched."""
        done = subprocess.run(
            [program(), "kubeconfig", "get", self.name], capture_output=True, text=True, check=False
        )
        return done.stdout if done.returncode == 0 and "clusters:" in done.stdout else None

    def _run(self, what: str, *words: str) -> None:
        """Run k3d and pass on what it prints as it comes; raises StartError with the reason it gave."""
        said: list[str] = []
        with subprocess.Popen(
            [program(), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                for line in process.stdout or ():
                    said.append(line)
                    self._told(f"k3d: {plain(line)}")
                    self._look()
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise StartError(
                f"k3d {what} failed (exit status {process.returncode}): {reason_in(''.join(said))}"
            )


def plain(line: str) -> str:
    """Return a line of k3d's log without colours and level."""
    return re.sub(r"\x1b\[[0-9;]*m", "", re.sub(r"^\S*(INFO|WARN)\S*\[\d+\]\S*\s*", "", line.strip())).strip()


def ready_nodes(api: Api, wanted: int, seconds: float) -> dict[str, str]:
    """Wait until so many nodes are ready; returns their addresses by name. Raises StartError that names who is not."""

    def states() -> dict[str, tuple[bool, str]]:
        found = {}
        for node in api.get("/api/v1/nodes").get("items", ()):
            status = node.get("status", {})
            ready = any(
                one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ())
            )
            address = next(
                (one["address"] for one in status.get("addresses", ()) if one["type"] == "InternalIP"), ""
            )
            found[node["metadata"]["name"]] = (ready, address)
        return found

    def missing() -> str:
        now = states()
        late = [name for name, (ready, _) in now.items() if not ready]
        return f"{', '.join(late)} not ready" if late else f"{len(now)} nodes are there"

    api.wait_until(
        f"{wanted} cluster nodes to be ready",
        lambda: [ready for ready, _ in states().values()].count(True) >= wanted,
        seconds=seconds,
        why=missing,
    )
    return {name: address for name, (_, address) in states().items()}


def ready_pods(api: Api, label: str, wanted: int, seconds: float) -> dict[str, str]:
    """Wait until so many pods with a label are ready; returns their addresses by `namespace/name`.

    Raises StartError that names who is not ready and what the kubelet says of it. `Running` alone is not enough: a
    container that ends again and again is running in between.
    """
    path = f"/api/v1/pods?labelSelector={label}"

    def late() -> dict[str, str]:
        found = {}
        for pod in api.get(path).get("items", ()):
            status = pod.get("status", {})
            if not any(
                one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions", ())
            ):
                name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
                found[name] = _waiting(status) or str(status.get("phase", "not seen by a node yet"))
        return found

    def done() -> bool:
        return not late() and len(api.get(path).get("items", ())) >= wanted

    api.wait_until(
        f"{wanted} pods to be ready",
        done,
        seconds=seconds,
        why=lambda: "; ".join(f"{name}: {words}" for name, words in list(late().items())[:5]),
    )
    pods = api.get(path).get("items", ())
    return {
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}": pod["status"]["podIP"] for pod in pods
    }


def _waiting(status: Mapping[str, object]) -> str:
    """Return why a container of a pod does not run: `ImagePullBackOff`, `CrashLoopBackOff`, each with its message."""
    for kind in ("initContainerStatuses", "containerStatuses"):
        listed = status.get(kind)
        for one in listed if isinstance(listed, list) else ():
            waits = one.get("state", {}).get("waiting") or {}
            if waits.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
                return f"{one['name']}: {waits['reason']} {waits.get('message', '')}".strip()
    return ""


def with_sysctls_kept(saved: Path, told: Told) -> None:
    """Save the host's sysctls that kubelet changes, unless a run before did and was killed."""
    if not saved.exists():
        found = host_sysctls.read()
        saved.parent.mkdir(parents=True, exist_ok=True)
        saved.write_text("".join(f"{name}={value}\n" for name, value in found.items()), encoding="utf-8")
    told(
        "kubelet changes sysctls of this machine (vm.overcommit_memory, kernel.panic, ...); they are restored"
    )


def restored_sysctls(saved: Path, proc: Path = host_sysctls.PROC) -> list[str]:
    """Restore what was saved, and forget it; returns in words what was done, or could not be."""
    if not saved.exists():
        return []
    rows = (line.partition("=") for line in saved.read_text(encoding="utf-8").splitlines())
    words = host_sysctls.restore({name: value for name, _, value in rows}, proc)
    if not any("sudo" in one for one in words):
        saved.unlink()
    return words

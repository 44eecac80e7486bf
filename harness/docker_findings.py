"""What the k3d driver needs of this machine and of its Docker Engine, and what mends what is not there.

The engine is asked itself (DOCKER_HOST, else the usual socket): where it runs elsewhere, its cgroups and its images
count, and not this machine's. Nothing is pulled, made or changed.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import tools
from harness.drivers.k3d.pins import Pins, pins
from harness.findings import CLUSTER, Finding

SECONDS = 3.0
_CAP_SYS_RESOURCE = 24
_BOTH = ("k3d", CLUSTER)


@dataclass(frozen=True)
class Engine:
    """Where the engine is, and what it answered; `refused` says why it did not."""

    host: str
    info: Mapping[str, Any]
    images: frozenset[str] = frozenset()
    refused: str = ""

    @property
    def elsewhere(self) -> bool:
        """Whether it may run on another machine."""
        return not self.host.startswith("unix://")


def examine(root: Path, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Yield what the driver needs, in the order in which it is needed; `root` is where /proc and /var are read."""
    engine = ask(root, environment)
    wanted = pins()
    yield _docker(engine, environment)
    yield _k3d(wanted)
    yield _cgroups(engine, root)
    yield _sys_resource(engine, root)
    yield _images(engine, wanted)


def ask(root: Path, environment: Mapping[str, str]) -> Engine:
    """Return the engine's answers."""
    host = environment.get("DOCKER_HOST") or f"unix://{root / 'var/run/docker.sock'}"
    scheme = host.partition("://")[0]
    if scheme not in ("unix", "tcp", "http", "https"):
        return Engine(
            host, {}, refused=f"{host}: doctor speaks to unix:// and tcp:// only; `docker version` tries it"
        )
    try:
        info = _get(host, "/info", environment)
        tags = [
            tag for image in _get(host, "/images/json", environment) for tag in image.get("RepoTags") or ()
        ]
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Engine(host, {}, refused=f"{host}: {getattr(error, 'strerror', None) or error}")
    return Engine(host, info, frozenset(tags))


def _get(host: str, path: str, environment: Mapping[str, str]) -> Any:
    scheme, _, place = host.partition("://")
    link: http.client.HTTPConnection = http.client.HTTPConnection("docker", timeout=SECONDS)
    if scheme == "unix":
        link.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.sock.settimeout(SECONDS)
    else:
        name, _, port = place.rstrip("/").partition(":")
        secured = bool(environment.get("DOCKER_TLS_VERIFY")) or scheme == "https"
        number = int(port or (2376 if secured else 2375))
        link = http.client.HTTPConnection(name, number, timeout=SECONDS)
        if secured:
            folder = Path(environment.get("DOCKER_CERT_PATH") or Path.home() / ".docker")
            context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
            context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
            link = http.client.HTTPSConnection(name, number, timeout=SECONDS, context=context)
    try:
        if scheme == "unix":
            link.sock.connect(place)
        link.request("GET", path)
        answer = link.getresponse()
        body = answer.read()
    finally:
        link.close()
    if answer.status != http.client.OK:
        raise ValueError(f"it answered {answer.status} {answer.reason}")
    return json.loads(body)


def _docker(engine: Engine, environment: Mapping[str, str]) -> Finding:
    if not engine.refused:
        version = engine.info.get("ServerVersion", "")
        where = (
            f"{engine.host}, on {engine.info.get('Name', 'another machine')}"
            if engine.elsewhere
            else engine.host
        )
        rootless = any("rootless" in option for option in engine.info.get("SecurityOptions") or ())
        if rootless:
            text = f"{version} at {where}, rootless: it cannot have networks as a lab needs them"
            return Finding("Docker", "limited", text, "use an engine that runs as root", _BOTH)
        return Finding("Docker", "ok", f"{version} at {where}".strip(), needed_by=_BOTH)
    installed = shutil.which("docker") or shutil.which("dockerd")
    if chosen := environment.get("DOCKER_HOST"):
        mend = (
            f"DOCKER_HOST is {chosen}: start the engine there, or `unset DOCKER_HOST` for this machine's own"
        )
    elif "Permission denied" in engine.refused:
        mend = "sudo usermod -aG docker $USER, and log in again"
    elif installed:
        mend = "sudo systemctl start docker (or `sudo dockerd &` where there is no systemd)"
    else:
        mend = "apt-get install docker.io, or point DOCKER_HOST at an engine elsewhere"
    return Finding("Docker", "missing", engine.refused, mend, _BOTH)


def _k3d(wanted: Pins) -> Finding:
    path = shutil.which("k3d")
    release = f"https://github.com/k3d-io/k3d/releases/tag/v{wanted.k3d}"
    mend = f"download k3d {wanted.k3d} from {release} and put it on PATH"
    if path is None:
        return Finding("k3d", "missing", "not on PATH: clusters are simulated", mend, (CLUSTER,))
    said = tools.outputs({"k3d": (path, "version")}).get("k3d", "")
    version = next((word.lstrip("v") for word in said.split() if word.lstrip("v")[:1].isdigit()), "")
    if version.split(".")[:1] != wanted.k3d.split(".")[:1]:
        text = f"{version or 'of no version'} at {path}; configuration is written for {wanted.k3d}"
        return Finding("k3d", "limited", text, mend, (CLUSTER,))
    return Finding("k3d", "ok", f"{version} {path}", needed_by=(CLUSTER,))


def _cgroups(engine: Engine, root: Path) -> Finding:
    told = str(engine.info.get("CgroupVersion", ""))
    second = told == "2" if told else (root / "sys/fs/cgroup/cgroup.controllers").exists()
    if second:
        return Finding("cgroups", "ok", "version 2", needed_by=(CLUSTER,))
    text = "version 1: kubelet 1.35 starts on it with fail-cgroupv1=false only, which the driver sets; 1.36 may not"
    boot = "boot with systemd.unified_cgroup_hierarchy=1"
    return Finding("cgroups", "limited", text, boot, (CLUSTER,))


def _sys_resource(engine: Engine, root: Path) -> Finding:
    if engine.elsewhere and not engine.refused:
        text = "a matter of the engine's machine, which runs elsewhere"
        return Finding("CAP_SYS_RESOURCE", "ok", text, needed_by=(CLUSTER,))
    able = int(_status(root, "CapBnd") or "0", 16) >> _CAP_SYS_RESOURCE & 1
    if able:
        return Finding("CAP_SYS_RESOURCE", "ok", "may be given", needed_by=(CLUSTER,))
    text = "not given to this machine's processes: privileged containers, as nodes of k3d are, do not start"
    mend = "run outside this container, give it CAP_SYS_RESOURCE, or point DOCKER_HOST at an engine elsewhere"
    return Finding("CAP_SYS_RESOURCE", "missing", text, mend, (CLUSTER,))


def _images(engine: Engine, wanted: Pins) -> Finding:
    """Say which images of a cluster the engine has; what it has not is pulled when a cluster starts."""
    if engine.refused:
        return Finding("images", "limited", "not known while no engine answers", "see Docker", (CLUSTER,))
    lost = [name for name in wanted.images if name not in engine.images]
    if not lost:
        return Finding("images", "ok", f"all {len(wanted.images)} of a cluster", needed_by=(CLUSTER,))
    text = f"not at the engine yet: {', '.join(lost)}; the first start pulls them"
    mend = f"docker pull {lost[0]} (or, without a registry: docker load, see docs/k3d.md)"
    return Finding("images", "limited", text, mend, (CLUSTER,))


def _status(root: Path, field: str) -> str:
    try:
        rows = (root / "proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((row.partition(":")[2].strip() for row in rows if row.startswith(f"{field}:")), "")

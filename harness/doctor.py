"""What this machine can and cannot do for a lab, and the one command that mends each.

Nothing is assumed from names or versions where it can be tried: harness/kernel.py performs the whole recipe
of the sandbox and uses each feature of the kernel once, in namespaces that are thrown away.
"""

from __future__ import annotations

import platform
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from harness import docker_findings, kernel, tools
from harness.errors import MissingCapability
from harness.findings import CLUSTER, Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

DRIVERS = ("netns", "k3d")
OLDEST_ENVOY = (1, 39)
"""The first Envoy that passes a server's reset on to the client (release notes of 1.39)."""

_WHOLE = Path("/")
_DESCRIPTORS = 4096  # a lab of 100 pods holds about ten a pod
_INSTANCES = 128  # the kernel's default a user; one sidecar with rotating certificates takes one
_MEMORY_MB = 1024  # ten Envoys (178 MB together), the rest of a lab, and the tests
_LINKS: Mapping[str, tuple[str, ...]] = {
    "veth": ("netns",),
    "bridge": ("netns",),
    "vxlan": ("overlay: vxlan", "mirrors of capture hosts"),
    "macvlan": ("a second interface by macvlan",),
    "ipip": ("overlay: ipip",),
    "geneve": ("mirrors with tunnel: geneve",),
    "dummy": ("routes on a dummy link",),
    "vlan": ("tagged networks",),
}
_SETTINGS: Mapping[str, tuple[str, str, str]] = {
    "kernel.apparmor_restrict_unprivileged_userns": (
        "1",
        "0",
        "AppArmor: no user namespace without a profile",
    ),
    "user.max_user_namespaces": ("0", "10000", "no user namespace may be made"),
    "kernel.unprivileged_userns_clone": ("0", "1", "only root may make user namespaces"),
}
"""Settings that forbid user namespaces: the value that does, one that does not, and what it means."""

_USES: Mapping[str, tuple[str, ...]] = {
    "nftables": ("netns",),
    "conntrack events": ("netns",),
    "NFLOG": ("netns",),
    "TPACKET_V3": ("netns", "captures"),
    "copies of packets (clsact, u32, mirred)": ("mirrors of capture hosts",),
}
_PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "envoy": ("netns", "sidecars"),
    "bird": ("netns", "BGP"),
    "nft": ("netns",),
    "tinyproxy": ("netns", "forward proxies"),
    "dnsmasq": ("netns", "DNS"),
    "curl": ("netns", "scenarios with run: curl"),
    "ip": ("egresslab routes",),
}


def examine(
    root: Path = _WHOLE,
    try_sandbox: Callable[[], str | None] = kernel.try_sandbox,
    features: Callable[[], Mapping[str, str | None]] = kernel.features,
) -> tuple[Finding, ...]:
    """Examine this machine; takes about 0.2 s, changes nothing.

    `root` is where /proc, /sys and /var are read.
    """
    return (
        _python(),
        *_programs(),
        *_sandbox(root, try_sandbox()),
        *_features(root, features()),
        *_limits(root),
        *docker_findings.examine(root),
    )


def verdict(findings: Sequence[Finding]) -> dict[str, bool]:
    """Say of each driver whether everything that it cannot do without is there, and whether k3d's can be a cluster."""
    lost = {user for finding in findings if finding.state == "missing" for user in finding.needed_by}
    works = {driver: driver not in lost for driver in DRIVERS}
    return {**works, CLUSTER: works["k3d"] and CLUSTER not in lost}


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 0 when the namespace driver works, else 4, as `egresslab doctor` exits."""
    return 0 if verdict(findings)["netns"] else 4


def lines(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Render findings as a plain table, the remedy below what is wrong, a last line for each driver."""
    width = max((len(finding.name) for finding in findings), default=0)
    table = []
    for finding in findings:
        table.append(f"{finding.state:8}{finding.name:{width}}  {finding.detail}")
        if finding.state != "ok":
            indent = " " * (width + 10)
            if finding.needed_by:
                table.append(f"{indent}needed by: {', '.join(finding.needed_by)}")
            table.append(f"{indent}mend: {finding.mend or 'not possible on this machine'}")
    return (*table, "", *_conclusions(findings))


def _conclusions(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield a line for each driver: whether it works here, and what would have to be mended."""
    works = verdict(findings)
    for name, needs in (("netns", "netns"), ("k3d", "k3d"), ("k3d, with a real cluster", CLUSTER)):
        lost = [one.name for one in findings if one.state == "missing" and needs in one.needed_by]
        simulated = name == "k3d" and works["k3d"] and not works[CLUSTER]
        words = "works" if works[needs] else f"does not work here; mend {', '.join(lost)}"
        yield f"driver {name}: {words}" + (", with simulated cluster nodes" if simulated else "")


def _python() -> Finding:
    return Finding("python", "ok", platform.python_version(), needed_by=DRIVERS)


def _programs() -> Iterator[Finding]:
    versions = tools.versions()
    for name, users in _PROGRAMS.items():
        try:
            path = tools.find(name)
        except MissingCapability:
            yield Finding(name, "missing", "not found", tools.mend(name), users)
            continue
        version = versions.get(name, "")
        if name == "envoy" and tuple(int(part) for part in version.split(".")[:2] if part) < OLDEST_ENVOY:
            detail = f"{version or 'no version'} at {path}: a client would not see the egress proxy's reset"
            yield Finding(name, "missing", detail, tools.mend(name), users)
        else:
            yield Finding(name, "ok", f"{version} {path}".strip(), needed_by=users)


def _sandbox(root: Path, failed: str | None) -> Iterator[Finding]:
    """Say whether the sandbox's recipe works, and which of the known obstacles this machine has."""
    obstacles = tuple(_obstacles(root))
    if failed:
        mend = obstacles[0].mend if obstacles else "run as root (sudo), or outside of the container"
        yield Finding("sandbox", "missing", failed, mend, ("netns",))
    else:
        yield Finding("sandbox", "ok", "every step of the recipe works", needed_by=("netns",))
    yield from obstacles


def _obstacles(root: Path) -> Iterator[Finding]:
    """Find what is known to forbid a sandbox, the likeliest first; root or a profile may be spared."""

    def limited(name: str, detail: str, mend: str) -> Finding:
        return Finding(name, "limited", detail, mend, ("netns as a user",))

    for setting, (bad, good, detail) in _SETTINGS.items():
        if _read(root, f"proc/sys/{setting.replace('.', '/')}") == bad:
            yield limited(setting, detail, f"sudo sysctl -w {setting}={good}")
    rows = [row.split() for row in _read(root, "proc/self/mountinfo").splitlines()]
    mounted = [row[4] for row in rows if len(row) > 4]
    if mounted and "/" not in mounted:  # as chroot leaves it: EPERM in user_namespaces(7)
        text = "the kernel gives a process in a chroot no user namespace"
        yield limited("chroot", text, "enter this system with systemd-nspawn")
    masked = [place for place in mounted if place.startswith("/proc/") and "binfmt_misc" not in place]
    if masked:
        text = f"a container hides {', '.join(masked[:3])}{' ...' if len(masked) > 3 else ''}"
        options = "--security-opt systempaths=unconfined --security-opt seccomp=unconfined"
        yield limited("masked /proc", text, f"start the container with {options}")
    elif _status(root, "Seccomp") == "2":
        text = "a filter of system calls is on this process"
        yield limited("seccomp", text, "start the container with --security-opt seccomp=unconfined")


def _features(root: Path, tried: Mapping[str, str | None]) -> Iterator[Finding]:
    if reason := tried.get("namespaces"):
        yield Finding("network namespaces", "missing", reason, "see sandbox", ("netns",))
        return
    modules = (root / "lib/modules" / platform.release()).is_dir()
    for name, failed in tried.items():
        kind = name.removeprefix("link ")
        users = _LINKS.get(kind) or _USES.get(name, ())
        if failed is None:
            yield Finding(name, "ok", "tried", needed_by=users)
        else:
            module = {"vlan": "8021q", "nftables": "nf_tables", "NFLOG": "nfnetlink_log"}.get(kind, kind)
            mend = f"sudo modprobe {module}" if modules and " " not in module else None
            yield Finding(name, "missing", failed, mend, users)


def _limits(root: Path) -> Iterator[Finding]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    enough = hard in (resource.RLIM_INFINITY, -1) or hard >= _DESCRIPTORS
    yield Finding(
        "open files",
        "ok" if enough else "limited",
        f"hard limit {'none' if hard == resource.RLIM_INFINITY else hard}",
        None if enough else f"ulimit -Hn {_DESCRIPTORS} (as root, or in /etc/security/limits.conf)",
        ("labs of more than 100 pods",),
    )
    instances = int(_read(root, "proc/sys/fs/inotify/max_user_instances") or 0)
    yield Finding(
        "inotify",
        "ok" if instances >= _INSTANCES else "limited",
        f"{instances} instances a user",
        None if instances >= _INSTANCES else f"sudo sysctl -w fs.inotify.max_user_instances={_INSTANCES * 8}",
        ("sidecars whose certificates rotate",),
    )
    free = next(
        (
            int(row.split()[1]) // 1024
            for row in _read(root, "proc/meminfo").splitlines()
            if "MemAvailable" in row
        ),
        0,
    )
    text = f"{free} MB available" + ("" if free >= _MEMORY_MB else f", {_MEMORY_MB} MB are wanted")
    mend = None if free >= _MEMORY_MB else "end other programs, or take a machine with more memory"
    yield Finding("memory", "ok" if free >= _MEMORY_MB else "limited", text, mend, ("netns", "k3d"))


def _status(root: Path, field: str) -> str:
    rows = _read(root, "proc/self/status").splitlines()
    return next((row.partition(":")[2].strip() for row in rows if row.startswith(f"{field}:")), "")


def _read(root: Path, path: str) -> str:
    try:
        return (root / path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""

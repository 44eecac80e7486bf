"""`routes`: what a node's route to somewhere was when the flow was sent, and when it became so.

The kernel's table is one witness, read by rtnetlink; BIRD's own table another, where BGP brought the route; they must
agree. When it changed, the kernel told by itself. What the lab file says of peers is no witness.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network

from harness.evidence import Evidence, Finding, State
from harness.lab_words import seconds_of
from harness.passport import Passport
from harness.plan import Bindings, Plan
from harness.programs.bird_control import BirdRoute
from harness.routing import KernelRoute, Routing, Steps
from harness.scenario import RouteTo

_BIRD = "bird"
_NS = 1_000_000_000


def judge(expected: Sequence[RouteTo], evidence: Evidence, passport: Passport) -> Iterator[Finding]:  # noqa: ARG001 - every check's form
    """Yield a finding for each destination of each entry."""
    for entry in expected:
        wanted = describe(entry)
        routing = evidence.routing.get(entry.at)
        if routing is None:
            yield Finding("routes", "unknown", entry.at, wanted, "its table was not read")
            continue
        found = destinations(entry.to, evidence.plan, evidence.bindings, evidence.steps)
        if not found:
            yield Finding("routes", "unknown", entry.at, wanted, f"nothing that {entry.to!r} stands for")
        for network in found:
            state, seen = _compare(entry, network, routing, evidence)
            yield Finding("routes", state, entry.at, wanted, seen)


def destinations(to: str, plan: Plan, bindings: Bindings, steps: Steps) -> tuple[IPv4Network, ...]:
    """Return the networks that a name stands for: a node's blocks, a pod's address, a network's range."""
    kind, _, node = to.partition("/")
    if kind == "pods" and node in bindings.blocks:
        return bindings.blocks[node]
    if kind == "former-pods" and node in bindings.blocks:
        return tuple(block for block in steps.blocks.get(node, ()) if block not in bindings.blocks[node])
    if to in bindings.pods:
        return (IPv4Network(bindings.pods[to]),)
    return (plan.lab.networks[to].cidr,) if to in plan.lab.networks else ()


def is_so(entry: RouteTo, routing: Routing, plan: Plan, bindings: Bindings, steps: Steps) -> bool:
    """Tell whether the kernel's table is as an entry says, as far as the kernel knows."""
    every = destinations(entry.to, plan, bindings, steps)
    return bool(every) and all(not _differs(entry, routing.to(network), plan, bindings) for network in every)


def describe(entry: RouteTo) -> str:
    """Return an entry in words."""
    if entry.absent:
        words = f"no route to {entry.to}"
    else:
        words = f"a route to {entry.to}"
        words += f" via {entry.via}" if entry.via else ""
        words += f" by {entry.protocol}" if entry.protocol else ""
        words += f" with next hop {entry.next_hop}" if entry.next_hop else ""
        if entry.as_path is not None:
            words += f" with AS path {_path(entry.as_path)}"
    words += f" within {entry.within}" if entry.within else ""
    return words + (f" after {entry.after}" if entry.after else "")


def _compare(entry: RouteTo, network: IPv4Network, routing: Routing, evidence: Evidence) -> tuple[State, str]:
    plan, bindings = evidence.plan, evidence.bindings
    kernel = routing.to(network)
    bird = routing.of_bird(kernel.destination if kernel else network)
    seen = f"kernel: {kernel or f'no route to {network}'}"
    if routing.bird is not None and (entry.absent or (kernel and kernel.protocol == _BIRD)):
        seen += f"; BIRD: {_words(bird, network)}"
    state: State = "held"
    if _differs(entry, kernel, plan, bindings):
        state = "broken"
    elif entry.protocol == "bgp" or entry.next_hop or entry.as_path is not None:
        if routing.bird is None:
            return "unknown", f"{seen}; {routing.silence or 'it runs no BIRD'}"
        state = "broken" if _differs_in_bird(entry, kernel, bird, plan, bindings) else "held"
    elif entry.absent and routing.silence:
        return "unknown", f"{seen}; {routing.silence}"
    elif entry.absent and bird is not None:
        state = "broken"
    if state == "held" and (entry.within or entry.after):
        state, when = _in_time(entry, network, routing, evidence.steps)
        seen += f"; {when}"
    return state, seen


def _differs(entry: RouteTo, kernel: KernelRoute | None, plan: Plan, bindings: Bindings) -> bool:
    if entry.absent or kernel is None:
        return (kernel is None) != entry.absent
    wanted = {"bgp": _BIRD}.get(entry.protocol or "", entry.protocol)
    return (wanted is not None and kernel.protocol != wanted) or (
        entry.via is not None and kernel.gateway not in _addresses(entry.via, plan, bindings)
    )


def _differs_in_bird(
    entry: RouteTo, kernel: KernelRoute | None, bird: BirdRoute | None, plan: Plan, bindings: Bindings
) -> bool:
    return (
        bird is None
        or kernel is None
        or bird.type != "BGP"
        or bird.gateway != kernel.gateway
        or (entry.next_hop is not None and bird.next_hop not in _addresses(entry.next_hop, plan, bindings))
        or (entry.as_path is not None and bird.as_path != entry.as_path)
    )


def _in_time(entry: RouteTo, network: IPv4Network, routing: Routing, steps: Steps) -> tuple[State, str]:
    """Judge when the kernel changed what it has for exactly this network, against when the last step began."""
    if routing.lost:
        return "unknown", routing.lost
    made = [change for change in routing.changes if change.route.destination == network]
    if not made or not steps.began:
        return "broken", "it was so before the step"
    seconds = (made[-1].time - steps.began[-1]) / _NS
    late = entry.within is not None and seconds > seconds_of(entry.within)
    early = entry.after is not None and seconds < seconds_of(entry.after)
    return "broken" if late or early else "held", f"since {seconds:.3f} s after the step began"


def _addresses(name: str, plan: Plan, bindings: Bindings) -> tuple[str, ...]:
    return tuple(str(address) for address in bindings.all_addresses(plan.node(name)))


def _words(bird: BirdRoute | None, network: IPv4Network) -> str:
    if bird is None:
        return f"no route to {network}"
    if bird.type != "BGP":
        return f"{bird.type} from {bird.source}"
    return f"BGP from {bird.source}, next hop {bird.next_hop}, AS path {_path(bird.as_path)}"


def _path(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers)) or "empty"

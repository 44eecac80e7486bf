"""Drafts scenarios from flows: what a running lab lets pass as allowed, everything else as an explicit denial.

Each pod is sent to each destination, and what was recorded of the flow is put into the words of a scenario. A draft is
written only if it holds by that very evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from harness.attempt import observe
from harness.denial import Answer, answer_of, denials, rule_of
from harness.evidence import SIDECAR
from harness.listening import listening
from harness.one_flow import behind
from harness.route_checks import GATEWAYS
from harness.run import WINDOW_SECONDS
from harness.scenario import Allowed, Denied, Expect, Item, Scenario
from harness.verdict import judge

if TYPE_CHECKING:
    from harness.evidence import Evidence
    from harness.passport import Passport
    from harness.plan import Node, Plan
    from harness.running import Mark, RunningLab


@dataclass(frozen=True, order=True)
class Destination:
    """Where a flow is sent: a URL, through which service, and whether round the pod's sidecar."""

    to: str
    through: str | None
    bypass: bool

    def __str__(self) -> str:
        through = f" through {self.through}" if self.through else ""
        return self.to + through + (" round the sidecar" if self.bypass else "")


@dataclass(frozen=True)
class Draft:
    """What is to be written of some pods and a destination; `expect` is None where nothing could be told."""

    pods: tuple[str, ...]
    destination: Destination
    expect: Expect | None
    control: str | None = None
    number: int = 1

    @property
    def name(self) -> str:
        """The scenario's name: what comes of it, and where by whom."""
        return self._says + (f" ({self.number})" if self.number > 1 else "")

    @property
    def _says(self) -> str:
        expect = self.expect
        if expect is None or expect.allowed is not None:
            return f"{self.destination} is reached"
        word, denied = ("rejected", expect.rejected) if expect.rejected else ("dropped", expect.dropped)
        at = f" at {denied.at}" if denied and denied.at != "any" else ""
        by = f" by {denied.by}" if denied and denied.by else ""
        return f"{self.destination} is {word}{at}{by}"


def learn(lab: RunningLab) -> tuple[Draft, ...]:
    """Send each pod to each destination and return the drafts: those that are allowed first.

    Raises LostEvidence when a node cannot be asked on what it listens.
    """
    found: dict[tuple[Destination, str], _Learned] = {}
    _observe(lab, list(_items(lab)), found)
    # a probe of TCP that says nothing is answered by a sidecar and by proxies that wait for the client's first words
    silent = [
        one.item for one in found.values() if one.expect is None and (one.item.to or "").startswith("tcp:")
    ]
    for item in silent:
        del found[_where(item), item.source]
    _observe(lab, [_talking(item) for item in silent], found)
    grouped: dict[tuple[Destination, Expect | None], list[str]] = {}
    for (where, pod), one in found.items():
        grouped.setdefault((where, one.expect), []).append(pod)
    drafts = [Draft(tuple(pods), where, expect) for (where, expect), pods in grouped.items()]
    drafts.sort(key=lambda one: (one.expect is None, one.expect is not None and one.expect.allowed is None))
    drafts = list(_named_apart(drafts))
    allowed = [one for one in drafts if one.expect and one.expect.allowed]
    return tuple(_with_control(one, allowed, found) for one in drafts)


@dataclass(frozen=True)
class _Learned:
    item: Item
    evidence: Evidence
    passport: Passport
    expect: Expect | None


def _observe(lab: RunningLab, items: Sequence[Item], found: dict[tuple[Destination, str], _Learned]) -> None:
    """Send flows and keep what is learned of each; those through proxies and sidecars one by one.

    What a sidecar opens, and what a forward proxy logs without ports, can be told apart only when nothing else is sent.
    """
    earlier: Mark | None = None
    alone = [item for item in items if item.through or _takes_sidecar(item, lab.plan)]
    together = [item for item in items if item not in alone]
    for group, size in ((together, _TOGETHER), (alone, 1)):
        for begin in range(0, len(group), size):
            batch = group[begin : begin + size]
            with lab.window(WINDOW_SECONDS):
                observed, earlier = observe(lab, batch, earlier)
            for item, (evidence, passport) in zip(batch, observed, strict=True):
                expect = drafted(evidence, passport, _ends_of(item.to or "", lab))
                found[_where(item), item.source] = _Learned(item, evidence, passport, expect)


def _where(item: Item) -> Destination:
    return Destination(item.to or "", item.through, item.scenario.bypass is not None)


def _talking(item: Item) -> Item:
    """Return a case that sends a request where the other only connects."""
    to = "http" + (item.to or "").removeprefix("tcp")
    return item.model_copy(update={"to": to, "scenario": item.scenario.model_copy(update={"to": to})})


def _ends_of(to: str, lab: RunningLab) -> tuple[str, ...]:
    """Return the nodes at which a flow has arrived: behind a service those that it leads to."""
    host = urlsplit(to).hostname or ""
    name, _, namespace = host.partition(".")
    service = lab.plan.services.get(f"{namespace}/{name}")
    return tuple(behind(service, lab)) if service is not None else (host,)


def _named_apart(drafts: Sequence[Draft]) -> Iterator[Draft]:
    """Yield the drafts, each with a name that no other has."""
    taken: dict[str, int] = {}
    for draft in drafts:
        number = taken[draft.name] = taken.get(draft.name, 0) + 1
        yield replace(draft, number=number)


def _items(lab: RunningLab) -> Iterator[Item]:
    """Yield a case for each pod and destination: to services as usual, to nodes outside round its sidecar."""
    every = tuple(dict.fromkeys(_destinations(lab)))
    for node in lab.plan.pods:
        if node.pod is None or node.pod.spec.runs in GATEWAYS:
            continue
        for to, through, outside in every:
            if node.name in _ends_of(to, lab):
                continue  # a service that leads back to who calls it
            # through a sidecar to an address that is no service, denials are silence that it logs too late to be told
            bypass: Literal["sidecar"] | None = "sidecar" if outside and node.pod.injected else None
            scenario = Scenario(
                name="learned",
                from_=(node.name,),
                to=to,
                through=through,
                bypass=bypass,
                expect=Expect(allowed=Allowed()),
            )
            yield Item(
                id=f"{node.name} {to} {through} {bypass}",
                scenario=scenario,
                source=node.name,
                to=to,
                through=through,
                path="",
                line=0,
            )


def _destinations(lab: RunningLab) -> Iterator[tuple[str, str | None, bool]]:
    """Yield each service, and sites through those before forward proxies; each port of each node outside (True)."""
    plan = lab.plan
    ports = {
        node.name: sorted({port for protocol, port, _ in listening(lab, node.name) if protocol == "tcp"})
        for node in plan.nodes
        if node.placement == "outside"
    }
    for full, service in plan.services.items():
        namespace, _, name = full.partition("/")
        if service.port == _DNS_PORT:
            continue
        ends = [plan.node(end) for end in behind(service, lab)]
        if not any("forward-proxy" in end.kinds for end in ends):
            asks = any(end.pod is not None and end.pod.spec.runs == "http" for end in ends)
            yield f"{'http' if asks else 'tcp'}://{name}.{namespace}:{service.port}", None, False
        else:
            for other in plan.nodes:
                if "website" in other.kinds:
                    scheme = "http" if getattr(other.spec, "tls", "none") == "none" else "https"
                    yield f"{scheme}://{other.name}", f"{name}.{namespace}:{service.port}", False
    for node_name, found in ports.items():
        for port in found:
            yield f"tcp://{node_name}:{port}", None, True


_DNS_PORT = 53
_TOGETHER = 64
"""How many probes share a window; each of them must be settled before any is judged."""


def _takes_sidecar(item: Item, plan: Plan) -> bool:
    pod = plan.node(item.source).pod
    return pod is not None and pod.injected and item.scenario.bypass is None


def drafted(evidence: Evidence, passport: Passport, ends: Sequence[str]) -> Expect | None:
    """Return the first expectation that holds by what was recorded; None when none does."""
    candidates = _candidates(evidence, passport, ends)
    return next((one for one in candidates if _holds(one, evidence, passport)), None)


def _candidates(evidence: Evidence, passport: Passport, ends: Sequence[str]) -> Iterator[Expect]:
    """Yield what may be said of a flow: who denied it, or how far it was seen, or only that it was denied."""
    said_no = denials(passport)
    several = set(ends) if len(set(ends)) > 1 else set()  # the next flow may meet another of them
    for one in said_no:
        if one.at.partition(" ")[0] in several:
            continue
        at = _hop(one.at, evidence)
        silent = answer_of(at, evidence, passport) is Answer.NONE
        for by in (rule_of(one) or None, None):
            denied = Denied(at=at, by=by)
            yield Expect(dropped=denied) if silent else Expect(rejected=denied)
    refused = any(
        sighting.event == "reset" and sighting.at in ends and sighting.facts.get("outgoing") == "true"
        for sighting in passport.sightings
    )
    arrived = any(end in passport.hops() for end in ends) and not refused
    if arrived and not said_no:
        path = _path(evidence, passport, ends)
        shortest = 1 + next((number for number, hop in enumerate(path) if hop != SIDECAR), 0)
        for length in range(
            len(path), shortest - 1, -1
        ):  # a server may log nothing of a client that said nothing
            yield Expect(allowed=Allowed(path=path[:length]))
    if not arrived or said_no:
        yield Expect(rejected=Denied(at="any"))
        yield Expect(dropped=Denied(at="any"))


def _holds(expect: Expect, evidence: Evidence, passport: Passport) -> bool:
    attempt = evidence.attempt
    scenario = attempt.item.scenario.model_copy(update={"expect": expect})
    item = attempt.item.model_copy(update={"scenario": scenario})
    return judge(replace(evidence, attempt=replace(attempt, item=item)), passport).state == "held"


def _hop(at: str, evidence: Evidence) -> str:
    return SIDECAR if at == f"{evidence.attempt.pod} {SIDECAR}" else at


def _path(evidence: Evidence, passport: Passport, ends: Sequence[str]) -> tuple[str, ...]:
    """Return the hops that a scenario names: the own sidecar, other pods, and who decides or serves outside.

    Of several servers the next flow may reach another.
    """
    plan, own = evidence.plan, evidence.attempt.pod
    chosen = set(ends) if len(set(ends)) > 1 else set()
    hops = [
        _hop(hop, evidence)
        for hop in passport.hops()
        if hop != own and hop.partition(" ")[0] not in chosen - {own}
    ]
    return tuple(hop for hop in hops if hop == SIDECAR or _is_named(_node(hop, plan)))


def _node(hop: str, plan: Plan) -> Node | None:
    return next((node for node in plan.nodes if node.name == hop.partition(" ")[0]), None)


def _is_named(node: Node | None) -> bool:
    return node is not None and (node.placement == "outside" or node.pod is not None)


def _with_control(
    draft: Draft,
    allowed: Sequence[Draft],
    found: Mapping[tuple[Destination, str], _Learned],
) -> Draft:
    """Give a denial an allowed flow as its control, and what that one saw further on as what saw nothing of this.

    Only where that holds, too, by the evidence of every pod.
    """
    denied = draft.expect and (draft.expect.rejected or draft.expect.dropped)
    if not denied or draft.expect is None or denied.at == "any":
        return draft
    word = "rejected" if draft.expect.rejected else "dropped"
    for other in allowed:
        path = other.expect.allowed.path if other.expect and other.expect.allowed else ()
        if denied.at not in path or (other.pods == draft.pods and other.destination == draft.destination):
            continue
        further = path[path.index(denied.at) + 1 :]
        expect = Expect(**{word: denied.model_copy(update={"unseen_by": further})})
        those = [found[draft.destination, pod] for pod in draft.pods]
        if further and all(_holds(expect, one.evidence, one.passport) for one in those):
            return replace(draft, expect=expect, control=other.name)
    return draft

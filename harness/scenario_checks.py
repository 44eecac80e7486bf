"""What must hold between a scenario, its lab and others: each check yields a place and what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from harness import rotation_checks
from harness.attack_checks import attacks_of, check_attacks, same_cell
from harness.bpf import unknown_filter
from harness.expect_model import OUTCOMES
from harness.lookup import nearest
from harness.routing_checks import check_routes
from harness.scenario_names import OUTSIDE, SIDECAR, Words, namespace_of, sources, with_created
from harness.split_checks import check_split
from harness.step_checks import check_sources_of_load, check_steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from harness.expect_model import Allowed, Denied, Outcome, Packets
    from harness.lab_checks import Found
    from harness.scenario_model import Scenario

ANY = "any"
_WHAT_PACKETS_ARE = ("count", "as_many_as", "layers", "fields", "shows", "are")


def check(
    scenario: Scenario,
    words: Words,
    others: Mapping[str, Scenario],
    check_field: Callable[[str], None] | None = None,
) -> Found:
    """Yield everything that is wrong with a scenario, each with its place in it.

    `others` are the scenarios of the same lab by name; `check_field` raises ValueError for an unknown field.
    """
    yield from check_steps(scenario, words)
    words = with_created(words, scenario)
    yield from _sources(scenario, words)
    yield from _flow(scenario)
    yield from _targets(scenario, words)
    yield from _from_outside(scenario, words)
    yield from check_attacks(scenario, words)
    expect = scenario.expect
    for word, outcome in (("rejected", expect.rejected), ("dropped", expect.dropped)):
        if outcome is not None:
            for place, message in _denied(outcome, scenario, words):
                yield ("expect", word, *place), message
            yield from _outcome(word, scenario, words, check_field)
            yield from _control_of_denial(scenario, word, outcome, words, others)
    if expect.allowed is not None:
        for place, message in _allowed(expect.allowed, scenario, words):
            yield ("expect", "allowed", *place), message
        yield from _outcome("allowed", scenario, words, check_field)
    yield from _control(scenario, others)
    yield from _table(scenario, others)


def _sources(scenario: Scenario, words: Words) -> Found:
    if bool(scenario.from_) == bool(scenario.matrix.from_):
        wrong = "'from' is in the matrix already" if scenario.from_ else "say where the flow is from ('from')"
        yield ("from",) if scenario.from_ else (), wrong
    for place, patterns in ((("from",), scenario.from_), (("matrix", "from"), scenario.matrix.from_)):
        for index, pattern in enumerate(patterns):
            if sources(pattern, words):
                continue
            message = f"no pod is called {pattern!r}" if "*" in pattern else f"unknown pod {pattern!r}"
            yield (*place, index), f"{message}; {nearest(pattern, [*words.pods, *words.clients])}"


def _flow(scenario: Scenario) -> Found:
    to, through = scenario.to or scenario.matrix.to, scenario.through or scenario.matrix.through
    if bool(scenario.run) == bool(to):
        yield (), f"say exactly one of 'run' and 'to'; found {'both' if to else 'none'}"
    for key, own, listed in (
        ("to", scenario.to, scenario.matrix.to),
        ("through", scenario.through, scenario.matrix.through),
    ):
        if own is not None and listed:
            yield (key,), f"{key!r} is in the matrix already"
    if scenario.run and through:
        yield ("through",), "'through' is for probes ('to'); a command names its proxy itself"
    targets = scenario.matrix.to if scenario.to is None else (scenario.to,)
    schemes = {urlsplit(target).scheme for target in targets}
    for scheme in ("udp", "icmp"):
        if through and scheme in schemes:
            yield ("through",), f"a proxy does not carry {scheme}"
    if scenario.within is not None and scenario.expect.allowed is None:
        yield ("within",), "'within' is for allowed flows; a denial is never tried again"


def _targets(scenario: Scenario, words: Words) -> Found:
    patterns = scenario.from_ or scenario.matrix.from_
    senders = [sender for pattern in patterns for sender in sources(pattern, words)]
    namespaces = list(dict.fromkeys(namespace_of(sender) for sender in senders)) or [""]
    known = [*words.lab.outside]
    if namespaces != [OUTSIDE]:
        known += (".".join(reversed(name.split("/"))) for name in words.services)
    if OUTSIDE in namespaces:
        known += (*words.entrances, *words.pod_hosts)
    for place, written in _written(scenario):
        host = (
            urlsplit(written).hostname or ""
            if place[-1] == "to" or "to" in place
            else written.rpartition(":")[0]
        )
        lost = [namespace for namespace in namespaces if not words.reaches(host, namespace)]
        if len(lost) == len(namespaces):
            what = "outside node or host of a route" if namespaces == [OUTSIDE] else "outside node or service"
            yield place, f"unknown {what} {host!r}; {nearest(host, known)}"
        elif lost and OUTSIDE in namespaces:
            inside = next(
                sender for sender in senders if (namespace_of(sender) == OUTSIDE) == (OUTSIDE in lost)
            )
            yield place, f"{host!r} has no meaning for {inside!r}"
        elif lost:
            yield place, f"{host!r} has no meaning in namespace {lost[0]!r}; write {host}.<namespace>"


def _from_outside(scenario: Scenario, words: Words) -> Found:
    """Yield what is said of the client's pod, its sidecar or its node, though a client outside has none."""
    patterns = scenario.from_ or scenario.matrix.from_
    outside = [
        sender for pattern in patterns for sender in sources(pattern, words) if sender in words.clients
    ]
    if not outside:
        return
    none = f"{outside[0]!r} is outside the cluster and has none"
    if scenario.bypass:
        yield ("bypass",), f"a sidecar is beside a pod; {none}"
    for word in OUTCOMES:
        outcome = getattr(scenario.expect, word)
        if outcome is None:
            continue
        place = ("expect", word)
        if outcome.source is not None and outcome.source.is_ in ("node", "pod"):
            yield (*place, "source", "is"), f"{outcome.source.is_!r} is the client's own; {none}"
        for key in ("path", "unseen_by"):
            for index, hop in enumerate(getattr(outcome, key, ())):
                if hop in (SIDECAR, "node"):
                    yield (*place, key, index), f"{hop!r} is the client's own; {none}"
        if getattr(outcome, "at", None) in (SIDECAR, "node"):
            yield (*place, "at"), f"{outcome.at!r} is the client's own; {none}"


def _written(scenario: Scenario) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield each `to` and `through` with its place."""
    for key, own, listed in (
        ("to", scenario.to, scenario.matrix.to),
        ("through", scenario.through, scenario.matrix.through),
    ):
        if own is not None:
            yield (key,), own
        for index, value in enumerate(listed):
            yield ("matrix", key, index), value


def _allowed(outcome: Allowed, scenario: Scenario, words: Words) -> Found:
    for index, hop in enumerate(outcome.path):
        if message := words.unknown_hop(hop):
            yield ("path", index), message
    if outcome.source is not None and outcome.source.at is None:
        yield ("source",), "say which hop saw the source ('at')"
    if outcome.split is not None:
        for below, message in check_split(scenario, outcome.split, words.lab):
            yield ("split", *below), message


def _denied(outcome: Denied, scenario: Scenario, words: Words) -> Found:
    if message := words.unknown_hop(outcome.at, ANY):
        yield ("at",), message
    elif outcome.by is not None and outcome.by not in words.rules(outcome.at):
        rules = list(words.rules(outcome.at))
        if rules:
            yield ("by",), f"unknown rule {outcome.by!r} of {outcome.at!r}; {nearest(outcome.by, rules)}"
        else:
            yield ("by",), f"{outcome.at!r} has no rules with names, so 'by' cannot be said"
    if outcome.source is not None and outcome.source.at is None and outcome.at == ANY:
        yield ("source",), "say which hop saw the source ('at')"
    for index, hop in enumerate(outcome.unseen_by):
        if message := words.unknown_hop(hop):
            yield ("unseen_by", index), message
        elif hop == outcome.at:
            yield ("unseen_by", index), f"{hop!r} denies the flow, so it sees it"
    if outcome.unseen_by and scenario.control is None:
        message = "a denial with 'unseen_by' needs a 'control': an allowed scenario that these hops do see"
        yield (), message


def _outcome(word: str, scenario: Scenario, words: Words, check_field: Callable[[str], None] | None) -> Found:
    place = ("expect", word)
    outcome: Outcome = getattr(scenario.expect, word)
    for below, wrong in _certificates(outcome, words):
        yield (*place, *below), wrong
    for below, wrong in check_sources_of_load(outcome, scenario):
        yield (*place, *below), wrong
    for index, entry in enumerate(outcome.routes):
        for below, message in check_routes(entry, scenario, words):
            yield (*place, "routes", index, *below), message
    for below, message in _seen(outcome, words, check_field):
        yield (*place, *below), message


def _seen(outcome: Outcome, words: Words, check_field: Callable[[str], None] | None) -> Found:
    source = outcome.source
    if source is not None:
        if source.at is not None and (message := words.unknown_hop(source.at)):
            yield ("source", "at"), message
        if source.is_ not in words.origins:
            known = nearest(source.is_, list(words.origins))
            yield ("source", "is"), f"unknown source {source.is_!r}; {known}"
    for index, packets in enumerate(outcome.packets):
        for below, message in _packets(packets, words, check_field):
            yield ("packets", index, *below), message


def _certificates(outcome: Outcome, words: Words) -> Found:
    """Yield what is wrong with what is said of identities, certificates and modes of mutual TLS."""
    for index, identity in enumerate(outcome.identity):
        if message := words.unknown_hop(identity.at):
            yield ("identity", index, "at"), message
    if outcome.certificate is not None:
        hop = outcome.certificate.at
        if message := words.unknown_hop(hop) or rotation_checks.reader(hop, words.lab):
            yield ("certificate", "at"), message
    if outcome.mtls_mode is not None and outcome.mtls_mode.at not in words.pods:
        known = nearest(outcome.mtls_mode.at, list(words.pods))
        yield ("mtls_mode", "at"), f"unknown pod {outcome.mtls_mode.at!r}; {known}"


def _packets(packets: Packets, words: Words, check_field: Callable[[str], None] | None) -> Found:
    if not any(getattr(packets, key) not in (None, (), {}) for key in _WHAT_PACKETS_ARE):
        yield (), f"say what the packets are like: {', '.join(map(repr, _WHAT_PACKETS_ARE))}"
    for place, one in (((), packets), (("as_many_as",), packets.as_many_as)):
        if one is not None and one.at not in words.taps:
            yield (*place, "at"), f"unknown tap {one.at!r}; {nearest(one.at, list(words.taps))}"
        if one is not None and (message := unknown_filter(one.where)):
            yield (*place, "where"), message
    for name, value in packets.fields.items():
        if message := _unknown_place(str(value), words):
            yield ("fields", name), message
    if check_field is None:
        return
    named: list[tuple[tuple[str | int, ...], str]]
    named = [(("layers", index), layer) for index, layer in enumerate(packets.layers)]
    for below, name in (*named, *((("fields", name), name) for name in packets.fields)):
        try:
            check_field(name)
        except ValueError as error:
            yield below, str(error)


def _unknown_place(value: str, words: Words) -> str | None:
    """Return what is wrong with a field's value, where it is `node/NAME` or `pod/NAMESPACE/NAME`."""
    kind, slash, name = value.partition("/")
    known = {"node": words.nodes, "pod": words.pods}.get(kind if slash else "")
    if known is None or name in known:
        return None
    return f"unknown {kind} {name!r}; {nearest(name, list(known))}"


def _control_of_denial(
    scenario: Scenario, word: str, outcome: Denied, words: Words, others: Mapping[str, Scenario]
) -> Found:
    control = others.get(scenario.control or "")
    if control is None or control.expect.allowed is None:
        return
    needed = [*outcome.unseen_by]
    if outcome.at != ANY and (outcome.at not in words.pods or words.rules(outcome.at)):
        needed.insert(0, outcome.at)
    path = control.expect.allowed.path
    missing = [hop for hop in dict.fromkeys(needed) if hop not in path]
    if missing:
        hops = " and ".join(map(repr, missing))
        seen = f"its path is {', '.join(path)}" if path else "it names no 'path'"
        yield (
            ("control",),
            f"the control {control.name!r} never reaches {hops} ({seen}), so {word} proves nothing",
        )


def _control(scenario: Scenario, others: Mapping[str, Scenario]) -> Found:
    if scenario.control is None:
        return
    control = others.get(scenario.control)
    if control is None:
        names = [name for name, other in others.items() if other.expect.allowed is not None]
        yield ("control",), f"unknown scenario {scenario.control!r}; {nearest(scenario.control, names)}"
        return
    if control.expect.allowed is None:
        yield ("control",), f"the control {control.name!r} is no allowed flow"
    if control.name != scenario.name and _what_is_sent(control) == _what_is_sent(scenario):
        yield ("control",), f"the control {control.name!r} is the same flow (from, to, through and run)"
    way = [scenario.name]
    following: Scenario | None = control
    while following is not None and following.name not in way:
        way.append(following.name)
        following = others.get(following.control or "")
    if following is not None and following.name == scenario.name == min(way):
        circle = " -> ".join([*way, scenario.name])
        yield ("control",), f"controls go in a circle: {circle}"


def _table(scenario: Scenario, others: Mapping[str, Scenario]) -> Found:
    """Yield a complaint about a cell that two claim: within a file at the later, in two files at both."""
    if scenario.table is None:
        return
    if scenario.table.row is None and not attacks_of(scenario):
        yield ("table",), "say the row of the table ('row'); only an attack has one of its own"
        return
    first = next(name for name, other in others.items() if same_cell(other, scenario))
    if first != scenario.name:
        yield ("table",), f"this cell of the table is scenario {first!r} already"


def _what_is_sent(scenario: Scenario) -> tuple[object, ...]:
    shown = (scenario.presents, scenario.attack)
    return (scenario.from_, scenario.matrix, scenario.to, scenario.through, scenario.run, shown)

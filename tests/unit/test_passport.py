"""A flow's sightings are joined along the chain of 5-tuples; what cannot be told apart is said."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from judged_flows import evidence_of, joined, lab, story, told
from recorded_flows import (
    BEGUN,
    STEP,
    Story,
    allowed,
    behind_proxy,
    closed,
    decision,
    dropped,
    ends_of,
    rejected,
    tcp_frame,
    to_proxy,
)

from harness.evidence import Recorded, Sighting
from harness.passport import join, unaccounted
from harness.programs.fivetuple import TCP, FiveTuple

if TYPE_CHECKING:
    from harness.drivers.fake import Recording

RED = "red is let out"


def test_the_whole_way_is_joined() -> None:
    """From the app over sidecar, masquerade, proxy, SNAT and forward proxy to the site: one flow, each hop once."""
    passport = joined(told(RED))
    assert passport.hops() == (
        "red/client",
        "red/client sidecar",
        "server-0",
        "bigip",
        "firewall",
        "tinyproxy",
        "site.example",
    )
    assert passport.strays == ()
    assert passport.ambiguous == ()
    times = [sighting.time for sighting in passport.sightings]
    assert times == sorted(times)


def test_every_name_of_the_flow_is_known() -> None:
    """The flow has a 5-tuple for each stretch: as asked, as redirected, as masqueraded, bound, translated, fetched."""
    plan, bindings = lab()
    ends = ends_of(plan, bindings, "red/client")
    assert joined(told(RED)).flows == {
        FiveTuple(TCP, ends.pod, 40000, ends.service, 3128),
        FiveTuple(TCP, ends.pod, 40000, "127.0.0.1", 15001),
        FiveTuple(TCP, ends.pod, 40001, ends.server, 3128),
        FiveTuple(TCP, ends.host, 40001, ends.server, 3128),
        FiveTuple(TCP, ends.inside, 50000, ends.tinyproxy, 8888),
        FiveTuple(TCP, ends.pool, 50000, ends.tinyproxy, 8888),
        FiveTuple(TCP, ends.tinyproxy, 50001, ends.site, 443),
    }


def test_sidecar_is_the_one_beside_the_client() -> None:
    """In a path `sidecar` means the client's own; a pod's own name means what its kernel saw."""
    passport = joined(told(RED))
    assert {sighting.at for sighting in passport.at("sidecar")} == {"red/client sidecar"}
    assert {sighting.witness for sighting in passport.at("red/client")} == {"conntrack", "tap"}


def test_a_rejected_flow_ends_at_the_proxy() -> None:
    """What the proxy refused has no sighting behind it."""
    assert joined(told("blue is reset")).hops()[-1] == "bigip"


def test_a_probe_is_followed_from_its_own_port() -> None:
    """A probe's 5-tuple is known beforehand; nothing else of its pod belongs to it."""
    paper = story()
    paper.passes(tcp_frame(FiveTuple(TCP, "10.53.252.96", 9, "10.4.0.201", 3128), "S"), "blue/client.eth0")
    passport = joined(evidence_of(dropped(paper), "nobody goes round the proxy"))
    assert passport.hops() == ("blue/client", "agent-0", "bigip", "firewall")
    assert all(flow.dport == 8888 for flow in passport.flows)


def test_a_probe_that_never_had_a_socket_is_no_flow() -> None:
    """A name that does not resolve leaves no 5-tuple, and nothing is taken for its flow."""
    evidence = told("nobody goes round the proxy")
    assert evidence.attempt.outcome is not None
    nowhere = replace(evidence.attempt, outcome=replace(evidence.attempt.outcome, local=None, remote=None))
    passport = join(nowhere, evidence.recorded, evidence.plan, evidence.bindings)
    assert (passport.flows, passport.sightings) == (frozenset(), ())


def test_a_commands_flow_must_begin_while_it_runs() -> None:
    """What its pod opened before or after the command is not the command's."""
    evidence = told(RED)
    later = replace(evidence.attempt, started=evidence.attempt.ended, ended=evidence.attempt.ended + STEP)
    assert join(later, evidence.recorded, evidence.plan, evidence.bindings).flows == frozenset()


def test_the_sidecars_own_connections_are_no_new_flows() -> None:
    """What Envoy opened for a flow is that flow's next stretch, not another flow of the command."""
    evidence = told(RED)
    plan, bindings = lab()
    own = FiveTuple(TCP, ends_of(plan, bindings, "red/client").pod, 40001, "10.4.0.201", 3128)
    unlogged = [s for s in evidence.recorded.sightings if s.at != "red/client sidecar"]
    passport = join(
        evidence.attempt,
        replace(evidence.recorded, sightings=tuple(unlogged)),
        evidence.plan,
        evidence.bindings,
    )
    assert own in passport.flows, "without the sidecar's log both would be taken for the client's"


def two_at_once(*, second: str = "red") -> Story:
    """Tell red's flow and, within it, another one through the proxy to the same forward proxy."""
    paper = story()
    arrives = to_proxy(paper, "red/shop-v2", 42000)
    paper.says("bigip", "egress-proxy", decision(arrives, "PERMITTED", second, 42000))
    behind_proxy(paper, 52000, 42000, descriptor=9)
    paper.says("bigip", "egress-proxy", closed(arrives, "PERMITTED", 42000))
    return paper


def test_two_flows_at_once_are_told_apart_up_to_the_forward_proxy() -> None:
    """Each is followed by its own ports; where a log names none and two could be meant, that is said."""
    passport = joined(evidence_of(allowed(two_at_once()), RED))
    assert "red/shop-v2" not in passport.hops()
    assert not any(flow.sport in (42000, 42001, 52000) for flow in passport.flows)
    assert passport.ambiguous == (
        "tinyproxy: 1 other connections at the same time, and its log names no ports",
    )
    assert {sighting.witness for sighting in passport.at("tinyproxy")} == {"tap"}
    assert passport.at("site.example") == ()


def test_another_tenants_flow_is_no_stray() -> None:
    """What a proxy opened for somebody else is accounted for by its log, translated or not."""
    assert joined(evidence_of(allowed(two_at_once()), RED)).strays == ()


def rejected_and_dialled() -> Recording:
    """Tell how blue is reset while the proxy dials for it all the same, and says nothing of that."""
    paper = story()
    behind_proxy(paper, 55000)
    paper.lines.clear()
    return rejected(paper)


def test_an_opening_that_nobody_accounts_for_is_a_stray() -> None:
    """A proxy that logs a rejection and dials all the same leaves connections without an owner."""
    passport = joined(evidence_of(rejected_and_dialled(), "blue is reset"))
    assert {stray.at for stray in passport.strays} == {"bigip", "firewall", "tinyproxy"}
    assert {stray.flow.sport for stray in passport.strays if stray.flow} == {55000}


def test_a_stray_of_before_the_attempt_is_not_its_own() -> None:
    """What was opened before the flow was sent cannot have been opened for it."""
    evidence = evidence_of(rejected_and_dialled(), "blue is reset")
    late = replace(evidence.attempt, started=evidence.attempt.ended)
    assert join(late, evidence.recorded, evidence.plan, evidence.bindings).strays == ()


def test_records_that_come_late_account_for_strays() -> None:
    """A stray whose log line came after the look is a stray no more, even through the translation behind it."""
    plan, bindings = lab()
    ends = ends_of(plan, bindings, "red/client")
    bound = FiveTuple(TCP, ends.inside, 55000, ends.tinyproxy, 8888)
    leaves = FiveTuple(TCP, ends.pool, 55000, ends.tinyproxy, 8888)
    stray = Sighting("bigip", "tap", "opening", BEGUN, leaves)
    translated = Sighting("bigip", "conntrack", "new", BEGUN, bound, leaves)
    logged = Sighting("bigip", "log", "upstream", BEGUN, None, bound)

    def known(*sightings: Sighting) -> Recorded:
        return Recorded({}, sightings, (), {}, {}, (), {})

    assert unaccounted([stray], known(translated)) == (stray,)
    assert unaccounted([stray], known(translated, logged)) == ()


def test_what_was_seen_before_the_attempt_is_another_flow() -> None:
    """A port that an earlier flow had is used again under load: its sightings are not this flow's."""
    evidence = told("nobody goes round the proxy")
    begun = evidence.attempt.started
    (flow,) = joined(evidence).flows & {s.flow for s in evidence.recorded.sightings if s.at == "firewall"}
    earlier = Sighting("tinyproxy", "tap", "opening", begun - 1, flow)
    later = Sighting("tinyproxy", "tap", "opening", begun, flow)
    for sighting, counts in ((earlier, False), (later, True)):
        recorded = replace(evidence.recorded, sightings=(sighting, *evidence.recorded.sightings))
        passport = join(evidence.attempt, recorded, evidence.plan, evidence.bindings)
        assert bool(passport.at("tinyproxy")) is counts


def went_on(*claims: int) -> set[str]:
    """Return where a flow is seen that goes on by a connection opened 3 ms before it; `claims` are those that did."""
    begun = BEGUN + 10 * STEP
    opened = begun - 3_000_000
    upstream = FiveTuple(TCP, "10.53.0.4", 42286, "10.4.0.201", 80)
    behind_node = replace(upstream, src="172.19.0.2")
    sightings = [
        Sighting("shop/cart", "conntrack", "new", opened, upstream, upstream),
        Sighting("server-0", "conntrack", "new", opened, upstream, behind_node),
        Sighting("bigip", "log", "accept", opened + 500_000, behind_node),
    ]
    for port in claims:
        flow = FiveTuple(TCP, "10.53.0.4", port, "10.235.0.2", 80)
        sightings.append(Sighting("shop/cart sidecar", "log", "connection", begun, flow, upstream))
    recorded = replace(told(RED).recorded, sightings=tuple(sightings))
    client = FiveTuple(TCP, "10.53.0.4", 5000, "10.235.0.2", 80)
    return {sighting.at for sighting in recorded.follow({client}, begun)[1].values()}


def test_a_flow_may_go_on_by_a_connection_that_was_opened_for_another() -> None:
    """Envoy's pool gives what comes up first to whom has waited longest: it may be older than the flow."""
    assert went_on(5000) == {"shop/cart sidecar", "shop/cart", "server-0", "bigip"}


def test_a_port_that_two_flows_went_on_by_was_used_again() -> None:
    """Then what was seen of it before a flow is another's, and this one's is missing."""
    assert went_on(5000, 4999) == {"shop/cart sidecar"}


def test_what_is_seen_of_a_port_that_is_used_again_is_another_flow() -> None:
    """A connection is over for us when another SYN, of another number, begins one with the same ports."""
    begun, flow = BEGUN + 10 * STEP, FiveTuple(TCP, "172.19.0.2", 40380, "10.4.0.201", 80)

    def syn(at: int, number: int) -> Sighting:
        return Sighting("bigip", "tap", "opening", begun + at, flow, None, {"seq": str(number)})

    def said(at: int, of: str) -> Sighting:
        return Sighting("bigip", "log", "decision", begun + at, flow, None, {"of": of})

    second = 3_000_000_000
    sightings = (syn(0, 7), said(5, "first"), syn(second // 3, 7), said(second - 2_000_000, "first"))
    again = (syn(second, 8), said(second + 5, "second"))
    recorded = replace(told(RED).recorded, sightings=sightings + again)
    for since, of in ((begun, {"first"}), (begun + second - 1_000, {"second"})):
        used = recorded.follow({flow}, since)[1].values()
        assert {sighting.facts["of"] for sighting in used if "of" in sighting.facts} == of


def test_a_circle_of_translations_ends() -> None:
    """Two translations that lead to each other are followed once."""
    evidence = told("nobody goes round the proxy")
    flow = FiveTuple(TCP, "10.0.0.1", 1, "10.0.0.2", 2)
    (root,) = [sighting for sighting in evidence.recorded.sightings if sighting.witness == "conntrack"]
    assert root.onward is not None
    there = Sighting("firewall", "conntrack", "new", BEGUN, root.onward, flow)
    back = Sighting("firewall", "conntrack", "new", BEGUN, flow, root.onward)
    sightings = (*evidence.recorded.sightings, there, back)
    passport = join(
        evidence.attempt, replace(evidence.recorded, sightings=sightings), evidence.plan, evidence.bindings
    )
    assert flow in passport.flows


def in_vain(*targets: tuple[str, int], opened: tuple[tuple[str, int], ...]) -> set[str]:
    """Return where the first of a pod's probes is seen to go on to, of whose sidecar no connection came about.

    `targets` are the probes'; `opened` where the pod's sidecar tried to connect to.
    """
    evidence = told("nobody goes round the proxy")
    pod, begun = evidence.attempt.pod, evidence.attempt.started
    address = str(evidence.bindings.pods[pod])
    asked = [FiveTuple(TCP, address, 41000 + n, *target) for n, target in enumerate(targets)]
    tried = [FiveTuple(TCP, address, 51000 + n, *target) for n, target in enumerate(opened)]
    tap = {"tap": f"{pod}.eth0", "outgoing": "true"}
    sightings = [Sighting(f"{pod} sidecar", "log", "connection", begun + STEP, flow) for flow in asked]
    sightings += [
        Sighting(pod, "tap", "opening", begun + (2 + n) * STEP, flow, None, tap)
        for n, flow in enumerate(tried)
    ]
    assert evidence.attempt.outcome is not None
    sent = replace(evidence.attempt.outcome, remote=f"{targets[0][0]}:{targets[0][1]}")
    attempt = replace(evidence.attempt, outcome=sent)
    recorded = replace(evidence.recorded, sightings=tuple(sightings))
    flows = join(attempt, recorded, evidence.plan, evidence.bindings).flows
    return {f"{flow.dst}:{flow.dport}" for flow in flows if flow.sport >= 51000}


SITE, OTHER = ("198.51.100.4", 443), ("198.51.100.5", 443)


def test_what_a_sidecar_opened_in_vain_is_told_by_its_target() -> None:
    """Of several probes that came to nothing at one sidecar, each is joined with what went where it meant to go."""
    assert in_vain(SITE, OTHER, opened=(OTHER, SITE)) == {"198.51.100.4:443"}


def test_two_in_vain_to_one_target_cannot_be_told_apart() -> None:
    """Nothing is joined where either of two could be meant, nor where nothing went to the target."""
    assert in_vain(SITE, SITE, opened=(SITE, SITE)) == set()
    assert in_vain(SITE, OTHER, opened=(OTHER,)) == set()


def test_the_late_end_of_a_former_connection_is_not_of_this_one() -> None:
    """A port is used again while the proxy still writes that the connection which had it before is over."""
    evidence = told(RED)
    close = next(one for one in evidence.recorded.sightings if one.at == "bigip" and one.event == "close")
    former = replace(close, time=evidence.attempt.started + 1, facts={**close.facts, "conn": "former"})
    seen = replace(evidence.recorded, sightings=(former, *evidence.recorded.sightings))
    plan, bindings = lab()
    assert former not in join(evidence.attempt, seen, plan, bindings).sightings
    assert close in join(evidence.attempt, seen, plan, bindings).sightings
    only = tuple(one for one in seen.sightings if one.at != "bigip" or one == former or one.witness != "log")
    assert former in join(evidence.attempt, replace(seen, sightings=only), plan, bindings).sightings

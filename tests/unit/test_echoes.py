"""Echoes and the errors of routers, which are ICMP both: whose flow they are, and who refused it."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace

import pytest
from judged_flows import ROUND, evidence_of, joined, lab, story
from recorded_flows import dropped, icmp_frame, tcp_frame

from harness.denial import decisions, rule_of
from harness.evidence import Sighting
from harness.passport import Passport, sent_by
from harness.programs.fivetuple import ICMP, TCP, UDP, FiveTuple
from harness.sightings import digest, inverse

REQUEST = FiveTuple(ICMP, "10.4.0.2", 77, "10.4.0.3", 8 << 8)
ANSWER = FiveTuple(ICMP, "10.4.0.3", 77, "10.4.0.2", 0)
FLOW = FiveTuple(TCP, "10.4.0.2", 4000, "198.51.100.9", 80)


def echo_frame(flow: FiveTuple) -> bytes:
    """Return an Ethernet frame with an echo request or its answer; checksums are left zero."""
    echo = struct.pack(">BBHHH", flow.dport >> 8, 0, 0, flow.sport, 1) + b"data"
    ends = socket.inet_aton(flow.src), socket.inet_aton(flow.dst)
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(echo), 7, 0, 63, ICMP, 0, *ends)
    return bytes(12) + b"\x08\x00" + header + echo


def test_an_echo_is_sighted_by_its_request() -> None:
    """The first request at a node opens the flow; its answer, and a request again, do not."""
    paper = story()
    for flow, outgoing in ((REQUEST, False), (ANSWER, True), (REQUEST, False)):
        paper.sees("firewall.dmz", echo_frame(flow), outgoing=outgoing)
    plan, _ = lab()
    (found,) = digest(paper.raw(), plan, {}, {}, ()).sightings
    assert (found.at, found.event, found.flow) == ("firewall", "opening", REQUEST)


def test_an_answer_is_the_other_direction_of_its_request() -> None:
    """The identifier stays, the type changes; other kinds have no other direction of their own."""
    assert inverse(REQUEST) == ANSWER
    assert inverse(ANSWER) == REQUEST


@pytest.mark.parametrize(
    ("to", "sent"),
    [
        ("icmp://site.example", FiveTuple(ICMP, "10.4.0.2", 77, "10.4.0.3", 8 << 8)),
        ("udp://site.example:53", FiveTuple(UDP, "10.4.0.2", 77, "10.4.0.3", 53)),
        ("tcp://site.example:80", FiveTuple(TCP, "10.4.0.2", 77, "10.4.0.3", 53)),
    ],
)
def test_what_a_probe_sent_is_known_by_its_scheme(to: str, sent: FiveTuple) -> None:
    """An echo's port is its identifier, and in place of the other stands its type."""
    attempt = evidence_of(dropped(story()), ROUND).attempt
    assert attempt.outcome is not None
    outcome = replace(attempt.outcome, local="10.4.0.2:77", remote="10.4.0.3:53")
    item = attempt.item.model_copy(update={"to": to})
    assert sent_by(replace(attempt, item=item, outcome=outcome)) == sent
    assert sent_by(replace(attempt, item=item, outcome=replace(outcome, local=None))) is None
    assert sent_by(replace(attempt, item=item, outcome=None)) is None


def errors(code: int, *, came: bool) -> Passport:
    """Return a flow about which the firewall sends an ICMP error of type 3, its own or one that came to it."""
    quoted = tcp_frame(FLOW, "S")
    paper = story()
    if came:
        paper.sees("firewall.internet", icmp_frame("198.51.100.1", quoted, code=code), outgoing=False)
    source = "198.51.100.1" if came else "10.4.0.3"
    paper.sees("firewall.dmz", icmp_frame(source, quoted, code=code), outgoing=True)
    plan, _ = lab()
    sightings = digest(paper.raw(), plan, {}, {}, ()).sightings
    whole = joined(evidence_of(dropped(story()), ROUND))
    return replace(whole, sightings=sightings)


def refusals(passport: Passport) -> list[tuple[str, str]]:
    """Return what the firewall decided by itself, as (event, rule)."""

    def told(sighting: Sighting) -> tuple[str, str]:
        return sighting.event, rule_of(sighting)

    return [told(sighting) for sighting in decisions("firewall", passport)]


@pytest.mark.parametrize(("code", "rule"), [(0, "no-route"), (1, "no-neighbour")])
def test_a_router_refuses_by_the_error_that_it_sends(code: int, rule: str) -> None:
    """Network unreachable: it has no route; host unreachable: nobody there says which address is its own."""
    assert refusals(errors(code, came=False)) == [("reject", rule)]


def test_an_error_that_only_passes_a_router_is_not_its_own() -> None:
    """Who forwards another's error has refused nothing; nor is every error a router's for want of a way."""
    assert refusals(errors(0, came=True)) == []
    assert refusals(errors(10, came=False)) == []

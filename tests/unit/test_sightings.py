"""Raw recordings become sightings: each witness's own words on one schema, in order of time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from judged_flows import lab, story
from recorded_flows import BEGUN, STEP, Story, allowed, block_of, icmp_frame, tcp_frame

from harness.programs.fivetuple import TCP, UDP, FiveTuple
from harness.programs.nflog import Entry
from harness.running import Raw
from harness.sightings import digest, facts_of, inverse, json_lines, read_address, tcp

FLOW = FiveTuple(TCP, "10.4.0.2", 4000, "10.4.0.3", 80)


def digested(raw: Raw) -> list[tuple[str, str, str]]:
    """Return sightings as (node, witness, event)."""
    plan, _ = lab()
    return [(s.at, s.witness, s.event) for s in digest(raw, plan, {}, {}, ()).sightings]


def test_all_witnesses_come_together_in_order_of_time() -> None:
    """Logs, conntrack, packet filter and taps are one list, sorted by when each thing happened."""
    plan, _ = lab()
    found = digest(allowed(story()).raw, plan, {}, {}, ()).sightings
    assert {sighting.witness for sighting in found} == {"log", "conntrack", "nflog", "tap"}
    times = [sighting.time for sighting in found]
    assert times == sorted(times)
    assert times[0] == BEGUN + STEP


def test_only_openings_of_a_flow_are_sighted() -> None:
    """Of a flow's packets at a node the first SYN counts; answers, data and retransmissions do not."""
    paper = story()
    for flags in ("S", "S", "A", "PA", "FA"):
        paper.sees("firewall.dmz", tcp_frame(FLOW, flags), outgoing=False)
    paper.sees("firewall.dmz", tcp_frame(FLOW.inverse(), "SA"), outgoing=True)
    assert digested(paper.raw()) == [("firewall", "tap", "opening")]


def test_a_port_that_is_used_again_is_another_opening() -> None:
    """A SYN with another sequence number is another connection; a datagram has none, and is the same flow."""
    paper = story()
    for number in (1, 1, 2):
        paper.sees("firewall.dmz", tcp_frame(FLOW, "S", seq=number), outgoing=False)
    assert digested(paper.raw()) == [("firewall", "tap", "opening")] * 2


def test_the_tap_and_the_direction_are_told() -> None:
    """A sighting at a tap says which tap, and whether the node sent or received."""
    paper = story()
    paper.sees("firewall.internet", tcp_frame(FLOW, "S"), outgoing=True)
    plan, _ = lab()
    (found,) = digest(paper.raw(), plan, {}, {}, ()).sightings
    assert found.facts == {"tap": "firewall.internet", "outgoing": "true", "seq": "1"}


def test_a_reset_is_of_the_flow_that_it_ends() -> None:
    """A RST is sighted under the 5-tuple of the client's direction, whoever sends it."""
    paper = story()
    paper.sees("firewall.dmz", tcp_frame(FLOW.inverse(), "RA"), outgoing=True)
    plan, _ = lab()
    (found,) = digest(paper.raw(), plan, {}, {}, ()).sightings
    assert (found.event, found.flow) == ("reset", FLOW)


def test_an_icmp_error_is_of_the_flow_that_it_quotes() -> None:
    """An ICMP error is sighted under the quoted packet's flow, with type, code and who sent it."""
    paper = story()
    paper.sees("firewall.dmz", icmp_frame("10.4.0.9", tcp_frame(FLOW, "S")), outgoing=True)
    plan, _ = lab()
    (found,) = digest(paper.raw(), plan, {}, {}, ()).sightings
    assert (found.event, found.flow) == ("icmp", FLOW)
    assert (found.facts["icmp"], found.facts["by"]) == ("3/10", "10.4.0.9")


def test_conntrack_says_what_was_translated() -> None:
    """The reply tuple turned round is how the flow went on; where nothing changed, nothing is translated."""
    paper = story()
    onward = FiveTuple(TCP, "172.19.0.2", 4000, "10.4.0.3", 80)
    paper.tracks("server-0", FLOW, onward)
    paper.tracks("server-0", FLOW)
    plan, _ = lab()
    first, second = digest(paper.raw(), plan, {}, {}, ()).sightings
    assert (first.flow, first.onward) == (FLOW, onward)
    assert first.facts["translated"] == "172.19.0.2:4000>10.4.0.3:80"
    assert (second.onward, second.facts["translated"]) == (FLOW, "")


def test_conntrack_counts_new_connections_of_tcp_and_udp() -> None:
    """Ends and updates of connections are no sightings, nor is ICMP, which has no ports to join by."""
    paper = story()
    paper.tracks("server-0", FLOW)
    paper.tracks("server-0", replace(FLOW, protocol=UDP))
    paper.tracks("server-0", replace(FLOW, protocol=1))
    paper.conntrack["server-0"].append(replace(paper.conntrack["server-0"][0], kind="destroy"))
    assert digested(paper.raw()) == [("server-0", "conntrack", "new")] * 2


@pytest.mark.parametrize(
    ("prefix", "event", "rule"),
    [("drop default", "drop", "default"), ("allow a-b", "allow", "a-b"), ("odd", "odd", ""), ("", "", "")],
)
def test_packet_filters_say_verdict_and_rule(prefix: str, event: str, rule: str) -> None:
    """A log prefix is the verdict, a space and the rule's name; another form is kept and means nothing."""
    paper = story()
    paper.logs("firewall", prefix, FLOW)
    plan, _ = lab()
    (found,) = digest(paper.raw(), plan, {}, {}, ()).sightings
    assert (found.event, found.facts["rule"], found.flow) == (event, rule, FLOW)


def test_an_entry_may_say_a_reason() -> None:
    """It stands behind the rule's name: of a policy the direction in which the pod is isolated."""
    paper = story()
    paper.logs("agent-0", "drop red/closed egress", FLOW)
    plan, _ = lab()
    (found,) = digest(paper.raw(), plan, {}, {}, ()).sightings
    assert found.facts == {"rule": "red/closed", "reason": "egress"}


def test_what_is_dropped_behind_a_translation_is_known_by_its_packet() -> None:
    """Nobody else tells what it was before: the entry is of the flow that came, and goes on as its own."""
    service = replace(FLOW, dst="10.235.0.5")
    paper = story()
    paper.sees("server-0.nodes", tcp_frame(service, "S", seq=5), outgoing=False)
    entry = Entry(BEGUN, "drop red/closed egress", 0, 0, 0, "forward", tcp_frame(FLOW, "S", seq=5)[14:], FLOW)
    plan, _ = lab()
    for packet, known in (
        (entry, (service, FLOW)),
        (replace(entry, packet=tcp_frame(FLOW, "S", seq=6)[14:]), (FLOW, None)),
    ):
        paper.nflog["server-0"] = [packet]
        found = digest(paper.raw(), plan, {}, {}, ()).sightings
        assert [(one.flow, one.onward) for one in found if one.witness == "nflog"] == [known]


def test_a_logged_packet_without_ports_has_no_flow() -> None:
    """What was logged of a packet that cannot be read is sighted and joined to nobody."""
    paper = story()
    paper.nflog["firewall"] = [Entry(BEGUN, "drop default", 0, 0, 0, "forward", b"\x45", None)]
    assert digested(paper.raw()) == [("firewall", "nflog", "drop")]


def test_programs_without_a_reader_are_kept_as_lines() -> None:
    """Lines of a program whose kind reads no log are no sightings, and are there for who wants them."""
    paper = story()
    paper.says("kube-system/kube-dns", "dnsmasq", "started")
    plan, _ = lab()
    found = digest(paper.raw(), plan, {}, {}, ())
    assert found.sightings == ()
    assert found.lines["kube-system/kube-dns", "dnsmasq"][0][1] == "started"


def test_counters_are_before_and_after() -> None:
    """Each counter has its packets before and after; one that was not there before began at zero."""
    plan, _ = lab()
    found = digest(
        story().raw(),
        plan,
        {"bigip": {"snat_red": (3, 180)}},
        {"bigip": {"snat_red": (5, 300), "new": (1, 60)}},
        (),
    )
    assert found.counters == {"bigip": {"snat_red": (3, 5), "new": (0, 1)}}


def test_what_was_lost_is_handed_on() -> None:
    """Losses, ended programs and blind taps reach the verdict as they were recorded."""
    plan, _ = lab()
    raw = story().raw(lost={"bigip frames": "3 frames"}, ended={"bigip egress-proxy": -9})
    found = digest(raw, plan, {}, {}, ["firewall.dmz"])
    assert (found.lost, found.ended, found.blind) == (
        {"bigip frames": "3 frames"},
        {"bigip egress-proxy": -9},
        ("firewall.dmz",),
    )


def test_a_frame_of_an_unnamed_interface_is_told_by_its_number() -> None:
    """An interface that came later has no name yet; its packets count for its node all the same."""
    plan, bindings = lab()
    paper = Story(plan, bindings)
    paper.frames["firewall"] = [block_of([(BEGUN, 99, False, tcp_frame(FLOW, "S"))])]
    (found,) = digest(paper.raw(), plan, {}, {}, ()).sightings
    assert (found.at, found.facts["tap"]) == ("firewall", "firewall.if99")


def test_what_is_no_ip_is_passed_over() -> None:
    """ARP, nonces and frames that were cut off are no packets of a flow."""
    paper = story()
    paper.sees("firewall.dmz", bytes(12) + b"\x08\x06" + bytes(28), outgoing=False)
    paper.sees("firewall.dmz", bytes(12) + b"\x88\xb5" + bytes(46), outgoing=False)
    paper.sees("firewall.dmz", tcp_frame(FLOW, "S")[:30], outgoing=False)
    plan, _ = lab()
    assert digest(paper.raw(), plan, {}, {}, ()).packets == ()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("10.0.0.1:65536", None),
        ("10.0.0.1:-1", None),
        ("10.0.0.1:٣", None),
        ("10.0.0.1", None),
        (":80", None),
        ("-", None),
        ("", None),
        (None, None),
        (80, None),
        (["10.0.0.1:80"], None),
    ],
)
def test_addresses_of_logs(text: object, address: tuple[str, int] | None) -> None:
    """An address and port are read from `ip:port`; anything else is none."""
    assert read_address(text) == address


def test_a_flow_needs_both_ends() -> None:
    """A 5-tuple is made of two addresses or not at all; turned round twice it is itself."""
    assert tcp("10.4.0.2:4000", "10.4.0.3:80") == FLOW
    assert tcp("10.4.0.2:4000", "-") is None
    assert inverse(inverse(FLOW)) == FLOW


def test_events_are_one_json_object_a_line() -> None:
    """Other lines are skipped; an event's time is its own where it can be used, else that of the recording."""
    lines = [
        (5, "hello"),
        (6, '{"a": 1, "time": 9}'),
        (7, "[1]"),
        (8, '{"time": "10"}'),
        (9, '{"time": 1e3}'),
    ]
    assert list(json_lines(lines)) == [{"a": 1, "time": 9}, {"time": 10}, {"time": 9}]


def test_facts_are_texts_and_numbers() -> None:
    """Facts are what can be shown: nothing empty, no lists, no objects."""
    event = {"a": 1, "b": "-", "c": "", "d": None, "e": [1], "f": {"g": 1}, "h": "text", "i": 0, "j": 1.5}
    assert facts_of(event, "abcdefhijk") == {"a": "1", "h": "text", "i": "0", "j": "1.5"}

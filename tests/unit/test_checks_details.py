"""What stands beside an outcome, client to packets: held, broken or unknown, and what was seen."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from judged_flows import (
    BLUE,
    RED,
    ROUND,
    evidence_of,
    joined,
    judged,
    printing,
    recorded,
    states,
    story,
    the,
    told,
    without,
)
from recorded_flows import (
    DATA,
    HELLO,
    allowed,
    behind_proxy,
    dropped,
    rejected,
    tcp_frame,
)

from harness import capture, lookup
from harness.programs.fivetuple import TCP, UDP, FiveTuple
from harness.scenario import Client, Identity, OtherTap, Packets, Source

SERVED = "spiffe://cluster.local/ns/red/sa/default"


def mirrored(packet: capture.Packet) -> capture.Packet:
    """Return a packet as a mirror by Geneve brings it from agent-0 to tinyproxy."""
    bindings = told(RED).bindings
    ends = [bindings.addresses[place].packed for place in (("agent-0", "nodes"), ("tinyproxy", "internet"))]
    option = bytes.fromhex("0104010100000001")
    data = bytes([2, 0, 0x65, 0x58]) + (71680).to_bytes(3, "big") + b"\0" + option + packet.frame.data
    datagram = struct.pack(">HHHH", 50000, 6081, 8 + len(data), 0) + data
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 0, 0, 64, UDP, 0, *ends)
    ethernet = bytes.fromhex("0200000000020200000000010800")
    frame = packet.frame._replace(data=ethernet + header + datagram, length=34 + len(datagram))
    found = capture.dissect(frame, "tinyproxy.internet")
    assert found is not None
    return found


class TestClient:
    """`client`: exit status and words."""

    def test_held(self) -> None:
        """Status and every text are as expected, on either stream."""
        found = judged("client", Client(exit=56, shows=("reset by peer",)), told(BLUE))
        assert [finding.state for finding in found] == ["held", "held"]

    def test_broken(self) -> None:
        """Another status, or words that are not there, are broken and show what came instead."""
        found = judged("client", Client(exit=0, shows=("200 OK",)), told(BLUE))
        assert [(finding.state, finding.seen) for finding in found] == [
            ("broken", "exit status 56"),
            ("broken", "'curl: (56) Recv failure: Connection reset by peer'"),
        ]

    def test_no_status_is_unknown(self) -> None:
        """A command without an exit status proves nothing about it."""
        evidence = told(RED, lambda one: printing(one, "", code=None))
        assert the(judged("client", Client(exit=0), evidence)) == (
            "unknown",
            "no exit status: the command ran out of time",
        )

    def test_a_long_text_is_cut(self) -> None:
        """Of what the client printed the end is shown, not all."""
        evidence = told(RED, lambda one: printing(one, "x" * 10_000))
        _, seen = the(judged("client", Client(shows=("y",)), evidence))
        assert len(seen) < 310


class TestIdentity:
    """`identity`: what the hop's own log says of this flow."""

    def test_held(self) -> None:
        """The proxy's log names the peer's SPIFFE ID for the flow."""
        assert the(judged("identity", (Identity(at="bigip", is_=SERVED),), told(RED))) == ("held", SERVED)

    def test_broken(self) -> None:
        """Another identity is broken, and shown."""
        state, seen = the(judged("identity", (Identity(at="bigip", is_=SERVED),), told(BLUE)))
        assert (state, seen) == ("broken", "spiffe://cluster.local/ns/blue/sa/default")

    def test_unknown(self) -> None:
        """A hop whose log names no identity for the flow is unknown."""
        assert the(judged("identity", (Identity(at="firewall", is_=SERVED),), told(RED)))[0] == "unknown"


class TestSource:
    """`source`: four witnesses who must agree with the declaration."""

    POOL = Source(at="tinyproxy", is_="snat/red")

    def test_held(self) -> None:
        """Log, conntrack, counter and packets name the pool's address."""
        state, seen = the(judged("source", self.POOL, told(RED)))
        assert state == "held"
        assert seen == "; ".join(
            f"{witness} 10.4.0.211" for witness in ("tinyproxy's log", "conntrack", "counter", "packets")
        )

    def test_node_and_pod(self) -> None:
        """`node` is the address of the pod's node, by four witnesses; `pod` its own, by log and packets."""
        assert the(judged("source", Source(at="firewall", is_="node"), told(ROUND)))[0] == "held"
        assert the(judged("source", Source(at="firewall", is_="pod"), told(ROUND)))[0] == "broken"

    def test_a_cluster_node_by_its_name(self) -> None:
        """What a node masquerades is attested by its conntrack and counter too, and no other node's is it."""
        evidence = told(ROUND)
        host = joined(evidence).host
        (other,) = {node.name for node in evidence.plan.cluster_nodes} - {host}
        state, seen = the(judged("source", Source(at="firewall", is_=host), evidence))
        assert state == "held"
        assert "conntrack 172." in seen
        assert "counter 172." in seen
        assert the(judged("source", Source(at="firewall", is_=other), evidence))[0] == "broken"

    def test_witnesses_that_disagree(self) -> None:
        """One witness who says otherwise is enough for broken, with all of them shown."""
        evidence = told(RED)
        forged = tuple(
            replace(sighting, flow=replace(sighting.flow, src="10.4.0.9"))
            if sighting.at == "tinyproxy" and sighting.event == "request" and sighting.flow
            else sighting
            for sighting in evidence.recorded.sightings
        )
        passport = joined(evidence)
        lied = replace(passport, sightings=tuple(forged))
        (found,) = lookup.find("checks", "source").judge(self.POOL, evidence, lied)
        assert found.state == "broken"
        assert "10.4.0.211, 10.4.0.9" in found.seen

    def test_a_counter_that_did_not_move(self) -> None:
        """A rule whose counter stands still is a witness missing: unknown."""
        still = {"bigip": {"snat_red": (4, 4)}}
        state, seen = the(judged("source", self.POOL, recorded(told(RED), counters=still)))
        assert (state, "counter nothing" in seen) == ("unknown", True)

    @pytest.mark.parametrize(
        "missing", [{"at": "tinyproxy", "witness": "log"}, {"at": "bigip", "witness": "conntrack"}]
    )
    def test_a_witness_missing(self, missing: dict[str, str]) -> None:
        """Whichever witness says nothing, the source is not held."""
        state, _ = the(judged("source", self.POOL, without(told(RED), **missing)))
        assert state == "unknown"

    def test_packets_missing(self) -> None:
        """Without the opening packet on both sides of the translation, that witness is missing."""
        assert the(judged("source", self.POOL, recorded(told(RED), packets=())))[0] == "unknown"

    def test_an_undeclared_address(self) -> None:
        """The declaration counts: an address that all witnesses agree on and no file declares is broken."""
        state, _ = the(judged("source", Source(at="tinyproxy", is_="firewall"), told(RED)))
        assert state == "broken"


class TestUnseenBy:
    """`unseen_by`: hops behind the denial that could have seen the flow and did not."""

    def test_held(self) -> None:
        """Hops that saw nothing and could see are held."""
        found = judged("unseen-by", ("firewall", "tinyproxy"), told(BLUE))
        assert states(found) == [("unseen_by", "firewall", "held"), ("unseen_by", "tinyproxy", "held")]

    def test_broken(self) -> None:
        """A hop that saw the flow is broken, with what its first witness saw."""
        state, seen = the(judged("unseen-by", ("firewall",), told(ROUND)))
        assert (state, seen.partition(" 1")[0]) == ("broken", "tap: opening")

    def test_records_that_were_lost(self) -> None:
        """Nothing seen where records were lost is unknown."""
        evidence = recorded(told(BLUE), lost={"firewall conntrack": "events were dropped"})
        assert the(judged("unseen-by", ("firewall",), evidence))[0] == "unknown"

    def test_a_flow_that_nobody_accounts_for(self) -> None:
        """A proxy that rejects and dials all the same breaks it for every hop that saw the connection."""
        paper = story()
        behind_proxy(paper, 55000)
        paper.lines.clear()
        found = judged("unseen-by", ("firewall",), evidence_of(rejected(paper), BLUE))
        assert found[0].state == "broken"
        assert found[0].seen.endswith("which no record accounts for")

    def test_a_blind_tap(self) -> None:
        """Nothing seen through a blind tap is unknown."""
        evidence = recorded(told(BLUE), blind=("firewall.internet",))
        assert the(judged("unseen-by", ("firewall",), evidence)) == (
            "unknown",
            "nothing, and the tap firewall.internet is blind",
        )
        assert the(judged("unseen-by", ("tinyproxy",), evidence))[0] == "held"


class TestPackets:
    """`packets`: what the flow's packets at a tap are like."""

    def test_encrypted(self) -> None:
        """TLS records from the first byte, both ways, with application data."""
        found = judged("packets", (Packets(at="bigip.nodes", are="encrypted"),), told(RED))
        assert the(found) == ("held", "TLS records only")
        assert the(judged("packets", (Packets(at="bigip.nodes", are="plain"),), told(RED)))[0] == "broken"

    def test_a_side_that_said_nothing(self) -> None:
        """A side that sent no application data is not proven to be encrypted."""
        state, seen = the(judged("packets", (Packets(at="bigip.nodes", are="encrypted"),), told(BLUE)))
        assert (state, seen) == ("broken", "nothing was sent")

    def test_no_packet_is_unknown(self) -> None:
        """Zero packets prove nothing about what they are like."""
        evidence = recorded(told(RED), packets=())
        assert the(judged("packets", (Packets(at="bigip.nodes", are="encrypted"),), evidence)) == (
            "unknown",
            "none",
        )

    def test_bytes_that_were_lost(self) -> None:
        """A stream with a hole is unknown."""
        evidence = told(RED)
        opened = tuple(packet for packet in evidence.recorded.packets if "S" not in packet.flags)
        entry = Packets(at="bigip.nodes", are="encrypted")
        assert the(judged("packets", (entry,), recorded(evidence, packets=opened)))[0] == "unknown"

    def test_a_blind_tap(self) -> None:
        """Whatever else is asked, a blind tap is unknown."""
        entry = Packets(at="bigip.nodes", count=0)
        found = judged("packets", (entry,), recorded(told(RED), blind=("bigip.nodes",)))
        assert the(found) == ("unknown", "the tap is blind")

    @pytest.mark.parametrize(
        ("count", "state"),
        [
            (4, "held"),
            (5, "broken"),
            (0, "broken"),
            (">= 4", "held"),
            ("> 4", "broken"),
            ("<= 4", "held"),
            ("< 4", "broken"),
        ],
    )
    def test_count(self, count: int | str, state: str) -> None:
        """A number is met exactly, a bound as it says."""
        entry = Packets(at="bigip.nodes", count=count)
        assert the(judged("packets", (entry,), told(RED))) == (state, "4 packets")

    def test_where(self) -> None:
        """A filter in tcpdump's language chooses among the flow's packets."""
        for where, number in (("tcp port 3128", 4), ("src host 10.4.0.201", 2), ("udp", 0)):
            entry = Packets(at="bigip.nodes", where=where, count=number)
            assert the(judged("packets", (entry,), told(RED)))[0] == "held", where

    def test_fields_and_layers(self) -> None:
        """Fields by scapy's names must have the value in every packet, layers must be there."""
        held = Packets(at="bigip.dmz", layers=("IP", "TCP"), fields={"IP.ttl": 63, "TCP.dport": 8888})
        assert the(judged("packets", (held,), told(RED))) == ("held", "1 packets so")
        other = Packets(at="bigip.dmz", fields={"IP.ttl": 62})
        assert the(judged("packets", (other,), told(RED))) == ("broken", "IP.ttl 63")
        missing = Packets(at="bigip.dmz", layers=("UDP",))
        assert the(judged("packets", (missing,), told(RED))) == ("broken", "Ether / IP / TCP")

    def test_a_value_may_be_a_name(self) -> None:
        """A field may be said to be the address of a node or pod."""
        held = Packets(at="bigip.dmz", fields={"IP.dst": "node/tinyproxy"})
        assert the(judged("packets", (held,), told(RED))) == ("held", "1 packets so")
        other = Packets(at="bigip.dmz", fields={"IP.dst": "node/firewall"})
        assert the(judged("packets", (other,), told(RED)))[0] == "broken"

    def test_as_many_as_at_another_tap(self) -> None:
        """Both counts are of this flow; none at either is unknown."""

        def compared(where: str | None, there: str | None) -> str:
            other = OtherTap(at="bigip.nodes", where=there)
            entry = Packets(at="bigip.nodes", where=where, as_many_as=other)
            return judged("packets", (entry,), told(RED))[-1].state

        assert compared(None, None) == "held"
        assert compared("src host 10.4.0.201", None) == "broken"
        assert compared("src host 10.4.0.201", "src host 10.4.0.201") == "held"
        assert compared("udp", "udp") == "unknown"

    def test_sent_by(self) -> None:
        """Of the flow's packets, those of one side."""
        for side, where in (("client", "dst host 10.4.0.201"), ("server", "src host 10.4.0.201")):
            entry = {"at": "bigip.nodes", "sent_by": side}
            for filtered, count in (({}, 2), ({"where": where}, 2), ({"where": f"not ({where})"}, 0)):
                wanted = Packets.model_validate({**entry, **filtered, "count": count})
                assert the(judged("packets", (wanted,), told(RED)))[0] == "held", (side, filtered)

    def test_shows(self) -> None:
        """Texts must occur in what the packets carry."""
        entry = Packets(at="bigip.nodes", shows=("no such text",))
        assert the(judged("packets", (entry,), told(RED)))[0] == "broken"

    def test_what_geneve_wraps_is_of_the_flow(self) -> None:
        """Packets of the flow in Geneve, as NSX-T mirrors them, are judged from outside in like those in VXLAN.

        No kernel of ours makes such a tunnel, so these frames are made: an outer Ethernet, IP and UDP header (RFC
        8926), with an option, around frames that were recorded.
        """
        evidence = told(RED)
        mine = [packet for packet in evidence.recorded.packets if packet.tap == "bigip.nodes"]
        copies = [mirrored(packet) for packet in mine]
        evidence = recorded(evidence, packets=tuple(copies))
        entry = Packets.model_validate(
            {
                "at": "tinyproxy.internet",
                "sent_by": "client",
                "count": sum(packet.flow.dport == 3128 for packet in mine),
                "layers": ["Ether", "IP", "UDP", "GENEVE", "Ether", "IP", "TCP"],
                "fields": {
                    "IP.src": "node/agent-0",
                    "IP.dst": "node/tinyproxy",
                    "UDP.dport": 6081,
                    "GENEVE.vni": 71680,
                    "IP.dst#2": "10.4.0.201",
                    "TCP.dport": 3128,
                },
            }
        )
        assert {found.state for found in judged("packets", (entry,), evidence)} == {"held"}
        wrong = entry.model_copy(update={"fields": {"GENEVE.vni": 7}})
        assert judged("packets", (wrong,), evidence)[-1].seen == "GENEVE.vni 71680"

    def test_another_tap_of_the_flow(self) -> None:
        """Only packets of this flow at this tap count, not those that others send there."""
        paper = story()
        stranger = FiveTuple(TCP, "172.19.0.99", 5, "10.4.0.201", 3128)
        paper.sees("bigip.nodes", tcp_frame(stranger, "PA", HELLO + DATA), outgoing=False)
        entry = Packets(at="bigip.nodes", count=4)
        assert the(judged("packets", (entry,), evidence_of(allowed(paper), RED)))[0] == "held"


@pytest.mark.parametrize("name", lookup.names("checks"))
def test_every_check_has_the_form_of_a_plug(name: str) -> None:
    """A check judges each flow by its evidence and passport, or all flows of a load together."""
    check = lookup.find("checks", name)
    if hasattr(check, "judge_all"):
        assert list(check.judge_all.__annotations__) == ["expected", "observed", "return"]
    else:
        assert list(check.judge.__annotations__) == ["expected", "evidence", "passport", "return"]


@pytest.mark.parametrize(
    ("came", "state"),
    [({}, "held"), ({"ttl": 63}, "unknown"), ({"ttl": 65}, "unknown"), ({"ip_id": 8}, "unknown")],
)
def test_the_packet_that_left_is_the_one_that_came(came: dict[str, int], state: str) -> None:
    """Where an address is changed the opening packet goes on one hop younger and with its id, or is another one."""
    evidence = evidence_of(dropped(story(), **came), ROUND)
    assert the(judged("source", Source(at="firewall", is_="node"), evidence))[0] == state


def test_all_flows_of_a_load_have_one_address_or_not() -> None:
    """`sticky`: two addresses are broken, a flow of which the hop logged nothing is unknown, and no claim is silent."""
    check, one = lookup.find("checks", "source"), told(RED)
    whole = joined(one)
    other = replace(
        whole,
        sightings=tuple(
            replace(sighting, flow=replace(sighting.flow, src="10.4.0.9")) if sighting.flow else sighting
            for sighting in whole.sightings
        ),
    )
    nothing = replace(whole, sightings=())
    for passports, state in (
        ((whole, whole), "held"),
        ((whole, other), "broken"),
        ((whole, nothing), "unknown"),
    ):
        sticky = Source(at="tinyproxy", is_="snat/red", sticky=True)
        (found,) = check.judge_all(sticky, [(one, passport) for passport in passports])
        assert found.state == state, found
    assert not list(check.judge_all(Source(at="tinyproxy", is_="snat/red"), [(one, whole), (one, other)]))


def test_what_was_lost_on_the_way_may_hide_the_rest_of_it() -> None:
    """A hop behind one that lost records may have seen a flow that the chain does not lead to: unknown, not broken."""
    evidence = without(told(RED), at="firewall")
    expected = evidence.attempt.item.scenario.expect.allowed
    whole = [finding for finding in judged("allowed", expected, evidence) if finding.check == "path"]
    assert whole[-1].state == "broken"
    lossy = recorded(evidence, lost={"bigip conntrack": "events were dropped"})
    (finding,) = [found for found in judged("allowed", expected, lossy) if found.at == "firewall"]
    assert finding.state == "unknown"
    assert "bigip lost some: events were dropped" in finding.seen

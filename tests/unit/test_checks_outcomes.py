"""The three outcomes: held, broken or unknown, at which hop, and what was seen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from judged_flows import (
    BLUE,
    RED,
    ROUND,
    evidence_of,
    judged,
    lab,
    printing,
    recorded,
    states,
    story,
    told,
    without,
)
from recorded_flows import (
    STEP,
    allowed,
    behind_proxy,
    block_of,
    dropped,
    ends_of,
    icmp_frame,
    rejected,
    tcp_frame,
)

from harness.programs.fivetuple import TCP, FiveTuple
from harness.scenario import Allowed, Denied
from harness.verdict import conclude

if TYPE_CHECKING:
    from harness.drivers.fake import Recording

PATH = ("sidecar", "bigip", "firewall", "tinyproxy", "site.example")


class TestAllowed:
    """`allowed`: the client is served, and each hop of the path saw the flow in order."""

    def test_held(self) -> None:
        """Every hop saw the flow, each that keeps a log logged it, and the client is served."""
        assert states(judged("allowed", Allowed(path=PATH), told(RED))) == [
            *(("path", hop, "held") for hop in PATH),
            ("allowed", "red/client", "held"),
        ]

    def test_a_hop_that_saw_nothing(self) -> None:
        """The first hop without the flow is broken, with the hop before it named; later ones are not judged."""
        found = judged("allowed", Allowed(path=PATH), without(told(RED), at="firewall"))
        broken = next(finding for finding in found if finding.state == "broken")
        assert (broken.at, broken.seen) == ("firewall", "nothing; last seen at site.example")
        assert "tinyproxy" not in {finding.at for finding in found}

    @pytest.mark.parametrize("gap", [{"blind": ("firewall.dmz",)}, {"lost": {"firewall frames": "3 frames"}}])
    def test_a_hop_that_could_not_see(self, gap: dict[str, Any]) -> None:
        """Where a tap was blind or records were lost, nothing seen is unknown."""
        found = judged("allowed", Allowed(path=PATH), recorded(without(told(RED), at="firewall"), **gap))
        assert ("path", "firewall", "unknown") in states(found)

    def test_a_hop_that_logs_nothing(self) -> None:
        """Packets alone do not prove that a proxy served the flow: its log must have it."""
        found = judged("allowed", Allowed(path=PATH), without(told(RED), at="bigip", witness="log"))
        assert ("path", "bigip", "unknown") in states(found)

    def test_the_order_counts(self) -> None:
        """A path in another order than the flow took is broken."""
        found = judged("allowed", Allowed(path=("tinyproxy", "bigip")), told(RED))
        assert states(found)[:2] == [("path", "tinyproxy", "held"), ("path", "bigip", "broken")]

    def test_the_client_is_not_served(self) -> None:
        """A client that fails is broken at who refused it, with the client's last words and the rule."""
        (finding,) = judged("allowed", Allowed(), told(BLUE))
        assert (finding.state, finding.at) == ("broken", "bigip")
        words = "exit status 56, curl: (56) Recv failure: Connection reset by peer"
        assert finding.seen == f"{words}; refused there by 'red-only'"

    def test_a_client_that_nobody_refused(self) -> None:
        """Without a recorded denial it is broken at the last place that saw the flow."""
        (finding,) = judged("allowed", Allowed(), told(RED, lambda one: printing(one, "no", code=7)))
        assert (finding.state, finding.at) == ("broken", "site.example")
        assert finding.seen == "exit status 7, no"

    def test_a_client_that_ran_out_of_time(self) -> None:
        """A command that was ended by the limit was not served."""
        evidence = told(RED, lambda one: printing(one, "", code=None))
        assert judged("allowed", Allowed(), evidence)[0].seen == "ran out of time"

    def test_a_probes_stage_is_told(self) -> None:
        """A probe that failed says at which stage and how."""
        words = "connect: timeout no answer within 0.5 s"
        assert judged("allowed", Allowed(), told(ROUND))[0].seen == f"{words}; refused there by 'default'"

    def test_what_cannot_be_told_apart(self) -> None:
        """A hop behind a proxy at which two flows could be meant is unknown, and says so."""
        paper = story()
        behind_proxy(paper, 52000, 42000, descriptor=9)
        found = judged("allowed", Allowed(path=PATH), evidence_of(allowed(paper), RED))
        assert {finding.at: finding.state for finding in found}["tinyproxy"] == "unknown"


class TestRejected:
    """`rejected`: a recorded denial, and an answer on the wire towards the client."""

    def test_held(self) -> None:
        """The proxy's log has the denial by this policy, and its tap the reset."""
        found = judged("rejected", Denied(at="bigip", by="red-only"), told(BLUE))
        assert states(found) == [("denied", "bigip", "held"), ("rejected", "bigip", "held")]
        assert found[1].seen == "TCP RST"

    def test_another_rule_decided(self) -> None:
        """A denial by another rule than the one expected is broken, and says which."""
        found = judged("rejected", Denied(at="bigip", by="client-certificate"), told(BLUE))
        assert found[0].state == "broken"
        assert found[0].seen.startswith("REJECTED by 'red-only', identity spiffe://cluster.local/ns/blue/")

    def test_it_was_permitted(self) -> None:
        """A decision to permit is broken: one admission is enough."""
        found = judged("rejected", Denied(at="bigip"), told(RED))
        assert found[0].state == "broken"
        assert found[0].seen.startswith("PERMITTED by 'red-only'")

    def test_no_decision_is_recorded(self) -> None:
        """A hop that saw the flow and logged no decision leaves it unknown."""
        found = judged("rejected", Denied(at="bigip"), without(told(BLUE), event="decision"))
        assert (found[0].state, found[0].seen) == (
            "unknown",
            "packets of the flow, and no decision in its log",
        )

    def test_the_flow_never_came(self) -> None:
        """A hop that could see and saw nothing denied nothing: broken, with where the flow was last seen."""
        found = judged("rejected", Denied(at="firewall"), told(BLUE))
        assert (found[0].state, found[0].seen) == ("broken", "nothing of the flow; last seen at bigip")

    def test_the_hop_could_not_see(self) -> None:
        """Where the hop's tap was blind, nothing seen is unknown."""
        found = judged("rejected", Denied(at="firewall"), recorded(told(BLUE), blind=("firewall.dmz",)))
        assert found[0].state == "unknown"

    def test_silence_is_no_rejection(self) -> None:
        """A hop that dropped the flow did not reject it, whatever its log says."""
        found = judged("rejected", Denied(at="firewall", by="default"), told(ROUND))
        assert states(found) == [("denied", "firewall", "held"), ("rejected", "firewall", "broken")]
        assert found[1].seen == "nothing: it kept silent"

    def test_a_blind_tap_proves_no_lack_of_an_answer(self) -> None:
        """Where the hop's tap was blind an answer may have passed: unknown, not broken."""
        evidence = recorded(told(ROUND), blind=("firewall.dmz",))
        assert states(judged("rejected", Denied(at="firewall"), evidence))[1][2] == "unknown"

    @pytest.mark.parametrize(
        ("flags", "payload", "answer"),
        [
            ("R", b"", "TCP RST"),
            ("RA", b"", "TCP RST"),
            ("PA", b"\x15\x03\x03\x00\x02\x02\x28", "a TLS alert"),
            ("FA", b"", "a closed connection (FIN)"),
        ],
    )
    def test_every_sort_of_answer(self, flags: str, payload: bytes, answer: str) -> None:
        """RST, TLS alert and FIN that leave the hop towards the client are answers."""
        found = judged("rejected", Denied(at="bigip"), evidence_of(rejected(story(), flags, payload), BLUE))
        assert (found[1].state, found[1].seen) == ("held", answer)

    def test_an_icmp_error_is_an_answer(self) -> None:
        """An ICMP error about the flow that the hop sent towards the client is an answer."""
        paper = story()
        found = judged("rejected", Denied(at="firewall"), evidence_of(with_icmp(dropped(paper)), ROUND))
        assert found[1].seen == "an ICMP error"

    def test_an_answer_from_elsewhere_does_not_count(self) -> None:
        """What another hop sends, or what passes in the other direction, is not this hop's answer."""
        evidence = told(BLUE)
        packets = tuple(packet for packet in evidence.recorded.packets if not packet.tap.startswith("bigip."))
        found = judged("rejected", Denied(at="bigip"), recorded(evidence, packets=packets))
        assert found[1].state == "broken"

    def test_anywhere(self) -> None:
        """`at: any` is held when the client was not served, and broken when it was."""
        assert judged("rejected", Denied(at="any"), told(BLUE))[0].state == "held"
        assert judged("rejected", Denied(at="any"), told(RED))[0].state == "broken"

    def test_anywhere_needs_the_flow(self) -> None:
        """A client that failed without any trace of its flow proves no denial: unknown."""
        evidence = recorded(told(BLUE), sightings=())
        assert judged("rejected", Denied(at="any"), evidence)[0].state == "unknown"


def with_icmp(recording: Recording) -> Recording:
    """Return the dropped flow with an ICMP error of the firewall's."""
    ends = ends_of(*lab(), "blue/client")
    masked = FiveTuple(TCP, ends.host, 41000, ends.tinyproxy, 8888)
    error = icmp_frame("10.4.0.3", tcp_frame(masked, "S"))
    block = block_of([(recording.ended, 2, True, error)])
    blocks = [*recording.raw.frames["firewall"], block]
    raw = replace(recording.raw, frames={**recording.raw.frames, "firewall": blocks})
    return replace(recording, raw=raw, ended=recording.ended + STEP)


class TestDropped:
    """`dropped`: a recorded denial, and silence on the wire."""

    def test_held(self) -> None:
        """The firewall's log has the drop by its default rule, and nothing went back."""
        found = judged("dropped", Denied(at="firewall", by="default"), told(ROUND))
        assert states(found) == [("denied", "firewall", "held"), ("dropped", "firewall", "held")]

    def test_of_one_packet_the_last_decision_counts(self) -> None:
        """A hop that asks the sender's policies and then the receiver's lets nothing pass that the second denies."""
        evidence = told(ROUND)
        denial = next(one for one in evidence.recorded.sightings if one.event == "drop")
        last = replace(denial, facts={**denial.facts, "packet": "7/5"})
        for packet, state in (("7/5", "held"), ("8/5", "broken")):
            first = replace(denial, event="allow", facts={"rule": "open", "packet": packet})
            left = [one for one in evidence.recorded.sightings if one is not denial]
            found = judged(
                "dropped", Denied(at="firewall"), recorded(evidence, sightings=(*left, first, last))
            )
            assert conclude([one for one in found if one.check == "denied"]).state == state

    def test_an_answer_is_no_drop(self) -> None:
        """A hop that answered did not drop."""
        found = judged("dropped", Denied(at="bigip", by="red-only"), told(BLUE))
        assert (found[1].state, found[1].seen) == ("broken", "TCP RST")

    def test_a_time_out_alone_proves_nothing(self) -> None:
        """Without the hop's record of its decision a silent flow is unknown, not dropped."""
        found = judged("dropped", Denied(at="firewall"), without(told(ROUND), witness="nflog"))
        assert found[0].state == "unknown"

    def test_a_blind_tap_proves_no_silence(self) -> None:
        """Where the hop's tap was blind an answer could have passed: silence is unknown."""
        found = judged(
            "dropped", Denied(at="firewall", by="default"), recorded(told(ROUND), blind=("firewall.dmz",))
        )
        assert states(found)[1] == ("dropped", "firewall", "unknown")

    def test_anywhere(self) -> None:
        """`at: any` speaks of no hop's silence."""
        assert states(judged("dropped", Denied(at="any"), told(ROUND))) == [("denied", "any", "held")]

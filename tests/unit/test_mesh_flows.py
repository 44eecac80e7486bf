"""Flows between pods of the mesh, told on paper: by what a server was reached, who refused it, and who saw nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from judged_flows import evidence_of, joined, lab, recorded, story, the
from recorded_flows import DATA, HELLO, STEP, Story, tcp_frame

from harness import lookup
from harness.drivers.fake import Recording
from harness.evidence import CommandResult, Evidence
from harness.expect_model import Denied, Identity, MtlsMode, Packets
from harness.programs.fivetuple import TCP, FiveTuple
from harness.programs.probe import Outcome

if TYPE_CHECKING:
    from harness.evidence import Finding

CLIENT, SERVER = "blue/client", "red/shop-v1"
SIDECAR, APP = f"{SERVER} sidecar", f"{SERVER} app"
NAME = "spiffe://cluster.local/ns/blue/sa/default"
ASKS, ANSWERS = b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"
WRONG_VERSION = "TLS_error:|268435703:SSL_routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end"
NOT_VERIFIED = "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end"

SCENARIOS = """\
lab: lab.yaml
scenarios:
  - name: the shop is reached
    from: blue/client
    run: curl http://shop.red:9080
    expect: {allowed: {path: [sidecar, red/shop-v1 sidecar, red/shop-v1 app]}}
"""


def flows() -> tuple[FiveTuple, FiveTuple, FiveTuple]:
    """Return what the client asked for, what its sidecar opened, and what the server's sidecar opened to its app."""
    _, bindings = lab()
    client, server = str(bindings.pods[CLIENT]), str(bindings.pods[SERVER])
    service = str(bindings.cluster_ips["red/shop"])
    return (
        FiveTuple(TCP, client, 40000, service, 9080),
        FiveTuple(TCP, client, 40001, server, 9080),
        FiveTuple(TCP, server, 40002, server, 9080),
    )


def line(flow: FiveTuple, onward: FiveTuple | None, **fields: Any) -> dict[str, Any]:
    """Return a line of a sidecar's log."""
    told: dict[str, Any] = {"event": "connection", "flags": "-", "peer": f"{flow.src}:{flow.sport}"}
    told["local"] = f"{flow.dst}:{flow.dport}"
    told["upstream_local"] = f"{onward.src}:{onward.sport}" if onward else None
    told["upstream_remote"] = f"{onward.dst}:{onward.dport}" if onward else None
    return told | fields


def way(sent: bytes = HELLO + DATA, answered: bytes = HELLO + DATA, *, logs: dict[str, Any]) -> Story:
    """Tell a flow up to the server's sidecar, with what went each way there; `logs` is what that says of it."""
    told = story()
    asks, arrives, _ = flows()
    told.tracks(CLIENT, asks, replace(asks, dst="127.0.0.1", dport=15001))
    told.tracks(CLIENT, arrives)
    told.sees(f"{CLIENT}.eth0", tcp_frame(arrives, "S"), outgoing=True)
    told.sees(f"{SERVER}.eth0", tcp_frame(arrives, "S"), outgoing=False)
    told.tracks(SERVER, arrives, replace(arrives, dport=15006))
    told.sees(f"{SERVER}.eth0", tcp_frame(arrives.inverse(), "SA", seq=100, ack=2), outgoing=True)
    if sent:
        told.sees(f"{SERVER}.eth0", tcp_frame(arrives, "PA", sent, seq=2, ack=101), outgoing=False)
    if answered:
        back = tcp_frame(arrives.inverse(), "PA", answered, seq=101, ack=2 + len(sent))
        told.sees(f"{SERVER}.eth0", back, outgoing=True)
    told.says(SERVER, "sidecar", line(arrives, None) | logs)
    return told


def on_to_the_app(told: Story) -> Story:
    """Have the server's sidecar open a connection to its app."""
    _, _, within = flows()
    told.tracks(SERVER, within)
    told.sees(f"{SERVER}.lo", tcp_frame(within, "S"), outgoing=True)
    return told


def served(logs: dict[str, Any], sent: bytes = HELLO + DATA, answered: bytes = HELLO + DATA) -> Evidence:
    """Return the evidence of a flow that was served."""
    _, arrives, within = flows()
    return evidence(on_to_the_app(way(sent, answered, logs=line(arrives, within) | logs)))


def evidence(told: Story, **client: Any) -> Evidence:
    """Return a told flow as evidence; `client` is what its own sidecar logs beside or instead of the usual."""
    asks, arrives, _ = flows()
    told.says(
        CLIENT,
        "sidecar",
        line(asks, arrives) | {"listener": "outbound red/shop", "time": str(told.begun + 1)} | client,
    )
    command = CommandResult(("curl",), 0, "", "")
    recording = Recording(CLIENT, told.raw(), told.begun, told.time + STEP, command=command)
    return evidence_of(recording, "the shop is reached", SCENARIOS)


def mode(told: Evidence, expected: str = "mutual") -> tuple[str, str]:
    """Return what the check finds about the way that the server was reached."""
    check = lookup.find("checks", "mtls-mode")
    return the(list(check.judge(MtlsMode(at=SERVER, is_=expected), told, joined(told))))


def denied(at: str, by: str, told: Evidence) -> list[Finding]:
    """Return what the check finds about a refusal."""
    return list(lookup.find("checks", "rejected").judge(Denied(at=at, by=by), told, joined(told)))


def unseen(told: Evidence) -> str:
    """Return whether the app saw nothing."""
    return the(list(lookup.find("checks", "unseen-by").judge((APP,), told, joined(told))))[0]


MUTUAL = {"listener": "inbound tls", "client_identity": NAME}
PLAIN = {"listener": "inbound plain"}
REFUSED = {"listener": "inbound", "details": "filter_chain_not_found", "flags": "NR"}
IMPOSTOR = {"listener": "inbound tls", "client_identity": NAME, "client_failure": NOT_VERIFIED}


def test_both_sidecars_and_the_app_are_hops_of_their_own() -> None:
    """The chain of 5-tuples leads through both; the app is where the server's sidecar opened a connection to."""
    told = served(MUTUAL)
    passport = joined(told)
    findings = list(
        lookup.find("checks", "allowed").judge(told.attempt.item.scenario.expect.allowed, told, passport)
    )
    assert [(found.at, found.state) for found in findings[:2]] == [("sidecar", "held"), (SIDECAR, "held")]
    assert {sighting.witness for sighting in passport.at(APP)} == {"conntrack", "tap"}
    assert all(sighting.flow == flows()[2] for sighting in passport.at(APP))
    assert told.place_of(APP) == told.place_of(SIDECAR) == SERVER
    assert told.place_of("sidecar") == CLIENT


def test_both_identities_are_judged() -> None:
    """Each sidecar's log says whom it verified: the client's the server, the server's the client."""
    _, arrives, within = flows()
    told = evidence(
        on_to_the_app(way(logs=line(arrives, within) | MUTUAL)),
        server_identity="spiffe://cluster.local/ns/red/sa/default",
    )
    wanted = (
        Identity(at="sidecar", is_="spiffe://cluster.local/ns/red/sa/default"),
        Identity(at=SIDECAR, is_=NAME),
        Identity(at=SIDECAR, is_="spiffe://cluster.local/ns/blue/sa/other"),
    )
    found = list(lookup.find("checks", "identity").judge(wanted, told, joined(told)))
    assert [finding.state for finding in found] == ["held", "held", "broken"]


def test_mutual() -> None:
    """TLS records both ways, and a client that the server's sidecar verified."""
    state, seen = mode(served(MUTUAL))
    assert (state, seen) == ("held", f"TLS records only; the client's certificate names {NAME}")
    assert mode(served(MUTUAL), "plain")[0] == "broken"


def test_tls_without_a_verified_client_is_not_mutual() -> None:
    """One-sided TLS is neither mutual nor plain."""
    told = served({"listener": "inbound tls"})
    assert mode(told)[0] == mode(told, "plain")[0] == "broken"
    assert "no verified name" in mode(told)[1]


def test_plain() -> None:
    """No TLS either way, whatever the sidecar says of itself."""
    told = served(PLAIN, ASKS, ANSWERS)
    assert mode(told, "plain")[0] == "held"
    assert mode(told)[0] == "broken"


def test_the_wire_outweighs_the_log() -> None:
    """A log that names an identity does not make plain text mutual."""
    assert mode(served(MUTUAL, ASKS, ANSWERS))[0] == "broken"


def test_tls_one_way_only_is_neither() -> None:
    """A handshake that is answered in plain text is no TLS connection, nor plain text."""
    told = served({"listener": "inbound passthrough"}, HELLO + DATA, ANSWERS)
    assert mode(told)[0] == mode(told, "plain")[0] == "broken"
    assert "TLS one way only" in mode(told)[1]


def test_a_handshake_that_came_to_nothing_is_neither() -> None:
    """TLS records without application data are no way of reaching anything, and no plain text."""
    for answered in (b"", HELLO):
        told = served({"listener": "inbound passthrough"}, HELLO, answered)
        assert mode(told)[0] == mode(told, "plain")[0] == "broken"
        assert "came to nothing" in mode(told)[1]


def test_no_byte_is_unknown() -> None:
    """A connection on which nobody said anything was neither."""
    assert mode(evidence(way(b"", b"", logs=REFUSED))) == ("unknown", f"no byte of the flow at {SERVER}.eth0")


def test_a_blind_tap_or_lost_packets_are_unknown() -> None:
    """What may have been there all the same is not judged."""
    told = served(MUTUAL)
    assert mode(recorded(told, blind=(f"{SERVER}.eth0",)))[0] == "unknown"
    gone = tuple(packet for packet in told.recorded.packets if packet.payload[:1] != HELLO[:1])
    holes = tuple(
        replace(packet, seq=packet.seq + 5) if packet.payload else packet for packet in told.recorded.packets
    )
    assert mode(recorded(told, packets=gone))[0] == "unknown"
    assert mode(recorded(told, packets=holes))[0] == "unknown"


def test_loopback_is_as_blind_as_the_pods_ring() -> None:
    """No packet on loopback is no proof where the pod's packets were not recorded."""
    told = recorded(evidence(way(logs=REFUSED)), blind=(f"{SERVER}.eth0",))
    none = Packets(at=f"{SERVER}.lo", count=0)
    judge = lookup.find("checks", "packets").judge
    assert the(list(judge((none,), told, joined(told))))[0] == "unknown"
    whole = recorded(told, blind=())
    assert the(list(judge((none,), whole, joined(whole))))[0] == "held"


@pytest.mark.parametrize(("logs", "by"), [(REFUSED, "mutual-tls"), (IMPOSTOR, "client-certificate")])
def test_the_servers_sidecar_refuses(logs: dict[str, Any], by: str) -> None:
    """It logs why, its answer goes out of the server's interface, and the app sees nothing."""
    told = way(answered=b"", logs=logs)
    told.sees(f"{SERVER}.eth0", tcp_frame(flows()[1].inverse(), "FA", seq=101), outgoing=True)
    found = evidence(told)
    assert [finding.state for finding in denied(SIDECAR, by, found)] == ["held", "held"]
    assert (
        denied(SIDECAR, "mutual-tls" if by != "mutual-tls" else "client-certificate", found)[0].state
        == "broken"
    )
    assert unseen(found) == "held"
    identities = list(
        lookup.find("checks", "identity").judge((Identity(at=SIDECAR, is_=NAME),), found, joined(found))
    )
    assert identities[0].state == "unknown"


def test_what_the_app_is_told_is_no_answer_to_the_client() -> None:
    """A reset between the server's sidecar and its app does not count as one towards the client."""
    told = on_to_the_app(way(answered=b"", logs=line(*flows()[1:]) | REFUSED))
    told.sees(f"{SERVER}.lo", tcp_frame(flows()[2].inverse(), "R", seq=101), outgoing=True)
    assert [finding.state for finding in denied(SIDECAR, "mutual-tls", evidence(told))] == ["held", "broken"]


def test_a_refused_client_that_the_app_sees_is_noticed() -> None:
    """A connection to the app that the sidecar logs, and one that nobody logs, both count against the denial."""
    logged = on_to_the_app(way(logs=line(*flows()[1:]) | REFUSED))
    assert unseen(evidence(logged)) == "broken"
    assert unseen(evidence(on_to_the_app(way(logs=REFUSED)))) == "broken"


def failed_probe(told: Story) -> Evidence:
    """Return the evidence of a probe whose sidecar failed in the handshake with the server's side."""
    asks, _, _ = flows()
    failed = {"upstream_local": None, "upstream_remote": None, "failure": WRONG_VERSION, "flags": "UF,URX"}
    found = evidence(told, **failed)
    ends = f"{asks.src}:{asks.sport}", f"{asks.dst}:{asks.dport}"
    begun, ended = found.attempt.started, found.attempt.ended
    outcome = Outcome(0, "reset", "request", "", *ends, None, None, (), b"", begun, ended)
    return replace(found, attempt=replace(found.attempt, command=None, outcome=outcome))


def test_a_handshake_that_failed_is_followed_to_the_server() -> None:
    """Envoy's log names no port of such a connection; the one that its pod opened, and no log has, is it."""
    told = way(sent=HELLO, answered=ANSWERS, logs=line(*flows()[1:]) | {"listener": "inbound passthrough"})
    found = failed_probe(on_to_the_app(told))
    assert flows()[1] in joined(found).flows
    assert joined(found).at(APP)
    assert denied("sidecar", "server-tls", found)[0].state == "held"


def test_of_two_connections_none_is_guessed() -> None:
    """Where two could be meant, the way onward is not made up."""
    told = way(sent=HELLO, answered=ANSWERS, logs=line(*flows()[1:]) | {"listener": "inbound passthrough"})
    other = replace(flows()[1], sport=40009)
    told.sees(f"{CLIENT}.eth0", tcp_frame(other, "S"), outgoing=True)
    assert joined(failed_probe(told)).flows.isdisjoint({flows()[1], other})

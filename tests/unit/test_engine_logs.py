"""Each engine's log: real lines, taken from labs that ran, and lines that no program should print."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_nodes_logs import EVENTS, HOSTILE, KEYS, VALUES, sound

from harness import lookup
from harness.evidence import Sighting
from harness.programs.fivetuple import TCP, FiveTuple
from harness.proxy import read_events

ENVOY_CAME = {
    "type": "TcpConnectionEnd",
    "conn": 1,
    "virtual_server": "bookinfo-proxy",
    "policy": "bookinfo-only",
    "peer": "172.19.0.2:50728",
    "local": "10.4.0.201:3128",
    "decided": "permit 0",
    "tls_failure": None,
    "details": None,
    "flags": "-",
    "bytes_in": 830,
    "bytes_out": 2084,
}
ENVOY_SERVED = {
    "type": "inner TcpConnectionEnd",
    "conn": "1",
    "virtual_server": "bookinfo-proxy",
    "policy": "bookinfo-only",
    "peer": "172.19.0.2:50728",
    "local": "10.4.0.201:3128",
    "names": "spiffe://cluster.local/ns/bookinfo/sa/default",
    "decision": "permit 0",
    "upstream_local": "100.64.0.1:60620",
    "upstream_remote": "198.51.100.3:8888",
    "upstream_failure": None,
    "details": None,
    "flags": "-",
    "bytes_in": 830,
    "bytes_out": 2084,
}
ENVOY_DENIED = ENVOY_SERVED | {
    "conn": "2",
    "names": "spiffe://cluster.local/ns/sm-apigw-a/sa/default",
    "decision": "reject no match",
    "upstream_local": "envoy://internal_client_address/",
    "upstream_remote": "envoy://-rejected/",
}
ENVOY_FOREIGN = ENVOY_CAME | {
    "conn": 3,
    "decided": None,
    "tls_failure": "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end",
}
HAPROXY_DECISION = (
    '{"event":"decision","conn":"1795275557.0","virtual_server":"bookinfo-proxy","peer":"172.19.0.4:45704",'
    '"local":"10.4.0.201:3128","policy":"bookinfo-only","rule":"no\\u0020match","verdict":"REJECTED",'
    '"identity":"spiffe://cluster.local/ns/sm-apigw-a/sa/default",'
    '"identities":["spiffe://cluster.local/ns/sm-apigw-a/sa/default"]}'
)
HAPROXY_REJECTED = (
    '{"event":"close","conn":"1795275557.0","virtual_server":"bookinfo-proxy","peer":"172.19.0.4:45704",'
    '"local":"10.4.0.201:3128","upstream_local":"-:-","upstream_remote":"-:-","verdict":"REJECTED",'
    '"bytes_in":126,"bytes_out":0,"reason":"PR"}'
)
HAPROXY_SERVED = (
    '{"event":"close","conn":"1795275558.1","virtual_server":"bookinfo-proxy","peer":"172.19.0.2:50728",'
    '"local":"10.4.0.201:3128","upstream_local":"100.64.0.1:60620","upstream_remote":"198.51.100.3:8888",'
    '"verdict":"PERMITTED","bytes_in":830,"bytes_out":2084,"reason":"--"}'
)
HAPROXY_FAILED = (
    '{"event":"tls-failed","conn":"1795275558.2","virtual_server":"bookinfo-proxy","peer":"172.19.0.2:59580",'
    '"local":"10.4.0.201:3128","reason":"error:0A000086:SSL routines::certificate verify failed",'
    '"otherwise":"SSL client CA chain cannot be verified"}'
)
SERVED = FiveTuple(TCP, "172.19.0.2", 50728, "10.4.0.201", 3128)
ONWARD = FiveTuple(TCP, "100.64.0.1", 60620, "198.51.100.3", 8888)


def read(engine: str, *lines: str | dict[str, Any]) -> list[Sighting]:
    """Return what an engine's reader makes of lines, recorded one nanosecond after the other."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    plug = lookup.find("engines", engine)
    return list(plug.read_log("bigip", "egress-proxy", list(enumerate(texts, start=1))))


def test_envoys_inner_line_tells_all() -> None:
    """Envoy writes at a connection's end: decision, way onward and end come of that line, at both 5-tuples."""
    found = read("envoy", ENVOY_SERVED)
    assert [sighting.event for sighting in found] == ["decision", "upstream", "close"]
    assert {sighting.flow for sighting in found} == {SERVED}
    assert [sighting.onward for sighting in found] == [None, ONWARD, ONWARD]
    assert found[0].facts["verdict"] == "PERMITTED"
    assert found[0].facts["by"] == "bookinfo-only"
    assert found[0].facts["identity"] == ENVOY_SERVED["names"]
    assert {sighting.facts["conn"] for sighting in found} == {"1"}


def test_envoys_connection_that_began_is_not_over() -> None:
    """The line at accept is a connection whose end is still to come; the outer end says no more than the inner."""
    (found,) = read("envoy", ENVOY_CAME | {"type": "TcpConnectionStart", "decided": None}, ENVOY_CAME)
    assert (found.event, found.flow, found.facts["conn"]) == ("accept", SERVED, "1")


def test_envoy_rejects() -> None:
    """A denied connection has the identity that was denied, and no way onward: what stays within Envoy is none."""
    decision, close = read("envoy", ENVOY_DENIED)
    assert (decision.facts["verdict"], decision.facts["identity"]) == ("REJECTED", ENVOY_DENIED["names"])
    assert close.event == "close"
    assert close.onward is None


def test_envoys_unverified_name_is_no_identity() -> None:
    """A handshake that failed is refused by the certificate check, and nobody's identity is told."""
    failed, close = read("envoy", ENVOY_FOREIGN)
    assert (failed.event, failed.facts["by"]) == ("tls-failed", "client-certificate")
    assert "CERTIFICATE_VERIFY_FAILED" in failed.facts["reason"]
    assert not any("identity" in sighting.facts for sighting in (failed, close))


def test_who_leaves_envoy_before_the_handshake_is_done_was_not_denied() -> None:
    """Undecided at its end, and no failure either: the client was gone, and Envoy has refused nobody."""
    ended, close = read("envoy", ENVOY_FOREIGN | {"tls_failure": None})
    assert ended.event == "tls-ended"
    assert "by" not in ended.facts
    assert ended.facts["reason"] == "ended before the handshake was done"
    assert close.event == "close"


@pytest.mark.parametrize(
    ("reason", "event"),
    [
        ("CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate", "tls-failed"),
        ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "tls-failed"),
        ("WRONG_VERSION_NUMBER", "tls-failed"),
        ("no handshake within 10 s", "tls-failed"),
        ("UNEXPECTED_EOF_WHILE_READING", "tls-ended"),
        ("ECONNRESET", "tls-ended"),
        ("", "tls-ended"),
        ("TLSV1_ALERT_UNKNOWN_CA", "tls-ended"),
        ("error:0A000418:SSL routines::tlsv1 alert unknown ca", "tls-ended"),
        ("TLS_error:|268436504:SSL_routines:OPENSSL_internal:SSLV3_ALERT_BAD_CERTIFICATE:x", "tls-ended"),
    ],
)
def test_only_what_the_proxy_refused_is_put_down_to_it(reason: str, event: str) -> None:
    """A client that closes, resets or sends an alert of its own ends the handshake itself: that is no denial."""
    said = {"event": "tls-failed", "conn": 1, "peer": "10.0.0.1:1", "local": "10.0.0.2:2", "reason": reason}
    (found,) = read_events("bigip", [said | {"time": 1}])
    assert found.event == event
    assert found.facts.get("by") == ("client-certificate" if event == "tls-failed" else None)


def test_envoys_two_names_are_none() -> None:
    """Several URI names, which Envoy joins with commas, are no identity."""
    decision, _ = read("envoy", ENVOY_DENIED | {"names": "spiffe://a/b,spiffe://c/d"})
    assert "identity" not in decision.facts


def test_haproxy_decides_and_ends() -> None:
    """The decision is a line of its own; the end has no way onward for the rejected."""
    decision, close = read("haproxy", HAPROXY_DECISION, HAPROXY_REJECTED)
    assert (decision.facts["verdict"], decision.facts["by"]) == ("REJECTED", "bookinfo-only")
    assert decision.facts["identity"] == "spiffe://cluster.local/ns/sm-apigw-a/sa/default"
    assert (close.event, close.onward) == ("close", None)
    assert decision.flow == close.flow is not None


def test_haproxys_end_tells_the_way_onward() -> None:
    """A permitted connection's end names both 5-tuples."""
    upstream, close = read("haproxy", HAPROXY_SERVED)
    assert (upstream.event, upstream.flow, upstream.onward) == ("upstream", SERVED, ONWARD)
    assert (close.event, close.flow, close.onward) == ("close", SERVED, ONWARD)


def test_haproxys_failed_handshake_is_also_its_end() -> None:
    """HAProxy writes one line for a handshake that failed; no other will come."""
    failed, close = read("haproxy", HAPROXY_FAILED)
    assert (failed.event, failed.facts["by"]) == ("tls-failed", "client-certificate")
    assert "certificate verify failed" in failed.facts["reason"]
    assert close.event == "close"


def test_nothing_is_read_of_an_external_proxy() -> None:
    """No program of the lab speaks for it."""
    assert read("external", HAPROXY_SERVED) == []


GOOD: dict[str, list[str | dict[str, Any]]] = {
    "envoy": [ENVOY_CAME, ENVOY_SERVED, ENVOY_DENIED, ENVOY_FOREIGN],
    "haproxy": [HAPROXY_DECISION, HAPROXY_REJECTED, HAPROXY_SERVED, HAPROXY_FAILED],
}
ENVOYS_KEYS = st.sampled_from(
    ["type", "names", "decided", "decision", "rule", "tls_failure", "details", "otherwise", "verdict"]
)
TYPES = st.sampled_from(["TcpConnectionStart", "TcpConnectionEnd", "inner TcpConnectionEnd"])


@pytest.mark.parametrize("engine", GOOD)
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_lines_are_survived(engine: str, number: int) -> None:
    """Garbage between good lines changes nothing of what the good ones say."""
    good = read(engine, *GOOD[engine])
    found = read(engine, HOSTILE[number], *GOOD[engine], HOSTILE[number])
    sound(found)
    seen = [(sighting.event, sighting.flow, sighting.onward) for sighting in found]
    assert all((sighting.event, sighting.flow, sighting.onward) in seen for sighting in good)


@given(fields=st.dictionaries(KEYS | ENVOYS_KEYS, VALUES), event=EVENTS, kind=TYPES)
@pytest.mark.parametrize("engine", GOOD)
def test_any_json_is_survived(engine: str, fields: dict[str, Any], event: str, kind: str) -> None:
    """No line with any fields of any type makes a reader raise, or yield what others could not use."""
    sound(read(engine, {"conn": 1, **fields, "event": event, "type": kind}))
    sound(read(engine, fields))

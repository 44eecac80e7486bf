"""How each kind's log is read: real lines, taken from a lab that ran, and lines that no program should print."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import lookup
from harness.evidence import Sighting
from harness.plan import Node
from harness.programs.fivetuple import TCP, FiveTuple

RECORDED = 1_795_273_667_000_000_000
READERS = {
    "egress-proxy": "egress-proxy",
    "sidecar": "sidecar",
    "forward-proxy": "tinyproxy",
    "website": "website",
}
"""Kind to the name of its program."""

ACCEPT = (
    '{"time": 1795273667803735075, "event": "accept", "conn": 2, "virtual_server": "bookinfo-proxy", '
    '"peer": "172.19.0.4:41622", "local": "10.4.0.201:3128"}'
)
PERMITTED = (
    '{"time": 1795273667620968785, "event": "decision", "conn": 1, "virtual_server": "bookinfo-proxy", '
    '"peer": "172.19.0.2:49898", "local": "10.4.0.201:3128", "policy": "bookinfo-only", "rule": 0, '
    '"verdict": "PERMITTED", "identity": "spiffe://cluster.local/ns/bookinfo/sa/default", '
    '"identities": ["spiffe://cluster.local/ns/bookinfo/sa/default"]}'
)
UPSTREAM = (
    '{"time": 1795273667621980483, "event": "upstream", "conn": 1, "local": "100.64.0.1:60647", '
    '"remote": "198.51.100.3:8888"}'
)
CLOSE = (
    '{"time": 1795273667690473083, "event": "close", "conn": 1, "virtual_server": "bookinfo-proxy", '
    '"peer": "172.19.0.2:49898", "local": "10.4.0.201:3128", "upstream_local": "100.64.0.1:60647", '
    '"upstream_remote": "198.51.100.3:8888", "verdict": "PERMITTED", "bytes_in": 830, "bytes_out": 2084, '
    '"reason": "both sides ended"}'
)
REJECTED_CLOSE = (
    '{"time": 1795273667811304424, "event": "close", "conn": 2, "virtual_server": "bookinfo-proxy", '
    '"peer": "172.19.0.4:41622", "local": "10.4.0.201:3128", "upstream_local": null, "upstream_remote": null, '
    '"verdict": "REJECTED", "bytes_in": 126, "bytes_out": 0, "reason": "rejected"}'
)
TLS_FAILED = (
    '{"time": 1795273668354754425, "event": "tls-failed", "conn": 10, "virtual_server": "bookinfo-proxy", '
    '"peer": "172.19.0.4:41899", "local": "10.4.0.201:3128", "reason": "HTTPS_PROXY_REQUEST", "alert": null}'
)
ENVOY_SERVED = (
    '{"bytes_in":830,"bytes_out":2084,"client_identity":null,"event":"connection","failure":null,"flags":"-",'
    '"listener":"outbound bookinfo/bigip-proxy-svc","local":"10.235.45.250:3128","milliseconds":72,'
    '"peer":"10.53.0.4:33236","server_identity":"spiffe://cluster.local/ns/bookinfo/sa/default",'
    '"time":"1795273667616775000","tls":"TLSv1.3","upstream_cluster":"bookinfo/bigip-proxy-svc",'
    '"upstream_local":"10.53.0.4:49898","upstream_remote":"10.4.0.201:3128"}'
)
ENVOY_REFUSED = (
    '{"bytes_in":0,"bytes_out":0,"client_identity":null,"event":"connection","failure":"TLS_error:|268435581:'
    "SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_SAN_matcher,_certificate_SANs"
    '_are_[spiffe://cluster.local/ns/bookinfo/sa/default]:TLS_error_end","flags":"UF,URX",'
    '"listener":"outbound bookinfo/bigip-dns-san-svc","local":"10.235.0.2:3128","milliseconds":1,'
    '"peer":"10.53.0.4:47364","server_identity":null,"time":"1795273669241902000","tls":null,'
    '"upstream_cluster":"bookinfo/bigip-dns-san-svc","upstream_local":null,"upstream_remote":null}'
)
ENVOY_WARNS = (
    "[2026-11-21 15:07:45.939][43][warning][main] [source/server/server.cc:1059] There is no configured limit "
    "to the number of allowed active downstream connections."
)
REQUEST = (
    '{"time": 1795273667631179836, "event": "request", "peer": "198.51.100.3:41078", "local": '
    '"198.51.100.4:443", "method": "HEAD", "path": "/", "host": "www.f5.com", "status": 200, "tls": true, '
    '"user_agent": "curl/7.88.1", "token": null}'
)
TINYPROXY = (
    "INFO      Nov 21 15:07:45.259 [45]: Starting main loop. Accepting connections.",
    "CONNECT   Nov 21 15:07:48.243 [45]: Connect (file descriptor 7): 10.4.0.211",
    "CONNECT   Nov 21 15:07:48.246 [45]: Request (file descriptor 7): CONNECT www.f5.com:443 HTTP/1.1",
    'CONNECT   Nov 21 15:07:48.247 [45]: Established connection to host "www.f5.com" using file descriptor 8.',
    "INFO      Nov 21 15:07:48.258 [45]: Closed connection between local client (fd:7) and remote client (fd:8)",
)


def read(kind: str, *lines: str) -> list[Sighting]:
    """Return what a kind's reader makes of lines, recorded one nanosecond after the other."""
    node = Node("node", (kind,), "outside")
    recorded = [(RECORDED + number, line) for number, line in enumerate(lines)]
    return list(lookup.find("nodes", kind).read_log(node, READERS[kind], recorded))


def test_proxy_accepts() -> None:
    """An accepted connection is sighted with its 5-tuple, at the time that the proxy wrote."""
    (found,) = read("egress-proxy", ACCEPT)
    assert (found.at, found.witness, found.event) == ("node", "log", "accept")
    assert found.time == 1795273667803735075
    assert found.flow == FiveTuple(TCP, "172.19.0.4", 41622, "10.4.0.201", 3128)
    assert found.onward is None


def test_proxy_decides() -> None:
    """A decision carries verdict, identity and the policy that decided, of the flow that it is about."""
    (found,) = read("egress-proxy", PERMITTED)
    assert found.event == "decision"
    assert found.facts["verdict"] == "PERMITTED"
    assert found.facts["by"] == "bookinfo-only"
    assert found.facts["identity"] == "spiffe://cluster.local/ns/bookinfo/sa/default"


def test_proxys_upstream_belongs_to_its_connection() -> None:
    """An event that names no peer is joined to the accepted flow by the connection's number."""
    found = read("egress-proxy", PERMITTED, UPSTREAM, CLOSE)
    accepted = FiveTuple(TCP, "172.19.0.2", 49898, "10.4.0.201", 3128)
    onward = FiveTuple(TCP, "100.64.0.1", 60647, "198.51.100.3", 8888)
    assert [(sighting.event, sighting.flow) for sighting in found] == [
        ("decision", accepted),
        ("upstream", accepted),
        ("close", accepted),
    ]
    assert [sighting.onward for sighting in found] == [None, onward, onward]


def test_an_upstream_of_an_unknown_connection_has_no_flow() -> None:
    """Without the line that names the peer, the upstream is sighted and joined to nobody."""
    (found,) = read("egress-proxy", UPSTREAM)
    assert found.flow is None
    assert found.onward is not None


def test_proxy_rejects() -> None:
    """A rejected connection's end has no upstream: nothing was dialled for it."""
    (found,) = read("egress-proxy", REJECTED_CLOSE)
    assert (found.onward, found.facts["verdict"], found.facts["reason"]) == (None, "REJECTED", "rejected")


def test_a_failed_handshake_is_decided_by_the_certificate_check() -> None:
    """Who fails the handshake was refused by `client-certificate`, with the library's reason."""
    (found,) = read("egress-proxy", TLS_FAILED)
    assert (found.event, found.facts["by"]) == ("tls-failed", "client-certificate")
    assert found.facts["reason"] == "HTTPS_PROXY_REQUEST"


def test_sidecar_joins_both_sides() -> None:
    """Envoy's line joins what the app asked for with what left the pod, at the pod's `sidecar`."""
    (found,) = read("sidecar", ENVOY_WARNS, ENVOY_SERVED)
    assert found.at == "node sidecar"
    assert found.time == 1795273667616775000
    assert found.flow == FiveTuple(TCP, "10.53.0.4", 33236, "10.235.45.250", 3128)
    assert found.onward == FiveTuple(TCP, "10.53.0.4", 49898, "10.4.0.201", 3128)
    assert "refused" not in found.facts
    assert "flags" not in found.facts


def test_sidecar_refuses_a_server() -> None:
    """A server without the demanded name was refused by `server-identity`; nothing left the pod for it."""
    (found,) = read("sidecar", ENVOY_REFUSED)
    assert (found.facts["refused"], found.facts["by"]) == ("true", "server-identity")
    assert "CERTIFICATE_VERIFY_FAILED" in found.facts["reason"]
    assert found.onward is None


def test_another_program_of_the_pod_is_not_the_sidecar() -> None:
    """What the app prints is never taken for Envoy's log, whatever it prints."""
    node = Node("node", ("sidecar",), "pod")
    assert list(lookup.find("nodes", "sidecar").read_log(node, "app", [(1, ENVOY_SERVED)])) == []


def test_site_answers() -> None:
    """A request is sighted with its flow and what was asked and answered; an absent token is no fact."""
    (found,) = read("website", REQUEST)
    assert found.flow == FiveTuple(TCP, "198.51.100.3", 41078, "198.51.100.4", 443)
    assert found.facts == {"method": "HEAD", "path": "/", "host": "www.f5.com", "status": "200"}


def test_tinyproxy_is_joined_by_descriptor() -> None:
    """Lines of one descriptor between connect and close are one connection; its flow has no ports."""
    found = read("forward-proxy", *TINYPROXY)
    assert [sighting.event for sighting in found] == ["connect", "request", "close"]
    assert {sighting.facts["connection"] for sighting in found} == {"1"}
    assert {sighting.flow for sighting in found} == {FiveTuple(TCP, "10.4.0.211", 0, "", 0)}
    assert [sighting.time for sighting in found] == [RECORDED + 1, RECORDED + 2, RECORDED + 4]


def test_a_descriptor_used_again_is_another_connection() -> None:
    """The kernel gives a closed descriptor to the next client; its lines are another connection's."""
    found = read("forward-proxy", *TINYPROXY, *TINYPROXY)
    assert [sighting.facts["connection"] for sighting in found] == ["1", "1", "1", "6", "6", "6"]


def test_clients_with_a_name_are_known_by_address() -> None:
    """Where the client's address resolves, tinyproxy writes the name first and the address in brackets."""
    (found,) = read(
        "forward-proxy", "CONNECT   Nov 21 15:07:48.243 [45]: Connect (file descriptor 7): bigip [10.4.0.211]"
    )
    assert found.flow is not None
    assert found.flow.src == "10.4.0.211"


def test_a_client_cannot_forge_tinyproxys_lines() -> None:
    """What a client asks for is logged within a line; it is not taken for a connection of somebody else."""
    asked = "GET /Connect (file descriptor 9): 10.9.9.9"
    forged = f"CONNECT   Nov 21 15:07:48.246 [45]: Request (file descriptor 7): {asked}"
    found = read("forward-proxy", TINYPROXY[1], forged)
    assert [(sighting.event, sighting.flow.src if sighting.flow else "") for sighting in found] == [
        ("connect", "10.4.0.211"),
        ("request", "10.4.0.211"),
    ]


GOOD = {
    "egress-proxy": [ACCEPT, PERMITTED, UPSTREAM, CLOSE, REJECTED_CLOSE, TLS_FAILED],
    "sidecar": [ENVOY_SERVED, ENVOY_REFUSED],
    "website": [REQUEST],
    "forward-proxy": list(TINYPROXY),
}
HOSTILE = [
    "",
    "{",
    "{}",
    "[]",
    "null",
    '{"event": ',
    '{"event": "request"}',
    '{"event": "connection"}',
    '{"event": ["close"], "conn": 1}',
    '{"event": "close", "conn": [1]}',
    '{"event": "close", "conn": {}}',
    '{"event": "close", "conn": 1e400}',
    '{"event": "decision", "conn": 1, "peer": 5, "local": [], "time": "yesterday"}',
    '{"event": "decision", "conn": 1, "peer": "1.2.3.4:99999999", "local": ":", "time": -1}',
    '{"event": "upstream", "conn": 1, "local": "1.2.3.4:²", "remote": "x", "time": NaN}',
    '{"event": "request", "peer": "1.2.3.4:80", "local": null, "time": Infinity, "status": {"a": [1]}}',
    '{"event": "connection", "time": "' + "9" * 5000 + '"}',
    '{"event": "connection", "time": ' + "9" * 5000 + "}",
    '{"event": "connection", "time": true, "failure": 5}',
    '{"a":' * 100_000,
    '{"event": "close", "conn": 1, "identity": ' + "[" * 900 + "]" * 900 + "}",
    '{"event": "decision", "conn": 1, "policy": ' + "[" * 900 + "]" * 900 + "}",
    '{"event": "connection", "failure": "' + "SAN" * 100_000 + '"}',
    "\x00\x01\x02\ud800",
    "CONNECT   Nov 21 15:07:48.243 [45]: Connect (file descriptor 99999999999999999999): 10.4.0.211",
    "CONNECT   Nov 21 15:07:48.243 [45]: Connect (file descriptor ): ",
    "CONNECT   Nov 21 15:07:48.243 [45]: Connect (file descriptor 7): :::::",
    "CONNECT   Nov 21 15:07:48.246 [45]: Request (file descriptor 4): ",
    "INFO      Nov 21 15:07:48.258 [45]: Closed connection between local client (fd:4)",
]


def sound(sightings: list[Sighting]) -> None:
    """See that sightings are of the types that they promise; they are sorted and compared by others."""
    for sighting in sightings:
        assert type(sighting.time) is int
        assert 0 < sighting.time < 1 << 63
        assert isinstance(sighting.event, str)
        assert all(isinstance(key, str) and isinstance(value, str) for key, value in sighting.facts.items())
        for flow in (sighting.flow, sighting.onward):
            assert flow is None or (0 <= flow.sport <= 65535 and 0 <= flow.dport <= 65535)
    sorted(sightings, key=lambda sighting: sighting.time)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_lines_are_survived(kind: str, number: int) -> None:
    """Garbage, half lines, wrong types and huge values are read over; the lines around them count as ever."""
    good = read(kind, *GOOD[kind])
    found = read(kind, HOSTILE[number], *GOOD[kind], HOSTILE[number])
    sound(found)
    seen = [(sighting.event, sighting.flow, sighting.onward) for sighting in found]
    for sighting in good:
        assert (sighting.event, sighting.flow, sighting.onward) in seen


@pytest.mark.parametrize("kind", READERS)
def test_a_line_cut_anywhere_is_survived(kind: str) -> None:
    """A program that dies in the middle of a line leaves half of one, at any byte."""
    for line in GOOD[kind]:
        for length in range(len(line)):
            sound(read(kind, line[:length]))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(
    [
        "time",
        "event",
        "conn",
        "peer",
        "local",
        "remote",
        "upstream_local",
        "upstream_remote",
        "failure",
        "status",
        "policy",
    ]
)
EVENTS = st.sampled_from(["close", "decision", "upstream", "tls-failed", "accept", "request", "connection"])


@given(fields=st.dictionaries(KEYS, VALUES), event=EVENTS)
@pytest.mark.parametrize("kind", READERS)
def test_any_json_is_survived(kind: str, fields: dict[str, Any], event: str) -> None:
    """No event with any fields of any type makes a reader raise, or yield what others could not use."""
    sound(read(kind, json.dumps({"conn": 1, **fields, "event": event})))
    sound(read(kind, json.dumps(fields)))


def test_an_event_without_a_time_has_that_of_its_recording() -> None:
    """Where a program wrote no usable time, the line counts from when it was recorded."""
    (found,) = read("website", REQUEST.replace("1795273667631179836", '"soon"'))
    assert found.time == RECORDED

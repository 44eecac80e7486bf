"""What servers accept and clients send, what Envoy is told of it, and what its log says of who decided."""

from __future__ import annotations

import json
from typing import Any

import pytest
from small_tenants import LAB, Rendered

from harness import mtls
from harness.nodes import sidecar
from harness.plan import Node
from harness.programs.fivetuple import TCP, FiveTuple

STRICT_SHOP = "mtls: {default: disable, overrides: {red/shop: strict}"

# From a lab that ran.
SERVED = (
    '{"bytes_in":259,"bytes_out":294,"client_failure":null,'
    '"client_identity":"spiffe://cluster.local/ns/wordpress-app/sa/wordpress","details":null,"event":"connection",'
    '"failure":null,"flags":"-","listener":"inbound tls","local":"10.53.0.2:3306","milliseconds":5,'
    '"peer":"10.53.0.65:38978","server_identity":null,"time":"1795281735656962000","tls":null,'
    '"upstream_cluster":"inbound","upstream_local":"10.53.0.2:55150","upstream_remote":"10.53.0.2:3306"}'
)
NO_CHAIN = (
    '{"bytes_in":0,"bytes_out":0,"client_failure":null,"client_identity":null,"details":"filter_chain_not_found",'
    '"event":"connection","failure":null,"flags":"NR","listener":"inbound","local":"10.53.0.2:3306",'
    '"milliseconds":100,"peer":"10.53.0.66:44994","server_identity":null,"time":"1795281736709306000","tls":null,'
    '"upstream_cluster":null,"upstream_local":null,"upstream_remote":null}'
)
IMPOSTOR = (
    '{"bytes_in":0,"bytes_out":0,"client_failure":"TLS_error:|268435581:SSL_routines:OPENSSL_internal:'
    "CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_X509_verify_cert:_certificate_verification_error_at_depth_1:"
    '_unable_to_get_local_issuer_certificate:TLS_error_end",'
    '"client_identity":"spiffe://cluster.local/ns/wordpress-app/sa/wordpress","details":null,"event":"connection",'
    '"failure":null,"flags":"-","listener":"inbound tls","local":"10.53.0.2:3306","milliseconds":1,'
    '"peer":"10.53.0.68:54962","server_identity":null,"time":"1795281739209083000","tls":null,'
    '"upstream_cluster":null,"upstream_local":null,"upstream_remote":null}'
)
PLAIN_HTTP = (
    '{"bytes_in":76,"bytes_out":200,"client_failure":"TLS_error|error:1000009c:SSL_routines:OPENSSL_internal:'
    'HTTP_REQUEST:TLS_error_end","client_identity":null,"details":null,"event":"connection","failure":null,'
    '"flags":"-","listener":"inbound plain","local":"10.53.0.2:9080","milliseconds":2,"peer":"10.53.0.66:58736",'
    '"server_identity":null,"time":"1795281737177521000","tls":null,"upstream_cluster":"inbound",'
    '"upstream_local":"10.53.0.2:53954","upstream_remote":"10.53.0.2:9080"}'
)


def facts(line: str) -> dict[str, str]:
    """Return what a line of a sidecar comes to."""
    (sighting,) = sidecar.read_log(Node("shop/db", ("sidecar",), "pod"), "sidecar", [(0, line)])
    assert sighting.at == "shop/db sidecar"
    return dict(sighting.facts)


def rendered(mesh: str) -> Rendered:
    """Return the lab of two tenants with these words about its mesh."""
    return Rendered(LAB.replace("mesh: {provider: builtin}", f"mesh: {{provider: builtin, {mesh}}}"))


def sends(mesh: str, client: str = "blue/client") -> bool:
    """Say whether a client's sidecar is told to send mutual TLS to red's shop."""
    clusters = rendered(mesh).json(client, "envoy.json")["static_resources"]["clusters"]
    (cluster,) = [one for one in clusters if one["name"] == "red/shop"]
    return "transport_socket" in cluster


def inbound(mesh: str, pod: str = "red/shop-v1") -> dict[str, Any]:
    """Return the inbound listener of a pod."""
    listeners = rendered(mesh).json(pod, "envoy.json")["static_resources"]["listeners"]
    found: dict[str, Any] = next(one for one in listeners if one["name"] == "inbound")
    return found


@pytest.mark.parametrize(
    ("mesh", "mutual"),
    [
        ("mtls: {default: strict}", True),
        ("mtls: {default: permissive}", True),
        ("mtls: {default: disable}", False),
        (f"{STRICT_SHOP}}}", True),
        (f"{STRICT_SHOP}, clients: {{blue: disable}}}}", False),
        (f"{STRICT_SHOP}, clients: {{blue: disable, blue/client: istio_mutual}}}}", True),
        ("mtls: {default: disable, clients: {blue/client: istio_mutual}}", True),
        ("mtls: {default: strict, clients: {red: disable}}", True),
    ],
)
def test_what_a_client_sends(mesh: str, mutual: bool) -> None:  # noqa: FBT001 - a column of the table
    """What is said of a client holds, the nearest word first; of whom nothing is said sends what is accepted."""
    assert sends(mesh) == mutual


def test_a_client_that_is_told_demands_the_servers_identity() -> None:
    """Also where the server accepts plain text only: the handshake fails, and nothing else would be sent."""
    clusters = rendered("mtls: {default: disable, clients: {blue: istio_mutual}}").json(
        "blue/client", "envoy.json"
    )
    said = json.dumps(next(c for c in clusters["static_resources"]["clusters"] if c["name"] == "red/shop"))
    assert "spiffe://cluster.local/ns/red/sa/default" in said


def test_services_outside_are_reached_as_they_say_themselves() -> None:
    """What is said of clients is about pods: a service with endpoints has `tls` for that."""
    plan = rendered("mtls: {clients: {red: disable}}").plan
    client = plan.node("red/client")
    assert mtls.sends_mutual_tls(client, plan, plan.services["red/proxy"], [plan.node("bigip")])


def test_only_a_verified_client_reaches_the_app() -> None:
    """On the chain for TLS the connection to the app waits for the handshake; on that for plain text it does not."""
    chains = {chain["name"]: chain for chain in inbound("mtls: {default: permissive}")["filter_chains"]}
    modes = {
        name: chain["filters"][0]["typed_config"].get("upstream_connect_mode")
        for name, chain in chains.items()
    }
    assert modes == {"inbound tls": "ON_DOWNSTREAM_TLS_HANDSHAKE", "inbound plain": None}


@pytest.mark.parametrize(("said", "told"), [("", "0s"), (", detection_timeout: 100ms", "0.1s")])
def test_how_long_a_listener_waits_for_a_clients_word(said: str, told: str) -> None:
    """Without end unless the lab file says how long; then the connection goes on as plain text."""
    listener = inbound(f"mtls: {{default: permissive{said}}}")
    assert listener["listener_filters_timeout"] == told
    assert listener["continue_on_listener_filters_timeout"] is True


def test_who_accepts_anything_looks_at_nothing() -> None:
    """Under disable there is no TLS inspector, which would wait for a client's first bytes."""
    names = [one["name"] for one in inbound("mtls: {default: disable}")["listener_filters"]]
    assert names == ["original_dst"]


def test_a_connection_that_no_chain_takes_is_logged() -> None:
    """Its listener logs it, as one of the inbound side."""
    (log,) = inbound("mtls: {default: strict}")["access_log"]
    assert log["filter"] == {"response_flag_filter": {"flags": ["NR"]}}
    assert log["typed_config"]["log_format"]["json_format"]["listener"] == "inbound"


def test_whom_a_server_verified() -> None:
    """The client's name, once its certificate was verified."""
    assert facts(SERVED)["identity"] == "spiffe://cluster.local/ns/wordpress-app/sa/wordpress"
    assert "refused" not in facts(SERVED)


def test_whom_a_server_refused() -> None:
    """Plain text by the demand of mutual TLS, a certificate of nobody's by its name, which is no identity then."""
    assert (facts(NO_CHAIN)["refused"], facts(NO_CHAIN)["by"]) == ("true", "mutual-tls")
    assert (facts(IMPOSTOR)["refused"], facts(IMPOSTOR)["by"]) == ("true", "client-certificate")
    assert "identity" not in facts(IMPOSTOR)


@pytest.mark.parametrize(
    "failure",
    [
        "TLS_error:|33554536:system_library:OPENSSL_internal:Connection_reset_by_peer:TLS_error_end",
        "TLS_error:|268436502:SSL_routines:OPENSSL_internal:SSLV3_ALERT_CERTIFICATE_UNKNOWN:TLS_error_end",
        "",
    ],
)
def test_a_client_that_ended_the_handshake_was_not_refused(failure: str) -> None:
    """A reset, an alert or an end from the client is no decision of the server's sidecar, and proves no identity."""
    event = json.loads(IMPOSTOR) | {"client_failure": failure, "client_identity": None}
    assert {"refused", "by", "identity"}.isdisjoint(facts(json.dumps(event)))


def test_plain_text_that_is_accepted_is_no_refusal() -> None:
    """Envoy notes why it took a client's words for no TLS; on a chain for plain text that is no failure."""
    found = facts(PLAIN_HTTP)
    assert "refused" not in found
    assert "identity" not in found
    (sighting,) = sidecar.read_log(Node("shop/db", ("sidecar",), "pod"), "sidecar", [(0, PLAIN_HTTP)])
    assert sighting.onward == FiveTuple(TCP, "10.53.0.2", 53954, "10.53.0.2", 9080)


@pytest.mark.parametrize(
    ("failure", "by"),
    [
        (
            "TLS_error:|268435703:SSL_routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end",
            "server-tls",
        ),
        (
            "TLS_error:|33554536:system_library:OPENSSL_internal:Connection_reset_by_peer:TLS_error_end",
            "server-tls",
        ),
        (
            "TLS_error:|268435581:...:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_SAN_matcher",
            "server-identity",
        ),
        (
            "TLS_error:|268435581:...:CERTIFICATE_VERIFY_FAILED:...:_unable_to_get_local_issuer_certificate",
            "server-certificate",
        ),
        ("TLS_error:|268436504:SSL_routines:OPENSSL_internal:TLSV1_ALERT_UNKNOWN_CA:TLS_error_end", None),
        ("delayed_connect_error:_Connection_refused", None),
    ],
)
def test_whom_a_client_refused(failure: str, by: str | None) -> None:
    """A server that speaks no TLS, or is another; an alert or a refused connection is somebody else's decision."""
    line = {
        "event": "connection",
        "listener": "outbound shop/db",
        "failure": failure,
        "server_identity": "spiffe://a/b",
    }
    found = facts(json.dumps(line))
    assert found.get("by") == by
    assert found.get("refused") == ("true" if by else None)
    assert "identity" not in found

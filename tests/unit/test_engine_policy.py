"""What every engine must do alike: real programs on loopback, real certificates, their logs as a lab reads them."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import pytest
from engine_bench import LOCAL, PERMIT_BOOKINFO, EngineBench, ended
from listeners import TcpListener
from mesh_certificates import Mesh
from program_process import PATIENCE
from proxy_bench import PREFIX, PRODUCTPAGE, STRANGER, TENANT

from harness import lookup, ready
from harness.programs.svid import is_spiffe_id
from harness.proxy import CLIENT_CERTIFICATE, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import mesh_certificates
    from engine_bench import Engine

    from harness.evidence import Sighting

DOMAIN = "spiffe://cluster.local/"


@pytest.fixture(params=LOCAL)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EngineBench]:
    """Give a bench for each engine; its echo server is closed at the end."""
    made = EngineBench(tmp_path, request.param)
    yield made
    made.echo.close()


def rejected(bench: EngineBench, proxy: Engine, leaf: mesh_certificates.Leaf) -> Sighting:
    """Send something with a certificate that must be rejected, and return the decision.

    The client's connection ended as the engine declares, and nothing went upstream.
    """
    with proxy.client(leaf) as client:
        client.send(b"hello")
        assert ended(client) == lookup.find("engines", bench.engine).DIFFERENCES.answer.partition(",")[0]
        decision, close = proxy.until("decision", client.local), proxy.until("close", client.local)
    assert decision.facts["verdict"] == close.facts["verdict"] == "REJECTED"
    assert decision.facts["by"] == "bookinfo-only"
    assert [
        sighting for sighting in proxy.sightings() if sighting.onward or sighting.event == "upstream"
    ] == []
    assert bench.echo.seen == {}
    return decision


def served(proxy: Engine, leaf: mesh_certificates.Leaf | None = None) -> Sighting:
    """Have something echoed, and return the decision."""
    with proxy.client(leaf) as client:
        client.send(b"hi")
        assert client.read() == b"hi"
        local = client.local
    return proxy.until("decision", local)


def test_a_permitted_client_is_relayed_from_its_tenants_address(bench: EngineBench) -> None:
    """The log names peer, identity, verdict, and both 5-tuples; the server saw the one that leads onward."""
    with bench.proxy() as proxy:
        with proxy.client() as client:
            client.send(b"hi")
            assert client.read() == b"hi"
            local = client.local
        close = proxy.until("close", local)
        upstream, decision = proxy.until("upstream", local), proxy.until("decision", local)
        bench.echo.came.acquire(timeout=PATIENCE)
    assert decision.facts["verdict"] == close.facts["verdict"] == "PERMITTED"
    assert (decision.facts["by"], decision.facts["identity"]) == ("bookinfo-only", PRODUCTPAGE)
    assert decision.facts["conn"] == close.facts["conn"]
    flow, onward = close.flow, close.onward
    assert flow is not None
    assert onward is not None
    assert (f"{flow.src}:{flow.sport}", (flow.dst, flow.dport)) == (local, proxy.address)
    assert onward.src == TENANT
    assert f"{onward.dst}:{onward.dport}" == bench.echo.address
    assert (upstream.flow, upstream.onward) == (flow, onward)
    assert bench.echo.seen == {f"{onward.src}:{onward.sport}": b"hi"}
    assert (close.facts["bytes_in"], close.facts["bytes_out"]) == ("2", "2")


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_both_ends_log_the_same_secrets(bench: EngineBench, tmp_path: Path, version: str) -> None:
    """What an engine writes down decrypts the connection: its client, another TLS library's, logged the same."""
    ours, theirs = tmp_path / "engine.log", tmp_path / "client.log"
    with bench.proxy(key_log=str(ours)) as proxy, proxy.keylogging(version, str(theirs)) as client:
        client.send(b"hi")
        assert client.read() == b"hi"
        wanted = secrets_in(theirs)
        ready.until("the engine's secrets", lambda: wanted <= secrets_in(ours), seconds=PATIENCE)
    assert len(wanted) == (1 if version == "TLSv1_2" else 4)


def secrets_in(path: Path) -> set[str]:
    """Return the lines of a key log that decrypt a connection."""
    text = path.read_text(encoding="ascii") if path.exists() else ""
    return {
        line for line in text.splitlines() if "TRAFFIC_SECRET" in line or line.startswith("CLIENT_RANDOM")
    }


def test_a_client_that_ends_its_direction_still_gets_its_answer(bench: EngineBench) -> None:
    """Half-close passes through: what the server sends after the client's end arrives (`echo hi | nc -N`)."""
    with bench.proxy() as proxy, proxy.client() as client:
        client.send(b"hi")
        client.end()
        assert client.read_all() == b"hi"


@pytest.mark.parametrize(
    ("uris", "dns"),
    [
        ((STRANGER,), ()),
        ((PRODUCTPAGE, STRANGER), ()),
        ((STRANGER, PRODUCTPAGE), ()),
        ((PRODUCTPAGE, f"{PREFIX}sa/other"), ()),
        ((), ("productpage.bookinfo",)),
        ((STRANGER,), (PRODUCTPAGE,)),
        ((STRANGER,), (f"x,URI:{PRODUCTPAGE}",)),
        ((f"spiffe://evil.example/{PRODUCTPAGE}",), ()),
        ((PREFIX.removesuffix("/"),), ()),
        (("spiffe://cluster.local/ns/bookinfo2/sa/a",), ()),
        (("spiffe://cluster.local/ns/Bookinfo/sa/a",), ()),
        (("spiffe://cluster.local/ns/%62ookinfo/sa/a",), ()),
        (("spiffe://cluster_local/ns/bookinfo/sa/a",), ()),
    ],
    ids=[
        "stranger",
        "two-tenants",
        "two-tenants-turned-round",
        "two-of-one-tenant",
        "dns-only",
        "permitted-name-as-dns-name",
        "permitted-name-inside-a-dns-name",
        "permitted-name-inside-another",
        "prefix-without-slash",
        "longer-namespace",
        "case",
        "percent",
        "dot-is-a-dot",
    ],
)
def test_what_is_no_match(bench: EngineBench, uris: tuple[str, ...], dns: tuple[str, ...]) -> None:
    """One SPIFFE ID, compared byte by byte, is the identity; two or none are none, wherever else the name stands."""
    leaf = bench.mesh.leaf(*uris, dns=dns)
    with bench.proxy() as proxy:
        if bench.engine == "envoy" and not (uris and uris[0].startswith(DOMAIN)):
            # its validator of SPIFFE certificates asks for a trust domain, the handshake's end for the rest
            with proxy.stranger(leaf) as client:
                client.handshake()
                assert ended(client) in ("alert", "RST")
                assert proxy.until("tls-failed", client.local).facts["by"] == CLIENT_CERTIFICATE
            return
        decision = rejected(bench, proxy, leaf)
    is_one = len(uris) == 1 and is_spiffe_id(uris[0])
    assert decision.facts.get("identity") == (uris[0] if is_one else None)


def test_the_first_match_decides(bench: EngineBench) -> None:
    """A rejecting rule before a permitting one wins, for the identity that it names only."""
    rules = (Rule(permit=False, spiffe_id=PRODUCTPAGE), *PERMIT_BOOKINFO)
    with bench.proxy(rules) as proxy:
        assert rejected(bench, proxy, bench.ours).facts["identity"] == PRODUCTPAGE
        assert served(proxy, bench.mesh.leaf(f"{PRODUCTPAGE}2")).facts["verdict"] == "PERMITTED"


def test_each_connection_is_decided_for_itself(bench: EngineBench) -> None:
    """A stranger that comes while a permitted client is connected is rejected, and the log keeps the two apart."""
    with bench.proxy() as proxy, proxy.client() as permitted:
        permitted.send(b"a")
        assert permitted.read() == b"a"
        with proxy.client(bench.strange) as stranger:
            stranger.send(b"hello")
            assert ended(stranger) in ("FIN", "RST")
            decision, close = proxy.until("decision", stranger.local), proxy.until("close", stranger.local)
        permitted.send(b"b")
        assert permitted.read() == b"b"
        permitted.end()
        assert permitted.read_all() == b""
        own = proxy.until("decision", permitted.local)
    assert (decision.facts["identity"], decision.facts["verdict"]) == (STRANGER, "REJECTED")
    assert close.onward is None
    assert (own.facts["identity"], own.facts["verdict"]) == (PRODUCTPAGE, "PERMITTED")


def test_a_whole_name_is_no_prefix(bench: EngineBench) -> None:
    """A rule with `spiffe_id` permits that identity, not those that begin with it."""
    with bench.proxy((Rule(permit=True, spiffe_id=PRODUCTPAGE),)) as proxy:
        rejected(bench, proxy, bench.mesh.leaf(f"{PRODUCTPAGE}2"))
        assert served(proxy).facts["identity"] == PRODUCTPAGE


def test_a_policy_without_rules_rejects(bench: EngineBench) -> None:
    """No match rejects, also where there is nothing to match."""
    with bench.proxy(()) as proxy:
        rejected(bench, proxy, bench.ours)


@pytest.mark.parametrize("text", ['"},}, os.exit(1) --', ".*", "a\\b'c\nd é", "[a](b|c)+$"])
def test_a_prefix_is_text_and_nothing_else(bench: EngineBench, text: str) -> None:
    """Whatever stands in a rule, an engine's own configuration language does not read it."""
    rules = (Rule(permit=True, spiffe_prefix=f"spiffe://cluster.local/{text}"),)
    with bench.proxy(rules) as proxy:
        rejected(bench, proxy, bench.ours)


def test_without_a_certificate_the_handshake_refuses(bench: EngineBench) -> None:
    """The log says that the client's certificate was what failed, and that the connection is over."""
    with bench.proxy() as proxy, proxy.stranger(None) as client:
        # under TLS 1.3 the client has finished before the server has asked
        client.handshake()
        assert ended(client) in ("alert", "RST")
        failed, close = proxy.until("tls-failed", client.local), proxy.until("close", client.local)
    assert failed.facts["by"] == CLIENT_CERTIFICATE
    assert failed.facts["reason"]
    assert close.onward is None
    assert bench.echo.seen == {}


def test_a_name_on_a_certificate_of_another_authority_is_none(bench: EngineBench, tmp_path: Path) -> None:
    """What nobody verified is not logged as an identity."""
    foreign = Mesh(tmp_path / "foreign").leaf(PRODUCTPAGE)
    with bench.proxy() as proxy, proxy.stranger(foreign) as client:
        client.handshake()
        assert ended(client) in ("alert", "RST")
        failed = proxy.until("tls-failed", client.local)
        proxy.until("close", client.local)
        assert [sighting for sighting in proxy.sightings() if "identity" in sighting.facts] == []
    assert failed.facts["by"] == CLIENT_CERTIFICATE
    assert bench.echo.seen == {}


def test_plain_text_is_refused_by_the_handshake(bench: EngineBench) -> None:
    """A client that speaks no TLS is closed, and logged as one that brought no certificate."""
    with bench.proxy() as proxy, socket.create_connection(proxy.address, timeout=PATIENCE) as client:
        client.sendall(b"CONNECT site.example:443 HTTP/1.1\r\n\r\n")
        local = "{}:{}".format(*client.getsockname())
        assert proxy.until("tls-failed", local).facts["by"] == CLIENT_CERTIFICATE
        proxy.until("close", local)


@pytest.mark.parametrize("said", [b"", b"hi\n"])
def test_a_client_that_ends_before_the_handshake_is_not_refused(bench: EngineBench, said: bytes) -> None:
    """Bytes too few for a TLS record and an end are the client's doing: nobody decided, and the log says only that."""
    with bench.proxy() as proxy, socket.create_connection(proxy.address, timeout=PATIENCE) as client:
        local = "{}:{}".format(*client.getsockname())
        client.sendall(said)
        client.shutdown(socket.SHUT_WR)
        assert "by" not in proxy.until("tls-ended", local).facts
        proxy.until("close", local)


def test_where_a_certificate_is_optional_none_has_no_identity(bench: EngineBench) -> None:
    """A client without one finishes the handshake, and the policy rejects it."""
    with bench.proxy(required=False) as proxy:
        with proxy.stranger(None) as client:
            client.handshake().send(b"hello")
            assert ended(client) in ("FIN", "RST")
            decision = proxy.until("decision", client.local)
        assert served(proxy).facts["identity"] == PRODUCTPAGE
    assert decision.facts["verdict"] == "REJECTED"
    assert "identity" not in decision.facts


def test_an_upstream_that_is_not_there(bench: EngineBench) -> None:
    """A permitted client whose next hop refuses is closed; the log has the decision and the end."""
    with socket.create_server(("127.0.77.9", 0)) as gone:
        nobody = "{}:{}".format(*gone.getsockname())
    with bench.proxy(forward_to=nobody) as proxy, proxy.client() as client:
        with contextlib.suppress(ConnectionResetError):  # the end may be there before the first word
            client.send(b"hello")
        assert ended(client) in ("FIN", "RST")
        decision, close = proxy.until("decision", client.local), proxy.until("close", client.local)
    assert decision.facts["verdict"] == close.facts["verdict"] == "PERMITTED"


@pytest.mark.parametrize("engine", LOCAL)
def test_a_server_may_speak_first(engine: str, tmp_path: Path) -> None:
    """Engines decide when the handshake is done: a client that waits for a greeting gets it."""
    bench = EngineBench(tmp_path, engine)
    with (
        TcpListener(lambda sock: sock.sendall(b"220 ready\r\n")) as server,
        bench.proxy(forward_to=f"{server.host}:{server.port}") as proxy,
        proxy.client() as client,
    ):
        assert client.read() == b"220 ready\r\n"
    bench.echo.close()

"""Certificates and roots that are replaced under a running engine: real programs on loopback, real handshakes."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
from engine_bench import LOCAL, EngineBench, ended
from mesh_certificates import Mesh
from program_process import PATIENCE
from proxy_bench import PRODUCTPAGE, SERVER

from harness import lookup
from harness.proxy import CLIENT_CERTIFICATE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import mesh_certificates
    from engine_bench import Engine
    from proxy_bench import TlsClient

ROTATING = [engine for engine in LOCAL if lookup.find("engines", engine).DIFFERENCES.rotates]
VERSIONS = ("TLSv1_2", "TLSv1_3")


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EngineBench]:
    """Give the engine that a test is for; its echo server is closed at the end."""
    made = EngineBench(tmp_path, request.param)
    yield made
    made.echo.close()


def shown_by(proxy: Engine, leaf: mesh_certificates.Leaf | None = None) -> tuple[str, str]:
    """Have something echoed; return the fingerprint that the server showed, and the client's in the proxy's log."""
    with proxy.client(leaf) as client:
        client.send(b"hi")
        assert client.read() == b"hi"
        shown, local = client.servers_certificate(), client.local
    return shown, proxy.until("decision", local).facts["certificate"]


def refused(bench: EngineBench, proxy: Engine, leaf: mesh_certificates.Leaf) -> None:
    """See a client refused by the handshake, and nobody reached by it."""
    reached = set(bench.echo.seen)  # at the beginning: what clients sent is known at their end only
    with proxy.stranger(leaf) as client:
        client.handshake()
        assert ended(client) in ("alert", "RST")
        assert proxy.until("tls-failed", client.local).facts["by"] == CLIENT_CERTIFICATE
        proxy.until("close", client.local)
    assert set(bench.echo.seen) == reached


@pytest.mark.parametrize("bench", LOCAL, indirect=True)
def test_the_log_has_the_clients_certificate(bench: EngineBench) -> None:
    """The decision names the SHA-256 fingerprint of the certificate that the client showed, in every engine."""
    other = bench.mesh.leaf(PRODUCTPAGE)
    with bench.proxy() as proxy:
        assert shown_by(proxy)[1] == bench.ours.fingerprint
        assert shown_by(proxy, other)[1] == other.fingerprint


@pytest.mark.parametrize("bench", ROTATING, indirect=True)
def test_a_new_certificate_is_shown_at_once_and_open_connections_go_on(bench: EngineBench) -> None:
    """The next client sees the new certificate; one that was there before can still send and is answered."""
    new = bench.mesh.leaf(SERVER)
    with bench.proxy(rotates=True) as proxy, proxy.client() as open_before:
        open_before.send(b"a")
        assert open_before.read() == b"a"
        proxy.replace(new)
        assert shown_by(proxy)[0] == new.fingerprint != open_before.servers_certificate()
        open_before.send(b"b")
        assert open_before.read() == b"b"


@pytest.mark.parametrize("bench", ROTATING, indirect=True)
def test_an_authority_is_replaced_with_an_overlap(bench: EngineBench, tmp_path: Path) -> None:
    """Both authorities' clients pass while both roots are trusted; then the old one's are refused by the handshake."""
    successor = Mesh(tmp_path / "successor")
    theirs, server = successor.leaf(PRODUCTPAGE), successor.leaf(SERVER)
    with bench.proxy(rotates=True) as proxy:
        refused(bench, proxy, theirs)
        proxy.replace(None, bench.mesh, successor)
        assert shown_by(proxy)[1] == bench.ours.fingerprint
        assert shown_by(proxy, theirs)[1] == theirs.fingerprint
        proxy.replace(server)
        proxy.trust = successor.trust
        assert shown_by(proxy)[0] == server.fingerprint
        proxy.replace(None, successor)
        refused(bench, proxy, bench.ours)
        assert shown_by(proxy, theirs) == (server.fingerprint, theirs.fingerprint)


@pytest.mark.parametrize(
    ("bench", "version"),
    [(engine, version) for engine in LOCAL for version in VERSIONS],
    indirect=["bench"],
)
def test_no_session_is_resumed(bench: EngineBench, version: str) -> None:
    """A client that offers its session again has to show its certificate anew."""
    with bench.proxy() as proxy, proxy.client(version=version) as first:
        first.send(b"hi")
        assert first.read() == b"hi"
        with proxy.again(first) as second:
            second.handshake().send(b"hi")
            assert second.read() == b"hi"
            assert not second.resumed


@pytest.mark.parametrize("bench", ["builtin"], indirect=True)
def test_a_session_that_was_made_while_a_client_spoke_is_not_resumed_by_it(bench: EngineBench) -> None:
    """Who began to speak before a session of TLS 1.2 was made, and then offers it, is refused by the handshake."""
    with bench.proxy() as proxy, socket.create_connection(proxy.address, timeout=PATIENCE) as early:
        early.sendall(b"\x16")  # of a record's header, the first byte (RFC 8446, 5.1)
        with proxy.client(version="TLSv1_2") as first:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = first.context.wrap_bio(incoming, outgoing, session=first.session)
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            early.sendall(outgoing.read()[1:])
            while not client.session_reused:
                incoming.write(early.recv(65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    client.do_handshake()
            early.sendall(outgoing.read())
            failed = proxy.until("tls-failed", "{}:{}".format(*early.getsockname()))
    assert (failed.facts["reason"], failed.facts["by"]) == ("SESSION_RESUMED", CLIENT_CERTIFICATE)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("bench", ROTATING, indirect=True)
def test_no_session_carries_a_retired_identity_on(bench: EngineBench, tmp_path: Path, version: str) -> None:
    """Once its authority is trusted no more, a client is refused although it offers a session that was good before."""
    successor = Mesh(tmp_path / "successor")
    with bench.proxy(rotates=True) as proxy, proxy.client(version=version) as first:
        first.send(b"hi")
        assert first.read() == b"hi"
        proxy.replace(None, successor)
        assert answer(proxy, first) == b""


def answer(proxy: Engine, before: TlsClient) -> bytes:
    """Return what comes back to a client that tries to resume a session; nothing when it is refused."""
    try:
        with proxy.again(before) as client:
            client.handshake().send(b"hi")
            return client.read()
    except OSError:  # ssl.SSLError among them
        return b""

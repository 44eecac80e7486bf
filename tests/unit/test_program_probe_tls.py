"""Probes that are TLS clients of their own: what they show, and the sessions that they resume without showing it."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from listeners import TcpListener
from mesh_certificates import Leaf, Mesh

from harness.programs.probe import Engine, Outcome, Probe, Resolver, read_probe
from harness.programs.tls_client import Offer

if TYPE_CHECKING:
    from pathlib import Path

WHO = "spiffe://cluster.local/ns/prod/sa/app"


class Server:
    """A TLS server that demands a certificate, answers in capitals, and notes who came, and whether by a session."""

    def __init__(self, mesh: Mesh, *, sessions: bool) -> None:
        self.seen: list[tuple[str, bool]] = []
        leaf = mesh.leaf("spiffe://cluster.local/ns/prod/sa/server")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(leaf.chain, leaf.key)
        self._context.load_verify_locations(mesh.trust)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2  # said, since not every Python begins there
        if not sessions:
            self._context.num_tickets = 0

    def __call__(self, sock: socket.socket) -> None:
        """Serve one connection."""
        with contextlib.suppress(OSError):
            tls = self._context.wrap_socket(sock, server_side=True)
            names: Any = (tls.getpeercert() or {}).get("subjectAltName", ())
            self.seen.append((names[0][1], bool(tls.session_reused)))
            tls.sendall(tls.recv(65536).upper())
            tls.close()


def offered(leaf: Leaf | None, **more: Any) -> Offer:
    """Return an offer of a certificate."""
    return Offer(leaf.pair.chain, leaf.pair.key, **more) if leaf else Offer(**more)


def tried(server: Server, offer: Offer) -> Outcome:
    """Run one probe against a server and return its outcome."""
    with TcpListener(server) as listener:
        engine = Engine(lambda _, *kind: socket.socket(*kind), lambda _: Resolver(None, hosts={}))
        [outcome] = engine.run(
            [Probe(1, "here", "tls", listener.host, listener.port, send=b"hello\r\n", offer=offer)]
        )
    return outcome


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    """Give a mesh's certificates."""
    return Mesh(tmp_path / "mesh")


def test_a_certificate_is_shown(mesh: Mesh) -> None:
    """The client is answered, and says by which version."""
    server = Server(mesh, sessions=True)
    outcome = tried(server, offered(mesh.leaf(WHO)))
    assert (outcome.status, outcome.body) == ("answered", b"HELLO\r\n")
    assert outcome.lines == ("TLSv1.3, not resumed",)
    assert server.seen == [(WHO, False)]


def test_who_shows_none_is_refused(mesh: Mesh) -> None:
    """The server's alert is what the probe came to, or the reset that overtakes it."""
    server = Server(mesh, sessions=True)
    outcome = tried(server, Offer())
    assert outcome.status in ("tls-failed", "reset")
    assert server.seen == []


@pytest.mark.parametrize(("version", "shown"), [("TLSv1_2", "TLSv1.2"), ("TLSv1_3", "TLSv1.3")])
def test_a_session_is_taken_up_without_the_certificate(mesh: Mesh, version: str, shown: str) -> None:
    """Where a server resumes, it takes who has the session for whom it was made; the flow told of is the second."""
    server = Server(mesh, sessions=True)
    outcome = tried(server, offered(mesh.leaf(WHO), oldest=version, newest=version, resumes=True))
    assert (outcome.status, outcome.lines) == ("answered", (f"{shown}, resumed",))
    assert server.seen == [(WHO, False), (WHO, True)]


def test_without_a_session_there_is_nothing_to_show(mesh: Mesh) -> None:
    """Of a server that gives none, the second connection has neither session nor certificate."""
    server = Server(mesh, sessions=False)
    outcome = tried(server, offered(mesh.leaf(WHO), oldest="TLSv1_3", newest="TLSv1_3", resumes=True))
    assert outcome.status in ("tls-failed", "reset")
    assert outcome.lines == ("TLSv1.3, not resumed",)
    assert server.seen == [(WHO, False)]


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_versions_can_be_offered(mesh: Mesh, version: str) -> None:
    """A server that wants newer ones says so; the client was able to begin."""
    outcome = tried(Server(mesh, sessions=True), offered(mesh.leaf(WHO), oldest=version, newest=version))
    assert (outcome.status, outcome.detail) == ("tls-failed", "TLSV1_ALERT_PROTOCOL_VERSION")


def test_what_is_no_pair_is_an_error_of_the_probe(mesh: Mesh) -> None:
    """Nothing was sent then, and nothing may be concluded."""
    mine, other = mesh.leaf(WHO).pair, mesh.leaf(WHO).pair
    outcome = tried(Server(mesh, sessions=True), Offer(mine.chain, other.key))
    assert outcome.status == "error"


def test_a_probe_comes_through_json_as_it_was() -> None:
    """Lists for pairs and text for bytes are what they were before."""
    offer = Offer("chain", "key", resumes=True)
    probe = Probe(1, "here", "tls", "site", 443, through=("proxy", 3128), send=b"hi", offer=offer)
    fields = {**vars(probe), "through": ["proxy", 3128], "send": "hi", "offer": vars(offer)}
    assert read_probe(fields) == probe
    assert read_probe({"id": 1, "node": "here", "scheme": "tcp", "host": "site", "port": 1}) == Probe(
        1, "here", "tcp", "site", 1
    )

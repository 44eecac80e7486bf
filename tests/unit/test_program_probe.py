"""The probe engine, against real listeners on loopback."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import pytest
from listeners import TcpListener, connect_proxy, read_head, reset
from mesh_certificates import Mesh
from program_process import ProgramProcess

from harness.programs.probe import Engine, Outcome, Probe, Resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def engine() -> Engine:
    """Return an engine whose only node is this machine."""
    resolver = Resolver(None, hosts={"site.test": "127.0.77.4"})
    return Engine(lambda _, *kind: socket.socket(*kind), lambda _: resolver)


def one(scheme: Any, port: int, host: str = "127.0.77.4", **more: Any) -> Outcome:
    """Run one probe and return its outcome."""
    [outcome] = engine().run([Probe(7, "here", scheme, host, port, **more)])
    assert outcome.id == 7
    assert outcome.started <= outcome.ended
    return outcome


def answering(answer: bytes) -> Callable[[socket.socket], None]:
    """Return a server that reads a request and says this."""

    def serve(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(answer)

    return serve


def read_and_reset(sock: socket.socket) -> None:
    """Read what comes first and close with a RST."""
    sock.recv(65536)
    reset(sock)


@pytest.fixture
def closed_port() -> int:
    """Give a port that nobody listens on."""
    with socket.create_server(("127.0.77.4", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ProgramProcess]:
    """Give the project's own web site, with TLS and plain."""
    leaf = Mesh(tmp_path / "public").leaf(dns=("site.test",))
    listen = [
        {"address": "127.0.77.4:0", "certificate": leaf.chain, "key": leaf.key},
        {"address": "127.0.77.4:0"},
    ]
    with ProgramProcess("website", {"name": "site.test", "listen": listen}, tmp_path) as program:
        yield program


def test_http_is_answered_and_joined_by_port_and_token(site: ProgramProcess) -> None:
    """The outcome has status, lines, body and the address that the site saw; the token reaches its log."""
    outcome = one("http", site.address(1)[1], "site.test", path="/a", token="t1")  # noqa: S106 - no secret
    assert (outcome.status, outcome.stage, outcome.http_status) == ("answered", "request", 200)
    assert outcome.lines[0] == "HTTP/1.1 200 OK"
    assert b"path /a," in outcome.body
    assert outcome.remote == "{}:{}".format(*site.address(1))
    assert site.until("request", peer=outcome.local)["token"] == "t1"  # noqa: S105 - no secret


def test_https_is_answered_whoever_the_server_is(site: ProgramProcess) -> None:
    """TLS is not verified, as with curl -k; the Host header has the port where it is not the usual one."""
    port = site.address(0)[1]
    outcome = one("https", port, "site.test")
    assert (outcome.status, outcome.http_status) == ("answered", 200)
    seen = site.until("request", peer=outcome.local)
    assert seen["tls"] is True
    assert seen["host"] == f"site.test:{port}"


def test_a_tunnel_through_a_proxy(site: ProgramProcess) -> None:
    """With https through CONNECT there are both statuses and both heads, the proxy's first."""
    with TcpListener(connect_proxy) as proxy:
        through = (proxy.host, proxy.port)
        outcome = one("https", site.address(0)[1], through=through)
    assert (outcome.status, outcome.connect_status, outcome.http_status) == ("answered", 200, 200)
    assert outcome.lines[:2] == ("HTTP/1.0 200 Connection established", "Proxy-agent: test")
    assert "HTTP/1.1 200 OK" in outcome.lines
    assert outcome.remote == f"{proxy.host}:{proxy.port}"


def test_a_proxy_that_refuses(closed_port: int) -> None:
    """A CONNECT that is answered 403 is proxy-refused, with its lines; the target is not resolved."""
    with TcpListener(connect_proxy) as proxy:
        outcome = one("https", 9, "nowhere.test", through=(proxy.host, proxy.port))
    assert (outcome.status, outcome.stage, outcome.connect_status) == ("proxy-refused", "proxy", 403)
    assert outcome.lines[0] == "HTTP/1.0 403 Filtered"
    unproxied = one("https", 9, through=("127.0.77.4", closed_port))
    assert (unproxied.status, unproxied.stage) == ("refused", "connect")


def test_tcp_only_connects_or_sends_and_reads() -> None:
    """Without bytes to send a connection is `connected`; with them the first bytes back make `answered`."""
    with TcpListener(lambda sock: sock.sendall(sock.recv(100))) as echo:
        plain, asked = one("tcp", echo.port), one("tcp", echo.port, send=b"ping")
    assert (plain.status, plain.stage, plain.body) == ("connected", "connect", b"")
    assert (asked.status, asked.stage, asked.body) == ("answered", "request", b"ping")


def test_udp_is_answered_refused_or_silent(closed_port: int) -> None:
    """An echo answers; a closed port refuses, in ICMP; silence is a timeout."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.77.4", 0))
        port = sock.getsockname()[1]
        silent = one("udp", port, send=b"ping", timeout=0.1)
        assert sock.recvfrom(100)[0] == b"ping"

        def answer(_: Probe, local: str) -> None:
            sock.sendto(b"pong", ("127.0.0.1", int(local.rpartition(":")[2])))

        # The port is told before the first packet, so the answer may even be there before the question.
        probe = Probe(1, "here", "udp", "127.0.77.4", port, send=b"ping", source="127.0.0.1")
        [answered] = engine().run([probe], started=answer)
    assert (silent.status, silent.stage) == ("timeout", "request")
    assert (answered.status, answered.body) == ("answered", b"pong")
    refused = one("udp", closed_port, send=b"ping")
    assert (refused.status, refused.detail) == ("refused", "ICMP type 3 code 3 from 127.0.77.4")


@pytest.mark.parametrize("scheme", ["tcp", "http", "https"])
def test_a_closed_port_refuses(closed_port: int, scheme: str) -> None:
    """A RST to the SYN is `refused` at stage connect, with the address it was tried from."""
    outcome = one(scheme, closed_port)
    assert (outcome.status, outcome.stage) == ("refused", "connect")
    assert outcome.local is not None
    assert outcome.local.startswith("127.")


def test_a_reset_is_told_from_an_end() -> None:
    """After the request, a RST is `reset` and a FIN is `closed`."""
    with TcpListener(read_and_reset) as resetting:
        outcome = one("http", resetting.port)
        assert (outcome.status, outcome.detail) == ("reset", "ECONNRESET: Connection reset by peer")
    with TcpListener(read_head) as ending:
        outcome = one("http", ending.port)
        assert (outcome.status, outcome.stage, outcome.detail) == (
            "closed",
            "request",
            "ended without an answer",
        )


def test_bytes_before_a_reset_are_kept() -> None:
    """Lines that came before a RST are in the outcome, and it is still `reset`."""

    def serve(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
        reset(sock)

    with TcpListener(serve) as listener:
        outcome = one("http", listener.port)
    assert (outcome.status, outcome.http_status, outcome.body) == ("reset", 200, b"part")


def test_a_reset_within_the_handshake() -> None:
    """A RST for the ClientHello is `reset` at stage tls, an end there is `closed`."""
    with TcpListener(read_and_reset) as resetting:
        outcome = one("https", resetting.port)
        assert (outcome.status, outcome.stage) == ("reset", "tls")
    with TcpListener(lambda sock: sock.recv(65536)) as ending:
        outcome = one("https", ending.port)
        assert (outcome.status, outcome.stage) == ("closed", "tls")


def test_what_is_not_tls_fails_the_handshake() -> None:
    """An answer in plain text is tls-failed, with OpenSSL's words."""
    with TcpListener(lambda sock: sock.sendall(HELLO)) as listener:
        outcome = one("https", listener.port)
    assert (outcome.status, outcome.stage, outcome.detail) == ("tls-failed", "tls", "WRONG_VERSION_NUMBER")


def test_a_client_certificate_is_shown_or_missed(tmp_path: Path) -> None:
    """A server that requires a certificate answers the probe that has one, and sends the other an alert."""
    mesh = Mesh(tmp_path / "mesh")
    leaf = mesh.leaf("spiffe://cluster.local/ns/a/sa/b")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf.chain, leaf.key)
    context.load_verify_locations(mesh.trust)
    context.verify_mode = ssl.CERT_REQUIRED

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False) as tls:
            try:
                tls.do_handshake()
            except ssl.SSLError:
                # what is unread when a socket is closed makes it a reset, which may overtake the alert
                with socket.socket(fileno=tls.detach()) as plain, contextlib.suppress(ConnectionError):
                    plain.shutdown(socket.SHUT_WR)
                    while plain.recv(4096):
                        pass
                return
            read_head(tls)
            tls.sendall(HELLO)

    with TcpListener(serve) as listener:
        shown = one("https", listener.port, certificate=(leaf.chain, leaf.key))
        missed = one("https", listener.port)
    assert (shown.status, shown.body) == ("answered", b"hello")
    assert (missed.status, missed.detail) == ("tls-failed", "TLSV13_ALERT_CERTIFICATE_REQUIRED")


def test_silence_is_a_timeout_at_its_stage() -> None:
    """The timeout holds for the whole probe, and the stage says how far it got."""
    with TcpListener(lambda sock: sock.recv(65536) and sock.recv(65536)) as listener:
        for scheme, stage in (("http", "request"), ("https", "tls")):
            outcome = one(scheme, listener.port, timeout=0.2)
            assert (outcome.status, outcome.stage) == ("timeout", stage)
            assert 0.19e9 < outcome.ended - outcome.started < 5e9


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (HELLO, "answered", b"hello"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", "answered", b"until the end"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
            "answered",
            b"hello",
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhe", "closed", b"he"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhe", "error", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", "closed", b"hello"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO, "answered", b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "answered", b""),
        (b"220 mail.test ESMTP\r\n\r\n", "error", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + bytes(9000), "answered", bytes(4096)),
    ],
)
def test_how_answers_end(answer: bytes, status: str, body: bytes) -> None:
    """Bodies end by length, by chunks or with the connection; cut short is `closed`; 4 KiB are kept."""
    with TcpListener(answering(answer)) as listener:
        outcome = one("http", listener.port)
    assert (outcome.status, outcome.body) == (status, body)


def test_what_this_node_itself_cannot_do_is_an_error_of_that_probe_only(closed_port: int) -> None:
    """A foreign source, a missing certificate, a node that is gone: none of them spoils another probe."""

    def open_socket(node: str, family: int, kind: int, protocol: int) -> socket.socket:
        if node == "gone":
            raise FileNotFoundError(2, "no such node")
        return socket.socket(family, kind, protocol)

    with TcpListener(answering(HELLO)) as listener:
        to: tuple[str, int] = ("127.0.77.4", listener.port)
        probes = [
            Probe(1, "here", "http", *to, source="192.0.2.1"),
            Probe(2, "here", "https", *to, certificate=("/none", "/none")),
            Probe(3, "gone", "http", *to),
            Probe(4, "here", "https", "a" * 300, 443, through=to),
            Probe(5, "here", "http", *to),
        ]
        outcomes = Engine(open_socket, lambda _: Resolver(None)).run(probes)
    assert [(outcome.status, outcome.stage) for outcome in outcomes] == [
        ("error", "connect"),
        ("error", "tls"),
        ("error", "connect"),
        ("error", "tls"),
        ("answered", "request"),
    ]
    assert outcomes[0].detail == "EADDRNOTAVAIL: Cannot assign requested address"
    assert one("tcp", closed_port, "255.255.255.255").status == "unreachable"


def test_the_port_is_known_before_the_first_packet(site: ProgramProcess) -> None:
    """`started` is told each flow's own port, and that very port is the one the site sees."""
    ports: dict[int, str] = {}
    probes = [Probe(number, "here", "http", "127.0.77.4", site.address(1)[1]) for number in range(20)]
    outcomes = engine().run(probes, started=lambda probe, local: ports.update({probe.id: local}))
    for outcome in outcomes:
        assert outcome.local is not None
        assert ports[outcome.id] == f"0.0.0.0:{outcome.local.rpartition(':')[2]}"
        assert site.until("request", peer=outcome.local)["status"] == 200


def test_a_load_begins_when_it_is_told(site: ProgramProcess) -> None:
    """`after` spreads probes in time, whether others are under way or not; the order of outcomes stays."""
    port = site.address(1)[1]
    whens = [0.0, 0.05, 0.1, 0.1, 0.25]
    probes = [
        Probe(number, "here", "http", "127.0.77.4", port, after=when) for number, when in enumerate(whens)
    ]
    begun = time.time_ns()
    outcomes = engine().run(probes)
    assert [(outcome.id, outcome.status) for outcome in outcomes] == [(n, "answered") for n in range(5)]
    assert all(
        (outcome.started - begun) / 1e9 >= when - 0.001 for outcome, when in zip(outcomes, whens, strict=True)
    )


def test_two_thousand_probes_in_one_run(site: ProgramProcess, closed_port: int) -> None:
    """Outcomes come in order, at most `in_flight` run at once, and timers do not wait in line."""
    port = site.address(1)[1]
    with socket.create_server(("127.0.77.4", 0), backlog=256) as silent:
        kinds = {
            0: (port, "answered", 20.0),
            1: (closed_port, "refused", 20.0),
            2: (silent.getsockname()[1], "timeout", 0.3),
        }
        probes = []
        for number in range(2000):
            to, _, timeout = kinds[0 if number % 20 else 1 + number // 20 % 2]
            probes.append(Probe(number, "here", "http", "127.0.77.4", to, timeout=timeout))
        began = time.monotonic()
        outcomes = engine().run(probes, in_flight=100)
        took = time.monotonic() - began
    assert [outcome.id for outcome in outcomes] == list(range(2000))
    for number, outcome in enumerate(outcomes):
        assert outcome.status == kinds[0 if number % 20 else 1 + number // 20 % 2][1]
    # One after the other, the 50 silent ones alone would take 15 s.
    assert took < 15
    marks = sorted(
        [(outcome.started, 1) for outcome in outcomes] + [(outcome.ended, -1) for outcome in outcomes]
    )
    at_once = highest = 0
    for _, step in marks:
        at_once += step
        highest = max(highest, at_once)
    assert 50 <= highest <= 100


def test_no_two_flows_of_a_run_have_the_same_port(closed_port: int) -> None:
    """Two thousand flows one after the other have ports of their own: else two would be taken for one."""
    outcomes = engine().run(
        [Probe(number, "here", "tcp", "127.0.77.4", closed_port) for number in range(2000)]
    )
    assert {outcome.status for outcome in outcomes} == {"refused"}
    assert len({outcome.local for outcome in outcomes}) == 2000

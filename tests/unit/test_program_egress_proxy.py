"""The egress proxy: real processes, sockets and certificates on loopback addresses."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from mesh_certificates import Leaf, Mesh
from program_process import PATIENCE, ProgramProcess
from proxy_bench import PERMIT_BOOKINFO, PREFIX, PRODUCTPAGE, STRANGER, TENANT, Bench, TlsClient

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Give a bench whose echo server is closed at the end."""
    made = Bench(tmp_path)
    yield made
    made.echo.close()


def rejected(bench: Bench, proxy: ProgramProcess, leaf: Leaf, version: str = "TLSv1_3") -> dict[str, Any]:
    """Send something, demand a reset, and return the proxy's decision; nothing may have gone upstream."""
    with bench.client(proxy, leaf, version) as client:
        client.send(b"hello")
        with pytest.raises(ConnectionResetError):
            client.read()
        decision = proxy.until("decision", peer=client.local)
        close = proxy.until("close", peer=client.local)
    assert decision["verdict"] == close["verdict"] == "REJECTED"
    assert close["upstream_local"] is close["upstream_remote"] is None
    assert "upstream" not in [event["event"] for event in proxy.events]
    return decision


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_permitted_client_is_relayed_and_each_step_is_logged(bench: Bench, version: str) -> None:
    """A client that the policy permits reaches the upstream from its tenant's address, events in order."""
    with bench.proxy() as proxy:
        with bench.client(proxy, version=version) as client:
            client.send(b"hi")
            assert client.read() == b"hi"
            client.end()
            assert client.read() == b""
            local = client.local
        close = proxy.until("close")
        bench.echo.came.acquire(timeout=PATIENCE)
    assert [event["event"] for event in proxy.events] == [
        "listening",
        "ready",
        "accept",
        "decision",
        "upstream",
        "close",
    ]
    decision, upstream = proxy.until("decision"), proxy.until("upstream")
    listening = "{}:{}".format(*proxy.address())
    assert (
        decision.items()
        >= {
            "conn": 1,
            "peer": local,
            "local": listening,
            "virtual_server": "bookinfo-proxy",
            "policy": "bookinfo-only",
            "rule": 0,
            "verdict": "PERMITTED",
            "identity": PRODUCTPAGE,
            "identities": [PRODUCTPAGE],
        }.items()
    )
    assert upstream["local"].startswith(f"{TENANT}:")
    assert bench.echo.seen == {upstream["local"]: b"hi"}
    assert (
        close.items()
        >= {
            "peer": local,
            "upstream_local": upstream["local"],
            "upstream_remote": bench.echo.address,
            "verdict": "PERMITTED",
            "bytes_in": 2,
            "bytes_out": 2,
        }.items()
    )
    times = [event["time"] for event in proxy.events]
    assert times == sorted(times)


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_rejected_client_is_reset_after_it_has_sent(bench: Bench, version: str) -> None:
    """An identity that no rule matches finishes the handshake and gets a RST."""
    with bench.proxy() as proxy:
        decision = rejected(bench, proxy, bench.strange, version)
    assert decision["rule"] == "no match"
    assert decision["identity"] == STRANGER
    assert bench.echo.seen == {}


def test_the_first_match_decides(bench: Bench) -> None:
    """A rejecting rule before a permitting one wins, and is named by its index."""
    rules = [{"action": "reject", "spiffe_id": PRODUCTPAGE}, *PERMIT_BOOKINFO]
    with bench.proxy(rules=rules) as proxy:
        assert rejected(bench, proxy, bench.ours)["rule"] == 0


@pytest.mark.parametrize(
    ("uris", "dns", "identity"),
    [
        ((PRODUCTPAGE, STRANGER), (), None),
        ((PRODUCTPAGE, f"{PREFIX}sa/other"), (), None),
        ((), (PRODUCTPAGE.removeprefix("spiffe://"),), None),
        (("spiffe://cluster.local/ns/bookinfo",), (), "spiffe://cluster.local/ns/bookinfo"),
        (("spiffe://cluster.local/ns/Bookinfo/sa/a",), (), "spiffe://cluster.local/ns/Bookinfo/sa/a"),
        (("spiffe://cluster.local/ns/%62ookinfo/sa/a",), (), None),
        ((f"{PREFIX}sa/%61",), (), None),
        ((f"{PREFIX}../other/sa/a",), (), None),
    ],
    ids=[
        "two-tenants",
        "two-of-one-tenant",
        "dns-only",
        "prefix-without-slash",
        "case",
        "percent",
        "percent-behind",
        "dots",
    ],
)
def test_what_is_no_match(
    bench: Bench, uris: tuple[str, ...], dns: tuple[str, ...], identity: str | None
) -> None:
    """Two URI SANs or none, or what is no SPIFFE ID, are no identity; a prefix is compared byte by byte."""
    with bench.proxy() as proxy:
        decision = rejected(bench, proxy, bench.mesh.leaf(*uris, dns=dns))
    assert decision["identity"] == identity
    assert decision["identities"] == list(uris)
    assert decision["rule"] == "no match"


def failed_handshake(bench: Bench, proxy: ProgramProcess, leaf: Leaf | None) -> tuple[str, dict[str, Any]]:
    """Return the alert that the client saw and the proxy's event."""
    client = TlsClient(proxy.address(), bench.mesh.trust, leaf)
    with client:
        # In TLS 1.3 a client is done before the server has seen its certificate.
        client.handshake()
        with pytest.raises(ssl.SSLError) as failure:
            client.read()
    failed = proxy.until("tls-failed", peer=client.local)
    close = proxy.until("close", peer=client.local)
    assert close["verdict"] is None
    assert close["time"] > failed["time"]
    return str(failure.value.reason), failed


def test_a_client_without_certificate_gets_an_alert(bench: Bench) -> None:
    """TLS 1.3 says `certificate required` to a client that has none; the event has OpenSSL's words."""
    with bench.proxy() as proxy:
        alert, failed = failed_handshake(bench, proxy, None)
    assert alert == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert failed["reason"] == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    assert failed["alert"] == "certificate_required"


def test_a_certificate_of_another_authority_gets_an_alert(bench: Bench) -> None:
    """The right name under the wrong authority does not pass the handshake."""
    foreign = Mesh(bench.folder / "foreign").leaf(PRODUCTPAGE)
    with bench.proxy() as proxy:
        alert, failed = failed_handshake(bench, proxy, foreign)
    assert alert == "TLSV1_ALERT_UNKNOWN_CA"
    assert failed["reason"].startswith("CERTIFICATE_VERIFY_FAILED: ")
    assert failed["alert"] == "unknown_ca"


def test_an_optional_certificate_may_be_left_out_and_is_then_nobody(bench: Bench) -> None:
    """With an optional certificate, a client without one passes the handshake and is rejected by policy."""
    with bench.proxy(client_certificate="optional") as proxy:
        with TlsClient(proxy.address(), bench.mesh.trust, None).handshake() as client:
            client.send(b"hello")
            with pytest.raises(ConnectionResetError):
                client.read()
        decision = proxy.until("decision")
    assert decision["identity"] is None
    assert decision["identities"] == []


def test_what_is_not_tls_is_logged_without_an_answer_upstream(bench: Bench) -> None:
    """Plain text, and a client that leaves at once, are failed handshakes with a close of their own."""
    with bench.proxy() as proxy:
        for sent in (b"CONNECT www.f5.com:443 HTTP/1.1\r\n\r\n", b""):
            with socket.create_connection(proxy.address(), timeout=PATIENCE) as plain:
                local = "{}:{}".format(*plain.getsockname())
                plain.sendall(sent)
                plain.shutdown(socket.SHUT_WR)
                while plain.recv(4096):
                    pass
            assert proxy.until("tls-failed", peer=local)["reason"]
            assert proxy.until("close", peer=local)["reason"] == "tls failed"


def test_the_client_may_end_first(bench: Bench) -> None:
    """What a client sends before it ends its direction is still answered: `nc -N` gets its reply."""
    with bench.proxy() as proxy, bench.client(proxy) as client:
        client.send(b"hi\n")
        client.end()
        assert client.read_all() == b"hi\n"


def test_the_upstream_may_end_first(bench: Bench) -> None:
    """A client whose server has said everything can still send, and the server gets it."""
    with socket.create_server(("127.0.77.9", 0)) as listener:
        address = "{}:{}".format(*listener.getsockname())
        with bench.proxy(forward_to=address) as proxy, bench.client(proxy) as client:
            server, _ = listener.accept()
            with server:
                server.sendall(b"that is all")
                server.shutdown(socket.SHUT_WR)
                assert client.read_all() == b"that is all"
                for word in (b"I heard ", b"you"):
                    client.send(word)
                    assert server.recv(100) == word
                client.end()
                assert server.recv(100) == b""
            assert proxy.until("close")["reason"] == "both sides ended"


def test_five_megabytes_go_both_ways(bench: Bench) -> None:
    """A large body comes back unchanged, though the client reads only while it still sends."""
    body = os.urandom(5_000_000)
    with bench.proxy() as proxy, bench.client(proxy) as client:
        sender = threading.Thread(target=_send_and_end, args=(client, body))
        sender.start()
        got = client.read_all()
        sender.join()
        close = proxy.until("close")
    assert got == body
    assert close["bytes_in"] == close["bytes_out"] == len(body)


def _send_and_end(client: TlsClient, body: bytes) -> None:
    client.send(body)
    client.end()


def test_a_client_that_does_not_read_stops_the_upstream(bench: Bench) -> None:
    """Back-pressure: the proxy holds little of a long answer, and all of it arrives once the client reads."""
    total = 64_000_000
    with socket.create_server(("127.0.77.9", 0)) as listener:
        address = "{}:{}".format(*listener.getsockname())
        with bench.proxy(forward_to=address) as proxy, bench.client(proxy) as client:
            server, _ = listener.accept()
            with server:
                server.settimeout(0.5)
                sent = 0
                with contextlib.suppress(TimeoutError):
                    while sent < total:
                        sent += server.send(bytes(min(262144, total - sent)))
                assert sent < total
                server.shutdown(socket.SHUT_WR)
                assert len(client.read_all()) == sent


def test_a_silent_rejected_client_is_reset_by_the_timer(bench: Bench) -> None:
    """A rejected client that sends nothing is reset all the same, after about a second."""
    with bench.proxy() as proxy:
        with bench.client(proxy, bench.strange) as client, pytest.raises(ConnectionResetError):
            client.read()
        decision, close = proxy.until("decision"), proxy.until("close")
    assert 0.8e9 < close["time"] - decision["time"] < 5e9
    assert close["reason"] == "rejected"


def test_a_refusing_upstream_resets_the_client(bench: Bench) -> None:
    """When the upstream refuses, the client is reset and the errno is logged with both addresses."""
    with socket.create_server(("127.0.77.9", 0)) as gone:
        address = "{}:{}".format(*gone.getsockname())
    with bench.proxy(forward_to=address) as proxy:
        with bench.client(proxy) as client, pytest.raises(ConnectionResetError):
            client.read()
        failed, close = proxy.until("upstream-failed"), proxy.until("close")
    assert failed["reason"] == "ECONNREFUSED"
    assert failed["remote"] == address
    assert failed["local"].startswith(f"{TENANT}:")
    assert close["reason"] == "upstream failed: ECONNREFUSED"


def test_a_reset_travels_in_both_directions(bench: Bench) -> None:
    """The upstream's RST becomes the client's, and the client's RST the upstream's."""
    with socket.create_server(("127.0.77.9", 0)) as listener:
        address = "{}:{}".format(*listener.getsockname())
        with bench.proxy(forward_to=address) as proxy:
            with bench.client(proxy) as client:
                server, _ = listener.accept()
                _reset(server)
                with pytest.raises(ConnectionResetError):
                    client.read()
                assert proxy.until("close", conn=1)["reason"] == "upstream failed: ECONNRESET"
            client = bench.client(proxy)
            server, _ = listener.accept()
            with server:
                _reset(client.sock)
                server.settimeout(PATIENCE)
                with pytest.raises(ConnectionResetError):
                    server.recv(1)
                assert proxy.until("close", conn=2)["reason"] == "client failed: ECONNRESET"


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_many_connections_at_once_are_told_apart(bench: Bench) -> None:
    """Of 200 concurrent clients of two tenants each gets its own verdict, bytes and upstream port."""

    def one(number: int) -> tuple[str, bool]:
        ours = number % 2 == 0
        word = f"number {number}".encode()
        client = held.enter_context(bench.client(proxy, bench.ours if ours else bench.strange))
        client.send(word)
        try:
            assert client.read() == word
        except ConnectionResetError:
            assert not ours
        else:
            assert ours
            client.end()
            assert client.read() == b""
        return client.local, ours

    # all stay open to the end: a port that is free again would name two clients
    with bench.proxy() as proxy, ExitStack() as held:
        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(one, range(200)))
        for local, ours in answers:
            close = proxy.until("close", peer=local)
            assert close["verdict"] == ("PERMITTED" if ours else "REJECTED")
            assert (close["upstream_local"] is not None) is ours
    uplinks = {event["local"] for event in proxy.events if event["event"] == "upstream"}
    assert len(uplinks) == 100
    assert len(proxy.events) == 2 + 100 * 4 + 100 * 3


def test_sigterm_ends_open_connections_with_a_close(bench: Bench) -> None:
    """A signal stops the listeners, gives open connections a second, and logs how each ended; status 0."""
    with bench.proxy() as proxy, bench.client(proxy) as client:
        proxy.until("upstream")
        proxy.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionResetError):
            client.read()
        proxy.process.wait(PATIENCE)  # a second signal would end it in its own way
        events = proxy.rest()
        assert [event["event"] for event in events[-2:]] == ["close", "stopped"]
        assert events[-2]["reason"] == "stopped by a signal"
        assert proxy.process.returncode == 0


def test_the_key_log_has_the_sessions_secrets(bench: Bench) -> None:
    """With `keylog`, the secrets of each session are appended to that file in NSS key log format."""
    path = bench.folder / "keys.log"
    with bench.proxy(keylog=str(path)) as proxy, bench.client(proxy):
        proxy.until("decision")
        assert "SERVER_TRAFFIC_SECRET_0 " in path.read_text(encoding="ascii")

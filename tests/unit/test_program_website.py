"""The web site: a real process on loopback, asked by raw sockets."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from mesh_certificates import Mesh
from program_process import PATIENCE, ProgramProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ProgramProcess]:
    """Give a site that listens twice: with TLS, and plainly."""
    leaf = Mesh(tmp_path / "public").leaf(dns=("www.f5.com",))
    listen = [
        {"address": "127.0.77.3:0", "certificate": leaf.chain, "key": leaf.key},
        {"address": "127.0.77.3:0"},
    ]
    with ProgramProcess("website", {"name": "www.f5.com", "listen": listen}, tmp_path) as program:
        yield program


def plain(site: ProgramProcess) -> http.client.HTTPConnection:
    """Return a connection to the plain listener."""
    return http.client.HTTPConnection(*site.address(1), timeout=PATIENCE)


def raw(site: ProgramProcess, request: bytes) -> bytes:
    """Send bytes to the plain listener and return all that comes until it ends."""
    with socket.create_connection(site.address(1), timeout=PATIENCE) as sock:
        sock.sendall(request)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def test_https_answers_200_and_logs_the_request(site: ProgramProcess) -> None:
    """Over TLS the answer is `HTTP/1.1 200 OK`; the event has client, host, agent and token."""
    context = ssl._create_unverified_context()  # noqa: S323 - the client's verification is not under test
    client = http.client.HTTPSConnection(*site.address(0), timeout=PATIENCE, context=context)
    client.request(
        "GET", "/a?b", headers={"Host": "www.f5.com", "User-Agent": "me", "X-Egresslab-Token": "t1"}
    )
    local = "{}:{}".format(*client.sock.getsockname())
    answer = client.getresponse()
    page = answer.read().decode()
    client.close()
    assert (answer.status, answer.reason, answer.version) == (200, "OK", 11)
    assert answer.getheader("Content-Type") == "text/html;charset=utf-8"
    assert answer.getheader("Date", "").endswith(" GMT")
    for word in ("www.f5.com", "/a?b", local):
        assert word in page
    assert (
        site.until("request").items()
        >= {
            "peer": local,
            "local": "{}:{}".format(*site.address(0)),
            "method": "GET",
            "path": "/a?b",
            "host": "www.f5.com",
            "status": 200,
            "tls": True,
            "user_agent": "me",
            "token": "t1",
        }.items()
    )
    assert site.until("close", peer=local)["requests"] == 1


def test_a_connection_is_kept_for_more_requests(site: ProgramProcess) -> None:
    """Three requests go over one connection, HEAD without a body but with the length of one."""
    client = plain(site)
    client.request("GET", "/")
    first = client.getresponse()
    length = len(first.read())
    sock = client.sock
    client.request("HEAD", "/")
    second = client.getresponse()
    assert second.getheader("Content-Length") == str(length)
    assert second.read() == b""
    client.request("GET", "/", headers={"Connection": "close"})
    assert client.sock is sock
    third = client.getresponse()
    assert third.getheader("Connection") == "close"
    third.read()
    client.close()
    assert site.until("close").items() >= {"requests": 3, "reason": "site ended"}.items()


def test_whoami_says_what_the_site_saw(site: ProgramProcess) -> None:
    """/whoami is JSON with the client's address as the site saw it."""
    client = plain(site)
    client.request("GET", "/whoami", headers={"Host": "a.test"})
    local = "{}:{}".format(*client.sock.getsockname())
    seen = json.loads(client.getresponse().read())
    client.close()
    assert seen.items() >= {"name": "www.f5.com", "peer": local, "tls": False, "host": "a.test"}.items()


@pytest.mark.parametrize("status", [200, 204, 304, 404, 418, 503])
def test_a_status_can_be_asked_for(site: ProgramProcess, status: int) -> None:
    """/status/NNN answers with that status."""
    client = plain(site)
    client.request("GET", f"/status/{status}")
    answer = client.getresponse()
    answer.read()
    client.close()
    assert answer.status == status


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nBroken\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", 405),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nLong: " + b"x" * 20000, 431),
        (b"GET /status/999 HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    ],
)
def test_what_it_does_not_understand_is_refused_and_the_connection_ended(
    site: ProgramProcess, request_: bytes, status: int
) -> None:
    """A bad request gets its own status and is logged with it."""
    answer = raw(site, request_)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"\r\nConnection: close\r\n" in answer
    assert site.until("request")["status"] == status


def test_http_1_0_ends_after_one_answer(site: ProgramProcess) -> None:
    """A client of HTTP/1.0 needs no Host, and its connection is ended unless it asks otherwise."""
    assert raw(site, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


def test_requests_sent_together_are_answered_in_order(site: ProgramProcess) -> None:
    """Two requests in one segment get two answers."""
    first, last = (
        b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    answer = raw(site, first + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b"path /1,") < answer.index(b"path /2,")


def test_a_stalled_handshake_delays_nobody(site: ProgramProcess) -> None:
    """While one client is silent in its TLS handshake, another is served on the same listener."""
    context = ssl._create_unverified_context()  # noqa: S323 - the client's verification is not under test
    with socket.create_connection(site.address(0), timeout=PATIENCE):
        client = http.client.HTTPSConnection(*site.address(0), timeout=PATIENCE, context=context)
        client.request("GET", "/")
        assert client.getresponse().status == 200
        client.close()


def test_plain_text_on_the_tls_listener_is_a_failed_handshake(site: ProgramProcess) -> None:
    """What is not TLS is logged as tls-failed with OpenSSL's words, and closed."""
    with socket.create_connection(site.address(0), timeout=PATIENCE) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        local = "{}:{}".format(*sock.getsockname())
        assert site.until("tls-failed", peer=local)["reason"] == "HTTP_REQUEST"
        assert site.until("close", peer=local)["reason"] == "tls failed"


def test_own_body_version_and_server_header(tmp_path: Path) -> None:
    """The configuration may give the page, the Server header, and a version that the page names."""
    listen = [{"address": "127.0.77.3:0"}]
    config: dict[str, Any] = {
        "name": "reviews",
        "version": "v2",
        "listen": listen,
        "server_header": "istio-envoy",
    }
    with ProgramProcess("website", config, tmp_path) as program:
        request = b"GET / HTTP/1.0\r\n\r\n"
        with socket.create_connection(program.address(), timeout=PATIENCE) as sock:
            sock.sendall(request)
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        assert b"\r\nServer: istio-envoy\r\n" in answer
        assert b"This is reviews v2," in answer
    config["body"] = "own page"
    with (
        ProgramProcess("website", config, tmp_path) as program,
        socket.create_connection(program.address(), timeout=PATIENCE) as sock,
    ):
        sock.sendall(request)
        assert b"".join(iter(lambda: sock.recv(65536), b"")).endswith(b"\r\n\r\nown page")


def test_sigterm_ends_it_with_status_0(site: ProgramProcess) -> None:
    """A signal ends the site, open connections notwithstanding."""
    with socket.create_connection(site.address(1), timeout=PATIENCE):
        site.process.send_signal(signal.SIGTERM)
        assert site.process.wait(PATIENCE) == 0
    assert site.rest()[-1]["event"] == "stopped"


@pytest.mark.parametrize(
    ("config", "status", "word"),
    [
        ({"name": "a"}, 2, "listen"),
        ({"name": "a", "listen": [{"address": "80"}]}, 2, "'80' is not ip:port"),
        ({"name": "a", "listen": [{"address": "192.0.2.1:80"}]}, 4, "Cannot assign requested address"),
    ],
)
def test_an_unusable_configuration_is_refused_in_one_sentence(
    tmp_path: Path, config: dict[str, Any], status: int, word: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """No traceback: one sentence on standard error, and an exit status that says whose fault it is."""
    program = ProgramProcess("website", config, tmp_path)
    assert program.process.wait(PATIENCE) == status
    said = capfd.readouterr().err
    assert word in said
    assert said.count("\n") == 1
    program.__exit__()

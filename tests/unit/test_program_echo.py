"""The echo: a real process on loopback, talked to by raw sockets."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from program_process import PATIENCE, PROGRAMS, ProgramProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[ProgramProcess]:
    """Give an echo on a port that the kernel chose."""
    with ProgramProcess("echo", {"name": "echo", "listen": "127.0.77.9:0"}, tmp_path) as program:
        yield program


def read_all(sock: socket.socket) -> bytes:
    """Return all that comes until the other side ends."""
    return b"".join(iter(lambda: sock.recv(65536), b""))


def test_it_answers_in_capitals(echo: ProgramProcess) -> None:
    """`hi` is answered `HI`, and what comes later on the same connection too."""
    with socket.create_connection(echo.address(), timeout=PATIENCE) as sock:
        sock.sendall(b"hi\n")
        assert sock.recv(16) == b"HI\n"
        sock.sendall(b"again 1\n")
        assert sock.recv(16) == b"AGAIN 1\n"


def test_a_client_that_has_ended_its_direction_still_gets_its_answer(echo: ProgramProcess) -> None:
    """As `echo hi | nc -N` does: FIN first, then the whole answer and the end."""
    with socket.create_connection(echo.address(), timeout=PATIENCE) as sock:
        sock.sendall(b"hi\n")
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b"HI\n"


def test_only_ascii_letters_change(echo: ProgramProcess) -> None:
    """Bytes that are no ASCII letters come back as they were, wherever a piece ends."""
    with socket.create_connection(echo.address(), timeout=PATIENCE) as sock:
        sock.sendall(bytes(range(256)))
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == bytes(range(256)).upper()


def test_every_event_names_both_ends(echo: ProgramProcess) -> None:
    """A connection is logged as accept, answer and close, each with the client's and the own address and port."""
    with socket.create_connection(echo.address(), timeout=PATIENCE) as sock:
        peer, local = ("{}:{}".format(*name) for name in (sock.getsockname(), sock.getpeername()))
        sock.sendall(b"hi\n")
        sock.shutdown(socket.SHUT_WR)
        read_all(sock)
    echo.until("close")
    events = [event for event in echo.events if "conn" in event]
    assert [event["event"] for event in events] == ["accept", "answer", "close"]
    assert {(event["conn"], event["peer"], event["local"]) for event in events} == {(1, peer, local)}
    assert events[-1]["bytes"] == 3
    assert events[-1]["reason"] == "client ended"


def test_connections_do_not_wait_for_each_other(echo: ProgramProcess) -> None:
    """A client that says nothing delays no other; each has a number of its own."""
    with (
        socket.create_connection(echo.address(), timeout=PATIENCE),
        socket.create_connection(echo.address(), timeout=PATIENCE) as second,
    ):
        second.sendall(b"hi")
        assert second.recv(16) == b"HI"
        assert echo.until("answer")["conn"] == 2


def test_a_reset_is_told(echo: ProgramProcess) -> None:
    """A client that resets leaves a close with the reason, and the echo goes on."""
    with socket.create_connection(echo.address(), timeout=PATIENCE) as sock:
        sock.sendall(b"hi")
        sock.recv(16)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert "reset" in echo.until("close")["reason"]
    with socket.create_connection(echo.address(), timeout=PATIENCE) as sock:
        sock.sendall(b"hi")
        assert sock.recv(16) == b"HI"


def test_it_stops_when_told(echo: ProgramProcess) -> None:
    """SIGTERM ends it with status 0, and its last event says so."""
    echo.process.send_signal(signal.SIGTERM)
    assert echo.until("stopped")["name"] == "echo"
    assert echo.process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("config", "status", "words"),
    [
        ("{}", 2, "unusable"),
        ('{"name": "echo", "listen": "nowhere"}', 2, "unusable"),
        ('{"name": "echo", "listen": 9000}', 2, "unusable"),
        ("[]", 2, "unusable"),
        ("not json", 2, "Expecting value"),
        ('{"name": "echo", "listen": "192.0.2.1:9000"}', 4, "Cannot assign requested address"),
    ],
)
def test_what_it_cannot_use_is_said_in_a_sentence(
    config: str, status: int, words: str, tmp_path: Path
) -> None:
    """An unusable configuration ends it with status 2, an address that is not here with 4; no traceback."""
    path = tmp_path / "echo.json"
    path.write_text(config, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-P", str(PROGRAMS / "echo.py"), str(path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == status
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr

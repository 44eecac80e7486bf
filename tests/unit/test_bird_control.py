"""BIRD's control socket, spoken to a socket that answers as BIRD does, and what its answers say of routes."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from harness.programs.bird_control import BirdError, BirdRoute, ask, routes, sessions_down

if TYPE_CHECKING:
    from pathlib import Path

ROUTES = (
    b"1007-Table master4:\n"
    b" 10.53.0.128/26       unicast [node_agent_1 17:57:56.961] * (100) [AS64512i]\n"
    b" \tvia 172.19.0.4 on eth0\n"
    b"1008-\tType: BGP univ\n"
    b"1012-\tBGP.origin: IGP\n"
    b" \tBGP.as_path: 64512 64513\n"
    b" \tBGP.next_hop: 172.19.0.4\n"
    b"1007-                     unicast [kernel1 17:57:56.970] (10)\n"
    b" \tvia 172.19.0.9 on eth0\n"
    b"1008-\tType: inherit univ\n"
    b"1007-10.53.0.0/26         blackhole [blocks 17:57:56.970] * (200)\n"
    b"1008-\tType: static univ\n"
    b"0000 \n"
)


def answering(folder: Path, answer: bytes, *, greeting: bytes = b"0001 BIRD 2.0.12 ready.\n") -> str:
    """Serve one connection in the manner of BIRD, in pieces; return the socket's path."""
    path = str(folder / "bird.ctl")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()

    def serve() -> None:
        with server, server.accept()[0] as link:
            link.sendall(greeting)
            link.recv(100)
            for start in range(0, len(answer), 7):
                link.sendall(answer[start : start + 7])

    threading.Thread(target=serve, daemon=True).start()
    return path


def test_an_answer_in_pieces_is_read_to_its_last_line(tmp_path: Path) -> None:
    """Lines come with their codes, those that continue with the code before them."""
    answer = ask(answering(tmp_path, ROUTES), "show route all")
    assert answer[1] == (
        1007,
        "10.53.0.128/26       unicast [node_agent_1 17:57:56.961] * (100) [AS64512i]",
    )
    assert answer[5] == (1012, "\tBGP.as_path: 64512 64513")
    assert answer[-1] == (0, "")


def test_routes_are_read_with_their_attributes(tmp_path: Path) -> None:
    """The best and the others, of BGP and of the kernel; one that goes nowhere has no gateway."""
    assert routes(ask(answering(tmp_path, ROUTES), "show route all")) == (
        BirdRoute(
            "10.53.0.128/26",
            "node_agent_1",
            best=True,
            type="BGP",
            gateway="172.19.0.4",
            next_hop="172.19.0.4",
            as_path=(64512, 64513),
        ),
        BirdRoute("10.53.0.128/26", "kernel1", best=False, type="inherit", gateway="172.19.0.9"),
        BirdRoute("10.53.0.0/26", "blocks", best=True, type="static"),
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"9001 syntax error, unexpected CF_SYM\n", "BIRD refuses 'show route all': syntax error"),
        (b"8001 Network not found\n", "BIRD refuses 'show route all': Network not found"),
        (b"1007-10.53.0.0/26 unic", "it closed the connection"),
    ],
)
def test_what_is_no_answer_is_an_error(tmp_path: Path, answer: bytes, words: str) -> None:
    """A refusal and an answer that ends early are told with BIRD's or the socket's own words."""
    with pytest.raises(BirdError, match=words):
        ask(answering(tmp_path, answer), "show route all")


def test_nobody_there_is_an_error(tmp_path: Path) -> None:
    """Without a socket there is no answer."""
    with pytest.raises(BirdError, match="does not answer: No such file"):
        ask(str(tmp_path / "bird.ctl"), "show status")


def test_silence_ends_in_time(tmp_path: Path) -> None:
    """A BIRD that is stopped accepts and says nothing."""
    path = str(tmp_path / "bird.ctl")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        with pytest.raises(BirdError, match="does not answer: timed out"):
            ask(path, "show status", seconds=0.05)


def test_sessions_that_are_not_established_are_down() -> None:
    """Whatever else BIRD says of them; other protocols have no sessions."""
    lines = [
        "Name       Proto      Table      State  Since         Info",
        "device1    Device     ---        up     18:05:12.941  ",
        "mesh_a     BGP        ---        up     18:05:13.775  Established   ",
        "peer_sky   BGP        ---        start  18:05:16.083  Active        Socket: Connection reset by peer",
        "peer_edge  BGP        ---        start  18:05:16.083  Idle          Error: Neighbor lost",
    ]
    assert sessions_down([(1002, line) for line in lines]) == ("peer_sky", "peer_edge")

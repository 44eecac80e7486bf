"""Small real listeners on loopback: TCP from a function, a CONNECT proxy, DNS from a table."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 20.0


def reset(sock: socket.socket) -> None:
    """Close with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_head(sock: socket.socket) -> bytes:
    """Read a request up to its empty line."""
    got = b""
    while b"\r\n\r\n" not in got and (data := sock.recv(4096)):
        got += data
    return got


class TcpListener:
    """Accepts on loopback and gives each connection to `serve`, which may leave it to be closed."""

    def __init__(self, serve: Callable[[socket.socket], object]) -> None:
        self._serve = serve
        self._sock = socket.create_server(("127.0.77.4", 0), backlog=4096)
        self.host, self.port = self._sock.getsockname()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._sock.accept()
                sock.settimeout(PATIENCE)
                thread = threading.Thread(target=self._one, args=(sock,))
                self._threads.append(thread)
                thread.start()

    def _one(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            self._serve(sock)


def connect_proxy(sock: socket.socket) -> None:
    """Serve one CONNECT: to port 9 it says 403, to all others it makes a tunnel."""
    target = read_head(sock).split(b" ")[1].decode()
    host, _, port = target.rpartition(":")
    if port == "9":
        sock.sendall(b"HTTP/1.0 403 Filtered\r\nProxy-agent: test\r\n\r\n")
        return
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as upstream:
        sock.sendall(b"HTTP/1.0 200 Connection established\r\nProxy-agent: test\r\n\r\n")
        back = threading.Thread(target=_carry, args=(upstream, sock))
        back.start()
        _carry(sock, upstream)
        back.join()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


class DnsListener:
    """Answers A queries over UDP from a table of name to records; what is not in it does not exist.

    A record is an address, `-> name` (a CNAME), or first one of the words of `_answers`; `forged` sends
    answers to other questions before its own.
    """

    def __init__(self, table: dict[str, list[str]]) -> None:
        self._table = table
        self.asked: list[str] = []
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.77.5", 0))
        self.host, self.port = self._sock.getsockname()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (self.host, self.port))
        self._thread.join()
        self._sock.close()

    def _run(self) -> None:
        while True:
            packet, client = self._sock.recvfrom(4096)
            if not packet:
                return
            for answer in self._answers(packet):
                self._sock.sendto(answer, client)

    def _answers(self, packet: bytes) -> list[bytes]:
        number = struct.unpack_from("!H", packet)[0]
        question = packet[12:]
        name = read_name(question)
        self.asked.append(name)
        records = self._table.get(name, ["missing"])
        word = records[0]
        if word == "silent" or (word == "once-silent" and self.asked.count(name) == 1):
            return []
        flags = {"missing": 3, "servfail": 2, "truncated": 0x200}.get(word, 0)
        response = _response(number, question, flags, _pairs(name, records))
        if word == "garbage":
            return [response[:-3] + b"\xc0\xff", packet[:5]]
        if word == "forged":
            other = question.replace(b"\x04site", b"\x04evil")
            elsewhere = [("evil", "127.0.77.66")]
            wrong = [_response(number ^ 1, question, 0, elsewhere), _response(number, other, 0, elsewhere)]
            return [*wrong, response]
        return [response]


def _pairs(name: str, records: list[str]) -> list[tuple[str, str]]:
    pairs = []
    for record in records:
        if record.startswith("-> "):
            pairs.append((name, record))
            name = record.removeprefix("-> ")
        elif record[0].isdecimal():
            pairs.append((name, record))
    return pairs


def read_name(data: bytes) -> str:
    """Read an uncompressed name."""
    labels = []
    while length := data[0]:
        labels.append(data[1 : 1 + length].decode())
        data = data[1 + length :]
    return ".".join(labels)


def _name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def _response(number: int, question: bytes, flags: int, records: list[tuple[str, str]]) -> bytes:
    packet = struct.pack("!6H", number, 0x8180 | flags, 1, len(records), 0, 0) + question
    for position, (owner, record) in enumerate(records):
        # The first owner as real servers write it: a pointer to the question.
        name = b"\xc0\x0c" if position == 0 else _name(owner)
        if record.startswith("-> "):
            data, kind = _name(record.removeprefix("-> ")), 5
        else:
            data, kind = socket.inet_aton(record), 1
        packet += name + struct.pack("!HHIH", kind, 1, 60, len(data)) + data
    return packet

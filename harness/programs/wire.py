"""A non-blocking socket whose operations are generators of waits, so that one loop runs thousands of them.

Each `yield` names a socket, epoll's events and a time; whoever runs the generator sends the events back, or 0
when the time came first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import struct
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, TypeVar

from .events import written
from .tls_client import bare

Status = Literal[
    "answered",
    "connected",
    "refused",
    "reset",
    "unreachable",
    "timeout",
    "closed",
    "tls-failed",
    "resolve-failed",
    "proxy-refused",
    "error",
]

CHUNK = 65536
_IP_TTL, _IP_RECVERR, _IP_RECVTTL = 2, 11, 12
"""Linux's numbers (linux/in.h); the socket module has no names for all of them."""
_ORIGIN_ICMP = 2
_PORT_UNREACHABLE = (3, 3)
_FATES: dict[int, Status] = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: "timeout",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
}


@dataclass(frozen=True)
class Wait:
    """Resume with the events when they come, or with 0 at `until` (of time.monotonic)."""

    sock: socket.socket
    events: int
    until: float


T = TypeVar("T")
Steps = Generator[Wait, int, T]


class EndedError(Exception):
    """The flow is over: how, and the detail as message."""

    def __init__(self, status: Status, detail: str = "") -> None:
        self.status = status
        super().__init__(detail)


class Wire:
    """One IPv4 connection, or one connected UDP socket, with TLS over it once that is started.

    Every operation raises EndedError when the connection fails or `deadline` (of time.monotonic) passes.
    """

    def __init__(
        self, sock: socket.socket, deadline: float, *, mark: int = 0, source: str | None = None
    ) -> None:
        self.sock = sock
        self.deadline = deadline
        self.buffer = b""
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        sock.setblocking(False)  # noqa: FBT003 - socket's own signature
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        # IP_BIND_ADDRESS_NO_PORT stays off: the port is known before the first packet.
        sock.bind((source or "0.0.0.0", 0))  # noqa: S104 - the route chooses the address
        # Its own address; before connect() the port only, unless a source was given.
        self.local = written(sock.getsockname())

    def connect(self, address: tuple[str, int]) -> Steps[None]:
        """Connect; a UDP socket does so without a packet."""
        code = self.sock.connect_ex(address)
        self.local = written(self.sock.getsockname())
        if code == errno.EINPROGRESS:
            yield from self.wait(select.EPOLLOUT)
            code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise self.failure(code)

    def start_tls(
        self, context: ssl.SSLContext, host: str | None = None, session: ssl.SSLSession | None = None
    ) -> Steps[None]:
        """Finish a handshake as client; `host` is the server name that is sent, `session` one to resume.

        Who resumes one shows no certificate, though the context had one: the session is all it has.
        """
        try:
            self._tls = context.wrap_bio(
                self._incoming, self._outgoing, server_hostname=host, session=session
            )
            if session is not None:
                self._tls.context = bare(context)
            while True:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    yield from self._flush()
                    yield from self._fill("closed within the TLS handshake")
                else:
                    yield from self._flush()
                    return
        except ssl.SSLError as error:
            # Our alert is worth sending; whether it arrives is not ours to tell.
            with contextlib.suppress(OSError):
                self.sock.send(self._outgoing.read())
            raise EndedError("tls-failed", error.reason or str(error)) from None

    @property
    def version(self) -> str:
        """The version of TLS that was agreed upon; empty before."""
        return (self._tls.version() if self._tls else None) or ""

    @property
    def session(self) -> ssl.SSLSession | None:
        """What could be resumed, once something was received (TLS 1.3); None where the server gave nothing."""
        return self._tls.session if self._tls else None

    @property
    def resumed(self) -> bool:
        """Whether the handshake took a session up again."""
        return bool(self._tls and self._tls.session_reused)

    def send(self, data: bytes) -> Steps[None]:
        """Send everything."""
        if self._tls is None:
            yield from self._send(data)
        elif data:
            self._tls.write(data)
            yield from self._flush()

    def receive(self) -> Steps[bytes]:
        """Return what comes next (UDP: one datagram), b"" at the end of the peer's direction."""
        if self._tls is None:
            return (yield from self._receive())
        while True:
            try:
                return self._tls.read(CHUNK)
            except ssl.SSLWantReadError:
                yield from self._flush()
                yield from self._fill(None)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            except ssl.SSLError as error:
                raise EndedError("tls-failed", error.reason or str(error)) from None

    def ping(self, request: bytes) -> Steps[tuple[bytes, int]]:
        """Send an echo request over a ping socket (icmp(7)); return the answer, and the TTL with which it came."""
        self.sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
        yield from self._send(request)
        ready = 0
        while True:
            try:
                data, ancillary, _, _ = self.sock.recvmsg(CHUNK, 64)
            except BlockingIOError:
                self._look(ready)
            except OSError as error:
                raise self.failure(error.errno or 0) from None
            else:
                ttls = [
                    one for level, kind, one in ancillary if (level, kind) == (socket.IPPROTO_IP, _IP_TTL)
                ]
                return data, int.from_bytes(ttls[0], sys.byteorder) if ttls else 0
            ready = yield from self.wait(select.EPOLLIN)

    def until(self, separator: bytes, limit: int) -> Steps[bytes | None]:
        """Return the bytes before a separator; None when the peer ends first, or `limit` bytes lack it."""
        while separator not in self.buffer:
            data = yield from self.receive()
            self.buffer += data
            if not data or len(self.buffer) > limit:
                return None
        found, _, self.buffer = self.buffer.partition(separator)
        return found

    def wait(self, events: int, until: float | None = None) -> Steps[int]:
        """Wait for events; return 0 when `until` came first."""
        limit = self.deadline if until is None else min(until, self.deadline)
        ready = yield Wait(self.sock, events, limit)
        if not ready and time.monotonic() >= self.deadline:
            raise EndedError("timeout")
        return ready

    def failure(self, code: int) -> EndedError:
        """Tell who made an operation fail: a RST leaves the error queue empty, ICMP does not."""
        name = errno.errorcode.get(code, str(code))
        for origin, kind, number, offender in self._error_queue():
            if origin != _ORIGIN_ICMP:
                continue
            detail = f"ICMP type {kind} code {number} from {offender}"
            # For UDP a closed port is said in ICMP, by the destination itself.
            datagram = self.sock.type == socket.SOCK_DGRAM
            closed = datagram and (kind, number) == _PORT_UNREACHABLE and offender == self._peer_host()
            return EndedError("refused" if closed else "unreachable", detail)
        status = _FATES.get(code, "error")
        said = (
            f"{name}, said by this node itself" if status == "unreachable" else f"{name}: {os.strerror(code)}"
        )
        return EndedError(status, said)

    def close(self) -> None:
        """Close, with a close_notify where TLS runs and the kernel takes it at once."""
        if self._tls is not None:
            with contextlib.suppress(OSError):
                self._tls.unwrap()
            with contextlib.suppress(OSError):
                self.sock.send(self._outgoing.read())
        self.sock.close()

    def _fill(self, ended: str | None) -> Steps[None]:
        data = yield from self._receive()
        if data:
            self._incoming.write(data)
        elif ended:
            raise EndedError("closed", ended)
        else:
            self._incoming.write_eof()

    def _flush(self) -> Steps[None]:
        if self._outgoing.pending:
            yield from self._send(self._outgoing.read())

    def _receive(self) -> Steps[bytes]:
        ready = 0
        while True:
            try:
                return self.sock.recv(CHUNK)
            except BlockingIOError:
                # Bytes that came before an error are read first; only then is it looked at.
                self._look(ready)
            except OSError as error:
                raise self.failure(error.errno or 0) from None
            ready = yield from self.wait(select.EPOLLIN)

    def _send(self, data: bytes) -> Steps[None]:
        rest = memoryview(data)
        ready = 0
        while True:
            try:
                rest = rest[self.sock.send(rest) :]
                if not rest:
                    return
            except BlockingIOError:
                self._look(ready)
            except OSError as error:
                raise self.failure(error.errno or 0) from None
            ready = yield from self.wait(select.EPOLLOUT)

    def _look(self, ready: int) -> None:
        if ready & select.EPOLLERR:
            raise self.failure(self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    def _peer_host(self) -> str | None:
        try:
            return str(self.sock.getpeername()[0])
        except OSError:
            return None

    def _error_queue(self) -> list[tuple[int, int, int, str]]:
        """Return origin, type, code and offender of each entry (ip(7), IP_RECVERR)."""
        entries = []
        with contextlib.suppress(OSError):
            while True:
                _, ancillary, _, _ = self.sock.recvmsg(0, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
                for level, kind, data in ancillary:
                    if (level, kind) == (socket.IPPROTO_IP, _IP_RECVERR) and len(data) >= 24:
                        _, origin, type_, code = struct.unpack_from("=I3B", data)
                        # sock_extended_err is 16 bytes; the offender's sockaddr_in follows.
                        entries.append((origin, type_, code, socket.inet_ntoa(data[20:24])))
        return entries

"""One probe: its stages in order, as a generator of waits."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from .events import written
from .resolver import Resolver, look_up
from .tls_client import Offer, bare, context_of
from .wire import EndedError, Status, Steps, Wire

if TYPE_CHECKING:
    import ssl

Session = tuple["ssl.SSLContext", "ssl.SSLSession | None"]
"""What a session belongs to, and the session; None where the server gave none."""
Stage = Literal["resolve", "session", "connect", "proxy", "tls", "request"]
OpenSocket = Callable[[str, int, int, int], socket.socket]
"""Opens a socket in a node: of this family, type and protocol (0: the usual one)."""

BODY_KEPT = 4096
HEAD_LIMIT = 65536
ECHO_REQUEST = bytes((8, 0, 0, 0, 0, 0, 0, 1)) + bytes(range(56))
"""Sequence number 1, and as much data as ping(8) sends; the kernel fills in identifier and checksum (RFC 792)."""
MOST_PORTS = 64
"""How many ports are looked at for one that no flow of the run had; then one is used again."""


@dataclass(frozen=True)
class Probe:
    """One flow to try from a node; `timeout` in seconds for all of it, `mark` is SO_MARK.

    `through` is an HTTP proxy (host, port) that is asked to CONNECT; `source` an address to leave from;
    `send` what tcp and udp send (tcp with nothing to send only connects, icmp sends an echo); `token` goes into
    X-Egresslab-Token; `certificate` names the files of a chain and its key for https, `offer` is what tls shows of its
    client; over it `send` goes as with tcp. `after` is when the flow may
    begin, in seconds since its engine started on all of them.
    """

    id: int
    node: str
    scheme: Literal["tcp", "udp", "icmp", "http", "https", "tls"]
    host: str
    port: int
    path: str = "/"
    through: tuple[str, int] | None = None
    mark: int = 0
    timeout: float = 5.0
    source: str | None = None
    send: bytes = b""
    token: str | None = None
    certificate: tuple[str, str] | None = None
    after: float = 0.0
    offer: Offer | None = None


@dataclass(frozen=True)
class Outcome:
    """What a probe came to, and at what stage; `started` and `ended` in ns since the epoch.

    `detail` says more in words: for `unreachable` ICMP's type and code and who sent it. `local` and `remote`
    are `ip:port`. `lines` are the status and header lines seen, the proxy's first; `body` is at most 4 KiB.
    """

    id: int
    status: Status
    stage: Stage
    detail: str
    local: str | None
    remote: str | None
    connect_status: int | None
    http_status: int | None
    lines: tuple[str, ...]
    body: bytes
    started: int
    ended: int


class Flow:
    """The state of one probe; `run` is its generator.

    `ports` are those that the run has used, by node; `addresses` what it has looked up already, by node and name.
    """

    def __init__(  # noqa: PLR0913 - one run's, but for the probe
        self,
        probe: Probe,
        open_socket: OpenSocket,
        resolver: Callable[[str], Resolver],
        context: Callable[[tuple[str, str] | None], ssl.SSLContext],
        ports: set[tuple[str, str]],
        addresses: Mapping[tuple[str, str], str],
    ) -> None:
        self._probe = probe
        self._open_socket = open_socket
        self._resolver = resolver
        self._context = context
        self._ports = ports
        self._addresses = addresses
        self._deadline = time.monotonic() + probe.timeout
        self._stage: Stage = "resolve"
        self._local: str | None = None
        self._remote: str | None = None
        self._connect_status: int | None = None
        self._http_status: int | None = None
        self._lines: list[str] = []
        self._body = b""

    def run(self, started: Callable[[Probe, str], None] | None = None) -> Steps[Outcome]:
        """Go through the stages; `started` is called with the bound address before the first packet."""
        began = time.time_ns()
        detail = ""
        try:
            status = yield from self._stages(started)
        except EndedError as ended:
            status, detail = ended.status, str(ended)
        except OSError as error:
            # The node's own kernel would not give a socket, a mark or an address.
            status, detail = (
                "error",
                f"{errno.errorcode.get(error.errno or 0, 'OSError')}: {error.strerror or error}",
            )
        except ValueError as error:
            status, detail = "error", str(error)
        return Outcome(
            self._probe.id,
            status,
            self._stage,
            detail,
            self._local,
            self._remote,
            self._connect_status,
            self._http_status,
            tuple(self._lines),
            self._body,
            began,
            time.time_ns(),
        )

    def _stages(self, started: Callable[[Probe, str], None] | None) -> Steps[Status]:
        probe = self._probe
        host, port = probe.through or (probe.host, probe.port)
        address = (yield from self._resolve(host)), port
        session = (yield from self._session(address)) if probe.offer and probe.offer.resumes else None
        self._stage = "connect"
        wire = self._wire()
        try:
            self._local = wire.local
            if started:
                started(probe, wire.local)
            self._remote = written(address)
            return (yield from self._over(wire, address, session))
        finally:
            wire.sock.close()

    def _session(self, address: tuple[str, int]) -> Steps[Session]:
        """Connect with the offer's certificate, exchange a few words, and return the session to be resumed."""
        context = context_of(self._probe.offer or Offer())
        self._stage = "session"
        wire = self._wire()
        try:
            yield from wire.connect(address)
            yield from wire.start_tls(context)
            yield from wire.send(self._probe.send)
            # under TLS 1.3 tickets come after the handshake (RFC 8446, 4.6.1)
            if not (yield from wire.receive()):
                raise EndedError("closed", "ended without an answer")
            return context, wire.session
        finally:
            wire.close()

    def _wire(self) -> Wire:
        """Return a wire from a port that no flow of this run had: flows are told apart by their 5-tuples."""
        probe = self._probe
        kind = socket.SOCK_DGRAM if probe.scheme in ("udp", "icmp") else socket.SOCK_STREAM
        protocol = socket.IPPROTO_ICMP if probe.scheme == "icmp" else 0
        refused: list[socket.socket] = []  # open as long as we look, so that the kernel gives others
        try:
            while True:
                sock = self._open_socket(probe.node, socket.AF_INET, kind, protocol)
                refused.append(sock)
                wire = Wire(sock, self._deadline, mark=probe.mark, source=probe.source)
                port = probe.node, wire.local.rpartition(":")[2]
                if port not in self._ports or len(refused) == MOST_PORTS:
                    self._ports.add(port)
                    refused.pop()
                    return wire
        finally:
            for sock in refused:
                sock.close()

    def _over(self, wire: Wire, address: tuple[str, int], session: Session | None) -> Steps[Status]:
        probe = self._probe
        try:
            yield from wire.connect(address)
        finally:
            self._local = wire.local
        if probe.through:
            self._stage = "proxy"
            yield from self._tunnel(wire)
        if probe.scheme == "https":
            self._stage = "tls"
            yield from wire.start_tls(self._context(probe.certificate), probe.host)
        if probe.scheme == "tls":
            self._stage = "tls"
            context, resumed = session or (context_of(probe.offer or Offer()), None)
            yield from wire.start_tls(bare(context) if session and not resumed else context, session=resumed)
            self._lines.append(f"{wire.version}, {'resumed' if wire.resumed else 'not resumed'}")
        try:
            if probe.scheme in ("http", "https"):
                self._stage = "request"
                yield from self._request(wire)
                return "answered"
            if probe.scheme == "icmp":
                self._stage = "request"
                answer, ttl = yield from wire.ping(ECHO_REQUEST)
                self._lines.append(f"{len(answer)} bytes from {address[0]}: icmp_seq=1 ttl={ttl}")
                return "answered"
            if probe.scheme == "tcp" and not probe.send:
                return "connected"
            self._stage = "request"
            yield from wire.send(probe.send)
            self._body = (wire.buffer or (yield from wire.receive()))[:BODY_KEPT]
        finally:
            wire.close()
        if not self._body and probe.scheme in ("tcp", "tls"):
            raise EndedError("closed", "ended without an answer")
        return "answered"

    def _resolve(self, host: str) -> Steps[str]:
        resolver = self._resolver(self._probe.node)
        known = resolver.known(host) or self._addresses.get((self._probe.node, host))
        if known is not None:
            return known
        return (yield from look_up(self._open_socket, self._probe.node, resolver, host, self._deadline))

    def _tunnel(self, wire: Wire) -> Steps[None]:
        target = f"{self._probe.host}:{self._probe.port}"
        yield from wire.send(self._head(f"CONNECT {target} HTTP/1.1", target))
        self._connect_status, _ = yield from self._reply(wire)
        if not 200 <= self._connect_status <= 299:
            raise EndedError("proxy-refused", f"the proxy answered {self._connect_status}")

    def _request(self, wire: Wire) -> Steps[None]:
        probe = self._probe
        usual = 443 if probe.scheme == "https" else 80
        host = probe.host if probe.port == usual else f"{probe.host}:{probe.port}"
        yield from wire.send(self._head(f"GET {probe.path} HTTP/1.1", host, "Connection: close"))
        self._http_status, fields = yield from self._reply(wire)
        if self._http_status in (204, 304):
            return
        if "chunked" in fields.get("transfer-encoding", "").lower():
            yield from self._chunks(wire)
        elif fields.get("content-length", "").isdecimal():
            yield from self._exactly(wire, int(fields["content-length"]))
        else:
            # Without a length the body ends with the connection (RFC 9112 section 6.3).
            self._keep(wire.buffer)
            while data := (yield from wire.receive()):
                self._keep(data)

    def _head(self, first: str, host: str, *more: str) -> bytes:
        lines = [first, f"Host: {host}", "User-Agent: egresslab", *more]
        if self._probe.token:
            lines.append(f"X-Egresslab-Token: {self._probe.token}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _reply(self, wire: Wire) -> Steps[tuple[int, dict[str, str]]]:
        while True:
            head = yield from wire.until(b"\r\n\r\n", HEAD_LIMIT)
            if head is None:
                raise EndedError(
                    "closed", f"after {wire.buffer[:80]!r}" if wire.buffer else "ended without an answer"
                )
            lines = head.decode("latin-1").split("\r\n")
            self._lines += lines
            version, _, rest = lines[0].partition(" ")
            if not version.startswith("HTTP/") or not rest[:3].isdecimal():
                raise EndedError("error", f"not HTTP: {lines[0][:80]!r}")
            status = int(rest[:3])
            # 1xx is followed by the answer proper (RFC 9110 section 15.2).
            if status >= 200:
                pairs = (line.partition(":") for line in lines[1:])
                return status, {name.lower(): value.strip() for name, _, value in pairs}

    def _chunks(self, wire: Wire) -> Steps[None]:
        while True:
            line = yield from wire.until(b"\r\n", HEAD_LIMIT)
            if line is None:
                raise EndedError("closed", "ended within a chunked body")
            size = int(line.partition(b";")[0], 16)
            if not size:
                return
            yield from self._exactly(wire, size)
            yield from wire.until(b"\r\n", HEAD_LIMIT)

    def _exactly(self, wire: Wire, length: int) -> Steps[None]:
        left = length
        while True:
            part, wire.buffer = wire.buffer[:left], wire.buffer[left:]
            left -= len(part)
            self._keep(part)
            if not left:
                return
            wire.buffer = yield from wire.receive()
            if not wire.buffer:
                raise EndedError("closed", f"after {length - left} of {length} bytes")

    def _keep(self, data: bytes) -> None:
        self._body += data[: BODY_KEPT - len(self._body)]

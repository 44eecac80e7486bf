"""The egress proxy: asks for a client certificate, decides by SPIFFE ID, forwards from a tenant's address.

`python3 -m harness.programs.egress_proxy CONFIG.json`, or this file's path in place of the module (policy.py
has the configuration's form). It prints for each connection, in this order: `accept`; `tls-failed` or
`decision`; `upstream` or `upstream-failed`; and at the very end, when both sockets are closed and the peers
have acknowledged all that was sent, `close`. Before those: `listening` for each virtual server, then `ready`.

Certificate, key and roots are read again when one of their files was replaced, by the next connection that is
accepted. Replace a file by renaming another over it; certificate and key in one file are never of two generations.
Files that cannot be used are refused (`certificates-refused`), and what was in use before is used on.

A rejected client is let through the handshake and reset when its first bytes are read: having sent its
request it then reports `Recv failure: Connection reset by peer`; neither a FIN nor an earlier RST gives that.

Exit statuses: 0 after SIGTERM, 2 unusable configuration, 4 an address or certificate that does not work,
74 the log broke.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import Any

if not __package__:
    # Started as a file: its folder is the package, wherever it was put, so that its neighbours are found.
    _parent, _, __package__ = __file__.rpartition("/")[0].rpartition("/")
    sys.path.append(_parent or "/")

from .events import CANNOT_LISTEN, EventLog, read_config, refuse, written
from .policy import Config, VirtualServer, config_of
from .relay import BrokenError, Traffic, close_when_delivered, name_of, read_out, relay, reset
from .svid import LONGEST, identity_of
from .tls import Files, HandshakeError, RenewedTls, ServerTls, TlsStream

HANDSHAKE_TIMEOUT = 10.0
SILENT_CLIENT = 1.0
"""Seconds that a rejected client's first bytes are waited for before it is reset anyway."""
LINGER = 1.0
"""Seconds that a client may take to close after our TLS alert."""
GRACE = 1.0
"""Seconds that open connections may go on after SIGTERM."""
FAULT_EXIT = 70


@dataclass
class _Connection:
    """What is known of one connection; its `close` event."""

    number: int
    server: VirtualServer
    peer: str
    local: str
    verdict: str | None = None
    upstream_local: str | None = None
    upstream_remote: str | None = None
    traffic: Traffic = field(default_factory=Traffic)
    reason: str = "both sides ended"
    first_bytes: bytes = b""
    where: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.where = {
            "conn": self.number,
            "virtual_server": self.server.name,
            "peer": self.peer,
            "local": self.local,
        }


class Proxy:
    """All virtual servers of one configuration, in one event loop."""

    def __init__(self, config: Config, log: EventLog) -> None:
        self._config = config
        self._log = log
        self._accepted = 0
        self._open: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises OSError when an address cannot be listened on, or a certificate not be read.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if self._config.fault:
            self._log.write("fault", name=self._config.name, fault=self._config.fault)
        listeners = [self._listen(server) for server in self._config.virtual_servers]
        accepting = [asyncio.create_task(self._accept(*listener)) for listener in listeners]
        self._log.write("ready", name=self._config.name)
        self._log.muted = self._config.fault == "silent-log"
        await stop.wait()
        await _cancel(accepting)
        for sock, _, _ in listeners:
            sock.close()
        if self._open:
            await asyncio.wait(self._open, timeout=GRACE)
            await _cancel(self._open)
        self._log.write("stopped", name=self._config.name)

    def _listen(self, server: VirtualServer) -> tuple[socket.socket, VirtualServer, RenewedTls]:
        tls = RenewedTls(
            Files(server.certificate, server.key, server.trust),
            required=server.client_certificate_required,
            keylog=self._config.keylog,
            fault=self._config.fault,
        )
        sock = socket.socket()
        sock.settimeout(0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(server.listen)
        sock.listen(1024)
        self._log.write("listening", virtual_server=server.name, local=written(sock.getsockname()))
        return sock, server, tls

    async def _accept(self, listener: socket.socket, server: VirtualServer, tls: RenewedTls) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, peer = await loop.sock_accept(listener)
            except OSError as error:
                # Out of descriptors, most likely: the client queues until another connection has closed.
                self._log.write("accept-failed", virtual_server=server.name, reason=name_of(error))
                await asyncio.sleep(0.05)
                continue
            self._accepted += 1
            connection = _Connection(self._accepted, server, written(peer), written(sock.getsockname()))
            self._log.write("accept", **connection.where)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = TlsStream(sock, partial(self._current, server, tls))
            task = asyncio.create_task(self._serve(connection, stream))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    def _current(self, server: VirtualServer, tls: RenewedTls) -> ServerTls:
        try:
            return tls.current()
        except (OSError, ValueError) as error:
            self._log.write("certificates-refused", virtual_server=server.name, reason=str(error))
            return tls.last()

    async def _serve(self, connection: _Connection, client: TlsStream) -> None:
        try:
            if await self._handshake(connection, client):
                if self._decide(connection, client):
                    await self._permitted(connection, client)
                else:
                    await self._rejected(connection, client)
        except asyncio.CancelledError:
            connection.reason = "stopped by a signal"
        except (BrokenError, OSError) as error:
            connection.reason = str(error)
        reset(client.sock)
        self._log.write(
            "close",
            **connection.where,
            upstream_local=connection.upstream_local,
            upstream_remote=connection.upstream_remote,
            verdict=connection.verdict,
            bytes_in=connection.traffic.bytes_in,
            bytes_out=connection.traffic.bytes_out,
            reason=connection.reason,
        )

    async def _handshake(self, connection: _Connection, client: TlsStream) -> bool:
        alert = None
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                await client.handshake()
        except HandshakeError as error:
            reason, alert = str(error), error.alert
        except TimeoutError:
            reason = f"no handshake within {HANDSHAKE_TIMEOUT:g} s"
        except OSError as error:
            reason = name_of(error)
        else:
            return True
        self._log.write("tls-failed", **connection.where, reason=reason, alert=alert)
        connection.reason = "tls failed"
        with contextlib.suppress(OSError):
            client.sock.shutdown(socket.SHUT_WR)
            # A close with unread bytes would send a RST, and that can overtake the alert.
            await read_out(client.sock, LINGER)
            await close_when_delivered(client.sock)
        return False

    def _decide(self, connection: _Connection, client: TlsStream) -> bool:
        names = client.names()
        identity, reason = identity_of(names)
        permitted, rule = connection.server.policy.decide(identity)
        connection.verdict = "PERMITTED" if permitted else "REJECTED"
        self._log.write(
            "decision",
            **connection.where,
            policy=connection.server.policy.name,
            rule=rule,
            verdict=connection.verdict,
            identity=identity,
            identities=[name[:LONGEST] for name in names.uris],
            certificate=client.fingerprint(),
            **({"reason": reason} if reason else {}),
        )
        if permitted and self._config.fault == "exit-during-flow":
            os._exit(FAULT_EXIT)
        return permitted

    async def _rejected(self, connection: _Connection, client: TlsStream) -> None:
        connection.reason = "rejected"
        with contextlib.suppress(OSError):
            async with asyncio.timeout(SILENT_CLIENT):
                connection.first_bytes = await client.read()
        connection.traffic.bytes_in = len(connection.first_bytes)
        reset(client.sock)
        if (self._config.fault or "").startswith("reject-then-dial"):
            await self._dial_anyway(connection)

    async def _dial_anyway(self, connection: _Connection) -> None:
        quietly = self._config.fault == "reject-then-dial-quietly"
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            upstream = await self._dial(connection, quietly=quietly)
            with upstream:
                await loop.sock_sendall(upstream, connection.first_bytes)
                upstream.shutdown(socket.SHUT_WR)
                await read_out(upstream, LINGER)
        if quietly:
            connection.upstream_local = connection.upstream_remote = None

    async def _permitted(self, connection: _Connection, client: TlsStream) -> None:
        try:
            upstream = await self._dial(connection)
        except OSError as error:
            raise BrokenError(f"upstream failed: {name_of(error)}") from None
        try:
            await relay(client, upstream, connection.traffic)
        finally:
            # One side's reset is the other's: a FIN would make half an answer look whole.
            reset(upstream)

    async def _dial(self, connection: _Connection, *, quietly: bool = False) -> socket.socket:
        upstream = socket.socket()
        upstream.settimeout(0)
        connection.upstream_remote = written(connection.server.forward_to)
        try:
            # IP_BIND_ADDRESS_NO_PORT stays off: the port is known before the first packet.
            upstream.bind((connection.server.bind or "", 0))
            connection.upstream_local = written(upstream.getsockname())
            upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(self._config.connect_timeout):
                await asyncio.get_running_loop().sock_connect(upstream, connection.server.forward_to)
        except OSError as error:
            # The address was chosen by the route: it tells whose the packets are that got no answer.
            connection.upstream_local = written(upstream.getsockname())
            upstream.close()
            if not quietly:
                self._report("upstream-failed", connection, reason=name_of(error))
            raise
        except asyncio.CancelledError:
            upstream.close()
            raise
        connection.upstream_local = written(upstream.getsockname())
        if not quietly:
            self._report("upstream", connection)
        return upstream

    def _report(self, event: str, connection: _Connection, **more: str) -> None:
        self._log.write(
            event,
            conn=connection.number,
            local=connection.upstream_local,
            remote=connection.upstream_remote,
            **more,
        )


async def _cancel(tasks: Any) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """Run the configuration named on the command line."""
    try:
        config = config_of(read_config(sys.argv))
    except ValueError as error:
        refuse(f"{sys.argv[1]}: {error}")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        asyncio.run(Proxy(config, EventLog()).run())
    except (OSError, ValueError) as error:
        refuse(f"{config.name}: {error}", CANNOT_LISTEN)


if __name__ == "__main__":
    main()

"""The server's end of a TLS connection on asyncio, with what asyncio's own transport lacks.

`ssl.MemoryBIO` keeps the two directions apart: either may end while the other goes on (asyncio's transport
closes both, and the reply to `echo hi | nc -N` is lost), and the socket can be reset without a close_notify.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

CHUNK = 65536
"""Bytes asked of a socket at once."""


class ServerTls:
    """What the connections of one listener share: certificate, trust, and what is asked of the client.

    Raises OSError (ssl.SSLError among them) when a file cannot be read or a key does not match.
    """

    def __init__(self, certificate: str, key: str, trust: str, *, required: bool, keylog: str | None) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.load_cert_chain(certificate, key)
        self.context.load_verify_locations(trust)
        self.context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        # No resumption: every connection shows its certificate, to us and to a capture.
        self.context.num_tickets = 0
        self.context.options |= ssl.OP_NO_TICKET
        if keylog:
            self.context.keylog_filename = keylog
        self.last_alert: str | None = None
        # The only way to see which alert went out; the type stubs do not have it.
        self.context._msg_callback = self._saw  # type: ignore[attr-defined]  # noqa: SLF001 - see above

    def _saw(self, _: Any, direction: str, __: Any, content: int, message: Any, ___: bytes) -> None:
        if content == 21 and direction == "write":  # RFC 8446 section 5.1: 21 is alert
            self.last_alert = getattr(message, "name", str(message)).lower()


class HandshakeError(Exception):
    """The handshake came to nothing: OpenSSL's reason words, and the alert we sent, if any."""

    def __init__(self, reason: str, alert: str | None) -> None:
        self.alert = alert
        super().__init__(reason)


class TlsStream:
    """One connection on a non-blocking socket that was accepted."""

    def __init__(self, sock: socket.socket, tls: ServerTls) -> None:
        self.sock = sock
        self.ended = False
        self._shared = tls
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = tls.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._sending = asyncio.Lock()

    async def handshake(self) -> None:
        """Finish the handshake.

        Raises HandshakeError, after our alert has gone out, and OSError when the connection broke.
        """
        while True:
            self._shared.last_alert = None
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError as error:
                # Read the alert now: other connections write theirs while this one flushes.
                failed = HandshakeError(reason_of(error), self._shared.last_alert)
                await self._flush()
                raise failed from None
            else:
                await self._flush()
                return

    def uri_names(self) -> tuple[str, ...]:
        """List the URI SANs of the verified peer's certificate; none without a certificate."""
        try:
            certificate: dict[str, Any] = self._tls.getpeercert() or {}
        except ValueError:  # a SAN that is not UTF-8 names nobody
            return ()
        return tuple(value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI")

    async def read(self) -> bytes:
        """Return decrypted bytes as they come, and b"" once the client has ended its direction.

        Raises OSError (ssl.SSLError among them) when the connection broke.
        """
        while not (plain := self._decrypt()) and not self.ended:
            await self._fill()
        # A key update wants an answer.
        await self._flush()
        return plain

    async def write(self, data: bytes) -> None:
        """Encrypt and send; returns when the kernel has taken everything.

        Raises OSError when the connection broke.
        """
        self._tls.write(data)
        await self._flush()

    async def write_eof(self) -> None:
        """End our direction: close_notify, then FIN. The client's direction stays open."""
        with contextlib.suppress(ssl.SSLError):
            # It then waits for the client's close_notify, and says so; read() will see that one.
            self._tls.unwrap()
        await self._flush()
        self.sock.shutdown(socket.SHUT_WR)

    def _decrypt(self) -> bytes:
        # Everything is taken at once: unwrap() fails on a connection that holds unread application data.
        chunks = []
        try:
            while chunk := self._tls.read(CHUNK):
                chunks.append(chunk)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self.ended = True
        return b"".join(chunks)

    async def _fill(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self.sock, CHUNK)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if not self._outgoing.pending:
            return
        # Two tasks use this connection; records must not be cut in one another.
        async with self._sending:
            await asyncio.get_running_loop().sock_sendall(self.sock, self._outgoing.read())


def reason_of(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason words, with the verifier's sentence where there is one."""
    reason = error.reason or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{reason}: {error.verify_message}"
    return reason

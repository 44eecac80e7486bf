"""The server's end of a TLS connection on asyncio, with what asyncio's own transport lacks.

`ssl.MemoryBIO` keeps the two directions apart: either may end while the other goes on (asyncio's transport
closes both, and the reply to `echo hi | nc -N` is lost), and the socket can be reset without a close_notify.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .svid import Names, names_of

_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME (openssl/x509_vfy.h), for which Python has no name."""
CHUNK = 65536
"""Bytes asked of a socket at once."""


@dataclass(frozen=True)
class Files:
    """The PEM files of a listener: its certificate's chain, the key (which may be the same file), trusted roots."""

    certificate: str
    key: str
    trust: str

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Return what differs once one of them was replaced or written; raises OSError when one is not there."""
        found = map(os.stat, dict.fromkeys((self.certificate, self.key, self.trust)))
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)


class ServerTls:
    """What connections of one listener share: certificate, trust, and what is asked of the client.

    Raises OSError (ssl.SSLError among them) when a file cannot be read or a key does not match.
    """

    def __init__(
        self,
        files: Files,
        *,
        required: bool,
        keylog: str | None,
        roots: str = "",
        fault: str | None = None,
    ) -> None:
        """Read the files; `roots` (PEM) are trusted beside those of the trust file.

        `fault` is `keep-sessions` (those of TLS 1.2 are resumed) or `ignore-validity` (of certificates, in time).
        """
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        with open(files.certificate, "rb") as certificate, open(files.key, "rb") as key:  # noqa: PTH123 - as in events.py
            # By descriptor: OpenSSL opens a file for the chain and again for the key, and it may be another by then.
            pair = (certificate, certificate if files.key == files.certificate else key)
            self.context.load_cert_chain(*(f"/proc/self/fd/{file.fileno()}" for file in pair))
        with open(files.trust, encoding="ascii") as trust:  # noqa: PTH123 - as above
            self.roots = trust.read() + roots
        self.context.load_verify_locations(cadata=self.roots)
        self.context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        # No resumption: every connection shows its certificate, to us and to a capture. Python has no switch for TLS
        # 1.2's session numbers, so a context that has made such a session is used no more (RenewedTls).
        self.context.num_tickets = 0
        self.context.options |= ssl.OP_NO_TICKET
        if keylog:
            self.context.keylog_filename = keylog
        if fault == "ignore-validity":
            self.context.verify_flags |= _NO_CHECK_TIME
        self.resumes = fault == "keep-sessions"
        self.has_sessions = False
        self.last_alert: str | None = None
        # The only way to see which alert went out; the type stubs do not have it.
        self.context._msg_callback = self._saw  # type: ignore[attr-defined]  # noqa: SLF001 - see above

    def _saw(self, _: Any, direction: str, __: Any, content: int, message: Any, ___: bytes) -> None:
        if content == 21 and direction == "write":  # RFC 8446 section 5.1: 21 is alert
            self.last_alert = getattr(message, "name", str(message)).lower()


class RenewedTls:
    """A listener's TLS, made anew whenever its files were replaced; connections begun before keep what they have.

    It is also made anew after each handshake of TLS 1.2: contexts have session caches of their own, so that who shows
    no certificate finds no session in which another did.
    `fault` is `keep-certificates` (files are read once), `keep-trust` (roots that were trusted once stay so), or one of
    ServerTls.
    """

    def __init__(self, files: Files, *, required: bool, keylog: str | None, fault: str | None = None) -> None:
        self._files, self._required, self._keylog, self._fault = files, required, keylog, fault
        self._stamp = files.stamp()
        self._tls = ServerTls(files, required=required, keylog=keylog, fault=fault)

    def current(self) -> ServerTls:
        """Return what a connection that begins now is to use.

        Raises OSError (ssl.SSLError among them) once for files that changed and cannot be used; what was in use
        before is then used on.
        """
        stamp = self._files.stamp()
        if (stamp != self._stamp or self._tls.has_sessions) and self._fault != "keep-certificates":
            # First the stamp: a change while the files are read is then seen the next time.
            self._stamp = stamp
            roots = self._tls.roots if self._fault == "keep-trust" else ""
            self._tls = ServerTls(
                self._files, required=self._required, keylog=self._keylog, roots=roots, fault=self._fault
            )
        return self._tls

    def last(self) -> ServerTls:
        """Return what was in use until now."""
        return self._tls


class HandshakeError(Exception):
    """The handshake came to nothing: OpenSSL's reason words, and the alert we sent, if any."""

    def __init__(self, reason: str, alert: str | None) -> None:
        self.alert = alert
        super().__init__(reason)


class TlsStream:
    """One connection on a non-blocking socket that was accepted."""

    def __init__(self, sock: socket.socket, current: Callable[[], ServerTls]) -> None:
        self.sock = sock
        self.ended = False
        self._current = current
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject
        self._sending = asyncio.Lock()

    async def handshake(self) -> None:
        """Finish the handshake, with the TLS that is current when the client first speaks.

        Raises HandshakeError, after our alert has gone out, and OSError when the connection broke.
        """
        await self._fill()
        shared = self._current()
        self._tls = shared.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        while True:
            shared.last_alert = None
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError as error:
                # Read the alert now: other connections write theirs while this one flushes.
                failed = HandshakeError(reason_of(error), shared.last_alert)
                await self._flush()
                raise failed from None
            else:
                # before the client can know the session's number
                shared.has_sessions |= self._tls.version() != "TLSv1.3" and not shared.resumes
                if (
                    self._tls.session_reused and not shared.resumes
                ):  # its first bytes came before that session was made
                    raise HandshakeError("SESSION_RESUMED", None)
                await self._flush()
                return

    def names(self) -> Names:
        """Return what the verified peer's certificate says of it; nothing without a certificate."""
        certificate = self._tls.getpeercert(binary_form=True)
        try:
            return names_of(certificate) if certificate else Names((), authority=False)
        except ValueError:  # what cannot be read names nobody
            return Names((), authority=False)

    def fingerprint(self) -> str | None:
        """Return the SHA-256 fingerprint of the verified peer's certificate, in hexadecimal; None without one."""
        certificate = self._tls.getpeercert(binary_form=True)
        return hashlib.sha256(certificate).hexdigest() if certificate else None

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
    """Return OpenSSL's reason words, with the verifier's sentence where there is one.

    A peer that ended its side early is the same whichever way Python tells it, which differs by its version.
    """
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "UNEXPECTED_EOF_WHILE_READING"
    reason: str = getattr(error, "reason", None) or str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{reason}: {error.verify_message}"
    return reason

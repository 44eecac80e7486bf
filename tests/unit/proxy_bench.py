"""What the tests of the egress proxy stand on: an echo server, a TLS client with half-close, and a mesh."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any, Self

from mesh_certificates import Leaf, Mesh
from program_process import PATIENCE, ProgramProcess

if TYPE_CHECKING:
    from pathlib import Path

SERVER = "spiffe://cluster.local/ns/bookinfo/sa/default"
PREFIX = "spiffe://cluster.local/ns/bookinfo/"
PRODUCTPAGE = f"{PREFIX}sa/productpage"
STRANGER = "spiffe://cluster.local/ns/sm-apigw-a/sa/default"
TENANT = "127.0.77.1"
PERMIT_BOOKINFO = [{"action": "permit", "spiffe_prefix": PREFIX}]


class Echo:
    """A TCP server that sends back all it gets, ends when its client ends, remembers who came, in the end with what."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.77.9", 0), backlog=512)
        self.seen: dict[str, bytes] = {}
        self.came = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def address(self) -> str:
        """Where it listens, as ip:port."""
        host, port = self.listener.getsockname()
        return f"{host}:{port}"

    def close(self) -> None:
        """Stop listening and wait for the connections."""
        self.listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self.listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, peer = self.listener.accept()
                self.seen[f"{peer[0]}:{peer[1]}"] = b""
                thread = threading.Thread(target=self._echo, args=(sock, f"{peer[0]}:{peer[1]}"))
                self._threads.append(thread)
                thread.start()

    def _echo(self, sock: socket.socket, peer: str) -> None:
        got = []
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(65536):
                got.append(data)
                sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        self.seen[peer] = b"".join(got)
        self.came.release()


class TlsClient:
    """A TLS client whose two directions end separately."""

    def __init__(  # noqa: PLR0913 - all that a test varies
        self,
        address: tuple[str, int],
        trust: str,
        leaf: Leaf | None,
        version: str = "TLSv1_3",
        before: TlsClient | None = None,
        key_log: str | None = None,
    ) -> None:
        """Connect; with the session of a client `before`, which this one tries to resume."""
        context: ssl.SSLContext = before.context if before else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if before is None:
            context.check_hostname = False
            context.load_verify_locations(trust)
            context.maximum_version = ssl.TLSVersion[version]
            if leaf:
                context.load_cert_chain(leaf.chain, leaf.key)
            if key_log:
                context.keylog_filename = key_log
        self.context: ssl.SSLContext = context
        self.sock = socket.create_connection(address, timeout=PATIENCE)
        self.local = "{}:{}".format(*self.sock.getsockname())
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = before.session if before else None
        self._tls = context.wrap_bio(self._incoming, self._outgoing, session=session)
        self._turn = threading.Lock()
        self._plain = b""
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    @property
    def session(self) -> ssl.SSLSession | None:
        """What could be resumed, after the handshake (TLS 1.2) or once something was read (TLS 1.3)."""
        return self._tls.session

    @property
    def resumed(self) -> bool | None:
        """Whether the handshake took a session up again."""
        return self._tls.session_reused

    def servers_certificate(self) -> str:
        """Return the SHA-256 fingerprint of the certificate that the server showed."""
        return hashlib.sha256(self._tls.getpeercert(binary_form=True) or b"").hexdigest()

    def handshake(self) -> Self:
        """Finish the handshake."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()
            else:
                self._flush()
                return self

    def send(self, data: bytes) -> None:
        """Encrypt and send; another thread may read meanwhile."""
        for start in range(0, len(data), 262144):
            with self._turn:
                self._tls.write(data[start : start + 262144])
                records = self._outgoing.read()
            self.sock.sendall(records)

    def end(self) -> None:
        """Say close_notify and send a FIN; the other direction stays open."""
        with self._turn:
            # unwrap() fails on a connection that holds unread application data.
            self._decrypt()
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.unwrap()
        self._flush()
        self.sock.shutdown(socket.SHUT_WR)

    def read(self) -> bytes:
        """Return what comes next, b"" at the end of the server's direction."""
        while True:
            with self._turn:
                self._decrypt()
                if self._plain or self._ended:
                    plain, self._plain = self._plain, b""
                    return plain
            self._fill()

    def read_all(self) -> bytes:
        """Return everything until the server's close_notify."""
        return b"".join(iter(self.read, b""))

    def _decrypt(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            while not self._ended:
                try:
                    data = self._tls.read(262144)
                except ssl.SSLZeroReturnError:
                    data = b""
                self._plain += data
                self._ended = not data

    def _fill(self) -> None:
        data = self.sock.recv(262144)
        with self._turn:
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.sock.sendall(self._outgoing.read())


class Bench:
    """A mesh, an echo server, and proxies in front of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mesh = Mesh(folder / "mesh")
        self.echo = Echo()
        self.ours = self.mesh.leaf(PRODUCTPAGE)
        self.strange = self.mesh.leaf(STRANGER)
        self._server = self.mesh.leaf(SERVER)

    def proxy(self, *, rules: list[dict[str, str]] | None = None, **more: Any) -> ProgramProcess:
        """Start a proxy; `more` goes into the virtual server, but for the keys of the whole configuration."""
        top: dict[str, Any] = {
            key: more.pop(key) for key in ("fault", "keylog", "connect_timeout") if key in more
        }
        server = {
            "name": "bookinfo-proxy",
            "listen": "127.0.77.2:0",
            "certificate": self._server.chain,
            "key": self._server.key,
            "trust": self.mesh.trust,
            "client_certificate": "require",
            "policy": "bookinfo-only",
            "forward_to": self.echo.address,
            "bind": TENANT,
            **more,
        }
        policies = {"bookinfo-only": PERMIT_BOOKINFO if rules is None else rules}
        config: dict[str, Any] = {"name": "bigip", "policies": policies, "virtual_servers": [server], **top}
        return ProgramProcess("egress_proxy", config, self.folder)

    def client(self, proxy: ProgramProcess, leaf: Leaf | None = None, version: str = "TLSv1_3") -> TlsClient:
        """Connect to a proxy and finish the handshake, with our certificate unless another is given."""
        return TlsClient(proxy.address(), self.mesh.trust, leaf or self.ours, version).handshake()

"""An egress proxy's engine as a process on loopback, rendered as for a lab, its log read as a lab reads it."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mesh_certificates import Mesh
from program_process import PATIENCE, PROGRAMS
from proxy_bench import PREFIX, PRODUCTPAGE, SERVER, STRANGER, TENANT, Echo, TlsClient

from harness import lookup, ready, tools
from harness.proxy import Proxy, Rule, VirtualServer

if TYPE_CHECKING:
    import mesh_certificates

    from harness.evidence import Sighting
    from harness.plan import File, Ready

LOCAL = ("builtin", "envoy", "haproxy")
"""The engines that run here."""

PERMIT_BOOKINFO = (Rule(permit=True, spiffe_prefix=PREFIX),)
_HOST = "127.0.77.3"


class Engine:
    """A running engine with one virtual server, `exit`, in front of an echo server."""

    def __init__(self, bench: EngineBench, proxy: Proxy) -> None:
        self.name = bench.engine
        host, _, port = proxy.virtual_servers[0].listen.rpartition(":")
        self.address = (host, int(port))
        self.trust = bench.mesh.trust
        """The file of roots that clients trust."""
        self._ours = bench.ours
        self._plug = lookup.find("engines", bench.engine)
        self._proxy = proxy
        runtime = self._plug.render(proxy)
        for file in runtime.files:
            _place(Path(proxy.folder, file.path), file)
        (self.program,) = runtime.programs
        word, *rest = self.program.argv
        self._log = Path(proxy.folder, "log")
        with self._log.open("wb") as log:
            argv = [word if word.startswith("/") else tools.find(word), *rest]
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)

    def __enter__(self) -> Self:
        ready.until(f"{self.name} is ready", self._is_ready, seconds=PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)

    def replace(self, leaf: mesh_certificates.Leaf | None = None, *trusted: Mesh) -> None:
        """Give the proxy another certificate, or other roots, as a lab does: by live files; wait until it uses them."""
        (server,) = self._proxy.virtual_servers
        before = self._plug.render(self._proxy)
        if leaf is not None:
            self._proxy = replace(self._proxy, virtual_servers=(replace(server, leaf=leaf.pair),))
        if trusted:
            roots = "".join(Path(mesh.trust).read_text("ascii") for mesh in trusted)
            self._proxy = replace(self._proxy, trust=roots)
        after = self._plug.render(self._proxy)
        for file in after.files:
            if file not in before.files:
                assert file.live, file.path
                _place(Path(self._proxy.folder, file.path), file)
        ready.until(
            "certificates are applied", partial(_applied, after.programs[0].applied), seconds=PATIENCE
        )

    def client(self, leaf: mesh_certificates.Leaf | None = None, version: str = "TLSv1_3") -> TlsClient:
        """Connect and finish the handshake, with our certificate unless another is given."""
        return TlsClient(self.address, self.trust, leaf or self._ours, version).handshake()

    def stranger(self, leaf: mesh_certificates.Leaf | None) -> TlsClient:
        """Connect with or without a certificate; no handshake yet."""
        return TlsClient(self.address, self.trust, leaf)

    def keylogging(self, version: str, path: str) -> TlsClient:
        """Connect and finish the handshake as a client that logs its own secrets to a file."""
        client = TlsClient(self.address, self.trust, self._ours, version, key_log=path)
        return client.handshake()

    def again(self, before: TlsClient) -> TlsClient:
        """Connect with the session of an earlier client; no handshake yet."""
        return TlsClient(self.address, self.trust, None, before=before)

    def sightings(self) -> list[Sighting]:
        """Return what the log says so far."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        now = time.time_ns()
        return list(self._plug.read_log("bigip", self.program.name, [(now, line) for line in lines]))

    def until(self, event: str, peer: str) -> Sighting:
        """Wait for an event of the connection from `peer` (`ip:port`) and return its sighting."""

        def found() -> Sighting | None:
            for sighting in self.sightings():
                flow = sighting.flow
                if sighting.event == event and flow is not None and f"{flow.src}:{flow.sport}" == peer:
                    return sighting
            return None

        return ready.until(f"{event} of {peer}", found, seconds=PATIENCE)

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(self._log.read_text(encoding="utf-8"))
        if self.program.ready.by == "log":
            return self.program.ready.value in self._log.read_text(encoding="utf-8")
        if self.program.ready.by == "admin" and not Path(self.program.ready.value).exists():
            return False
        with socket.socket() as sock:
            return sock.connect_ex(self.address) == 0


class EngineBench:
    """A mesh, an echo server, and an engine's proxies in front of it; `folder` holds one proxy at a time."""

    def __init__(self, folder: Path, engine: str) -> None:
        self.engine = engine
        self.folder = folder
        self.mesh = Mesh(folder / "mesh")
        self.echo = Echo()
        self.ours = self.mesh.leaf(PRODUCTPAGE)
        self.strange = self.mesh.leaf(STRANGER)

    def proxy(
        self,
        rules: tuple[Rule, ...] = PERMIT_BOOKINFO,
        *,
        required: bool = True,
        forward_to: str = "",
        rotates: bool = False,
        key_log: str | None = None,
    ) -> Engine:
        """Return a proxy that is started by `with`."""
        pair = self.mesh.leaf(SERVER).pair
        with socket.create_server((_HOST, 0)) as free:
            port = free.getsockname()[1]
        listener = VirtualServer(
            name="exit",
            listen=f"{_HOST}:{port}",
            leaf=pair,
            client_certificate_required=required,
            policy="bookinfo-only",
            rules=rules,
            forward_to=forward_to or self.echo.address,
            bind=TENANT,
        )
        trust = Path(self.mesh.trust).read_text("ascii")
        folder = str(self.folder)
        python = ("/usr/bin/env", "python3")
        policies = {"bookinfo-only": rules}
        made = Proxy(
            "bigip",
            folder,
            python,
            str(PROGRAMS),
            trust,
            (listener,),
            policies,
            rotates=rotates,
            key_log=key_log,
        )
        return Engine(self, made)


def _place(path: Path, file: File) -> None:
    """Write a file as a lab does: another takes its place, in its folder."""
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(file.content, encoding="utf-8")
    fresh.chmod(file.mode)
    fresh.replace(path)


def _applied(when: Ready) -> bool:
    if when.by == "nothing":
        return True
    socket_path, _, versions = when.value.partition(" ")
    dumped = b""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(socket_path)
        link.sendall(
            b"GET /config_dump?resource=dynamic_active_secrets HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        while data := link.recv(65536):
            dumped += data
    return all(f'"{version}"'.encode() in dumped for version in versions.split(","))


def ended(client: TlsClient) -> str:
    """Read a client's connection to its end and return how it ended: `FIN`, `RST` or `alert`, without any data."""
    try:
        assert client.read() == b""
    except ConnectionResetError:
        return "RST"
    except ssl.SSLEOFError:
        return "FIN"
    except ssl.SSLError:
        return "alert"
    return "FIN"

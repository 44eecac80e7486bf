"""The egress proxy's seeded faults, and what it refuses to start with."""

from __future__ import annotations

import contextlib
import errno
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mesh_certificates import Leaf, Mesh
from program_process import PATIENCE, ProgramProcess
from proxy_bench import SERVER, Bench

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Give a bench whose echo server is closed at the end."""
    made = Bench(tmp_path)
    yield made
    made.echo.close()


def test_fault_silent_log_ends_the_log_at_ready(bench: Bench) -> None:
    """The fault is announced once; after `ready` the proxy works and says nothing."""
    with bench.proxy(fault="silent-log") as proxy:
        with bench.client(proxy) as client:
            client.send(b"hi")
            assert client.read() == b"hi"
        assert [event["event"] for event in proxy.rest()] == ["fault", "listening", "ready"]
    assert proxy.events[0]["fault"] == "silent-log"


@pytest.mark.parametrize("quietly", [False, True])
def test_fault_reject_then_dial_reaches_the_upstream_anyway(bench: Bench, *, quietly: bool) -> None:
    """A rejected client is reset, then its first bytes go upstream; `close` still comes last."""
    with bench.proxy(fault="reject-then-dial" + "-quietly" * quietly) as proxy:
        with bench.client(proxy, bench.strange) as client:
            client.send(b"secret")
            with pytest.raises(ConnectionResetError):
                client.read()
        close = proxy.until("close")
        assert bench.echo.came.acquire(timeout=PATIENCE)
        names = [event["event"] for event in proxy.rest()]
    assert list(bench.echo.seen.values()) == [b"secret"]
    assert close["verdict"] == "REJECTED"
    assert names.count("upstream") == (0 if quietly else 1)
    assert names[-2:] == ["close", "stopped"]
    assert (close["upstream_local"] is None) is quietly


def test_fault_exit_during_flow_dies_on_the_first_permission(bench: Bench) -> None:
    """Rejections are survived; the first permission ends the process with status 70 and without a close."""
    with bench.proxy(fault="exit-during-flow") as proxy:
        with bench.client(proxy, bench.strange) as client, pytest.raises(ConnectionResetError):
            client.read()
        with bench.client(proxy) as client, contextlib.suppress(ConnectionResetError):
            assert client.sock.recv(1) == b""
        assert proxy.process.wait(PATIENCE) == 70
        assert proxy.rest()[-1]["verdict"] == "PERMITTED"


def replace_pair(bench: Bench, leaf: Leaf) -> None:
    """Put a certificate and its key in the place of what the proxy reads from `pair.pem`."""
    fresh = bench.folder / "pair.new"
    fresh.write_text(leaf.pair.chain + leaf.pair.key, encoding="ascii")
    fresh.replace(bench.folder / "pair.pem")


def shown(bench: Bench, proxy: ProgramProcess) -> str:
    """Return the fingerprint of the certificate that the proxy shows to a client that it serves."""
    with bench.client(proxy) as client:
        client.send(b"hi")
        assert client.read() == b"hi"
        return client.servers_certificate()


@pytest.mark.parametrize("fault", [None, "keep-certificates"])
def test_fault_keep_certificates_reads_them_once(bench: Bench, fault: str | None) -> None:
    """A certificate that was replaced is shown from the next connection on; with the fault, never."""
    first, second = bench.mesh.leaf(SERVER), bench.mesh.leaf(SERVER)
    replace_pair(bench, first)
    pair = str(bench.folder / "pair.pem")
    with bench.proxy(fault=fault, certificate=pair, key=pair) as proxy:
        assert shown(bench, proxy) == first.fingerprint
        replace_pair(bench, second)
        assert shown(bench, proxy) == (first if fault else second).fingerprint


@pytest.mark.parametrize("fault", [None, "keep-trust"])
def test_fault_keep_trust_never_forgets_a_root(bench: Bench, tmp_path: Path, fault: str | None) -> None:
    """Clients of a root that was taken away are refused by the handshake; with the fault they are served."""
    successor = Mesh(tmp_path / "successor")
    trust = tmp_path / "trust.pem"
    trust.write_bytes(Path(bench.mesh.trust).read_bytes())
    with bench.proxy(fault=fault, trust=str(trust)) as proxy:
        shown(bench, proxy)
        (tmp_path / "trust.new").write_bytes(Path(successor.trust).read_bytes())
        (tmp_path / "trust.new").replace(trust)
        if fault:
            shown(bench, proxy)
            return
        with bench.client(proxy) as client, pytest.raises((ssl.SSLError, ConnectionResetError)):
            client.read()
        assert "VERIFY_FAILED" in proxy.until("tls-failed")["reason"]


def test_certificates_that_cannot_be_used_are_refused_and_the_former_used_on(bench: Bench) -> None:
    """A key of another certificate, then no certificate at all: each is told once, and clients notice nothing."""
    first, other = bench.mesh.leaf(SERVER), bench.mesh.leaf(SERVER)
    replace_pair(bench, first)
    pair = bench.folder / "pair.pem"
    with bench.proxy(certificate=str(pair), key=str(pair)) as proxy:
        for wrong in (first.pair.chain + other.pair.key, "nothing\n"):
            (bench.folder / "pair.new").write_text(wrong, encoding="ascii")
            (bench.folder / "pair.new").replace(pair)
            assert [shown(bench, proxy) for _ in range(2)] == [first.fingerprint] * 2
        replace_pair(bench, other)
        assert shown(bench, proxy) == other.fingerprint
        refused = [event for event in proxy.rest() if event["event"] == "certificates-refused"]
    assert len(refused) == 2
    assert "KEY_VALUES_MISMATCH" in refused[0]["reason"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fault": "on-fire"}, "unknown fault 'on-fire'; known: silent-log"),
        ({"policy": "none-such"}, "unknown policy 'none-such'; known: bookinfo-only"),
        ({"rules": [{"action": "permit"}]}, "exactly one of spiffe_id and spiffe_prefix"),
        ({"rules": [{"action": "allow", "spiffe_id": "a"}]}, "permit or reject, not 'allow'"),
        ({"listen": "3128"}, "'3128' is not ip:port"),
        ({"client_certificate": "maybe"}, "require or optional, not 'maybe'"),
    ],
)
def test_an_unusable_configuration_is_refused_in_one_sentence(
    bench: Bench, change: dict[str, Any], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, the sentence on standard error, no traceback."""
    proxy = bench.proxy(**change)
    assert proxy.process.wait(PATIENCE) == 2
    assert proxy.rest() == []
    said = capfd.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    proxy.__exit__()


def test_an_address_of_somebody_else_is_refused_in_one_sentence(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit status 4 when an address cannot be listened on."""
    proxy = bench.proxy(listen=bench.echo.address)
    assert proxy.process.wait(PATIENCE) == 4
    assert os.strerror(errno.EADDRINUSE) in capfd.readouterr().err
    proxy.__exit__()

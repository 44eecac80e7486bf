"""bundle.tgz of a real run that did not hold: what it has, and that no private key of the lab is in it."""

from __future__ import annotations

import base64
import datetime as dt
import re
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from small_lab import REJECTED, Standing, own_name, standing, write

from harness import report, tools
from harness.bundle import write_bundle
from harness.report import Summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

pytestmark = pytest.mark.live

ANY_KEY = re.compile(
    rb"PRIVATE KEY"
    # PKCS #8 and SEC 1 in DER, of keys on P-256 (RFC 5958, RFC 5915)
    rb"|\x30\x81.\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01|\x30\x77\x02\x01\x01\x04\x20",
    re.DOTALL,
)


def widen(lab: dict[str, Any]) -> None:
    """Have the proxy permit everybody, and certificates come by files that are watched: keys within JSON."""
    lab["outside"]["bigip"]["policies"]["bookinfo-only"] = [{"permit": {"spiffe_prefix": "spiffe://"}}]
    lab["mesh"]["certificates"] = {"rotate": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Standing, dict[str, bytes]]]:
    """Run a scenario that must break, and give the lab and its bundle's files."""
    folder = tmp_path_factory.mktemp("bundle")
    with standing(write(folder, [REJECTED], widen), own_name("bundle")) as lab:
        begun = dt.datetime.now(dt.UTC)
        results = lab.results(REJECTED)
        summary = Summary("small", "", "netns", results, lab.lab.phases, tools.versions(), begun, 1.0)
        assert summary.failed
        out = report.write(summary, lab.lab, folder / "out")
        path = write_bundle(summary, lab.lab, out)
        with tarfile.open(path) as archive:
            files = {entry.name: archive.extractfile(entry) for entry in archive}
            found = {name.partition("/")[2]: file.read() for name, file in files.items() if file is not None}
        yield lab, found


def secrets_of(lab: Standing) -> dict[str, tuple[bytes, ...]]:
    """Return each key of a lab in the forms in which it could leak: lines of PEM, DER, and the number itself."""
    certificates = lab.lab._state.certificates
    keys = {name: leaf.key for name, leaf in certificates.leaves.items()}
    keys |= {f"authority {name}": authority.key for name, authority in certificates.authorities.items()}
    found = {}
    for name, pem in keys.items():
        lines = [line.encode() for line in pem.splitlines() if not line.startswith("-")]
        key = load_pem_private_key(pem.encode(), None)
        assert isinstance(key, EllipticCurvePrivateKey)
        number = key.private_numbers().private_value.to_bytes(32, "big")
        # the private number is in the first two lines; the third is of the public key, which certificates have, too
        found[name] = (*lines[:2], base64.b64decode(b"".join(lines)), number)
    return found


def leaks(secrets: dict[str, tuple[bytes, ...]], contents: Iterable[bytes]) -> set[str]:
    """Return whose keys are in any of these."""
    whole = b"\0".join(contents)
    return {name for name, forms in secrets.items() if any(form in whole for form in forms)}


def test_no_private_key_is_in_it(run: tuple[Standing, dict[str, bytes]]) -> None:
    """Neither as PEM nor as DER nor as a number, of nobody; a search of the nodes' own files finds them."""
    lab, found = run
    secrets = secrets_of(lab)
    placed = [text.encode() for files in lab.lab.files().values() for text in files.values()]
    own = {name for name in secrets if not name.startswith("authority")}
    assert leaks(secrets, placed) >= own, "the search finds what there is to find"
    assert leaks(secrets, found.values()) == set()
    assert [name for name, content in found.items() if ANY_KEY.search(content)] == []
    assert any(ANY_KEY.search(content) for content in placed)


def test_it_has_what_is_needed_elsewhere(run: tuple[Standing, dict[str, bytes]]) -> None:
    """Logs, connections, routes, rules, configurations, the lab and scenario files, the machine, the capture."""
    lab, found = run
    assert b'"verdict": "PERMITTED"' in found["recorded/bigip/egress-proxy.log"]
    assert b"answered" in found["recorded/server-0/conntrack.txt"]
    assert b"default via 169.254.1.1" in found["network/sm-apigw-a/nettools.txt"]
    assert b"snat" in found["network/bigip.txt"]
    assert b"spiffe://" in found["configurations/bigip/egress_proxy.json"]
    assert b"[a private key stood here]" in found["configurations/sm-apigw-a/nettools/certs/key.pem"]
    assert b"BEGIN CERTIFICATE" in found["configurations/sm-apigw-a/nettools/certs/cert-chain.pem"]
    assert found["lab.yaml"] == lab.files.lab.read_bytes()
    assert found["scenarios/scenarios.yaml"] == lab.files.scenarios.read_bytes()
    assert b"driver netns: works" in found["machine.txt"]
    assert b"bigip: denied: expected a recorded denial" in found["README.txt"]
    assert found["capture.pcapng"].startswith(b"\x0a\x0d\x0d\x0a")
    assert {"flows.jsonl", "report.html", "programs.json"} <= set(found)

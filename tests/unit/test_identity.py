"""Certificates: root over intermediate over leaf, names as SPIFFE wants them, strangers told apart."""

from __future__ import annotations

import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import (
    PolicyBuilder,
    Store,
    VerificationError,
)

from harness.identity import Certificates, Request, fingerprint, issue, reissued, successions

if TYPE_CHECKING:
    from pathlib import Path

RED = "spiffe://cluster.local/ns/red/sa/default"
REQUESTS = (
    Request("red", uris=(RED,)),
    Request("impostor", "foreign", uris=(RED,)),
    Request("as-dns", dns=(RED,)),
    Request("site", "public", dns=("site.example",)),
    Request("long", "public", dns=(f"{'a' * 60}.{'b' * 60}.example",)),
)


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    """Return the certificates of a lab, issued once."""
    return issue(REQUESTS, "Test Root", "Test Intermediate")


def chain_of(certificates: Certificates, name: str) -> list[x509.Certificate]:
    """Return a leaf and what stands behind it in its file."""
    return x509.load_pem_x509_certificates(certificates.leaves[name].chain.encode())


def verified(certificates: Certificates, name: str, root: str) -> list[x509.Certificate]:
    """Return the chain from a leaf to a root as cryptography's verifier builds it; raises VerificationError."""
    leaf, *between = chain_of(certificates, name)
    store = Store(x509.load_pem_x509_certificates(certificates.roots[root].encode()))
    return PolicyBuilder().store(store).build_client_verifier().verify(leaf, between).chain


@pytest.mark.parametrize(("name", "root"), [("red", "mesh"), ("impostor", "foreign"), ("site", "public")])
def test_chain_leads_to_its_root(name: str, root: str, certificates: Certificates) -> None:
    """Every leaf verifies up to the root of its issuer, over exactly one intermediate."""
    assert len(verified(certificates, name, root)) == 3


@pytest.mark.parametrize(("name", "root"), [("impostor", "mesh"), ("red", "foreign"), ("site", "mesh")])
def test_chain_leads_to_no_other_root(name: str, root: str, certificates: Certificates) -> None:
    """A certificate of another authority does not verify, whatever name it carries."""
    with pytest.raises(VerificationError):
        verified(certificates, name, root)


def test_openssl_agrees(certificates: Certificates, tmp_path: Path) -> None:
    """What the proxies link against accepts the chain for client and server, and refuses the stranger's."""
    (tmp_path / "root.pem").write_text(certificates.roots["mesh"], encoding="ascii")
    for name in ("red", "impostor", "as-dns"):
        (tmp_path / f"{name}.pem").write_text(certificates.leaves[name].chain, encoding="ascii")

    def accepts(name: str, purpose: str) -> bool:
        argv = [
            "openssl",
            "verify",
            "-purpose",
            purpose,
            "-CAfile",
            "root.pem",
            "-untrusted",
            f"{name}.pem",
            f"{name}.pem",
        ]
        return subprocess.run(argv, cwd=tmp_path, capture_output=True, check=False).returncode == 0

    assert [accepts("red", purpose) for purpose in ("sslclient", "sslserver")] == [True, True]
    assert accepts("as-dns", "sslserver")
    assert not accepts("impostor", "sslclient")


def test_a_spiffe_leaf(certificates: Certificates) -> None:
    """A SPIFFE leaf has no subject, one URI as its only name, marked critical, and is no authority (X.509-SVID 2-4)."""
    leaf = chain_of(certificates, "red")[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert len(leaf.subject) == 0
    assert names.critical
    assert list(names.value) == [x509.UniformResourceIdentifier(RED)]
    limits = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert limits.critical
    assert not limits.value.ca
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert not usage.crl_sign
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(purposes) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}


def test_a_spiffe_id_as_a_dns_name(certificates: Certificates) -> None:
    """The article's recipe is kept as it is: the SPIFFE ID as a DNS name, and no URI beside it."""
    leaf = chain_of(certificates, "as-dns")[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName(RED)]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == []


def test_authorities_have_the_names_of_the_lab_file(certificates: Certificates) -> None:
    """Root and intermediate are called as the lab says; only the intermediate signs, and only leaves."""
    _, intermediate = chain_of(certificates, "red")
    (root,) = x509.load_pem_x509_certificates(certificates.roots["mesh"].encode())

    def said(name: x509.Name) -> set[object]:
        return {attribute.value for attribute in name}

    assert "Test Root" in said(root.subject)
    assert "Test Intermediate" in said(intermediate.subject)
    assert intermediate.issuer == root.subject
    assert intermediate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


def test_names_longer_than_a_common_name_are_issued(certificates: Certificates) -> None:
    """A host name of more than 64 characters is whole among the names, cut in the subject (X.520's limit)."""
    leaf = chain_of(certificates, "long")[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == list(REQUESTS[-1].dns)
    assert len(str(leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)) == 64


def test_each_key_fits_its_certificate_and_no_other(certificates: Certificates) -> None:
    """A leaf's key is the one its certificate is for; no two leaves share one."""
    numbers = set()
    for name, leaf in certificates.leaves.items():
        key = load_pem_private_key(leaf.key.encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert chain_of(certificates, name)[0].public_key() == key.public_key()
        numbers.add(key.private_numbers().private_value)
    assert len(numbers) == len(REQUESTS)


def test_only_the_authorities_needed_are_made() -> None:
    """Where nobody asks for another issuer there is the mesh's root only, and it is there even for nobody."""
    assert set(issue((), "a", "b").roots) == {"mesh"}
    assert set(issue(REQUESTS[:2], "a", "b").roots) == {"mesh", "foreign"}


def test_runs_share_no_authority(certificates: Certificates) -> None:
    """Each run of a lab has roots of its own: a certificate of an earlier one is a stranger's."""
    again = issue(REQUESTS[:1], "Test Root", "Test Intermediate")
    mixed = Certificates(certificates.leaves, again.roots)
    with pytest.raises(VerificationError):
        verified(mixed, "red", "mesh")


def test_a_fingerprint_is_the_leafs_in_hexadecimal(certificates: Certificates) -> None:
    """It is SHA-256 over the DER of the first certificate of a chain, as proxies log it."""
    leaf = chain_of(certificates, "red")[0]
    assert fingerprint(certificates.leaves["red"].chain) == leaf.fingerprint(hashes.SHA256()).hex()


def test_a_leaf_is_issued_anew(certificates: Certificates) -> None:
    """Another key and certificate of the same name and authority; whoever else has one keeps it; both are on record."""
    again = reissued(certificates, ("red",))
    assert again.leaves["red"].key != certificates.leaves["red"].key
    assert again.leaves | {"red": None} == certificates.leaves | {"red": None}
    assert len(verified(again, "red", "mesh")) == 3
    before, now = (fingerprint(one.leaves["red"].chain) for one in (certificates, again))
    assert again.issued()["red"] == (before, now)
    assert again.issued()["impostor"] == certificates.issued()["impostor"]
    assert reissued(again, ("red",)).issued()["red"][:2] == (before, now)


def test_an_authority_is_replaced_in_three_states(certificates: Certificates) -> None:
    """Both roots are trusted; all but who is kept are issued by the new one; the old root is trusted no more."""
    requests = (*REQUESTS, Request("kept", uris=(RED,)))
    first = issue(requests, "Test Root", "Test Intermediate", certificates)
    both, new, after = successions(first, "Test Root", "Test Intermediate", ("kept",))
    assert both.leaves == first.leaves
    assert new.roots == both.roots
    assert after.leaves == new.leaves
    for state in (both, new):
        assert len(x509.load_pem_x509_certificates(state.roots["mesh"].encode())) == 2
        assert [len(verified(state, name, "mesh")) for name in ("red", "kept")] == [3, 3]
    assert len(verified(after, "red", "mesh")) == 3
    for stranger in (first.leaves["red"], after.leaves["kept"]):
        with pytest.raises(VerificationError):
            verified(Certificates({"x": stranger}, after.roots), "x", "mesh")
    with pytest.raises(VerificationError):
        verified(Certificates(after.leaves, first.roots), "red", "mesh")
    assert after.leaves["kept"] == first.leaves["kept"]
    assert after.leaves["impostor"] == first.leaves["impostor"]
    assert [len(after.issued()[name]) for name in ("red", "as-dns", "kept", "site")] == [2, 2, 1, 1]


def test_what_is_issued_after_a_rotation_is_of_the_new_authority(certificates: Certificates) -> None:
    """A pod that comes later gets a certificate that the new root verifies; what was rotated stays, record and all."""
    *_, after = successions(certificates, "Test Root", "Test Intermediate")
    more = issue((*REQUESTS, Request("late", uris=(RED,))), "Test Root", "Test Intermediate", after)
    assert len(verified(more, "late", "mesh")) == 3
    assert more.leaves["red"] == after.leaves["red"]
    assert more.issued()["red"] == after.issued()["red"]


def test_a_retired_authority_has_the_meshs_names_and_other_keys() -> None:
    """Its leaves look the same by name, and do not verify."""
    both = issue((*REQUESTS, Request("stale", "retired", uris=(RED,))), "Test Root", "Test Intermediate")
    ours, theirs = (chain_of(both, name) for name in ("red", "stale"))
    assert [one.issuer for one in ours] == [one.issuer for one in theirs]
    assert ours[1].public_key() != theirs[1].public_key()
    with pytest.raises(VerificationError):
        verified(both, "stale", "mesh")


def test_keys_are_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Issuing leaves no file behind: keys exist in memory, and in a lab's own folders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    issue(REQUESTS[:1], "a", "b")
    assert not any(stat.S_ISREG(path.stat().st_mode) for path in tmp_path.rglob("*"))

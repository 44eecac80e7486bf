"""The attack pack: what each attack shows differs from the good certificate in what it is called after."""

from __future__ import annotations

import datetime as dt
import ssl
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from harness import shipped, source
from harness.attacks import ATTACKS, HUGE, LONGEST, Makings, offer_of, title_of
from harness.identity import issue
from harness.programs.svid import is_spiffe_id
from harness.programs.tls_client import Offer, bare, context_of

WHO = "spiffe://cluster.local/ns/prod/sa/app"
NAMES = ("Root", "Intermediate")
MAKINGS = Makings(WHO, issue((), *NAMES), NAMES)
URI = x509.UniformResourceIdentifier


@cache
def shown(attack: str | None) -> Offer:
    """Return what an attack shows, made once."""
    return offer_of(attack, MAKINGS)


def chain(attack: str | None) -> list[x509.Certificate]:
    """Return the certificates that an attack shows."""
    return x509.load_pem_x509_certificates(shown(attack).chain.encode())


def uris(attack: str) -> list[str]:
    """Return the URI names of an attack's certificate."""
    try:
        names = chain(attack)[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(URI)


def verifies(attack: str | None) -> bool:
    """Say whether cryptography's verifier finds a path for a client's certificate to the mesh's root."""
    leaf, *between = chain(attack)
    store = Store(x509.load_pem_x509_certificates(MAKINGS.certificates.roots["mesh"].encode()))
    try:
        PolicyBuilder().store(store).build_client_verifier().verify(leaf, between)
    except VerificationError:
        return False
    return True


def test_the_good_certificate_is_good() -> None:
    """Without an attack the chain verifies, and the one URI name is the identity."""
    assert verifies(None)
    assert chain(None)[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value == (
        x509.SubjectAlternativeName([URI(WHO)])
    )


@pytest.mark.parametrize("attack", ATTACKS)
def test_openssl_takes_what_an_attack_shows(attack: str) -> None:
    """A client can be made of each attack, keys that do not belong to their certificate among them."""
    assert isinstance(context_of(shown(attack)), ssl.SSLContext)


@pytest.mark.parametrize(
    "attack",
    [
        "expired",
        "not-yet-valid",
        "foreign-authority",
        "retired-authority",
        "no-intermediate",
        "leaf-as-authority",
        "path-too-long",
        "out-of-its-names",
        "server-only",
    ],
)
def test_a_path_that_does_not_verify(attack: str) -> None:
    """What is wrong with the chain keeps another verifier than the engines' from it too; its name is the good one."""
    assert not verifies(attack)
    assert uris(attack) == [WHO]


def test_the_times_of_the_untimely() -> None:
    """One is over, one is to come."""
    now = dt.datetime.now(dt.UTC)
    assert chain("expired")[0].not_valid_after_utc < now < chain("not-yet-valid")[0].not_valid_before_utc


def test_who_signed_what_has_no_right_to_sign() -> None:
    """Below a workload's leaf, and below an authority that its own authority may not have."""
    flags = x509.BasicConstraints
    _, signer, *_ = chain("leaf-as-authority")
    assert not signer.extensions.get_extension_for_class(flags).value.ca
    _, third, second = chain("path-too-long")
    assert third.extensions.get_extension_for_class(flags).value.ca
    assert second.extensions.get_extension_for_class(flags).value.path_length == 0


def test_a_retired_authority_has_the_names_of_the_present_one() -> None:
    """Only its keys differ, so that names alone do not tell the two apart."""
    assert chain("retired-authority")[1].subject == chain(None)[1].subject
    assert chain("retired-authority")[1].public_key() != chain(None)[1].public_key()


def test_an_authority_shows_itself_as_a_client() -> None:
    """It has the CA flag, and otherwise all that a client needs."""
    constraints = chain("authority-as-leaf")[0].extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.value.ca
    assert uris("authority-as-leaf") == [WHO]


def test_a_certificate_comes_without_its_key() -> None:
    """The key's file claims the certificate's public key; what it signs with is another."""
    point = (Encoding.X962, PublicFormat.UncompressedPoint)
    certificate = chain("another-key")[0].public_key()
    text = shown("another-key").key
    der = ssl.PEM_cert_to_DER_cert(text.replace("EC PRIVATE KEY", "CERTIFICATE"))
    assert certificate.public_bytes(*point) in der
    with pytest.raises(ValueError, match=r"(?i)key"):
        load_pem_private_key(text.encode(), None)


@pytest.mark.parametrize(
    "attack",
    [name for name, attack in ATTACKS.items() if attack.rule.startswith("SPIFFE-ID")],
)
def test_a_name_of_bad_form_is_no_spiffe_id(attack: str) -> None:
    """Each is one URI name that a validator has to refuse for its form alone."""
    (name,) = uris(attack)
    assert not is_spiffe_id(name)


@pytest.mark.parametrize(
    "attack", [name for name, attack in ATTACKS.items() if attack.rule.startswith("the policy")]
)
def test_another_name_is_a_good_one(attack: str) -> None:
    """Nothing is wrong with the certificate: it is somebody else's."""
    (name,) = uris(attack)
    assert is_spiffe_id(name)
    assert name != WHO
    assert verifies(attack)


def test_the_long_are_as_long_as_they_say() -> None:
    """One byte more than a SPIFFE ID may have, and many more."""
    assert [len(uris(attack)[0]) for attack in ("long", "huge")] == [LONGEST + 1, HUGE]


def test_an_identity_need_not_be_istios() -> None:
    """Of any path, another namespace is made from the last segment but one; of one segment, from that."""
    for identity, neighbour in (
        ("spiffe://example.org/payments/mysql", "spiffe://example.org/payments2/mysql"),
        ("spiffe://example.org/web", "spiffe://example.org/web2"),
        ("spiffe://example.org/region/eu/ns/a/sa/b", "spiffe://example.org/region/eu/ns/a2/sa/b"),
    ):
        assert Makings(identity, MAKINGS.certificates, NAMES).neighbour == neighbour


def test_who_resumes_has_no_certificate() -> None:
    """The context of a session is replaced by one of the same versions."""
    context = context_of(shown("session-1.2"))
    assert bare(context).maximum_version == context.maximum_version == ssl.TLSVersion.TLSv1_2


def test_a_version_that_there_is_not() -> None:
    """It is told by its name."""
    with pytest.raises(ValueError, match="no version of TLS is called 'TLSv9'"):
        context_of(Offer(newest="TLSv9"))


def test_each_engine_meets_every_attack() -> None:
    """The shipped scenarios try the whole pack on each of the lab's proxies; each row of the table is one attack."""
    tried: dict[str, list[str]] = {}
    for path in shipped.scenario_paths("identity-attacks"):
        for scenario in source.parse(path.read_bytes(), str(path)).data["scenarios"]:
            found = scenario.get("matrix", {}).get("attack", scenario.get("attack", []))
            column = scenario.get("table", {}).get("column", "")
            tried.setdefault(column, []).extend([found] if isinstance(found, str) else found)
    assert tried.pop("") == []
    assert {column: sorted(found) for column, found in tried.items()} == dict.fromkeys(
        ("builtin", "envoy", "haproxy"), sorted(ATTACKS)
    )
    assert len({title_of(attack) for attack in ATTACKS}) == len(ATTACKS)

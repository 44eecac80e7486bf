"""Root, intermediate and SPIFFE leaves: the only door to trustme and cryptography.

The chain is the one of an organisation that loads an intermediate into its mesh: root CA -> intermediate ->
leaves whose only subject alternative name is a URI (SPIFFE X.509-SVID, sections 2 and 4). trustme makes the
authorities; it has no URI names, so leaves are signed here with the intermediate's key.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import trustme
    from cryptography import x509

Issuer = Literal["mesh", "foreign", "public"]
_LIFE = dt.timedelta(days=30)
_SKEW = dt.timedelta(hours=1)


@dataclass(frozen=True)
class Request:
    """A certificate somebody needs: a URI name (SPIFFE ID) or DNS names, from one of the lab's authorities."""

    name: str
    issuer: Issuer = "mesh"
    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Leaf:
    """A certificate with its chain up to, not including, the root, and its private key; PEM."""

    chain: str
    key: str


@dataclass(frozen=True)
class Certificates:
    """Every certificate of a lab run, and the roots by issuer; PEM."""

    leaves: dict[str, Leaf]
    roots: dict[str, str]


def issue(requests: Iterable[Request], root: str, intermediate: str) -> Certificates:
    """Make the authorities that the requests need and sign every leaf; keys exist in memory only."""
    import trustme  # noqa: PLC0415 - loads cryptography, which most commands do not need

    names = {
        "mesh": (root, intermediate),
        "foreign": ("Foreign Root CA", "Foreign Mesh CA"),
        "public": ("Public Root CA", "Public Issuing CA"),
    }
    wanted = list(requests)
    leaves: dict[str, Leaf] = {}
    roots: dict[str, str] = {}
    for issuer in sorted({"mesh"} | {request.issuer for request in wanted}):
        top, middle = names[issuer]
        authority = trustme.CA(organization_name=top)
        signer = trustme.CA(parent_cert=authority, path_length=0, organization_name=middle)
        roots[issuer] = authority.cert_pem.bytes().decode()
        for request in wanted:
            if request.issuer == issuer:
                leaves[request.name] = _leaf(signer, request)
    return Certificates(leaves, roots)


def _leaf(signer: trustme.CA, request: Request) -> Leaf:
    from cryptography import x509  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    issuer = x509.load_pem_x509_certificate(signer.cert_pem.bytes())
    signing_key = serialization.load_pem_private_key(signer.private_key_pem.bytes(), None)
    if not isinstance(signing_key, ec.EllipticCurvePrivateKey):
        raise TypeError("the intermediate's key is not an elliptic curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in request.uris]
    names += [x509.DNSName(name) for name in request.dns]
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]) if request.uris else _common_name(request.dns[0]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        # critical because the subject is empty (RFC 5280, 4.2.1.6)
        .add_extension(x509.SubjectAlternativeName(names), critical=bool(request.uris))
        .add_extension(_key_usage(), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            critical=False,
        )
    )
    certificate = builder.sign(signing_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain = certificate.public_bytes(pem) + signer.cert_pem.bytes()
    return Leaf(chain.decode(), private.decode())


def _key_usage() -> x509.KeyUsage:
    from cryptography import x509  # noqa: PLC0415 - as above

    usages = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(digital_signature=True, **usages)


def _common_name(name: str) -> x509.Name:
    from cryptography import x509  # noqa: PLC0415 - as above
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])

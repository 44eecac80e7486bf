"""Root, intermediate and SPIFFE leaves: the only door to trustme and cryptography.

The chain is the one of an organisation that loads an intermediate into its mesh: root CA -> intermediate ->
leaves whose only subject alternative name is a URI (SPIFFE X.509-SVID, sections 2 and 4). trustme makes the
authorities; it has no URI names, so leaves are signed here with the intermediate's key.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cryptography import x509

Issuer = Literal["mesh", "foreign", "public", "retired"]
_LIFE = dt.timedelta(days=30)
_UNIT = "Egress Lab"
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
class Authority:
    """An issuing authority below its root: both certificates and the issuing key; PEM."""

    root: str
    certificate: str
    key: str


@dataclass(frozen=True)
class Certificates:
    """Every certificate of a lab run by the name of its request, and the authorities that signed them.

    `roots` are what is trusted under an issuer's name: one root, or two while they overlap. `former` are the
    fingerprints of the certificates that a request had before the one it has now, in order of issue.
    """

    leaves: dict[str, Leaf]
    roots: dict[str, str]
    authorities: dict[str, Authority] = field(default_factory=dict)
    requests: dict[str, Request] = field(default_factory=dict)
    former: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def issued(self) -> dict[str, tuple[str, ...]]:
        """Return the fingerprints of each request's certificates in order of issue; the last one is in use."""
        return {
            name: (*self.former.get(name, ()), fingerprint(leaf.chain)) for name, leaf in self.leaves.items()
        }


def issue(
    requests: Iterable[Request], root: str, intermediate: str, earlier: Certificates | None = None
) -> Certificates:
    """Make the authorities that the requests need and sign every leaf; keys exist in memory only.

    With `earlier` certificates, their authorities sign, and what was asked for in the same words is kept. The
    retired authority has the mesh's names and other keys, as one that was replaced before has.
    """
    names = {
        "mesh": (root, intermediate),
        "foreign": ("Foreign Root CA", "Foreign Mesh CA"),
        "public": ("Public Root CA", "Public Issuing CA"),
        "retired": (root, intermediate),
    }
    wanted = {request.name: request for request in requests}
    authorities = dict(earlier.authorities) if earlier else {}
    leaves: dict[str, Leaf] = {}
    for issuer in sorted({"mesh"} | {request.issuer for request in wanted.values()}):
        if issuer not in authorities:
            authorities[issuer] = _authority(*names[issuer])
        for request in wanted.values():
            if request.issuer == issuer:
                known = earlier is not None and earlier.requests.get(request.name) == request
                leaf = (
                    earlier.leaves[request.name] if earlier and known else _leaf(authorities[issuer], request)
                )
                leaves[request.name] = leaf
    roots = {issuer: authority.root for issuer, authority in authorities.items()}
    former = {name: old for name, old in (earlier.former if earlier else {}).items() if name in wanted}
    return Certificates(leaves, roots, authorities, wanted, former)


def reissued(certificates: Certificates, names: Collection[str]) -> Certificates:
    """Return the certificates with new ones, on new keys, for these requests; the same authorities sign."""
    fresh = {
        name: _leaf(certificates.authorities[request.issuer], request)
        for name, request in certificates.requests.items()
        if name in names
    }
    old = {name: certificates.issued()[name] for name in fresh}
    return replace(certificates, leaves=certificates.leaves | fresh, former=dict(certificates.former) | old)


def successions(
    certificates: Certificates, root: str, intermediate: str, keep: Collection[str] = ()
) -> Iterator[Certificates]:
    """Yield the three states in which the mesh's authority is replaced by a new one of the same names.

    Both roots are trusted; every certificate of the mesh is issued by the new one (but for requests in `keep`,
    which are forgotten); the old root is trusted no more. Each state must be in force everywhere before the next
    begins: in each, whatever the one before allowed still works.
    """
    old, new = certificates.authorities["mesh"], _authority(root, intermediate)
    both = replace(certificates, roots=certificates.roots | {"mesh": old.root + new.root})
    yield both
    due = [name for name, one in both.requests.items() if one.issuer == "mesh" and name not in keep]
    issued = reissued(replace(both, authorities=both.authorities | {"mesh": new}), due)
    yield issued
    yield replace(issued, roots=issued.roots | {"mesh": new.root})


def fingerprint(chain: str) -> str:
    """Return the SHA-256 fingerprint of the first certificate of a chain (PEM) as logs have it: bare hexadecimal."""
    first = chain.partition("-----END CERTIFICATE-----")[0].rpartition("-----BEGIN CERTIFICATE-----")[2]
    return hashlib.sha256(base64.b64decode(first)).hexdigest()


def _authority(root: str, intermediate: str) -> Authority:
    import trustme  # noqa: PLC0415 - loads cryptography, which most commands do not need

    # without a unit of ours trustme writes a random one, and a successor would have another name
    top = trustme.CA(organization_name=root, organization_unit_name=_UNIT)
    signer = trustme.CA(
        parent_cert=top, path_length=0, organization_name=intermediate, organization_unit_name=_UNIT
    )
    pems = (top.cert_pem, signer.cert_pem, signer.private_key_pem)
    return Authority(*(pem.bytes().decode() for pem in pems))


def _leaf(authority: Authority, request: Request) -> Leaf:
    from cryptography import x509  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    signing_key = serialization.load_pem_private_key(authority.key.encode(), None)
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
    return Leaf(certificate.public_bytes(pem).decode() + authority.certificate, private.decode())


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

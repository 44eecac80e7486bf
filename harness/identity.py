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
    from cryptography.hazmat.primitives.asymmetric import ec

Issuer = Literal["mesh", "foreign", "public", "retired"]
_UNIT = "Egress Lab"


@dataclass(frozen=True)
class Request:
    """A certificate somebody needs: a URI name (SPIFFE ID) or DNS names, from one of the lab's authorities."""

    name: str
    issuer: Issuer = "mesh"
    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shape:
    """How a certificate is made where it is not a leaf as it should be; the default is one.

    It is valid from `begins` to `ends`, in hours from now. `authority` sets the CA flag and keyCertSign, `path_length`
    its limit, and `within` the one host that URI names below it may have (name constraints, RFC 5280, 4.2.1.10).
    `digital_signature` and `client` are that key usage and that extended one. `chained`: whether its signer's
    certificate comes with it.
    """

    begins: float = -1.0
    ends: float = 720.0
    common_name: str = ""
    emails: tuple[str, ...] = ()
    authority: bool = False
    path_length: int | None = None
    within: str = ""
    digital_signature: bool = True
    client: bool = True
    chained: bool = True


@dataclass(frozen=True)
class Leaf:
    """A certificate with its chain up to, not including, the root, and its private key; PEM."""

    chain: str
    key: str


@dataclass(frozen=True)
class Authority:
    """An issuing authority below its root: both certificates and both keys; PEM.

    `certificate` may be a chain, from the one that signs upwards.
    """

    root: str
    certificate: str
    key: str
    root_key: str = ""


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
    wanted = {request.name: request for request in requests}
    authorities = dict(earlier.authorities) if earlier else {}
    leaves: dict[str, Leaf] = {}
    issuers: set[Issuer] = {"mesh"}
    for issuer in sorted(issuers.union(request.issuer for request in wanted.values())):
        if issuer not in authorities:
            authorities[issuer] = authority(issuer, root, intermediate)
        for request in wanted.values():
            if request.issuer == issuer:
                known = earlier is not None and earlier.requests.get(request.name) == request
                leaf = (
                    earlier.leaves[request.name] if earlier and known else sign(authorities[issuer], request)
                )
                leaves[request.name] = leaf
    roots = {issuer: authority.root for issuer, authority in authorities.items()}
    former = {name: old for name, old in (earlier.former if earlier else {}).items() if name in wanted}
    return Certificates(leaves, roots, authorities, wanted, former)


def reissued(certificates: Certificates, names: Collection[str]) -> Certificates:
    """Return the certificates with new ones, on new keys, for these requests; the same authorities sign."""
    fresh = {
        name: sign(certificates.authorities[request.issuer], request)
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
    old, new = certificates.authorities["mesh"], authority("mesh", root, intermediate)
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


def authority(issuer: Issuer, root: str, intermediate: str) -> Authority:
    """Return a new authority; the mesh's, and one that is retired, have these common names."""
    import trustme  # noqa: PLC0415 - loads cryptography, which most commands do not need

    if issuer in ("foreign", "public"):
        root = f"{issuer.capitalize()} Root CA"
        intermediate = {"foreign": "Foreign Mesh CA", "public": "Public Issuing CA"}[issuer]
    # without a unit of ours trustme writes a random one, and a successor would have another name
    top = trustme.CA(organization_name=root, organization_unit_name=_UNIT)
    signer = trustme.CA(
        parent_cert=top, path_length=0, organization_name=intermediate, organization_unit_name=_UNIT
    )
    pems = (top.cert_pem, signer.cert_pem, signer.private_key_pem, top.private_key_pem)
    return Authority(*(pem.bytes().decode() for pem in pems))


def sign(authority: Authority, request: Request, shape: Shape = Shape()) -> Leaf:
    """Issue a certificate on a new key; what it is made like is for who asks to know."""
    from cryptography import x509  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    signing_key = _key(authority.key)
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    common_name = shape.common_name or ("" if request.uris else (*request.dns, "")[0])
    builder = (
        x509.CertificateBuilder()
        .subject_name(_subject(common_name))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(hours=shape.begins))
        .not_valid_after(now + dt.timedelta(hours=shape.ends))
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    for extension, critical in _extensions(request, shape, critical=not common_name):
        builder = builder.add_extension(extension, critical=critical)
    pem = builder.sign(signing_key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    return Leaf(pem + authority.certificate * shape.chained, _written(key))


def mismatched(leaf: Leaf, other: Leaf) -> Leaf:
    """Return a certificate with the key of another, whose file claims the certificate's public key for its own.

    TLS libraries compare public keys when they load a pair, and believe the file (RFC 5915, 3: `publicKey`). So a
    client can be given a certificate without its key: what fails is the signature in the handshake.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - as above

    der, x962 = serialization.Encoding.DER, serialization.Encoding.X962
    sec1, nobody = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    point = serialization.PublicFormat.UncompressedPoint
    ours, theirs = (_key(one.key).public_key().public_bytes(x962, point) for one in (other, leaf))
    private = _key(other.key).private_bytes(der, sec1, nobody).replace(ours, theirs)
    text = base64.encodebytes(private).decode()
    return Leaf(leaf.chain, f"-----BEGIN EC PRIVATE KEY-----\n{text}-----END EC PRIVATE KEY-----\n")


def _extensions(
    request: Request, shape: Shape, *, critical: bool
) -> Iterator[tuple[x509.ExtensionType, bool]]:
    from cryptography import x509  # noqa: PLC0415 - as above
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in request.uris]
    names += [x509.DNSName(name) for name in request.dns]
    names += [x509.RFC822Name(name) for name in shape.emails]
    yield x509.BasicConstraints(ca=shape.authority, path_length=shape.path_length), True
    if names:
        # critical where the subject is empty (RFC 5280, 4.2.1.6)
        yield x509.SubjectAlternativeName(names), critical
    yield _key_usage(shape), True
    if shape.within:
        yield x509.NameConstraints([x509.UniformResourceIdentifier(shape.within)], None), True
    if not shape.authority or names:
        client = [ExtendedKeyUsageOID.CLIENT_AUTH] if shape.client else []
        yield x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, *client]), False


def _key(pem: str) -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - as above
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = serialization.load_pem_private_key(pem.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("the signer's key is not an elliptic curve key")
    return key


def _written(key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - as above

    form, nobody = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, nobody).decode()


def _key_usage(shape: Shape) -> x509.KeyUsage:
    from cryptography import x509  # noqa: PLC0415 - as above

    usages = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    # a usage without any bit is no extension at all (RFC 5280, 4.2.1.3)
    usages["key_encipherment"] = not shape.digital_signature
    return x509.KeyUsage(digital_signature=shape.digital_signature, key_cert_sign=shape.authority, **usages)


def _subject(common_name: str) -> x509.Name:
    from cryptography import x509  # noqa: PLC0415 - as above
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    if not common_name:
        return x509.Name([])
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])

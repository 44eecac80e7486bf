"""Certificates of a mesh or of a stranger, as files; leaves have the names that a test asks for."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from harness import identity


@dataclass(frozen=True)
class Leaf:
    """Paths of a chain and its key."""

    chain: str
    key: str

    @property
    def pair(self) -> identity.Leaf:
        """The texts of both."""
        return identity.Leaf(Path(self.chain).read_text("ascii"), Path(self.key).read_text("ascii"))

    @property
    def fingerprint(self) -> str:
        """The certificate's SHA-256 fingerprint, in hexadecimal."""
        certificate = x509.load_pem_x509_certificates(Path(self.chain).read_bytes())[0]
        return certificate.fingerprint(hashes.SHA256()).hex()


def _signs_handshakes() -> x509.KeyUsage:
    """Return the key usage of a leaf, which every X509-SVID has (4.3)."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


class Mesh:
    """A root and an intermediate authority of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._root = trustme.CA()
        self._issuer = self._root.create_child_ca()
        self._count = 0
        self.trust = str(folder / "root.pem")
        self._root.cert_pem.write_to_path(self.trust)

    def leaf(self, *uris: str, dns: tuple[str, ...] = ()) -> Leaf:
        """Issue a leaf with these names; trustme itself refuses SPIFFE IDs."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.load_pem_x509_certificate(self._issuer.cert_pem.bytes())
        issuer_key = serialization.load_pem_private_key(self._issuer.private_key_pem.bytes(), None)
        if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
            raise TypeError(type(issuer_key))
        now = dt.datetime.now(dt.UTC)
        names = [x509.UniformResourceIdentifier(uri) for uri in uris] + [x509.DNSName(name) for name in dns]
        both = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(_signs_handshakes(), critical=True)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )
        self._count += 1
        chain, key_path = self._folder / f"{self._count}.pem", self._folder / f"{self._count}.key"
        chain.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM) + self._issuer.cert_pem.bytes()
        )
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return Leaf(str(chain), str(key_path))

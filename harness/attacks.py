"""The identity attack pack: what a client shows of itself to be taken for somebody whom a proxy permits.

Each attack is made from an identity that is permitted and from the lab's own authorities. Whoever asks for client
certificates must stop every one of them: by X.509 path validation (RFC 5280, 6), by what SPIFFE has a validator refuse
(X509-SVID, 5.2; SPIFFE-ID, 2), or because the name is not the one that the policy means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from harness.identity import (
    Authority,
    Certificates,
    Issuer,
    Leaf,
    Request,
    Shape,
    authority,
    mismatched,
    sign,
)
from harness.programs.tls_client import Offer

LONGEST = 2048
"""Bytes that a SPIFFE ID may have (SPIFFE-ID, 2.3)."""
HUGE = 40_000
"""Bytes of a name that no log is made for, within the 100 KB that OpenSSL takes of a chain."""

_SCHEME = "spiffe://"
_PATH, _SVID, _ID, _NAME = (
    "RFC 5280, 6.1: path validation",
    "X509-SVID, 5.2: leaf validation",
    "SPIFFE-ID, 2: form of a SPIFFE ID",
    "the policy: another name",
)


@dataclass(frozen=True)
class Makings:
    """What an attack is made of: an identity that is permitted, the lab's authorities, and the names of the mesh's."""

    identity: str
    certificates: Certificates
    names: tuple[str, str]

    @property
    def neighbour(self) -> str:
        """Who the attacker really is: an identity of a namespace whose name begins like the permitted one."""
        return _in_namespace(self.identity, lambda segment: f"{segment}2")

    def leaf(self, uri: str | None = None, shape: Shape | None = None, by: Authority | None = None) -> Leaf:
        """Return a certificate with one URI name, the permitted one unless said, of the mesh unless said."""
        return self.named(Request("attack", uris=(self.identity if uri is None else uri,)), shape, by)

    def named(self, request: Request, shape: Shape | None = None, by: Authority | None = None) -> Leaf:
        """Return a certificate with these names."""
        return sign(by or self.certificates.authorities["mesh"], request, shape or Shape())

    def other(self, issuer: Issuer) -> Authority:
        """Return the lab's authority of that word, or a new one of its kind."""
        return self.certificates.authorities.get(issuer) or authority(issuer, *self.names)


@dataclass(frozen=True)
class Attack:
    """One attack: its row in tables, the rule by which it is to be refused, and what the client then shows."""

    title: str
    rule: str
    offer: Callable[[Makings], Offer]


def offer_of(attack: str | None, makings: Makings) -> Offer:
    """Return what the attack makes of a client's certificate; without one, the good certificate.

    Raises KeyError for an attack that there is not.
    """
    return ATTACKS[attack].offer(makings) if attack is not None else _shows(makings.leaf())


def title_of(attack: str) -> str:
    """Return the row that an attack has in tables."""
    return ATTACKS[attack].title


def _shows(leaf: Leaf) -> Offer:
    return Offer(leaf.chain, leaf.key)


def _uri(change: Callable[[str], str]) -> Callable[[Makings], Offer]:
    """Show a certificate of the mesh with a name that is made from the permitted one."""
    return lambda makings: _shows(makings.leaf(change(makings.identity)))


def _shaped(shape: Shape) -> Callable[[Makings], Offer]:
    """Show the permitted name on a certificate that is made otherwise."""
    return lambda makings: _shows(makings.leaf(shape=shape))


def _by(issuer: Issuer) -> Callable[[Makings], Offer]:
    return lambda makings: _shows(makings.leaf(by=makings.other(issuer)))


def _names(
    request: Callable[[str], Request], shape: Callable[[str], Shape] | None = None
) -> Callable[[Makings], Offer]:
    """Show a certificate of the mesh that has the permitted name elsewhere than as its one URI name."""

    def offer(makings: Makings) -> Offer:
        name = makings.identity
        return _shows(makings.named(request(name), shape(name) if shape else None))

    return offer


def _two(makings: Makings, *, permitted_first: bool) -> Offer:
    names = (makings.identity, makings.neighbour)
    return _shows(makings.named(Request("attack", uris=names if permitted_first else names[::-1])))


def _below(makings: Makings, owner: Leaf) -> Offer:
    """Show the permitted name on a certificate that is signed with the key of another one."""
    mesh = makings.certificates.authorities["mesh"]
    return _shows(makings.leaf(by=Authority(mesh.root, owner.chain, owner.key)))


def _leaf_as_authority(makings: Makings) -> Offer:
    return _below(makings, makings.leaf(makings.neighbour))


def _path_too_long(makings: Makings) -> Offer:
    """Go by an authority below the intermediate, whose path length is 0 (RFC 5280, 4.2.1.9)."""
    return _below(makings, makings.named(Request("authority"), Shape(common_name="Third CA", authority=True)))


def _out_of_its_names(makings: Makings) -> Offer:
    """Go by an authority of the root that may issue for another trust domain only (RFC 5280, 4.2.1.10)."""
    mesh = makings.certificates.authorities["mesh"]
    root = Authority(mesh.root, mesh.root, mesh.root_key)
    shape = Shape(common_name="Partner CA", authority=True, path_length=0, within="partner.example")
    return _below(makings, sign(root, Request("authority"), shape))


def _without_its_key(makings: Makings) -> Offer:
    return _shows(mismatched(makings.leaf(), makings.leaf(makings.neighbour)))


def _version(version: str) -> Callable[[Makings], Offer]:
    return lambda makings: Offer(*_pair(makings.leaf()), oldest=version, newest=version)


def _session(version: str) -> Callable[[Makings], Offer]:
    return lambda makings: Offer(*_pair(makings.leaf()), oldest=version, newest=version, resumes=True)


def _pair(leaf: Leaf) -> tuple[str, str]:
    return leaf.chain, leaf.key


def _parts(identity: str) -> tuple[str, list[str]]:
    domain, *path = identity.removeprefix(_SCHEME).split("/")
    return domain, path


def _joined(domain: str, path: list[str]) -> str:
    return _SCHEME + "/".join((domain, *path))


def _namespace(path: list[str]) -> int:
    """Return which segment is the namespace: what follows `ns` in Istio's form, else the last but one."""
    return path.index("ns") + 1 if "ns" in path[:-1] else max(0, len(path) - 2)


def _in_namespace(identity: str, change: Callable[[str], str]) -> str:
    domain, path = _parts(identity)
    path[_namespace(path)] = change(path[_namespace(path)])
    return _joined(domain, path)


def _in_domain(change: Callable[[str], str]) -> Callable[[Makings], Offer]:
    def changed(identity: str) -> str:
        domain, path = _parts(identity)
        return _joined(change(domain), path)

    return _uri(changed)


def _in_last(change: Callable[[str], str]) -> Callable[[Makings], Offer]:
    """Change the last segment: of a policy by prefix, it is behind what is compared."""

    def changed(identity: str) -> str:
        head, _, last = identity.rpartition("/")
        return f"{head}/{change(last)}"

    return _uri(changed)


def _cut_after_namespace(identity: str) -> str:
    domain, path = _parts(identity)
    return _joined(domain, path[: _namespace(path) + 1])


def _percent(segment: str) -> str:
    return f"%{ord(segment[0]):02x}{segment[1:]}"


def _filled(length: int) -> Callable[[Makings], Offer]:
    return _uri(lambda identity: identity + "a" * (length - len(identity)))


ATTACKS: dict[str, Attack] = {
    "no-certificate": Attack(
        "no certificate", "RFC 8446, 4.4.2.4: client certificate required", lambda _: Offer()
    ),
    "expired": Attack("expired", _PATH, _shaped(Shape(begins=-48, ends=-24))),
    "not-yet-valid": Attack("not yet valid", _PATH, _shaped(Shape(begins=24, ends=48))),
    "foreign-authority": Attack("another authority", _PATH, _by("foreign")),
    "retired-authority": Attack("an authority that was retired, same names", _PATH, _by("retired")),
    "no-intermediate": Attack("intermediate missing", _PATH, _shaped(Shape(chained=False))),
    "leaf-as-authority": Attack("signed by another workload's certificate", _PATH, _leaf_as_authority),
    "path-too-long": Attack("path length violated", _PATH, _path_too_long),
    "out-of-its-names": Attack("name constraints violated", _PATH, _out_of_its_names),
    "server-only": Attack("for servers only", _PATH, _shaped(Shape(client=False))),
    "authority-as-leaf": Attack("an authority's own certificate", _SVID, _shaped(Shape(authority=True))),
    "no-digital-signature": Attack(
        "key not for signatures", "X509-SVID, 4.3: key usage", _shaped(Shape(digital_signature=False))
    ),
    "another-key": Attack(
        "certificate without its key", "RFC 8446, 4.4.3: CertificateVerify", _without_its_key
    ),
    "tls-1.0": Attack("TLS 1.0", "RFC 8996, 4", _version("TLSv1")),
    "tls-1.1": Attack("TLS 1.1", "RFC 8996, 5", _version("TLSv1_1")),
    "session-1.2": Attack("another's session resumed, TLS 1.2", _SVID, _session("TLSv1_2")),
    "session-1.3": Attack("another's session resumed, TLS 1.3", _SVID, _session("TLSv1_3")),
    "two-uris": Attack("two URI names, the permitted first", _SVID, partial(_two, permitted_first=True)),
    "two-uris-turned": Attack(
        "two URI names, the permitted second", _SVID, partial(_two, permitted_first=False)
    ),
    "dns-name": Attack("the name as DNS name", _SVID, _names(lambda name: Request("attack", dns=(name,)))),
    "dns-name-with-uri": Attack(
        "a DNS name with `,URI:` and the name in it",
        _SVID,
        _names(lambda name: Request("attack", dns=(f"a,URI:{name}",))),
    ),
    "common-name": Attack(
        "the name as common name",
        _SVID,
        _names(lambda _: Request("attack", dns=("attack.example",)), lambda name: Shape(common_name=name)),
    ),
    "email": Attack(
        "the name as e-mail address",
        _SVID,
        _names(lambda _: Request("attack"), lambda name: Shape(emails=(name,))),
    ),
    "trust-domain": Attack("another trust domain", _NAME, _in_domain(lambda _: "attack.example")),
    "trust-domain-longer": Attack(
        "a trust domain that begins alike", _NAME, _in_domain(lambda domain: f"{domain}.attack.example")
    ),
    "namespace-longer": Attack(
        "a namespace that begins alike", _NAME, lambda makings: _shows(makings.leaf(makings.neighbour))
    ),
    "namespace-alone": Attack("the namespace alone", _NAME, _uri(_cut_after_namespace)),
    "within-another": Attack(
        "the name within another", _ID, _uri(lambda name: f"{_SCHEME}attack.example/{name}")
    ),
    "upper-scheme": Attack(
        "scheme in upper case", _ID, _uri(lambda name: name.replace("spiffe", "SPIFFE", 1))
    ),
    "upper-trust-domain": Attack("trust domain in upper case", _ID, _in_domain(str.upper)),
    "upper-path": Attack("path in upper case", _NAME, _uri(lambda name: _in_namespace(name, str.upper))),
    "percent-namespace": Attack(
        "percent-encoded namespace", _ID, _uri(lambda name: _in_namespace(name, _percent))
    ),
    "percent-last": Attack("percent-encoded last segment", _ID, _in_last(_percent)),
    "empty-segment": Attack("empty path segment", _ID, _in_last(lambda last: f"/{last}")),
    "trailing-slash": Attack("slash at the end", _ID, _in_last(lambda last: f"{last}/")),
    "dot-segment": Attack("dot segment", _ID, _in_last(lambda last: f"./{last}")),
    "dot-dot-segment": Attack("dot-dot segments", _ID, _in_last(lambda last: f"../../other/sa/{last}")),
    "query": Attack("query", _ID, _in_last(lambda last: f"{last}?a=b")),
    "port": Attack("port in the trust domain", _ID, _in_domain(lambda domain: f"{domain}:443")),
    "nul-byte": Attack("NUL byte after the name", _ID, _in_last(lambda last: f"{last}\0.attack.example")),
    "long": Attack(f"{LONGEST + 1} bytes long", _ID, _filled(LONGEST + 1)),
    "huge": Attack(f"{HUGE} bytes long", _ID, _filled(HUGE)),
}
"""Every attack by its word in scenario files."""

"""Certificates that Envoy takes from files as they change: the file form of its secret discovery service (SDS).

A secret is one file, a DiscoveryResponse with the PEM texts within it: certificate and key come with one rename and
cannot be of two generations (Envoy's documentation, "Secret discovery service", "Certificate rotation"). Each watched
file costs an inotify instance, of which a user has 128 by default.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from harness.identity import Leaf
from harness.plan import File, Ready

_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type's name
_VALIDATOR = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig"
_FOLDER = "secrets"


def leaf_file(name: str, leaf: Leaf) -> File:
    """Return the file of a certificate with its key."""
    pair = {"certificate_chain": {"inline_string": leaf.chain}, "private_key": {"inline_string": leaf.key}}
    return _file(name, {"tls_certificate": pair}, 0o600)


def trust_file(name: str, roots: str, domain: str = "") -> File:
    """Return the file of trusted roots (PEM), for one trust domain or, without it, for whatever they sign."""
    return _file(name, {"validation_context": validation({"inline_string": roots}, domain)})


def validation(roots: Mapping[str, str], domain: str) -> dict[str, object]:
    """Return a validation context that takes SVIDs of one trust domain, or without it any certificate of the roots.

    Envoy's default validator takes a certificate with the CA flag for a leaf's, against X509-SVID, 5.2. That for
    SPIFFE (Envoy's reference, SPIFFECertValidatorConfig) does not, nor one whose first URI name is of another trust
    domain. But it wants a certificate of every client, and does not look at what one is for (extended key usage).
    """
    if not domain:
        return {"trusted_ca": dict(roots)}
    bundle = {"name": domain, "trust_bundle": dict(roots)}
    config = {"@type": _VALIDATOR, "trust_domains": [bundle]}
    return {"custom_validator_config": {"name": "envoy.tls.cert_validator.spiffe", "typed_config": config}}


def reference(folder: str, name: str) -> dict[str, object]:
    """Return the configuration (SdsSecretConfig) that reads a secret from a node's folder."""
    source = {"path_config_source": {"path": f"{folder}/{_path(name)}"}, "resource_api_version": "V3"}
    return {"name": name, "sds_config": source}


def references(folder: str, leaf: str, trust: str) -> dict[str, object]:
    """Return the part of a CommonTlsContext that reads certificate and roots from secrets."""
    return {
        "tls_certificate_sds_secret_configs": [reference(folder, leaf)],
        "validation_context_sds_secret_config": reference(folder, trust),
    }


def applied(admin: str, files: Iterable[File], config: str) -> Ready:
    """Return when Envoy uses what stands in these files; it asks for those that its configuration names.

    `admin` is the path of its admin socket.
    """
    asked = [json.loads(file.content)["version_info"] for file in files if f'/{file.path}"' in config]
    return Ready("versions", f"{admin} {','.join(sorted(asked))}") if asked else Ready()


def _path(name: str) -> str:
    return f"{_FOLDER}/{name}.json"


def _file(name: str, content: dict[str, object], mode: int = 0o644) -> File:
    version = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    resource = {"@type": _SECRET, "name": name, **content}
    return File(_path(name), json.dumps({"version_info": version, "resources": [resource]}), mode, live=True)

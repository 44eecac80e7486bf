"""An egress proxy's policy as an AS3 declaration for a BIG-IP, with its iRule. Not run on a BIG-IP.

Classes and properties are those of AS3's schema reference
(https://clouddocs.f5.com/products/extensions/f5-appsvcs-extension/latest/refguide/schema-reference.html); the iRule is
Tcl 8.4 as iRules have it (harness/bigip.irule). Certificates and keys are referred to in /Common, where they have to
be put before: no private key is ever printed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.nodes.egress_proxy import Rule, Spec, VirtualServer
from harness.plan import Bindings, Node, Plan

SCHEMA_VERSION = "3.40.0"
REMARK = "rendered from a lab file; not run on a BIG-IP"
"""AS3 allows 64 characters."""

_IRULE = Path(__file__).parent / "bigip.irule"
_PLAIN = b"/:.-_"


def declaration(plan: Plan, bindings: Bindings) -> dict[str, Any]:
    """Return the declaration of a lab's egress proxies: one tenant for each, ready for `json.dumps`.

    Raises InputError when the lab has none, or when two names would be one to AS3.
    """
    proxies = plan.of_kind("egress-proxy")
    if not proxies:
        raise InputError(f"lab {plan.lab.lab!r} has no egress proxy to render")
    content: dict[str, Any] = {
        "class": "ADC",
        "schemaVersion": SCHEMA_VERSION,
        "id": f"egresslab-{plan.lab.lab}",
        "label": plan.lab.lab,
        "remark": REMARK,
    }
    for node in proxies:
        _put(content, _name(node.name), {"class": "Tenant", "egress": _application(node, plan, bindings)})
    return {"class": "AS3", "action": "deploy", "persist": True, "declaration": content}


def irule(policy: str, rules: tuple[Rule, ...]) -> str:
    """Return the iRule of a policy: Tcl, for a virtual server with a client-ssl profile."""
    lines = []
    for rule in rules:
        match = rule.permit or rule.reject
        kind, value = ("prefix", "") if match is None else ("prefix", match.spiffe_prefix or "")
        if match is not None and match.spiffe_id is not None:
            kind, value = "id", match.spiffe_id
        verdict = "reject" if rule.permit is None else "permit"
        lines.append(f'    lappend rules {verdict} {kind} "{_text(value)}"')
    written = _IRULE.read_text(encoding="utf-8")
    return written.replace("@RULES@", "\n".join(lines)).replace("@POLICY@", policy)


def _application(node: Node, plan: Plan, bindings: Bindings) -> dict[str, Any]:
    spec = node.spec
    if not isinstance(spec, Spec):
        raise TypeError(f"{node.name} is no egress proxy")
    found: dict[str, Any] = {"class": "Application", "template": "generic"}
    _put(
        found,
        "clients_ca",
        {"class": "CA_Bundle", "bundle": {"bigip": f"/Common/{_name(plan.lab.lab)}_roots.crt"}},
    )
    for policy, rules in spec.policies.items():
        _put(found, f"{_name(policy)}_irule", {"class": "iRule", "iRule": irule(policy, rules)})
    for pool, addresses in spec.snat_pools.items():
        _put(
            found, f"{_name(pool)}_snat", {"class": "SNAT_Pool", "snatAddresses": [str(a) for a in addresses]}
        )
    for name, server in spec.virtual_servers.items():
        for key, part in _virtual_server(node.name, name, server, plan, bindings).items():
            _put(found, f"{_name(name)}{key}", part)
    return found


def _virtual_server(
    proxy: str, written: str, server: VirtualServer, plan: Plan, bindings: Bindings
) -> dict[str, dict[str, Any]]:
    """Return a virtual server and what belongs to it alone, by the end of each one's name."""
    name, (address, _, port) = _name(written), server.listen.rpartition(":")
    target, _, target_port = server.forward_to.rpartition(":")
    stored = f"/Common/{_name(proxy)}_{name}"
    return {
        "": {
            "class": "Service_TCP",
            "remark": REMARK,
            "virtualAddresses": [address],
            "virtualPort": int(port),
            "serverTLS": f"{name}_tls",
            "pool": f"{name}_pool",
            "snat": {"use": f"{_name(server.snat.pool)}_snat"} if server.snat else "auto",
            "iRules": [f"{_name(server.policy)}_irule"],
        },
        "_tls": {
            "class": "TLS_Server",
            "certificates": [{"certificate": f"{name}_certificate"}],
            "authenticationMode": "require" if server.client_certificate == "require" else "request",
            "authenticationFrequency": "every-time",
            "authenticationTrustCA": "clients_ca",
            # a resumed session would bring no certificate
            "cacheTimeout": 0,
        },
        "_certificate": {
            "class": "Certificate",
            "certificate": {"bigip": f"{stored}.crt"},
            "privateKey": {"bigip": f"{stored}.key"},
            "chainCA": {"bigip": f"{stored}_chain.crt"},
        },
        "_pool": {
            "class": "Pool",
            "members": [
                {
                    "servicePort": int(target_port),
                    "serverAddresses": [str(bindings.address(plan.node(target)))],
                }
            ],
        },
    }


def _put(into: dict[str, Any], name: str, value: dict[str, Any]) -> None:
    if name in into:
        raise InputError(f"two names of the lab file are {name!r} to AS3; rename one of them")
    into[name] = value


def _name(word: str) -> str:
    """Return a word as AS3 names things everywhere: letters, digits and underscores, a letter first."""
    plain = re.sub(r"[^A-Za-z0-9]", "_", word)
    return plain if plain[:1].isalpha() else f"n_{plain}"


def _text(value: str) -> str:
    """Return the inside of a quoted Tcl word: what is not a plain character as its bytes' octal escapes."""
    return "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 128) or byte in _PLAIN else f"\\{byte:03o}"
        for byte in value.encode()
    )

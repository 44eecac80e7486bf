"""The egress proxy's configuration, and who it lets through.

{"name": "bigip", "fault": null, "keylog": null, "connect_timeout": 5.0,
 "policies": {"bookinfo-only": [{"action": "permit", "spiffe_prefix": "spiffe://cluster.local/ns/bookinfo/"}]},
 "virtual_servers": [{"name": "bookinfo-proxy", "listen": "10.4.0.201:3128",
                      "certificate": "chain.pem", "key": "key.pem", "trust": "roots.pem",
                      "client_certificate": "require", "policy": "bookinfo-only",
                      "forward_to": "198.51.100.4:8888", "bind": "100.64.0.1"}]}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .events import parsed

FAULTS = (
    "silent-log",
    "reject-then-dial",
    "reject-then-dial-quietly",
    "exit-during-flow",
    "keep-certificates",
    "keep-trust",
    "keep-sessions",
    "ignore-validity",
)
NO_MATCH = "no match"


@dataclass(frozen=True)
class Rule:
    """Permits or rejects the identities that are `spiffe_id`, or that begin with `spiffe_prefix`."""

    permit: bool
    spiffe_id: str | None
    spiffe_prefix: str | None

    def matches(self, identity: str) -> bool:
        """Compare as SPIFFE IDs are compared: case and all, nothing decoded (SPIFFE-ID section 2)."""
        if self.spiffe_id is not None:
            return identity == self.spiffe_id
        return self.spiffe_prefix is not None and identity.startswith(self.spiffe_prefix)


@dataclass(frozen=True)
class Policy:
    """Rules in order: the first match decides, no match rejects."""

    name: str
    rules: tuple[Rule, ...]

    def decide(self, identity: str | None) -> tuple[bool, int | str]:
        """Return whether the identity is permitted, and the index of the rule that decided, or `no match`."""
        if identity is not None:
            for index, rule in enumerate(self.rules):
                if rule.matches(identity):
                    return rule.permit, index
        return False, NO_MATCH


@dataclass(frozen=True)
class VirtualServer:
    """One listener; `bind` is the address that its upstream connections leave from."""

    name: str
    listen: tuple[str, int]
    certificate: str
    key: str
    trust: str
    client_certificate_required: bool
    policy: Policy
    forward_to: tuple[str, int]
    bind: str | None


@dataclass(frozen=True)
class Config:
    """The whole configuration; `connect_timeout` in seconds."""

    name: str
    fault: str | None
    keylog: str | None
    connect_timeout: float
    virtual_servers: tuple[VirtualServer, ...]


def config_of(data: Any) -> Config:
    """Read the decoded JSON of a configuration.

    Raises ValueError with the sentence that says what is wrong.
    """
    try:
        policies = {name: Policy(name, tuple(map(_rule, rules))) for name, rules in data["policies"].items()}
        servers = tuple(_virtual_server(entry, policies) for entry in data["virtual_servers"])
        fault = data.get("fault")
        if fault not in (None, *FAULTS):
            raise ValueError(f"unknown fault {fault!r}; known: {', '.join(FAULTS)}")
        return Config(
            data["name"], fault, data.get("keylog"), float(data.get("connect_timeout", 5.0)), servers
        )
    except KeyError as error:
        raise ValueError(f"{error.args[0]!r} is missing") from None
    except (TypeError, AttributeError) as error:
        raise ValueError(f"a value is of the wrong type: {error}") from None


def _rule(entry: dict[str, str | None]) -> Rule:
    if entry["action"] not in ("permit", "reject"):
        raise ValueError(f"a rule's action is permit or reject, not {entry['action']!r}")
    spiffe_id, spiffe_prefix = entry.get("spiffe_id"), entry.get("spiffe_prefix")
    if (spiffe_id is None) == (spiffe_prefix is None):
        raise ValueError("a rule has exactly one of spiffe_id and spiffe_prefix")
    return Rule(entry["action"] == "permit", spiffe_id, spiffe_prefix)


def _virtual_server(entry: dict[str, Any], policies: dict[str, Policy]) -> VirtualServer:
    if entry["policy"] not in policies:
        raise ValueError(f"unknown policy {entry['policy']!r}; known: {', '.join(policies)}")
    if entry["client_certificate"] not in ("require", "optional"):
        raise ValueError(f"client_certificate is require or optional, not {entry['client_certificate']!r}")
    return VirtualServer(
        name=entry["name"],
        listen=parsed(entry["listen"]),
        certificate=entry["certificate"],
        key=entry["key"],
        trust=entry["trust"],
        client_certificate_required=entry["client_certificate"] == "require",
        policy=policies[entry["policy"]],
        forward_to=parsed(entry["forward_to"]),
        bind=entry.get("bind"),
    )

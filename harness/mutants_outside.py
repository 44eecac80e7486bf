"""Mistakes of nodes outside: firewalls' rules, proxies' policies, SNAT pools, listeners, and who may pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.mutation import REMOVED, Loc

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from ipaddress import IPv4Address

    from harness.lab import Lab, Outside

Edit = tuple[Loc, str, Any]
"""Where below the node, what is wrong then in words, and the other value."""


def edits(spec: Outside, lab: Lab, taken: Collection[IPv4Address]) -> Iterator[Edit]:
    """Yield what may be wrong with a node of any kind, by the keys that it has."""
    if isinstance(rules := getattr(spec, "rules", None), tuple):
        yield from _rules(("rules",), rules)
        everything = _permissive(rules)
        if everything is not None:
            yield ("rules",), "what no rule allows passes", (*rules, everything)
    if (firewall := getattr(spec, "firewall", None)) is not None:
        yield from _rules(("firewall", "rules"), firewall.rules)
        other = "drop" if firewall.default == "allow" else "allow"
        yield ("firewall", "default"), f"{other} where no rule matches", other
    yield from _policies(getattr(spec, "policies", None) or {})
    yield from _virtual_servers(getattr(spec, "virtual_servers", None) or {})
    yield from _listeners(getattr(spec, "listeners", None) or {})
    yield from _pools(spec, lab, taken)
    for name in getattr(spec, "mirrors", None) or {}:
        yield ("mirrors", name), "removed", REMOVED
    if getattr(spec, "connect_ports", ()):
        yield ("connect_ports",), "any port", ()
    yield from allowing(spec)


def allowing(spec: Any) -> Iterator[Edit]:
    """Yield what may be wrong with a list of the identities that may pass."""
    if not hasattr(spec, "allow"):
        return
    if spec.allow is None:
        yield ("allow",), "nobody may pass", ()
        return
    yield ("allow",), "everybody of the mesh may pass", None
    for index in range(len(spec.allow)):
        yield ("allow", index), "removed", REMOVED


def _rules(here: Loc, rules: tuple[Any, ...]) -> Iterator[Edit]:
    for index, rule in enumerate(rules):
        loc = (*here, index)
        yield loc, "removed", REMOVED
        yield (
            (*loc, "allow"),
            "denies what it allows" if rule.allow else "allows what it denies",
            not rule.allow,
        )
        for key, what in (("from_", "from anywhere"), ("to", "to anywhere"), ("port", "to any port")):
            if getattr(rule, key) is not None:
                yield (*loc, key), what, None


def _permissive(rules: tuple[Any, ...]) -> Any:
    """Return a last rule that lets everything pass, of the same form as the others."""
    if not rules:
        return None
    return rules[0].model_copy(
        update={"name": "everything", "from_": None, "to": None, "port": None, "allow": True}
    )


def _policies(policies: dict[str, tuple[Any, ...]]) -> Iterator[Edit]:
    for name, rules in policies.items():
        for index, rule in enumerate(rules):
            loc = ("policies", name, index)
            yield loc, "removed", REMOVED
            word = "permit" if rule.permit is not None else "reject"
            other = "reject" if word == "permit" else "permit"
            match = getattr(rule, word)
            yield loc, f"{other}s what it {word}s", rule.model_copy(update={word: None, other: match})
            for what, wider in _wider(match):
                yield loc, what, rule.model_copy(update={word: wider})
        if rules:
            everybody = rules[0].permit or rules[0].reject
            everybody = everybody.model_copy(update={"spiffe_id": None, "spiffe_prefix": "spiffe://"})
            last = rules[0].model_copy(update={"permit": everybody, "reject": None})
            yield ("policies", name), "permits whom no rule matches", (*rules, last)


def _wider(match: Any) -> Iterator[tuple[str, Any]]:
    """Yield what matches more: a shorter prefix, or a prefix in place of the whole identity."""
    if match.spiffe_id is not None:
        whole = match.spiffe_id
        namespace = whole.rpartition("/sa/")[0] + "/"
        yield (
            "any identity that begins so",
            match.model_copy(update={"spiffe_id": None, "spiffe_prefix": whole}),
        )
        yield (
            "the whole namespace",
            match.model_copy(update={"spiffe_id": None, "spiffe_prefix": namespace}),
        )
        return
    prefix = match.spiffe_prefix
    if prefix.endswith("/"):
        yield "prefix without the last slash", match.model_copy(update={"spiffe_prefix": prefix.rstrip("/")})
    shorter = prefix.rstrip("/").rpartition("/")[0] + "/"
    yield "prefix shorter by a segment", match.model_copy(update={"spiffe_prefix": shorter})


def _virtual_servers(servers: dict[str, Any]) -> Iterator[Edit]:
    for name, server in servers.items():
        loc = ("virtual_servers", name)
        if server.client_certificate == "require":
            yield (*loc, "client_certificate"), "no client certificate demanded", "optional"
        if server.snat is not None:
            yield (*loc, "snat"), "no SNAT", None


def _listeners(listeners: dict[str, Any]) -> Iterator[Edit]:
    for name, listener in listeners.items():
        loc = ("listeners", name)
        yield loc, "removed", REMOVED
        if listener.namespaces:
            yield (*loc, "namespaces"), "for any namespace", ()
        for index in range(len(listener.namespaces) if len(listener.namespaces) > 1 else 0):
            yield (*loc, "namespaces", index), "removed", REMOVED
        others = {"none", "automap"} - {listener.snat}
        for other in sorted(others):
            yield loc, f"snat {other}", listener.model_copy(update={"snat": other, "pool": None})


def _pools(spec: Outside, lab: Lab, taken: Collection[IPv4Address]) -> Iterator[Edit]:
    for name, pool in (getattr(spec, "snat_pools", None) or {}).items():
        for index, address in enumerate(pool):
            loc = ("snat_pools", name, index)
            if len(pool) > 1:
                yield loc, f"{address} removed", REMOVED
            cidr = next(
                (lab.networks[one].cidr for one in spec.on if address in lab.networks[one].cidr), None
            )
            free = _free(cidr, taken) if cidr is not None else None
            if free is not None:
                yield loc, f"{free} in place of {address}", free


def _free(cidr: Any, taken: Collection[IPv4Address]) -> IPv4Address | None:
    """Return the last address of a network that nobody has; only a few from the end are looked at."""
    last = cidr.broadcast_address
    return next((found for n in range(1, 9) if (found := last - n) in cidr and found not in taken), None)

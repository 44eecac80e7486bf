"""An egress gateway for plain traffic: a router that translates, filters, counts and logs by listener.

As F5's SPK has it (article 3 of docs/coverage.md): a listener takes what comes in on its VLANs, and leaves the client's
address, or gives it the gateway's own (automap) or one of a pool. A firewall policy decides before; what it permits and
denies is logged with the rule's name. Real nftables; not an SPK.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from harness.dual_stack import is_dual
from harness.entry import Entry
from harness.evidence import RP_FILTER
from harness.identity import Certificates
from harness.lab import Addresses, Flag, Lab, Labels, Line, Name, Names, Outside, Port
from harness.lookup import nearest
from harness.plan import Bindings, Node, Plan, Runtime, counter_name
from harness.snat_ports import EXHAUSTED, PortRange, chosen, rooms

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FORWARDS = True
FORWARDS_IPV6 = True
NFLOG_GROUP = 5
"""The netlink log group that drivers listen to."""

Family = Literal["ipv4", "ipv6"]
_WORDS = {"ipv4": "ip", "ipv6": "ip6"}
"""What nftables calls the families."""

NO_LISTENER = "no-listener"
DEFAULT = "default"
OWN_WORDS = (DEFAULT, NO_LISTENER, EXHAUSTED)
"""What the gateway says where no rule of the file decided."""

_MODES = {"off": "0", "strict": "1", "loose": "2"}
"""Of rp_filter (RFC 3704; Linux, Documentation/networking/ip-sysctl.rst)."""


class Listener(Entry):
    """What takes new connections from its VLANs, or only those of some namespaces' pods.

    With `automap` they go on from the gateway's own address on the first VLAN, with `pool` from one of that pool.
    """

    vlans: Annotated[Names, Field(min_length=1)]
    family: Family = "ipv4"
    namespaces: Labels = ()
    snat: Literal["none", "automap", "pool"] = "none"
    pool: Name | None = None


class Rule(Entry):
    """A rule of the firewall policy; `from` is a namespace, `to` a node or network, never an address."""

    name: Name
    from_: Line | None = Field(alias="from", default=None)
    to: Line | None = None
    port: Port | None = None
    allow: Flag


class Policy(Entry):
    """The firewall: its rules in order, and what is done where none of them matches."""

    default: Literal["allow", "drop"] = "drop"
    rules: tuple[Rule, ...] = ()


class Spec(Outside):
    """An egress gateway in a lab file."""

    kind: Literal["gateway"]
    listeners: Annotated[dict[Name, Listener], Field(min_length=1)]
    snat_pools: dict[Name, Annotated[Addresses, Field(min_length=1)]] = Field(default_factory=dict)
    snat_ports: dict[Name, PortRange] = Field(default_factory=dict)
    rp_filter: Literal["off", "loose", "strict"] = "off"
    firewall: Policy = Policy(default="allow")


def deciders(spec: Spec) -> tuple[str, ...]:
    """Return the names that a scenario may give as `by` for this node."""
    return (*(rule.name for rule in spec.firewall.rules), *OWN_WORDS, RP_FILTER)


def claims(spec: Spec) -> Iterator[tuple[tuple[str | int, ...], IPv4Address]]:
    """Yield the addresses of the SNAT pools, each with its place."""
    for name, pool in spec.snat_pools.items():
        for index, address in enumerate(pool):
            yield ("snat_pools", name, index), address


def automap_address(spec: Spec, name: str, listener: str, bindings: Bindings) -> IPv4Address | IPv6Address:
    """Return the address that a listener with automap translates to: the gateway's own on its first VLAN."""
    one = spec.listeners[listener]
    address = bindings.addresses[name, one.vlans[0]]
    return bindings.sixes[address] if one.family == "ipv6" else address


def check(name: str, spec: Spec, lab: Lab) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield what is wrong with this node in its lab, each with its place below `outside.<name>`."""
    taken: dict[tuple[str, str], str] = {}
    for listener, one in spec.listeners.items():
        for below, message in _check_listener(name, spec, one, lab):
            yield ("listeners", listener, *below), message
        for index, vlan in enumerate(one.vlans):
            if (vlan, one.family) in taken:
                known = f"everything from {vlan!r} is listener {taken[vlan, one.family]!r}'s already"
                yield ("listeners", listener, "vlans", index), known
        if not one.namespaces:
            taken |= dict.fromkeys(((vlan, one.family) for vlan in one.vlans), listener)
    for place, address in claims(spec):
        if not any(address in lab.networks[network].cidr for network in spec.on if network in lab.networks):
            yield place, f"{address} is in none of the networks of {name!r}"
    for pool in spec.snat_ports:
        if pool not in spec.snat_pools:
            yield ("snat_ports", pool), f"unknown SNAT pool {pool!r}; {nearest(pool, list(spec.snat_pools))}"
    yield from _check_rules(name, spec, lab)


def _check_listener(
    name: str, spec: Spec, listener: Listener, lab: Lab
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    for index, vlan in enumerate(listener.vlans):
        if vlan not in spec.on:
            yield ("vlans", index), f"{name!r} is not on a network {vlan!r}; {nearest(vlan, list(spec.on))}"
        elif listener.family == "ipv6" and vlan in lab.networks and lab.networks[vlan].cidr6 is None:
            yield ("vlans", index), f"network {vlan!r} has no IPv6 range ('cidr6')"
    for index, namespace in enumerate(listener.namespaces):
        if namespace not in lab.namespaces:
            known = nearest(namespace, list(lab.namespaces))
            yield ("namespaces", index), f"unknown namespace {namespace!r}; {known}"
    if listener.family == "ipv6" and listener.snat == "pool":
        yield ("snat",), "pools are of IPv4 addresses; a listener of IPv6 has 'none' or 'automap'"
    if (listener.pool is not None) != (listener.snat == "pool"):
        wrong = "'snat: pool' and 'pool', the name of one of 'snat_pools', go together"
        yield ("snat",) if listener.pool is None else ("pool",), wrong
    elif listener.pool is not None and listener.pool not in spec.snat_pools:
        yield (
            ("pool",),
            f"unknown SNAT pool {listener.pool!r}; {nearest(listener.pool, list(spec.snat_pools))}",
        )


def _check_rules(name: str, spec: Spec, lab: Lab) -> Iterator[tuple[tuple[str | int, ...], str]]:
    targets = sorted({*lab.networks, *lab.outside})
    seen: set[str] = set(OWN_WORDS)
    for index, rule in enumerate(spec.firewall.rules):
        place = ("firewall", "rules", index)
        if rule.name in OWN_WORDS:
            yield (*place, "name"), f"{rule.name!r} is what the gateway itself says; choose another name"
        elif rule.name in seen:
            yield (*place, "name"), f"rule {rule.name!r} of {name!r} is written twice"
        seen.add(rule.name)
        if rule.from_ is not None and rule.from_ not in lab.namespaces:
            known = nearest(rule.from_, list(lab.namespaces))
            yield (*place, "from"), f"unknown namespace {rule.from_!r}; {known}"
        if rule.to is not None and rule.to not in targets:
            yield (*place, "to"), f"unknown node or network {rule.to!r}; {nearest(rule.to, targets)}"


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:  # noqa: ARG001
    """Return its rules. A connection that a listener takes is marked with the listener's number, from 1 on."""
    spec = node.spec
    if not isinstance(spec, Spec):
        raise TypeError(f"{node.name} is no gateway")
    tables = [_table("ipv4", node, spec, plan, bindings)]
    if is_dual(plan.lab):
        tables.append(_table("ipv6", node, spec, plan, bindings))
    return Runtime(
        rules="".join(tables),
        sysctls=(
            ("net.ipv4.ip_forward", "1"),
            # a port of few is free again when its connection is over, and not after another two minutes
            *((("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "1"),) if spec.snat_ports else ()),
            *((("net.ipv4.conf.all.rp_filter", _MODES[spec.rp_filter]),) if spec.rp_filter != "off" else ()),
        ),
        addresses=tuple(address for pool in spec.snat_pools.values() for address in pool),
    )


def _table(family: Family, node: Node, spec: Spec, plan: Plan, bindings: Bindings) -> str:
    """Return the rules for one family: its listeners, and the whole policy as far as it speaks of addresses of it.

    The policy's counters are the IPv4 table's; of IPv6 only the log tells, as names of counters are unique on a node.
    """
    four = family == "ipv4"
    own = (DEFAULT, NO_LISTENER, *((EXHAUSTED,) if spec.snat_ports else ()))
    decided = (*(rule.name for rule in spec.firewall.rules), *own)
    counters = [counter_name("rule", name) for name in decided] if four else []
    counters += [counter_name("snat", pool) for pool in spec.snat_pools] if four else []
    take, counted, translate = [], [], []
    full: list[str] = []
    for mark, (name, listener) in enumerate(spec.listeners.items(), start=1):
        if listener.family != family:
            continue
        came, went, accepted = (counter_name(word, name) for word in ("in", "out", "accepted"))
        counters += [came, went, accepted, counter_name("automap", name)]
        counted.append(f"    ct mark {mark} ct direction original counter name {came}")
        counted.append(f"    ct mark {mark} ct direction reply counter name {went}")
        match = _taken(node, listener, plan, bindings)
        ports = spec.snat_ports.get(listener.pool or "")
        if match is not None:
            room = "" if ports is None else f" jump room_{mark}\n    ct mark {mark}"
            take.append(f"    {match} ct mark set {mark}{room} counter name {accepted} goto counted")
        if listener.snat == "automap":
            address = automap_address(spec, node.name, name, bindings)
            translate.append(
                f"    ct mark {mark} counter name {counter_name('automap', name)} snat to {address}"
            )
        elif listener.pool is not None:
            pool = spec.snat_pools[listener.pool]
            counter = counter_name("snat", listener.pool)
            if ports is None:
                translate.append(f"    ct mark {mark} counter name {counter} snat to {_spread(pool)}")
            else:
                full += rooms(mark, pool, ports, NFLOG_GROUP)
                translate.append(f"    ct mark {mark} counter name {counter} {chosen(pool, f'snat_{mark}')}")
    return "\n".join(
        [
            f"table {'ip' if four else 'ip6'} gateway {{",
            *(f"  counter {name} {{ }}" for name in counters),
            "  chain counted {",
            *counted,
            "    accept",
            "  }",
            *full,
            "  chain take {",
            *take,
            f"    {_decided('drop', NO_LISTENER, counts=four)}",
            "  }",
            "  chain forward { type filter hook forward priority filter; policy drop;",
            "    ct state established,related goto counted",
            *(f"    {line}" for line in _policy(family, spec, plan, bindings)),
            "  }",
            "  chain postrouting { type nat hook postrouting priority srcnat;",
            *translate,
            "  }",
            "}",
            "",
        ]
    )


def _spread(pool: tuple[IPv4Address, ...]) -> str:
    """Return the addresses of a pool by a hash of the client's: each client always has the same one.

    The seed is said, or the kernel would choose another each time the rules are loaded (nft(8), jhash).
    """
    if len(pool) == 1:
        return str(pool[0])
    chosen = ", ".join(f"{index} : {address}" for index, address in enumerate(pool))
    return f"jhash ip saddr mod {len(pool)} seed 0x1 map {{ {chosen} }}"


def _taken(node: Node, listener: Listener, plan: Plan, bindings: Bindings) -> str | None:
    """Return what a listener takes, as a match; None for one whose namespaces have no pods of its family."""
    names = [network for network, _ in node.on]
    match = "iifname {{ {} }}".format(", ".join(f'"eth{names.index(vlan)}"' for vlan in listener.vlans))
    if not listener.namespaces:
        return match
    members = _members(listener.family, listener.namespaces, plan, bindings)
    word = _WORDS[listener.family]
    return f"{match} {word} saddr {{ {', '.join(members)} }}" if members else None


def _members(family: Family, namespaces: tuple[str, ...], plan: Plan, bindings: Bindings) -> list[str]:
    """Return every address of the namespaces' pods, of one family."""
    return [
        address
        for pod in plan.pods
        if pod.pod is not None and pod.pod.namespace in namespaces
        for address in _of(family, bindings.of_both_families(pod))
    ]


def _of(family: Family, addresses: Iterable[IPv4Address | IPv6Address]) -> list[str]:
    wanted = 4 if family == "ipv4" else 6
    return [str(address) for address in addresses if address.version == wanted]


def _policy(family: Family, spec: Spec, plan: Plan, bindings: Bindings) -> Iterator[str]:
    """Yield the policy's rules; one that names somebody without an address of the family matches nothing of it."""
    word, counts = _WORDS[family], family == "ipv4"
    for rule in spec.firewall.rules:
        words = []
        if rule.from_ is not None:
            members = _members(family, (rule.from_,), plan, bindings)
            if not members:
                continue
            words.append(f"{word} saddr {{ {', '.join(members)} }}")
        if rule.to in plan.lab.networks:
            network = plan.lab.networks[rule.to]
            cidr = network.cidr if counts else network.cidr6
            if cidr is None:
                continue
            words.append(f"{word} daddr {cidr}")
        elif rule.to is not None:
            found = _of(family, bindings.of_both_families(plan.node(rule.to)))
            if not found:
                continue
            words.append(f"{word} daddr {{ {', '.join(found)} }}")
        if rule.port is not None:
            words.append(f"tcp dport {rule.port}")
        yield " ".join((*words, _decided("allow" if rule.allow else "drop", rule.name, counts=counts)))
    yield _decided(spec.firewall.default, DEFAULT, counts=counts)


def _decided(action: str, name: str, *, counts: bool) -> str:
    """Count and log a decision under its name; what is allowed is the listeners' then."""
    done = "drop" if action == "drop" else "goto take"
    counter = f"counter name {counter_name('rule', name)} " if counts else ""
    return f'{counter}log prefix "{action} {name}" group {NFLOG_GROUP} {done}'

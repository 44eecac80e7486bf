"""`egresslab attack`: the attack pack at the virtual servers of any lab, against the policies that it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness import shipped, source
from harness.attacks import ATTACKS
from harness.commands import run_items, text_of
from harness.engine_choice import KIND
from harness.errors import InputError
from harness.lab import Lab, parse_lab
from harness.lookup import nearest
from harness.plan import Plan, make_plan, spiffe_id
from harness.programs.policy import Policy, Rule
from harness.programs.svid import is_spiffe_id
from harness.scenario import Allowed, Denied, Expect, Identity, Item, Packets, Scenario
from harness.scenario_model import Table
from harness.scenario_names import words_of

if TYPE_CHECKING:
    from harness.source import Document

_ENDINGS = ("sa/default", "default", "a/default")
"""What makes an identity of a prefix that no pod of the lab has."""


@dataclass(frozen=True)
class Target:
    """A virtual server that is attacked: its place, where it listens, its policy, and whom that permits.

    `line` is where the lab file has the policy; `beyond` the node that permitted connections go on to, and `tap` where
    they are seen to come: not every server logs a connection of which nothing comes. None behind another proxy.
    """

    node: str
    name: str
    listen: str
    policy: str
    beyond: str
    identity: str
    line: int
    tap: str | None = None

    @property
    def column(self) -> str:
        """What it is called in tables."""
        return f"{self.node}:{self.name}"


def run_attacks(  # noqa: PLR0913 - the options of one command
    lab_name: str,
    name: str | None,
    servers: Sequence[str],
    policy: str,
    sender: str,
    identity: str,
    words: str,
    engine: str,
    out: Path,
    verbose: int,
    driver: Any,
) -> int:
    """Attack a lab's virtual servers and return the exit code: 1 when an attack got through, 3 when one is unknown.

    Raises InputError for names that the lab does not have, and where there is nothing to attack.
    """
    path = shipped.find_lab(lab_name)
    text = text_of(path, engine)
    document = source.parse(text.encode(), str(path))
    lab = parse_lab(document)
    found = targets(lab, document, servers, policy, identity)
    chosen = [attack for attack, one in ATTACKS.items() if words in attack or words in one.title]
    if not chosen:
        raise InputError(f"no attack has {words!r} in its name; {nearest(words, list(ATTACKS))}")
    origin, bypass = origin_of(make_plan(lab), sender)
    items = [item for target in found for item in items_of(target, chosen, origin, bypass, str(path))]
    return run_items(lab, path, text, items, name, "never", out, True, verbose, driver)  # noqa: FBT003 - as everywhere


def targets(
    lab: Lab, document: Document, servers: Sequence[str] = (), policy: str = "", identity: str = ""
) -> tuple[Target, ...]:
    """Return the virtual servers of the lab's egress proxies: those named (`NODE` or `NODE:NAME`), or all.

    With `policy` only those that have it; `identity` is one that all of them permit, else each has one of its own.
    Raises InputError.
    """
    every = [
        (node, name, server)
        for node, spec in lab.outside.items()
        if spec.kind == KIND
        for name, server in getattr(spec, "virtual_servers", {}).items()
    ]
    known = [f"{node}:{name}" for node, name, _ in every]
    for word in servers:
        if word not in {*known, *(node for node, _, _ in every)}:
            raise InputError(f"unknown virtual server {word!r}; {nearest(word, known)}")
    policies = sorted({server.policy for _, _, server in every})
    if policy and policy not in policies:
        raise InputError(f"unknown policy {policy!r}; {nearest(policy, policies)}")
    if not every:
        raise InputError(f"{document.path}: there is no egress proxy to attack")
    return tuple(
        Target(
            node=node,
            name=name,
            listen=server.listen,
            policy=server.policy,
            beyond=server.forward_to.rpartition(":")[0],
            identity=_permitted(node, server.policy, identity, lab, document),
            line=document.position(("outside", node, "policies", server.policy), key=True)[0],
            tap=_tap(lab, server.forward_to.rpartition(":")[0]),
        )
        for node, name, server in every
        if (not servers or node in servers or f"{node}:{name}" in servers) and policy in ("", server.policy)
    )


def _tap(lab: Lab, node: str) -> str | None:
    spec = lab.outside[node]
    return None if spec.kind == KIND else f"{node}.{list(spec.on)[-1]}"


def _permitted(node: str, policy: str, identity: str, lab: Lab, document: Document) -> str:
    """Return an identity that a policy permits: the one given, a pod's, or one that a rule's prefix begins."""
    rules = [
        Rule(rule.permit is not None, match.spiffe_id, match.spiffe_prefix)
        for rule in getattr(lab.outside[node], "policies", {})[policy]
        if (match := rule.permit or rule.reject) is not None
    ]
    permits = [rule for rule in rules if rule.permit]
    plan = make_plan(lab)
    pods = [spiffe_id(plan, one.pod) for one in plan.pods if one.pod is not None and one.pod.injected]
    made = [name for rule in permits if rule.spiffe_prefix for name in _begun_by(rule.spiffe_prefix)]
    whole = [rule.spiffe_id for rule in permits if rule.spiffe_id]
    for candidate in [identity] if identity else [*pods, *whole, *made]:
        if is_spiffe_id(candidate) and Policy(policy, tuple(rules)).decide(candidate)[0]:
            return candidate
    place = ("outside", node, "policies", policy)
    if identity:
        raise InputError(document.problem(place, f"the policy {policy!r} does not permit {identity}"))
    raise InputError(
        document.problem(
            place, f"the policy {policy!r} permits nobody, so that there is nobody to be taken for"
        )
    )


def _begun_by(prefix: str) -> Iterator[str]:
    """Yield identities that a prefix begins, in Istio's form first; one without `/` at its end is taken for whole."""
    for end in _ENDINGS if "/ns/" in prefix else (f"ns/default/{_ENDINGS[0]}", *_ENDINGS):
        yield f"{prefix.removesuffix('/')}/{end}"


def origin_of(plan: Plan, sender: str = "") -> tuple[str, Literal["sidecar"] | None]:
    """Return who sends, and whether that is round its sidecar: the one named, or a pod, first those without sidecar.

    Raises InputError for a name that is none, and for a lab that has nobody.
    """
    words = words_of(plan.lab)
    known = (*words.pods, *words.clients)
    if sender and sender not in known:
        raise InputError(f"unknown pod {sender!r}; {nearest(sender, list(known))}")
    injected = {one.name for one in plan.pods if one.pod is not None and one.pod.injected}
    ordered = sorted(words.pods, key=lambda pod: pod in injected) or list(words.clients)
    if not ordered:
        raise InputError("nobody in this lab can attack; it has neither pods nor clients")
    chosen = sender or ordered[0]
    return chosen, "sidecar" if chosen in injected else None


def items_of(
    target: Target, attacks: Sequence[str], origin: str, bypass: Literal["sidecar"] | None, path: str
) -> Iterator[Item]:
    """Yield a virtual server's cases, as of scenarios that nobody wrote.

    First that the good certificate passes, then each attack, whose control that is.
    """
    at, beyond = target.node, target.beyond
    seen = Identity.model_validate({"at": at, "is": target.identity})
    came = (Packets(at=target.tap, count=">= 1"),) if target.tap else ()
    good = Allowed(path=(at,) if target.tap else (at, beyond), identity=(seen,), packets=came)
    name = f"{target.column}: {target.identity} passes"
    common = {"from_": (origin,), "presents": target.identity, "bypass": bypass}
    to = f"tls://{target.listen}"
    control = Item(
        id=name,
        scenario=Scenario(name=name, expect=Expect(allowed=good), **common),
        source=origin,
        to=to,
        path=path,
        line=target.line,
    )
    yield control
    denied = Expect(rejected=Denied(at=at, unseen_by=(beyond,)))
    for attack in attacks:
        one = f"{target.column}: {attack}"
        yield Item(
            id=one,
            scenario=Scenario(
                name=f"{target.column} stops attacks",
                table=Table(column=target.column),
                attack=attack,
                control=name,
                expect=denied,
                **common,
            ),
            source=origin,
            to=to,
            attack=attack,
            path=path,
            line=target.line,
            controls=(control,),
        )

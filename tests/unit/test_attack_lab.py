"""What `egresslab attack` makes of a lab: which virtual servers, whom to be taken for, who sends, and what cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import shipped, source
from harness.attack_lab import items_of, origin_of, targets
from harness.attacks import ATTACKS
from harness.errors import InputError
from harness.lab import parse_lab
from harness.plan import make_plan

FILES = Path(__file__).parent / "files"
BOOKINFO = "spiffe://cluster.local/ns/bookinfo/"


def lab_with(*rules: str) -> source.Document:
    """Return the lab of the unit tests, with these rules for its one policy if there are any."""
    text = (FILES / "lab.yaml").read_text(encoding="utf-8")
    rule = f"- permit: {{spiffe_prefix: {BOOKINFO}}}"
    assert rule in text
    return source.parse(text.replace(rule, "\n        ".join(rules) or rule).encode(), "lab.yaml")


def found_in(document: source.Document, **chosen: object) -> list[tuple[str, str]]:
    """Return the targets of a lab, each with whom to be taken for."""
    lab = parse_lab(document)
    return [(target.column, target.identity) for target in targets(lab, document, **chosen)]  # type: ignore[arg-type]


def test_a_pod_that_the_policy_permits_is_whom_to_be_taken_for() -> None:
    """Of the lab's own identities the first that gets through, as the policy itself decides."""
    document = lab_with()
    assert found_in(document) == [("bigip:bookinfo-proxy", f"{BOOKINFO}sa/default")]
    (target,) = targets(parse_lab(document), document)
    assert (target.listen, target.policy, target.beyond) == ("10.4.0.201:3128", "bookinfo-only", "tinyproxy")
    assert "bookinfo-only:" in (FILES / "lab.yaml").read_text("utf-8").splitlines()[target.line - 1]


@pytest.mark.parametrize(
    ("rules", "identity"),
    [
        (("- permit: {spiffe_id: spiffe://cluster.local/ns/x/sa/y}",), "spiffe://cluster.local/ns/x/sa/y"),
        (
            ("- permit: {spiffe_prefix: spiffe://cluster.local/ns/x/}",),
            "spiffe://cluster.local/ns/x/sa/default",
        ),
        (
            ("- permit: {spiffe_prefix: spiffe://cluster.local/ns/x}",),
            "spiffe://cluster.local/ns/x/sa/default",
        ),
        (
            ("- permit: {spiffe_prefix: spiffe://other.example/}",),
            "spiffe://other.example/ns/default/sa/default",
        ),
        (
            (
                "- reject: {spiffe_prefix: spiffe://cluster.local/ns/x/sa/}",
                "- permit: {spiffe_prefix: spiffe://cluster.local/ns/x/}",
            ),
            "spiffe://cluster.local/ns/x/default",
        ),
    ],
    ids=["whole", "prefix", "without-slash", "another-domain", "first-match"],
)
def test_else_one_is_made_of_the_rules(rules: tuple[str, ...], identity: str) -> None:
    """Where no pod is permitted, a rule's name or what its prefix begins; a rule before it may still reject it."""
    assert found_in(lab_with(*rules)) == [("bigip:bookinfo-proxy", identity)]


def test_an_identity_that_is_given_must_be_permitted() -> None:
    """Attacks on behalf of somebody who may not pass would prove nothing."""
    assert found_in(lab_with(), identity=f"{BOOKINFO}sa/x") == [("bigip:bookinfo-proxy", f"{BOOKINFO}sa/x")]
    with pytest.raises(
        InputError, match=r"lab.yaml:\d+:\d+: the policy 'bookinfo-only' does not permit spiffe://a/b"
    ):
        found_in(lab_with(), identity="spiffe://a/b")


def test_a_policy_for_nobody() -> None:
    """There is nobody to be taken for, and the place of the policy is told."""
    with pytest.raises(InputError, match=r"lab.yaml:\d+:\d+: the policy 'bookinfo-only' permits nobody"):
        found_in(lab_with("- reject: {spiffe_prefix: 'spiffe://'}"))


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"servers": ["bigpi"]}, "unknown virtual server 'bigpi'"),
        ({"servers": ["bigip:exit"]}, "unknown virtual server 'bigip:exit'; known: bigip:bookinfo-proxy"),
        ({"policy": "bookinfo"}, "unknown policy 'bookinfo'; known: bookinfo-only"),
    ],
)
def test_unknown_names_are_told_with_the_known_ones(chosen: dict[str, object], sentence: str) -> None:
    """A virtual server by its node or its whole name, a policy by its name."""
    with pytest.raises(InputError) as caught:
        found_in(lab_with(), **chosen)
    assert sentence in str(caught.value)


def test_servers_can_be_chosen() -> None:
    """By node, by name, by policy; each engine of the shipped lab is one."""
    document = source.read(shipped.find_lab("identity-attacks"))
    every = [name for name, _ in found_in(document)]
    assert every == ["builtin:ledger", "envoy:ledger", "haproxy:ledger"]
    assert [name for name, _ in found_in(document, servers=["envoy", "haproxy:ledger"])] == every[1:]
    assert [name for name, _ in found_in(document, policy="prod-only")] == every


def test_who_attacks() -> None:
    """A pod without sidecar first; of one with a sidecar the flow goes round it."""
    plan = make_plan(parse_lab(lab_with()))
    assert origin_of(plan) == ("sm-apigw-a/bare-v1", None)
    assert origin_of(plan, "bookinfo/traffic-generator") == ("bookinfo/traffic-generator", "sidecar")
    with pytest.raises(InputError, match="unknown pod 'bookinfo/generator'"):
        origin_of(plan, "bookinfo/generator")


def test_each_attack_is_a_case_that_rests_on_the_good_certificate() -> None:
    """The first case is that the good certificate passes, and is the control of all others."""
    document = lab_with()
    (target,) = targets(parse_lab(document), document)
    good, *attacks = items_of(target, list(ATTACKS), "sm-apigw-a/bare-v1", None, "lab.yaml")
    assert good.scenario.expect.allowed is not None
    assert good.to == "tls://10.4.0.201:3128"
    assert [item.attack for item in attacks] == list(ATTACKS)
    assert all(item.controls == (good,) and item.to == good.to for item in attacks)
    rejected = attacks[0].scenario.expect.rejected
    assert rejected is not None
    assert (rejected.at, rejected.unseen_by) == ("bigip", ("tinyproxy",))

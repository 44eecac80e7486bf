"""The mistakes that a lab may have: each at its place, and what it makes of the lab."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

import pytest
from small_tenants import LAB, plan_of

from harness import source
from harness.accepted import Accepted
from harness.drivers import fake
from harness.errors import InputError
from harness.identity import issue
from harness.mutants import Mutant, in_file, mutants
from harness.mutants_mesh import without_table
from harness.mutation import REMOVED, Mutation, edited
from harness.plan import make_plan, render
from harness.routing import KernelRoute

if TYPE_CHECKING:
    from pathlib import Path

    from harness.plan import Plan

PLAN = plan_of()
DOCUMENT = source.parse(LAB.encode(), "lab.yaml")


def every(plan: Plan = PLAN, routes: dict[str, tuple[KernelRoute, ...]] | None = None) -> dict[str, Mutant]:
    """Return a lab's mutants by name."""
    found = mutants(plan, fake.binding(plan), routes or {})
    return {mutant.name: mutant for mutant in found}


def made(mutant: Mutant) -> Any:
    """Return the lab that a mutant makes of the small one, as plain data."""
    return mutant.mutation.lab(PLAN.lab).model_dump(mode="json", by_alias=True)


def test_a_value_is_edited_at_its_place_and_nowhere_else() -> None:
    """Attributes, keys and elements are replaced or removed; the value before stays as it was."""
    rules = ("outside", "firewall", "rules")
    wider = edited(PLAN.lab, (*rules, 0, "port"), None)
    assert getattr(wider.outside["firewall"], "rules")[0].port is None  # noqa: B009 - of one kind only
    assert getattr(PLAN.lab.outside["firewall"], "rules")[0].port == 8888  # noqa: B009
    without = edited(PLAN.lab, (*rules, 0), REMOVED)
    assert getattr(without.outside["firewall"], "rules") == ()  # noqa: B009
    assert (
        "shop"
        not in edited(PLAN.lab, ("namespaces", "red", "workloads", "shop"), REMOVED)
        .namespaces["red"]
        .workloads
    )


def test_what_a_step_took_away_is_not_edited() -> None:
    """A place that is not there changes nothing: the pod may be deleted just then."""
    for loc in (
        ("outside", "nobody", "rules"),
        ("outside", "firewall", "rules", 7),
        ("outside", "firewall", "x"),
    ):
        assert edited(PLAN.lab, loc, None) == PLAN.lab


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("outside.firewall.rules.proxy-out: removed", "name: proxy-out"),
        ("outside.firewall.rules.proxy-out.from: from anywhere", "from: snat/red"),
        ("outside.firewall.rules: what no rule allows passes", "name: proxy-out"),
        ("outside.bigip.policies.red-only.0: prefix shorter by a segment", "red-only: [{permit"),
        ("outside.bigip.virtual_servers.exit.snat: no SNAT", "snat: {pool: red}"),
        ("outside.bigip.snat_pools.red.0: 10.4.0.254 in place of 10.4.0.211", "snat_pools: {red"),
        ("outside.tinyproxy.connect_ports: any port", "tinyproxy: {kind: forward-proxy"),
        ("mesh.mtls.default: strict in place of permissive", "mesh: {provider"),
        ("services.proxy.server_identity: anybody of the mesh may answer", "server_identity:"),
        ("cluster.pools.default.nat_outgoing: not masqueraded", "pools: {default"),
        ("namespaces.blue.workloads.client: nothing is intercepted", "client: {runs: client}"),
    ],
)
def test_a_mutant_stands_at_its_line_of_the_file(name: str, line: str) -> None:
    """Each kind of mistake is there by its name, and its place is the line that it is a mistake of."""
    loc = in_file(every()[name].loc)
    number, _ = DOCUMENT.position(loc, key=isinstance(loc[-1], str))
    assert line in LAB.splitlines()[number - 1]


def test_mutants_are_what_their_names_say() -> None:
    """Prefixes are wider, actions are the other ones, addresses are others."""
    found = every()
    policy = "outside.bigip.policies.red-only.0: "
    shorter = made(found[policy + "prefix shorter by a segment"])["outside"]["bigip"]["policies"]["red-only"]
    assert shorter[0]["permit"]["spiffe_prefix"] == "spiffe://cluster.local/ns/"
    slashless = made(found[policy + "prefix without the last slash"])["outside"]["bigip"]["policies"][
        "red-only"
    ]
    assert slashless[0]["permit"]["spiffe_prefix"] == "spiffe://cluster.local/ns/red"
    turned = made(found[policy + "rejects what it permits"])["outside"]["bigip"]["policies"]["red-only"]
    assert turned[0]["permit"] is None
    assert turned[0]["reject"]["spiffe_prefix"] == "spiffe://cluster.local/ns/red/"
    rules = made(found["outside.firewall.rules: what no rule allows passes"])["outside"]["firewall"]["rules"]
    assert [(rule["from"], rule["to"], rule["port"], rule["allow"]) for rule in rules][-1] == (
        None,
        None,
        None,
        True,
    )


def test_every_mutant_of_the_lab_can_be_rendered() -> None:
    """None is stillborn: each makes another runtime of at least one node, or leaves a route out."""
    bindings = fake.binding(PLAN)
    certificates = issue(PLAN.requests, "Root", "Mesh")
    before = render(PLAN, bindings, certificates)
    for mutant in every().values():
        plan = make_plan(mutant.mutation.lab(PLAN.lab), PLAN) if mutant.mutation.edits else PLAN
        after = render(plan, fake.binding(plan), certificates)
        if mutant.mutation.runtime is not None:
            alter = mutant.mutation.runtime
            after = {name: alter(plan.node(name), one, certificates) for name, one in after.items()}
        assert after != before, mutant.name


def test_routes_are_left_out_one_by_one() -> None:
    """Routes that the lab wrote are mutants, named after what they lead to; those of the kernel and BIRD are none."""
    found = fake.binding(PLAN)
    block = found.blocks["agent-0"][0]
    routes = (
        KernelRoute(IPv4Network("198.51.100.0/24"), "unicast", "172.19.0.9", "boot", 0),
        KernelRoute(IPv4Network(f"{found.pods['red/client']}/32"), "unicast", None, "boot", 0),
        KernelRoute(block, "unicast", "172.19.0.3", "boot", 0),
        KernelRoute(IPv4Network("172.19.0.0/24"), "unicast", None, "kernel", 0),
        KernelRoute(IPv4Network("10.9.0.0/24"), "unicast", "172.19.0.3", "bird", 0),
    )
    names = [name for name in every(routes={"server-0": routes}) if "no route" in name]
    assert names == [
        "cluster.nodes.server-0: no route to internet",
        "cluster.nodes.server-0: no route to red/client",
        "cluster.nodes.server-0: no route to agent-0's block",
    ]


def test_interception_is_one_table() -> None:
    """Without it a pod's other rules stand as before."""
    rules = "table ip interception {\n  chain a { }\n}\ntable ip other { }\n"
    assert without_table(rules) == "table ip other { }\n"
    assert without_table("table ip other { }\n") == "table ip other { }\n"


def test_nobody_is_believed_wrongly_where_there_are_no_strangers() -> None:
    """A lab without a certificate of another authority has no mutant of who is believed: nothing could show it."""
    assert not [name for name in every() if "trust" in name]
    stranger = LAB.replace(
        "client: {runs: client}\n      shop",
        "client: {runs: client, certificate: {issuer: foreign}}\n      shop",
    )
    assert [name for name in every(plan_of(stranger)) if "trust" in name] == [
        "outside.bigip: trusts another authority too",
        "mesh: sidecars trust another authority too",
    ]


def accepted(folder: Path, text: str) -> Accepted:
    """Return what a file of exceptions says."""
    (folder / "mutants.yaml").write_text(text, encoding="utf-8")
    return Accepted(folder / "lab.yaml")


def test_an_exception_has_a_reason(tmp_path: Path) -> None:
    """Each accepted mutant is named with why; a lab without the file accepts none."""
    assert not Accepted(tmp_path / "lab.yaml").reasons
    found = accepted(
        tmp_path, "lab: x\naccepted:\n  - {mutants: ['a: b', 'c: d'], reason: nobody can tell}\n"
    )
    assert found.reasons == {"a: b": "nobody can tell", "c: d": "nobody can tell"}
    with pytest.raises(InputError, match=r"mutants\.yaml:3:5: .*reason"):
        accepted(tmp_path, "lab: x\naccepted:\n  - {mutants: ['a: b']}\n")


def test_an_exception_that_is_none_is_told_with_its_place(tmp_path: Path) -> None:
    """A name that no mutant has, one that is caught, and one written twice are errors at their lines."""
    found = accepted(tmp_path, "lab: x\naccepted:\n  - {mutants: ['a: b', 'c: d'], reason: r}\n")
    (unknown,) = found.unknown(["a: b", "c: e"])
    assert "mutants.yaml:3:24: no mutant of this lab is called 'c: d'" in str(unknown)
    assert "did you mean 'c: e'?" in str(unknown)
    (stale,) = found.stale({"a: b"})
    assert str(stale).endswith("mutants.yaml:3:16: 'a: b' is caught by a scenario, and needs no exception")
    with pytest.raises(InputError, match="written twice"):
        accepted(tmp_path, "lab: x\naccepted:\n  - {mutants: ['a: b', 'a: b'], reason: r}\n")


def test_a_mutation_without_edits_leaves_the_lab_alone() -> None:
    """What is done to runtimes and routes is no change of the declaration."""
    assert replace(Mutation(), route=("a", "b")).lab(PLAN.lab) is PLAN.lab

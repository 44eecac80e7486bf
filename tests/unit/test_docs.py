"""The reference pages say what the models say: no key is missing, none is invented, and defaults are true."""

from __future__ import annotations

import json
import re
import typing
from pathlib import Path
from typing import Any

import pytest

import harness
from harness import (
    egress_model,
    expect_model,
    lab_model,
    labels,
    policy_model,
    pool_model,
    scenario_model,
    schema,
    source,
)
from harness.entry import Entry
from harness.lab import parse_lab
from harness.nodes import (
    capture_host,
    client,
    database,
    echo,
    egress_proxy,
    firewall,
    forward_proxy,
    gateway,
    mesh_host,
    router,
    website,
)
from harness.scenario import load_scenarios

ROOT = Path(harness.__file__).resolve().parent.parent
LAB_PAGE, SCENARIO_PAGE = ROOT / "docs" / "lab-file.md", ROOT / "docs" / "scenario-file.md"

LAB_SECTIONS: dict[str, type[Entry]] = {
    "the file": lab_model.Lab,
    "networks.NAME": lab_model.Network,
    "cluster": lab_model.Cluster,
    "cluster.nodes.NAME": lab_model.ClusterNode,
    "outside.NAME.on.NETWORK": lab_model.Attachment,
    "cluster.pools.NAME": pool_model.Pool,
    "cluster.egress": egress_model.Egress,
    "cluster.egress.primary and cluster.egress.secondary": egress_model.Way,
    "cluster.bgp": lab_model.Bgp,
    "cluster.bgp.peers.NAME": lab_model.Peer,
    "cluster.bgp.peers.NAME.bfd": lab_model.Bfd,
    "mesh": lab_model.Mesh,
    "mesh.ca": lab_model.Authority,
    "mesh.certificates": lab_model.Certificates,
    "mesh.mtls": lab_model.MtlsPolicy,
    "namespaces.NAME": lab_model.Namespace,
    "namespaces.NAME.network_policies.NAME": policy_model.NetworkPolicy,
    "namespaces.NAME.network_policies.NAME.ingress, each rule": policy_model.IngressRule,
    "namespaces.NAME.network_policies.NAME.egress, each rule": policy_model.EgressRule,
    "each entry of a rule's `from` and `to`": policy_model.PolicyPeer,
    "ipBlock": policy_model.IpBlock,
    "each entry of a rule's `ports`": policy_model.PolicyPort,
    "label selectors": labels.LabelSelector,
    "label selectors: matchExpressions, each entry": labels.Requirement,
    "namespaces.NAME.workloads.NAME": lab_model.Workload,
    "namespaces.NAME.workloads.NAME.certificate": lab_model.Certificate,
    "namespaces.NAME.workloads.NAME.egress": lab_model.EgressGateway,
    "namespaces.NAME.workloads.NAME.holds": egress_model.Holds,
    "namespaces.NAME.workloads.NAME.net1": egress_model.SecondInterface,
    "namespaces.NAME.workloads.NAME.database": lab_model.Database,
    "services.NAME": lab_model.Service,
    "routes.NAME": lab_model.Route,
    "routes.NAME.to, each destination": lab_model.Destination,
    "egress-proxy": egress_proxy.Spec,
    "egress-proxy: virtual_servers.NAME": egress_proxy.VirtualServer,
    "egress-proxy: virtual_servers.NAME.snat": egress_proxy.Snat,
    "egress-proxy: policies.NAME, each rule": egress_proxy.Rule,
    "egress-proxy: what a rule matches": egress_proxy.Match,
    "gateway": gateway.Spec,
    "gateway: listeners.NAME": gateway.Listener,
    "gateway: firewall": gateway.Policy,
    "gateway: firewall.rules, each rule": gateway.Rule,
    "firewall": firewall.Spec,
    "firewall: each rule": firewall.Rule,
    "forward-proxy": forward_proxy.Spec,
    "website": website.Spec,
    "echo": echo.Spec,
    "mesh-host": mesh_host.Spec,
    "router": router.Spec,
    "capture-host": capture_host.Spec,
    "capture-host: mirrors.NAME": capture_host.Mirror,
    "client": client.Spec,
    "database": database.Spec,
}
SCENARIO_SECTIONS: dict[str, type[Entry]] = {
    "the file": scenario_model.ScenarioFile,
    "defaults": scenario_model.Defaults,
    "each scenario": scenario_model.Scenario,
    "given, each step": scenario_model.Step,
    "load": scenario_model.Load,
    "table": scenario_model.Table,
    "matrix": scenario_model.Matrix,
    "expect": expect_model.Expect,
    "expect.allowed": expect_model.Allowed,
    "expect.rejected and expect.dropped": expect_model.Denied,
    "split": expect_model.Split,
    "client": expect_model.Client,
    "identity": expect_model.Identity,
    "certificate": expect_model.Certificate,
    "source": expect_model.Source,
    "mtls_mode": expect_model.MtlsMode,
    "packets, each entry": expect_model.Packets,
    "packets: as_many_as": expect_model.OtherTap,
    "routes, each entry": expect_model.RouteTo,
}
SECTIONS = [
    pytest.param(page, heading, model, id=f"{page.stem}: {heading}")
    for page, sections in ((LAB_PAGE, LAB_SECTIONS), (SCENARIO_PAGE, SCENARIO_SECTIONS))
    for heading, model in sections.items()
]


def rows(page: Path, heading: str) -> dict[str, tuple[str, str]]:
    """Return the type and default of each key in the table below a heading."""
    text = page.read_text(encoding="utf-8")
    section = text.split(f"\n### {heading}\n", 1)[1].split("\n#", 1)[0]
    found = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|", section, re.MULTILINE)
    return {key: (kind, default) for key, kind, default in found}


def keys(model: type[Entry]) -> dict[str, Any]:
    """Return a model's fields by the key that stands in a file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def parts(annotation: Any) -> set[Any]:
    """Return everything that a type is made of."""
    found = {annotation} if isinstance(annotation, type) else set()
    for argument in typing.get_args(annotation):
        found |= parts(argument)
    return found


def literals(annotation: Any) -> set[str]:
    """Return the words that a key may have as its value."""
    if typing.get_origin(annotation) is typing.Literal:
        return {str(word) for word in typing.get_args(annotation)}
    return {word for argument in typing.get_args(annotation) for word in literals(argument)}


@pytest.mark.parametrize(("page", "heading", "model"), SECTIONS)
def test_a_table_has_every_key_of_its_model(page: Path, heading: str, model: type[Entry]) -> None:
    """Each key has a row, and each row is of a key."""
    assert set(rows(page, heading)) == set(keys(model))


@pytest.mark.parametrize(("page", "heading", "model"), SECTIONS)
def test_the_defaults_in_a_table_are_the_models(page: Path, heading: str, model: type[Entry]) -> None:
    """`required`, `-` for no value, none for an empty collection, else the value itself."""
    for key, (_, shown) in rows(page, heading).items():
        field = keys(model)[key]
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if field.is_required():
            assert shown == "required", key
        elif default is None:
            assert shown == "-", key
        elif isinstance(default, bool):
            assert shown == f"`{str(default).lower()}`", key
        elif default == "":
            assert shown == "empty", key
        elif isinstance(default, Entry):
            assert shown in {"see below", "no mesh", "the mesh's", "none"}, key
        elif default in ((), {}):
            assert shown == "none", key
        else:
            words = default if isinstance(default, tuple) else (default,)
            assert shown == ", ".join(f"`{word}`" for word in words), key


@pytest.mark.parametrize(("page", "heading", "model"), SECTIONS)
def test_the_words_that_a_key_may_have_are_told(page: Path, heading: str, model: type[Entry]) -> None:
    """Where a key takes certain words only, the table's type column lists each of them."""
    for key, (kind, _) in rows(page, heading).items():
        words = literals(keys(model)[key].annotation)
        assert words <= set(re.findall(r"`([^`]+)`", kind)), key


@pytest.mark.parametrize(("sections"), [LAB_SECTIONS, SCENARIO_SECTIONS], ids=["lab", "scenario"])
def test_every_model_has_a_section(sections: dict[str, type[Entry]]) -> None:
    """A model that a key leads to is described as well."""
    for model in sections.values():
        inner = {
            part
            for field in model.model_fields.values()
            for part in parts(field.annotation)
            if isinstance(part, type) and issubclass(part, Entry)
        }
        assert inner - {lab_model.Outside} <= set(sections.values())


def test_every_kind_of_outside_node_has_a_section() -> None:
    """The kinds that this project brings are all described."""
    assert set(lab_model.outside_kinds().values()) <= set(LAB_SECTIONS.values())


def every_key_example(page: Path) -> str:
    """Return the YAML block at the end of a page."""
    blocks: list[str] = re.findall(r"^```yaml\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return blocks[-1]


def keys_used(value: Any) -> set[str]:
    """Return every key that occurs in a decoded file."""
    if isinstance(value, dict):
        return {str(key) for key in value}.union(*map(keys_used, value.values()))
    return set().union(*map(keys_used, value)) if isinstance(value, list) else set()


def test_the_lab_with_every_key_is_valid_and_has_them_all(tmp_path: Path) -> None:
    """The example at the end of the page is a lab in which no key of any table is missing."""
    file = tmp_path / "every-key.yaml"
    file.write_text(every_key_example(LAB_PAGE), encoding="utf-8")
    document = source.read(file)
    assert parse_lab(document).lab == "every-key"
    wanted = {key for model in LAB_SECTIONS.values() for key in keys(model)}
    assert not wanted - keys_used(document.data)


def test_the_scenarios_with_every_key_are_valid_and_have_them_all(tmp_path: Path) -> None:
    """The example at the end of the page is for the lab of the other page, and no key of any table is missing."""
    (tmp_path / "every-key.yaml").write_text(every_key_example(LAB_PAGE), encoding="utf-8")
    file = tmp_path / "scenarios.yaml"
    file.write_text(every_key_example(SCENARIO_PAGE), encoding="utf-8")
    assert load_scenarios(file)
    wanted = {key for model in SCENARIO_SECTIONS.values() for key in keys(model)}
    assert not wanted - keys_used(source.read(file).data)


@pytest.mark.parametrize(
    ("file", "made"),
    [
        ("labs/lab.schema.json", schema.lab_schema),
        ("scenarios/scenario.schema.json", schema.scenario_schema),
    ],
)
def test_the_schemas_that_editors_read_are_current(file: str, made: Any) -> None:
    """The files are what `egresslab schema lab` and `egresslab schema scenario` print."""
    assert (ROOT / file).read_text(encoding="utf-8") == json.dumps(made(), indent=2) + "\n"


def test_coverage_names_every_scenario_and_no_other() -> None:
    """What stands in italics on the page are the names of the shipped scenarios, all of them."""
    text = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?<!\*)\*([^*|]+)\*(?!\*)", text)) - {"Italics"}
    shipped = {
        item.scenario.name for file in (ROOT / "scenarios").rglob("*.yaml") for item in load_scenarios(file)
    }
    assert named == shipped

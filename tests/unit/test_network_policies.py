"""NetworkPolicies become rules on the nodes of the pods that they isolate: as Kubernetes' documents say."""

from __future__ import annotations

from typing import Any

import pytest
from small_tenants import LAB, plan_of, pretended_certificates

from harness.agent.bind import bind
from harness.labels import LabelSelector
from harness.plan import render
from harness.pod_link import cali
from harness.policy_model import NetworkPolicy

CLIENT, DNS = "10.53.0.2", "10.53.0.1"
"""The addresses of red's client and of the cluster's DNS."""


def policies(text: str) -> str:
    """Return the small lab with policies of the namespace `red`, and labels for its pods."""
    lab = LAB.replace("client: {runs: client}", "client: {runs: client, labels: {app: client}}", 1)
    lab = lab.replace("versions: [v1, v2]}", "versions: [v1, v2], labels: {app: shop}}")
    return lab.replace(
        "  blue:\n    inject: true",
        f"    network_policies: {text}\n  blue:\n    inject: true\n    labels: {{tier: two}}",
    )


def rules(text: str) -> dict[str, list[str]]:
    """Return each node's rules for policies, line by line."""
    plan = plan_of(policies(text))
    rendered = render(plan, bind(plan), pretended_certificates(plan))
    return {
        node.name: [line.strip() for line in found.splitlines()]
        for node in plan.cluster_nodes
        if (found := "".join(rendered[node.name].rules.partition("table inet policies")[1:]))
    }


def chain(text: str, direction: str, pod: str) -> list[str]:
    """Return the lines of a pod's chain, on whichever node it is."""
    for lines in rules(text).values():
        begin = f"chain {direction}_{cali(pod)} {{"
        if begin in lines:
            inside = lines[lines.index(begin) + 1 :]
            return inside[: inside.index("}")]
    return []


def decided(lines: list[str]) -> list[tuple[str, str]]:
    """Return what each line matches and the prefix of its log entry."""
    return [
        (line.partition("counter ")[0].strip(), line.split('"')[1]) for line in lines if "log prefix" in line
    ]


def test_no_policy_no_rules() -> None:
    """Pods that no policy selects are not isolated, and a node without isolated pods has no table."""
    assert rules("{}") == {}
    assert rules("{none: {podSelector: {matchLabels: {app: nobody}}}}") == {}
    assert list(rules("{one: {podSelector: {matchLabels: {app: client}}}}")) == ["server-0"]


def test_a_policy_isolates_in_its_directions_only() -> None:
    """`policyTypes` says which; without it always ingress, and egress where the policy has egress rules."""
    for text, directions in (
        ("{podSelector: {}, policyTypes: [Egress]}", {"egress"}),
        ("{podSelector: {}, policyTypes: [Ingress]}", {"ingress"}),
        ("{podSelector: {}, policyTypes: [Ingress, Egress]}", {"ingress", "egress"}),
        ("{podSelector: {}}", {"ingress"}),
        ("{podSelector: {}, egress: []}", {"ingress"}),
        ("{podSelector: {}, egress: [{}]}", {"ingress", "egress"}),
    ):
        found = {way for way in ("ingress", "egress") if chain(f"{{one: {text}}}", way, "red/client")}
        assert found == directions, text


def test_policies_are_at_the_pods_own_interface_and_let_answers_pass() -> None:
    """By the name of the host's end, never by address; established connections are not asked about again."""
    lines = rules("{one: {podSelector: {matchLabels: {app: client}}, policyTypes: [Ingress, Egress]}}")[
        "server-0"
    ]
    end = cali("red/client")
    assert lines[lines.index("chain forward { type filter hook forward priority filter;") + 1 :] == [
        "ct state established,related accept",
        f'iifname vmap {{ "{end}" : jump egress_{end} }}',
        f'oifname vmap {{ "{end}" : jump ingress_{end} }}',
        "}",
        "}",
    ]


def test_policies_are_additive() -> None:
    """What one of them allows is allowed, under its name; what none does is denied under that of the first."""
    text = """
      closed: {podSelector: {}, policyTypes: [Egress]}
      dns: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress],
            egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}],
                      ports: [{protocol: UDP, port: 53}]}]}
      web: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress],
            egress: [{ports: [{port: 80, endPort: 90}]}]}
"""
    assert decided(chain(text, "egress", "red/client")) == [
        (f"ip daddr {{ {DNS} }} udp dport 53", "allow red/dns egress"),
        ("tcp dport 80-90", "allow red/web egress"),
        ("", "drop red/closed egress"),
    ]
    assert decided(chain(text, "egress", "red/shop-v1")) == [("", "drop red/closed egress")]
    assert chain(text, "egress", "blue/client") == []


def test_a_pod_may_always_speak_to_itself() -> None:
    """No policy keeps it from that (Kubernetes, Network Policies): its own address comes first."""
    text = "{one: {podSelector: {}, policyTypes: [Ingress, Egress]}}"
    assert chain(text, "egress", "red/client")[0] == f"ip daddr {CLIENT} return"
    assert chain(text, "ingress", "red/client")[0] == f"ip saddr {CLIENT} return"


@pytest.mark.parametrize(
    ("peer", "pods"),
    [
        ("{podSelector: {matchLabels: {app: shop}}}", ["red/shop-v1", "red/shop-v2"]),
        ("{podSelector: {matchLabels: {app: shop, version: v1}}}", ["red/shop-v1"]),
        ("{podSelector: {}}", ["red/client", "red/shop-v1", "red/shop-v2"]),
        ("{namespaceSelector: {matchLabels: {tier: two}}}", ["blue/client"]),
        ("{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: blue}}}", ["blue/client"]),
        (
            "{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}",
            ["kube-system/kube-dns"],
        ),
        ("{ipBlock: {cidr: 10.0.0.0/8}}", "10.0.0.0/8"),
        (
            "{ipBlock: {cidr: 10.0.0.0/8, except: [10.4.0.0/24, 10.5.0.0/24]}}",
            "10.0.0.0/8 ip saddr != { 10.4.0.0/24, 10.5.0.0/24 }",
        ),
    ],
)
def test_peers(peer: str, pods: list[str] | str) -> None:
    """Pods of the own namespace, of others, both selectors at once; or a range with exceptions."""
    known = bind(plan_of(policies("{}"))).pods
    wanted = pods if isinstance(pods, str) else f"{{ {', '.join(str(known[pod]) for pod in pods)} }}"
    text = f"{{one: {{podSelector: {{matchLabels: {{app: client}}}}, ingress: [{{from: [{peer}]}}]}}}}"
    assert decided(chain(text, "ingress", "red/client"))[0] == (f"ip saddr {wanted}", "allow red/one ingress")


def test_a_selector_of_nobody_allows_nobody() -> None:
    """It is not the same as a rule without peers, which allows everybody."""
    nobody = "{one: {podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: gone}}}]}]}}"
    assert decided(chain(nobody, "ingress", "red/client")) == [("", "drop red/one ingress")]
    everybody = "{one: {podSelector: {}, ingress: [{from: []}]}}"
    assert decided(chain(everybody, "ingress", "red/client"))[0] == ("", "allow red/one ingress")


@pytest.mark.parametrize(
    ("expression", "labels", "matches"),
    [
        ({"key": "app", "operator": "In", "values": ["web", "shop"]}, {"app": "web"}, True),
        ({"key": "app", "operator": "In", "values": ["web"]}, {}, False),
        ({"key": "app", "operator": "NotIn", "values": ["web"]}, {"app": "web"}, False),
        ({"key": "app", "operator": "NotIn", "values": ["web"]}, {}, True),
        ({"key": "app", "operator": "Exists"}, {"app": ""}, True),
        ({"key": "app", "operator": "Exists"}, {}, False),
        ({"key": "app", "operator": "DoesNotExist"}, {}, True),
        ({"key": "app", "operator": "DoesNotExist"}, {"app": "x"}, False),
    ],
)
def test_expressions(expression: dict[str, Any], labels: dict[str, str], matches: bool) -> None:  # noqa: FBT001 - a table
    """The four operators, `NotIn` among them for labels without the key."""
    selector = LabelSelector.model_validate({"matchExpressions": [expression]})
    assert selector.matches(labels) is matches


def test_a_selector_is_met_by_who_meets_all_of_it() -> None:
    """An empty one selects everybody; labels and expressions count together."""
    both = LabelSelector.model_validate(
        {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "old", "operator": "DoesNotExist"}]}
    )
    assert LabelSelector().matches({})
    assert both.matches({"app": "web"})
    assert not both.matches({"app": "web", "old": ""})
    assert not both.matches({})
    assert str(both) == "app=web,old DoesNotExist"
    assert str(LabelSelector()) == "<everybody>"


def test_rules_of_the_other_direction_have_no_effect() -> None:
    """What `policyTypes` leaves out is left alone."""
    policy = NetworkPolicy.model_validate({"podSelector": {}, "policyTypes": ["Ingress"], "egress": [{}]})
    assert policy.rules("Egress") == ()
    assert policy.rules("Ingress") == ()

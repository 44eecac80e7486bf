"""What addresses are called in a capture."""

from __future__ import annotations

from harness import shipped
from harness.address_names import readable_names
from harness.agent.bind import bind
from harness.lab import load_lab
from harness.plan import make_plan


def test_every_address_of_a_lab_has_a_name() -> None:
    """Pods, services, nodes on each of their networks, virtual servers and SNAT addresses are called what they are."""
    plan = make_plan(load_lab(shipped.find_lab("bookinfo-egress")))
    bindings = bind(plan)
    names = {str(address): tuple(known) for address, known in readable_names(plan, bindings).items()}
    assert names["10.4.0.201"] == ("bookinfo-proxy.bigip",)
    assert names["10.4.0.211"] == ("snat-bookinfo.bigip",)
    assert names["10.235.45.250"] == ("bigip-proxy-svc.bookinfo.svc.cluster.local",)
    assert names[str(bindings.inside["bigip", "bookinfo"])] == ("before-snat-bookinfo.bigip",)
    assert names[str(bindings.pods["bookinfo/traffic-generator"])] == ("traffic-generator.bookinfo",)
    assert {("bigip.nodes",), ("bigip.dmz",), ("www.f5.com",), ("server-0",)} <= set(names.values())
    assert set(map(str, bindings.pods.values())) | set(map(str, bindings.cluster_ips.values())) <= set(names)


def test_an_address_of_two_has_both_names() -> None:
    """A pod's second interface is called after the pod; an address that two share has both names, each once."""
    plan = make_plan(load_lab(shipped.find_lab("spk-egress")))
    bindings = bind(plan)
    names = readable_names(plan, bindings)
    pod, address = next(iter(bindings.second.items()))
    namespace, _, name = pod.partition("/")
    assert f"net1.{name}.{namespace}" in names[address]
    assert all(len(set(known)) == len(known) for known in names.values())

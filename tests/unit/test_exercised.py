"""What flows exercised of a lab: by what hops recorded of them, not by what scenarios say."""

from __future__ import annotations

from judged_flows import BLUE, RED, ROUND, joined, lab, told

from harness.evidence import Evidence
from harness.exercised import Part, exercised, of_run
from harness.run import Result
from harness.verdict import conclude


def result(evidence: Evidence | None) -> Result:
    """Return evidence as the result of its case; the verdict does not matter here."""
    item = (evidence or told(RED)).attempt.item
    return Result(item, conclude([]), evidence, joined(evidence) if evidence else None, 0.1)


def missing(*scenarios: str) -> set[str]:
    """Return what flows of these scenarios leave out."""
    met = exercised([result(told(name)) for name in scenarios], *lab())
    return {str(part) for part in met.missing}


def test_a_flow_that_is_let_out_exercises_its_whole_way() -> None:
    """Namespace and pod of the tenant, service, listener, policy, the pool's member and the firewall's rule."""
    assert missing(RED) == {"namespace blue", "workload red/shop", "workload blue/client"}


def test_a_flow_that_is_rejected_exercises_no_rule_behind() -> None:
    """The proxy's policy has no rule that matched, and nothing got as far as the firewall."""
    left = missing(BLUE)
    assert {"rule firewall proxy-out", "pool member bigip red 10.4.0.211", "policy bigip red-only 0"} <= left
    assert not left & {"listener bigip exit", "service proxy", "namespace blue", "workload blue/client"}


def test_a_flow_round_the_proxy_exercises_no_service() -> None:
    """It meets the firewall's last rule, which no lab file has."""
    assert {"service proxy", "listener bigip exit", "rule firewall proxy-out"} <= missing(ROUND)


def test_each_part_names_the_first_case_that_met_it() -> None:
    """Two flows together leave out what neither met, and each part remembers who met it first."""
    met = exercised([result(told(RED)), result(told(BLUE))], *lab())
    assert [str(part) for part in met.missing] == ["workload red/shop"]
    assert met.by[Part("services", "proxy", ("services", "proxy"))] == RED
    assert met.by[Part("workloads", "blue/client", ("namespaces", "blue", "workloads", "client"))] == BLUE
    assert met.counts["workloads"] == (2, 3)
    assert str(met).startswith("exercised 9 of 10 parts of the lab (2 of 2 namespaces, 2 of 3 workloads, ")


def test_a_run_without_evidence_says_nothing() -> None:
    """What was never tried exercised nothing, and a run of such cases has no figures at all."""
    assert of_run([result(None)]) is None
    found = of_run([result(None), result(told(RED))])
    assert found is not None
    assert found.counts["rules"] == (1, 1)

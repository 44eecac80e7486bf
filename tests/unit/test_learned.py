"""Scenarios drafted from flows: each holds by the evidence that it was drafted from."""

from __future__ import annotations

from judged_flows import BLUE, RED, ROUND, joined, told

from harness.evidence import Evidence
from harness.learn_file import lines
from harness.learned import Destination, Draft, drafted
from harness.scenario import Allowed, Denied, Expect

SITE = ("site.example",)


def draft(evidence: Evidence, *ends: str) -> Expect | None:
    """Return what is drafted from a flow of the small lab."""
    return drafted(evidence, joined(evidence), ends)


def test_a_flow_that_arrived_is_allowed_by_its_path() -> None:
    """The path names the sidecar and every node outside that saw the flow, in order; cluster nodes are left out."""
    found = draft(told(RED), *SITE)
    assert found is not None
    assert found.allowed is not None
    assert found.allowed.path == ("sidecar", "bigip", "firewall", "tinyproxy", "site.example")


def test_a_flow_that_was_denied_names_who_by_which_rule() -> None:
    """A proxy's answer makes it rejected, a firewall's silence dropped."""
    rejected, dropped = draft(told(BLUE), *SITE), draft(told(ROUND), "tinyproxy")
    assert rejected is not None
    assert dropped is not None
    assert rejected.rejected == Denied(at="bigip", by="red-only")
    assert dropped.dropped == Denied(at="firewall", by="default")


def test_a_flow_that_arrived_elsewhere_is_not_called_allowed() -> None:
    """A client that was served by somebody else proves nothing of this destination."""
    assert draft(told(RED), "nowhere") is None


def test_what_is_written_is_yaml_of_scenarios() -> None:
    """Pods share a scenario, names are quoted, and what nothing could be told of is a comment."""
    where = Destination("https://site.example", "proxy.red:3128", bypass=False)
    drafts = (
        Draft(("red/a", "red/b"), where, Expect(allowed=Allowed(path=("sidecar", "bigip")))),
        Draft(
            ("blue/c",),
            where,
            Expect(rejected=Denied(at="bigip", by="red-only")),
            control="x's control",
            number=2,
        ),
        Draft(("blue/d",), Destination("tcp://a:1", None, bypass=True), None),
    )
    assert list(lines("lab.yaml", drafts))[1:] == [
        "lab: 'lab.yaml'",
        "scenarios:",
        "  - name: 'https://site.example through proxy.red:3128 is reached'",
        "    from: [red/a, red/b]",
        "    to: https://site.example",
        "    through: proxy.red:3128",
        "    expect:",
        "      allowed: {path: [sidecar, bigip]}",
        "  - name: 'https://site.example through proxy.red:3128 is rejected at bigip by red-only (2)'",
        "    from: [blue/c]",
        "    to: https://site.example",
        "    through: proxy.red:3128",
        "    control: 'x''s control'",
        "    expect:",
        "      rejected: {at: bigip, by: red-only}",
        "  # nothing could be told of tcp://a:1 round the sidecar from blue/d",
    ]

"""What came of a way out is judged by what was recorded of it; the matrix shows first what must not be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from judged_flows import BLUE, RED, ROUND, joined, recorded, told
from small_tenants import LAB

from harness.bypass import Tried, judged
from harness.bypass_table import rows
from harness.evidence import Sighting
from harness.source import parse
from harness.ways_out import Target, Way

if TYPE_CHECKING:
    from harness.evidence import Evidence

DOCUMENT = parse(LAB.encode(), "lab.yaml")
SITE = Target("tcp", "site.example", 443, ("site.example",), "service", "proxy.red:3128")
TINYPROXY = Target("tcp", "198.51.100.3", 8888, ("tinyproxy",), "listening")


def fate(evidence: Evidence, target: Target, *, bypass: bool = False) -> tuple[str, str, str]:
    """Return what came of an attempt, where, and the first word of why."""
    found = judged(Way(target, evidence.attempt.pod, bypass), evidence, joined(evidence), DOCUMENT)
    return found.fate, found.at, found.by.partition(",")[0]


def without_witness(evidence: Evidence, witness: str) -> Evidence:
    """Return evidence as if one witness had recorded nothing."""
    kept = tuple(s for s in evidence.recorded.sightings if s.witness != witness)
    return recorded(evidence, sightings=kept)


def arrived(evidence: Evidence) -> Evidence:
    """Return the evidence of a dropped flow as if nobody had logged it and it had come to the forward proxy."""
    last = next(s for s in evidence.recorded.sightings if s.witness == "nflog")
    facts = {"tap": "tinyproxy.internet", "outgoing": "false"}
    seen = Sighting("tinyproxy", "tap", "opening", last.time, last.flow, None, facts)
    kept = tuple(s for s in evidence.recorded.sightings if s is not last)
    return recorded(evidence, sightings=(*kept, seen))


def test_a_flow_that_the_proxy_permits_is_permitted() -> None:
    """The proxy decided by identity; that the firewall then let its address through is no other permission."""
    assert fate(told(RED), SITE) == ("permitted", "bigip", "red-only")


def test_a_recorded_denial_is_a_denial() -> None:
    """By the proxy's log, or by the firewall's."""
    assert fate(told(BLUE), SITE) == ("denied", "bigip", "red-only")
    assert fate(told(ROUND), TINYPROXY, bypass=True) == ("denied", "firewall", "default")


def test_a_flow_that_is_gone_without_a_record_is_unknown() -> None:
    """A drop that nobody logged is no recorded denial, whatever the client saw; its passport is kept."""
    evidence = without_witness(told(ROUND), "nflog")
    found = judged(Way(TINYPROXY, "blue/client", True), evidence, joined(evidence), DOCUMENT)  # noqa: FBT003 - round the sidecar
    assert (found.fate, found.at) == ("unknown", "firewall")
    assert found.passport


def test_a_flow_that_arrives_without_a_permission_got_out() -> None:
    """Seen at a node outside that is no guard, and no rule let it through."""
    assert fate(arrived(told(ROUND)), TINYPROXY, bypass=True) == ("out", "tinyproxy", "no rule permitted it")


def test_a_borrowed_address_is_no_permission() -> None:
    """A firewall's rule for the proxy's address lets a flow through that never came to the proxy: it got out."""
    evidence = told(ROUND)
    denied = next(s for s in evidence.recorded.sightings if s.witness == "nflog")
    allowed = replace(denied, event="allow", facts={"rule": "proxy-out"})
    others = tuple(
        s for s in evidence.recorded.sightings if s is not denied and s.at not in ("bigip", "tinyproxy")
    )
    found = fate(recorded(evidence, sightings=(*others, allowed)), TINYPROXY, bypass=True)
    assert found == ("out", "firewall", "proxy-out")


def test_lost_evidence_is_no_permission_and_no_denial() -> None:
    """Where a tap on the way is blind, and nobody recorded a decision, it is not known what came of the flow."""
    evidence = recorded(without_witness(told(ROUND), "nflog"), blind=("firewall.dmz",))
    assert fate(evidence, TINYPROXY, bypass=True)[0] == "unknown"


def test_the_matrix_shows_first_what_must_not_be_and_then_where_pods_differ() -> None:
    """Rows of a target stand together; pods that met the same are named in one row."""
    other = replace(TINYPROXY, port=9, state="closed")
    tried = [
        Tried(Way(other, "red/client", bypass=False), "denied", "firewall", "default"),
        Tried(Way(other, "blue/client", bypass=False), "denied", "firewall", "default"),
        Tried(Way(SITE, "red/client", bypass=False), "permitted", "bigip", "red-only"),
        Tried(Way(SITE, "blue/client", bypass=False), "denied", "bigip", "red-only"),
        Tried(Way(TINYPROXY, "red/client", bypass=True), "out", "tinyproxy", "no rule permitted it"),
    ]
    assert [(row[2], row[3], row[5]) for row in rows(tried)] == [
        ("out", "tinyproxy", "red/client"),
        ("permitted", "bigip", "red/client"),
        ("denied", "bigip", "blue/client"),
        ("denied", "firewall", "all 2"),
    ]

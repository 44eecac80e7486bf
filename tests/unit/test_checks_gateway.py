"""What a gateway's own log comes to in verdicts: a failure is no answer, and what it passed on it did not refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from judged_flows import BLUE, RED, told

from harness.checks import allowed, rejected
from harness.evidence import Sighting
from harness.passport import Passport
from harness.programs.fivetuple import TCP, FiveTuple
from harness.scenario import Allowed, Denied

if TYPE_CHECKING:
    from harness.evidence import Evidence, Finding

GATEWAY = "edge/gateway"
ARRIVED = FiveTuple(TCP, "198.51.100.3", 57070, "10.53.0.2", 80)
ONWARD = FiveTuple(TCP, "10.53.0.2", 50366, "10.53.0.129", 8080)


def passport_of(event: str, onward: FiveTuple | None, **facts: str) -> Passport:
    """Return the passport of a request that only a gateway logged."""
    sighting = Sighting(GATEWAY, "log", event, 1, ARRIVED, onward, facts)
    return Passport("visitor", frozenset((ARRIVED,)), (sighting,), (), ())


def at_gateway(findings: list[Finding]) -> list[tuple[str, str]]:
    """Return state and what was seen, of findings at the gateway."""
    return [(finding.state, finding.seen) for finding in findings if finding.at == GATEWAY]


@pytest.fixture
def served() -> Evidence:
    """Return evidence of a client that was answered."""
    return told(RED)


def test_an_answer_of_the_gateways_own_is_a_failure(served: Evidence) -> None:
    """A 503 is an answer to the client; the gateway's log says whose, and why."""
    facts = {
        "status": "503",
        "flags": "UF",
        "details": "upstream_reset",
        "failure": "delayed_connect_error:_111",
    }
    found = list(allowed.judge(Allowed(), served, passport_of("request", ONWARD, **facts)))
    assert at_gateway(found) == [("broken", "503 UF upstream_reset delayed_connect_error:_111")]


def test_an_error_of_the_pod_is_not_the_gateways(served: Evidence) -> None:
    """A 500 that came from behind the gateway has no flags, and is the scenario's to judge."""
    found = list(allowed.judge(Allowed(), served, passport_of("request", ONWARD, status="500")))
    assert at_gateway(found) == []


def test_a_gateway_that_passed_the_request_on_did_not_refuse_it() -> None:
    """A denial that its log does not have, but a way onward, is broken and not merely unknown."""
    expected = Denied(at=GATEWAY, by="no-route")
    found = list(rejected.judge(expected, told(BLUE), passport_of("request", ONWARD, status="200")))
    assert at_gateway(found)[0] == ("broken", "it let the flow through, as 10.53.0.2:50366")


def test_a_refusal_for_want_of_a_route_holds() -> None:
    """The gateway's own 404 is its decision."""
    passport = passport_of("reject", None, by="no-route", reason="route_not_found", status="404")
    found = list(rejected.judge(Denied(at=GATEWAY, by="no-route"), told(BLUE), passport))
    assert at_gateway(found)[0] == ("held", "reject by 'no-route' (route_not_found)")

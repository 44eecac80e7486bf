"""A flow told hop by hop: who said no first, by which line of the lab file; names that the lab does not have."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest
from judged_flows import BLUE, RED, ROUND, joined, lab, recorded, told
from small_tenants import LAB

from harness.errors import InputError
from harness.evidence import Sighting
from harness.listening import parse as listeners
from harness.mtls import MUTUAL_TLS, SERVER_IDENTITY
from harness.one_flow import Flow, named
from harness.rule_places import place_of
from harness.source import parse
from harness.stages import Reading, read

if TYPE_CHECKING:
    from harness.evidence import Evidence

DOCUMENT = parse(LAB.encode(), "lab.yaml")


def line_of(text: str) -> int:
    """Return the line of the lab file in which a text stands, from 1."""
    return next(number for number, line in enumerate(LAB.splitlines(), 1) if text in line)


def reading(evidence: Evidence, *ends: str) -> Reading:
    """Return what the flow's passport says."""
    return read(evidence, joined(evidence), ends, DOCUMENT)


def test_an_allowed_flow_names_each_rule_that_let_it_through() -> None:
    """The proxy's permit and the firewall's rule, each with its line; nothing said no."""
    found = reading(told(RED), "site.example")
    assert (found.answer, found.no, found.lost) == ("allowed", None, ())
    assert [(one.at, one.rule, one.place.line if one.place else 0) for one in found.permits] == [
        ("bigip", "red-only", line_of("red-only: [{permit")),
        ("firewall", "proxy-out", line_of("name: proxy-out")),
    ]


def test_a_rejected_flow_names_the_policy_that_said_no() -> None:
    """The first no is the proxy's, by its policy's line: none of its rules matched."""
    found = reading(told(BLUE), "site.example")
    assert found.answer == "denied"
    assert found.no is not None
    assert (found.no.at, found.no.rule, found.no.identity) == (
        "bigip",
        "red-only",
        "spiffe://cluster.local/ns/blue/sa/default",
    )
    assert str(found.no.place) == f"lab.yaml:{line_of('red-only: [{permit')} (no rule here matches)"
    assert not found.reached


def test_a_dropped_flow_names_the_firewall_whose_rules_end() -> None:
    """What no rule allows has no line of its own: that of the firewall's rules is given, and said so."""
    found = reading(told(ROUND), "tinyproxy")
    assert found.no is not None
    assert (found.no.at, found.no.rule) == ("firewall", "default")
    assert str(found.no.place) == f"lab.yaml:{line_of('rules: [{name: proxy-out')} (no rule here allows it)"


def test_stages_tell_identity_and_changes_of_address() -> None:
    """The tenant's address after SNAT stands at the proxy, beside what the proxy opened."""
    stages = {stage.at: stage for stage in reading(told(RED), "site.example").stages}
    assert [after.src for _, after in stages["bigip"].translated] == ["10.4.0.211"]
    assert [one.identity for one in stages["bigip"].decisions] == ["spiffe://cluster.local/ns/red/sa/default"]


def test_a_flow_that_nobody_denied_and_that_never_arrived_is_unknown() -> None:
    """Without the firewall's log the drop is in no record, and no answer is made up."""
    evidence = told(ROUND)
    kept = tuple(s for s in evidence.recorded.sightings if s.witness != "nflog")
    found = reading(recorded(evidence, sightings=kept), "tinyproxy")
    assert (found.answer, found.no, found.reached) == ("unknown", None, False)


def test_a_blind_tap_on_the_way_is_lost_evidence() -> None:
    """A hop whose tap did not see the nonce is named as lost, whatever else was recorded."""
    found = reading(recorded(told(ROUND), blind=("firewall.dmz",)), "tinyproxy")
    assert found.lost == ("firewall: the tap firewall.dmz is blind",)


@pytest.mark.parametrize(
    ("at", "facts", "text", "says"),
    [
        ("bigip", {"by": "red-only", "matched": "0"}, "red-only: [{permit", ""),
        (
            "bigip",
            {"by": "client-certificate", "virtual_server": "exit"},
            'exit: {listen: "10.4.0.201:3128"',
            "a client certificate is demanded where nothing is said",
        ),
        (
            "red/client sidecar",
            {"by": SERVER_IDENTITY, "upstream_cluster": "red/proxy"},
            "server_identity: spiffe://cluster.local/ns/red/sa/default}",
            "",
        ),
        (
            "red/shop-v1 sidecar",
            {"by": MUTUAL_TLS},
            "mesh: {provider: builtin}",
            "the default, where nothing is said",
        ),
    ],
)
def test_a_rule_is_found_in_the_file(at: str, facts: dict[str, str], text: str, says: str) -> None:
    """A decision's rule has a line; where the file is silent, that of what is around it, which is said."""
    place = place_of(Sighting(at, "log", "decision", 0, None, None, facts), lab()[0], DOCUMENT)
    assert place is not None
    assert (place.line, place.says) == (line_of(text), says)


def test_a_router_without_a_route_has_no_line() -> None:
    """An ICMP error for want of a route comes from no rule of the file."""
    sighting = Sighting("firewall", "tap", "reject", 0, None, None, {"by": "no-route"})
    assert place_of(sighting, lab()[0], DOCUMENT) is None


def test_a_name_and_port_mean_tcp() -> None:
    """`NAME:PORT` is short for a tcp URL."""
    flow = named("red/client", "tinyproxy:8888", None, lab()[0])
    assert flow == Flow("red/client", "tcp://tinyproxy:8888")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("red/cleint", "tinyproxy:8888", None), "did you mean 'red/client'?"),
        (("red/client", "tinyprox:8888", None), "did you mean 'tinyproxy'?"),
        (
            ("blue/client", "https://site.example", "proxy:3128"),
            "no meaning in namespace 'blue'; write proxy.red",
        ),
        (("red/client", "tinyproxy", None), "TO: 'tcp://tinyproxy' must be tcp://NAME:PORT"),
        (("red/client", "https://site.example", "proxy"), "--through: "),
    ],
)
def test_a_name_that_the_lab_lacks_is_told_with_the_nearest(
    words: tuple[str, str, str | None], sentence: str
) -> None:
    """A wrong FROM, TO or --through is unusable input: one sentence, with the nearest known name."""
    with pytest.raises(InputError) as error:
        named(*words, lab()[0])
    assert sentence in str(error.value)


def test_a_kernels_table_says_who_listens() -> None:
    """Sockets that listen, by port and address; not those on loopback, nor connections."""
    text = (
        "  sl  local_address rem_address   st\n"
        "   0: 00000000:22B8 00000000:0000 0A\n"
        "   1: 0100007F:0050 00000000:0000 0A\n"
        "   2: 036433C6:0051 046433C6:01BB 01\n"
        "   3: C900040A:0C38 00000000:0000 0A\n"
    )
    assert list(listeners(text, "tcp")) == [(8888, IPv4Address(0)), (3128, IPv4Address("10.4.0.201"))]

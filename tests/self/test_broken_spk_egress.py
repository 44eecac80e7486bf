"""Each of these edits of the third article's lab must turn a named scenario to broken, with the hop named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from edited_lab import CLIENT, Case, assert_noticed, written
from small_lab import Standing, own_name, standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.live

AUTOMAP = "a watched pod leaves behind the gateway's own address"
POLICY = "a policy on the pod's own interface stops what no rule of any policy allows"
SECOND = "the second interface keeps its address"


def _fault(name: str) -> Callable[[dict[str, Any]], None]:
    def edit(lab: dict[str, Any]) -> None:
        lab["cluster"]["egress"]["fault"] = name

    return edit


def _listener(name: str, **keys: str) -> Callable[[dict[str, Any]], None]:
    def edit(lab: dict[str, Any]) -> None:
        lab["outside"]["spk"]["listeners"][name] |= keys

    return edit


def _taken_before(lab: dict[str, Any]) -> None:
    """Have another listener take the tenant's connections, which leaves their address."""
    spk = lab["outside"]["spk"]
    first = {"vlans": ["internal"], "namespaces": ["spk-apps"], "snat": "none"}
    spk["listeners"] = {"first": first} | spk["listeners"]


def _swapped(lab: dict[str, Any]) -> None:
    listeners = lab["outside"]["spk"]["listeners"]
    listeners["egress-ipv4"]["namespaces"] = ["spk-apps-2"]
    listeners["egress-ipv4-2"]["namespaces"] = ["spk-apps"]


def _unwrapped(lab: dict[str, Any]) -> None:
    for pool in lab["cluster"]["pools"].values():
        del pool["overlay"]


def _nat_outgoing(lab: dict[str, Any]) -> None:
    lab["cluster"]["pools"]["app-ip-pool"]["nat_outgoing"] = True


def _first_only(lab: dict[str, Any]) -> None:
    lab["cluster"]["egress"] |= {"watch": ["spk-apps-2"]}


def _tables_swapped(lab: dict[str, Any]) -> None:
    """Have what leaves by second interfaces go to where first ones belong: the gateway's other VLAN."""
    listeners = lab["outside"]["spk"]["listeners"]
    listeners["secure-egress-ipv4-virtual-server"]["vlans"] = ["internal"]
    for name in ("egress-ipv4", "egress-ipv4-2"):
        listeners[name]["vlans"] = ["external2"]


def _allowed_first(lab: dict[str, Any]) -> None:
    lab["outside"]["spk"]["firewall"]["rules"].reverse()


def _open(lab: dict[str, Any]) -> None:
    lab["outside"]["spk"]["firewall"]["default"] = "allow"


def _pods_by_the_management(lab: dict[str, Any]) -> None:
    lab["outside"]["mgmt"]["rules"].append({"name": "opened", "allow": True})


def _no_policies(lab: dict[str, Any]) -> None:
    """Have policies that select nobody, by a label with a slip in it."""
    for policy in lab["namespaces"]["spk-apps-3"]["network_policies"].values():
        policy["podSelector"] = {"matchLabels": {"app": "valut"}}


def _allows_the_server(lab: dict[str, Any]) -> None:
    policy = lab["namespaces"]["spk-apps-3"]["network_policies"]["vault-and-its-partners"]
    del policy["egress"][0]["to"][0]["ipBlock"]["except"]


CASES = {
    "outgoing-nat-on": Case(_nat_outgoing, AUTOMAP, "spk", "refused there by 'default'"),
    "untranslated": Case(_taken_before, AUTOMAP, "server", "packets 10.124.0."),
    "listeners-of-two-tenants-swapped": Case(_swapped, AUTOMAP, "server", "conntrack 10.1.70.20"),
    "second-interface-translated": Case(
        _listener("secure-egress-ipv4-virtual-server", snat="automap"),
        SECOND,
        "ue-client3",
        "ue-client3's log 10.1.10.160",
    ),
    "not-watched": Case(_first_only, AUTOMAP, "spk", "nothing; last seen at mgmt"),
    "listeners-on-the-wrong-vlan": Case(
        _tables_swapped, SECOND, "ue-client3", "ue-client3's log 10.1.10.160"
    ),
    "policy-in-another-order": Case(
        _allowed_first, "the policy forbids a server to one namespace", "spk", "allow by 'apps-to-servers'"
    ),
    "policy-that-allows-the-rest": Case(_open, "what no rule allows is dropped", "spk", "allow by 'default'"),
    "no-rules-for-the-cluster": Case(
        _fault("no-direct-rules"),
        "watched pods reach each other by the cluster's own way",
        CLIENT,
        "resolve-failed no answer",  # the cluster's DNS is a pod as well
    ),
    "no-overlay": Case(
        _unwrapped,
        "watched pods reach each other by the cluster's own way",
        "worker-1.nodes",
        "VXLAN",
    ),
    "no-guard": Case(
        _fault("no-guard"),
        "a shim that is down lets nothing out by the node's own way",
        "mgmt",
        "opening 10.124.0.1:",
    ),
    "network-policies-of-nobody": Case(_no_policies, POLICY, "spk", "opening 10.124.0.4:"),
    "network-policy-without-its-exception": Case(
        _allows_the_server, POLICY, "node", "allow by 'spk-apps-3/vault-and-its-partners' (egress)"
    ),
    "address-taken-over-behind-an-open-door": Case(
        _pods_by_the_management,
        "an address that a pod of another tenant took over does not lead to the gateway",
        "mgmt",
        "allow by 'opened'",
    ),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """Stand the lab up as it is shipped, once for all edits."""
    files = written("spk-egress", tmp_path_factory.mktemp("sound"), lambda _: None, scenarios=False)
    with standing(files, own_name("self-spk")) as lab:
        yield lab


@pytest.mark.parametrize("name", CASES)
def test_an_edit_that_breaks_the_lab_is_noticed_and_its_hop_named(
    name: str, sound: Standing, tmp_path: Path
) -> None:
    """The running lab becomes the edited one; each case of the scenario is broken, and a reason names the hop."""
    assert_noticed("spk-egress", CASES[name], sound, tmp_path)

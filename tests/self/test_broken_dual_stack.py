"""Each of these changes of a running lab must turn a scenario of IPv6 to broken, with the hop named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from edited_lab import written
from small_lab import own_name, standing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from small_lab import Standing

pytestmark = pytest.mark.live

LAB = "spk-egress"
SECONDS = 20.0
AUTOMAP = "over IPv6 a watched pod leaves behind the gateway's own address"
KEPT = "over IPv6 another watched namespace keeps its address"
DOWN = "over IPv6 a shim that is down lets nothing out by the node's own way"
TRANSLATE = "ip6 gateway postrouting"
FAULTS = {
    "no-translation": ("spk", f"nft flush chain {TRANSLATE}", AUTOMAP, "server", "fd00:124::1"),
    "another-address": (
        "spk",
        f"nft flush chain {TRANSLATE}; nft add rule {TRANSLATE} snat to fd00:70::2",
        AUTOMAP,
        "server",
        "fd00:70::2",
    ),
    "a-translation-too-many": (
        "spk",
        f"nft insert rule {TRANSLATE} snat to fd00:30::f2",
        KEPT,
        "server",
        "fd00:30::f2",
    ),
    "the-rule-is-missing": (
        "worker-1",
        "ip -6 rule del from fd00:124::1",
        AUTOMAP,
        "spk",
        "nothing; last seen at",
    ),
}


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """Stand the lab up; what is broken is not mended, so that each fault has a lab of its own."""
    files = written(LAB, tmp_path_factory.mktemp(LAB), lambda _: None)
    with standing(files, own_name("six-broken")) as found:
        yield found


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_ipv6_is_noticed_and_its_hop_named(name: str, lab: Standing) -> None:
    """The scenario is broken, and a reason names the hop and what was seen there."""
    node, command, scenario, at, says = FAULTS[name]
    if node == "worker-1":  # or the controller would put the rule back
        lab.lab.end_program("worker-1", "route-controller")
    result = lab.lab.run(node, ["sh", "-ec", command], seconds=SECONDS, capable=True)
    assert result.code == 0, result.stderr
    item = lab.items(scenario)[0]
    item = item.model_copy(update={"scenario": item.scenario.model_copy(update={"within": None})})
    verdict = lab.session().run(item).verdict
    assert verdict.state == "broken", str(verdict)
    assert any(reason.at == at and says in str(reason) for reason in verdict.reasons), str(verdict)

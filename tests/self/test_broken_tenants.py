"""Each of these edits of the lab of three tenants must turn a named scenario to broken, with the hop named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from edited_lab import Case, assert_noticed, written
from small_lab import Standing, own_name, standing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.live

SPREAD = "a pod keeps its address, and the pods of a tenant use all of its pool"


def _listener(lab: dict[str, Any], name: str, **keys: object) -> None:
    lab["outside"]["gw"]["listeners"][name] |= keys


def _behind_another_pool(lab: dict[str, Any]) -> None:
    _listener(lab, "blue", pool="red")


def _pool_of_which_a_part_is_never_used(lab: dict[str, Any]) -> None:
    lab["outside"]["gw"]["snat_pools"]["red"] = [
        "10.6.0.11",
        "10.6.0.12",
        *(f"10.6.0.{n}" for n in range(101, 119)),
    ]


def _ports_without_end(lab: dict[str, Any]) -> None:
    del lab["outside"]["gw"]["snat_ports"]


def _unfiltered(lab: dict[str, Any]) -> None:
    lab["outside"]["gw"]["rp_filter"] = "off"


def _archive_by_the_way_it_is_reached(lab: dict[str, Any]) -> None:
    lab["outside"]["wan-1"]["on"], lab["outside"]["wan-2"]["on"] = (
        ["transit", "records"],
        ["backup", "records"],
    )


CASES = {
    "tenant-behind-anothers-pool": Case(
        _behind_another_pool, "the firewall tells blue from red", "edge", "allow by 'red-to-ledger'"
    ),
    "address-of-the-pool-that-nobody-has": Case(
        _pool_of_which_a_part_is_never_used, SPREAD, "ledger", "never 10.6.0.1"
    ),
    "pool-that-is-never-exhausted": Case(
        _ports_without_end,
        "a pool without a port left refuses the next connection",
        "gw",
        "allow by 'tenants-to-services'",
    ),
    "rp-filter-off": Case(
        _unfiltered,
        "a strict gateway drops an answer that comes by another interface",
        "gw",
        "allow by 'red-to-records'",
    ),
    "answer-by-the-same-way": Case(
        _archive_by_the_way_it_is_reached,
        "a strict gateway drops an answer that comes by another interface",
        "gw",
        "allow by 'red-to-records'",
    ),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """Stand the lab up as it is shipped, once for all edits."""
    files = written("tenant-identity", tmp_path_factory.mktemp("sound"), lambda _: None, scenarios=False)
    with standing(files, own_name("self-tenants")) as lab:
        yield lab


@pytest.mark.parametrize("name", CASES)
def test_an_edit_that_breaks_the_lab_is_noticed_and_its_hop_named(
    name: str, sound: Standing, tmp_path: Path
) -> None:
    """The running lab becomes the edited one; then the scenario is broken, and a reason names the hop."""
    assert_noticed("tenant-identity", CASES[name], sound, tmp_path)

"""`egresslab why` on a lab that stands: each kind of answer, from what was recorded of a real flow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from command_line import egresslab
from small_lab import Standing, own_name, standing, write

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.live

SITE = "https://www.f5.com"
PROXY = "bigip-proxy-svc.bookinfo:3128"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """Stand a lab of three pods up."""
    with standing(write(tmp_path_factory.mktemp("why"), []), own_name("why-test")) as found:
        yield found


def why(lab: Standing, *words: str, code: int = 0) -> dict[str, Any]:
    """Ask, as a user does, and return the answer."""
    done = egresslab("why", *words, "--lab", lab.lab.name, "--json")
    assert done.returncode == code, done.stderr + done.stdout
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def written_at(lab: Standing, place: dict[str, Any]) -> str:
    """Return the line of the lab file that an answer names."""
    lines = lab.files.lab.read_text(encoding="utf-8").splitlines()
    return lines[int(place["line"]) - 1].strip()


def test_an_allowed_flow_names_its_rules(lab: Standing) -> None:
    """The tenant's flow is allowed by the proxy's permit and the firewall's rule, at their lines."""
    found = why(lab, "bookinfo/traffic-generator", SITE, "--through", "bigip-proxy-svc:3128")
    assert found["answer"] == "allowed"
    assert [(one["at"], written_at(lab, one["place"])) for one in found["permits"]] == [
        ("bigip", "- permit:"),
        ("firewall", "- name: proxy-to-tinyproxy"),
    ]
    assert found["permits"][1]["counted"][1] > found["permits"][1]["counted"][0]


def test_another_identity_is_the_nearest_that_gets_through(lab: Standing) -> None:
    """The other tenant is refused by the policy; the tenant that may is tried for real, and let through."""
    found = why(lab, "sm-apigw-a/nettools", SITE, "--through", PROXY)
    assert (found["answer"], found["no"]["at"], found["no"]["rule"]) == ("denied", "bigip", "bookinfo-only")
    assert written_at(lab, found["no"]["place"]) == "bookinfo-only:"
    assert found["nearest"]["source"] == "bookinfo/traffic-generator"


def test_another_way_is_the_nearest_that_gets_through(lab: Standing) -> None:
    """Round the sidecar the firewall drops everybody; through the proxy's service the tenant gets through."""
    found = why(lab, "bookinfo/traffic-generator", SITE, "--bypass", "sidecar")
    assert (found["no"]["at"], found["no"]["rule"]) == ("firewall", "default")
    assert written_at(lab, found["no"]["place"]) == "rules:"
    assert found["nearest"]["through"] == PROXY
    refused = [one["answer"] for one in found["variations"][:-1]]
    assert refused
    assert set(refused) == {"denied"}


def test_the_way_is_told_for_people(lab: Standing) -> None:
    """Without --json each hop has a line, and the first that said no is marked."""
    done = egresslab("why", "outsiders/bare", SITE, "--through", PROXY, "--lab", lab.lab.name)
    assert done.returncode == 0
    marked = [line for line in done.stdout.splitlines() if line.startswith(">>")]
    assert len(marked) == 1
    assert " bigip " in marked[0]
    assert "nearest that got through: bookinfo/traffic-generator" in done.stdout


def test_a_wrong_name_is_unusable_input(lab: Standing) -> None:
    """The nearest known name is told, and nothing is sent."""
    done = egresslab("why", "bookinfo/trafic-generator", SITE, "--lab", lab.lab.name)
    assert done.returncode == 2
    assert "did you mean 'bookinfo/traffic-generator'?" in done.stderr


def test_a_flow_is_drawn_in_its_lab(lab: Standing) -> None:
    """`graph --flow` sends it, and draws the way that it really took, up to the hop that said no."""
    flow = ("--flow", "sm-apigw-a/nettools", SITE, "--through", PROXY)
    done = egresslab("graph", lab.lab.name, *flow)
    assert done.returncode == 0, done.stderr
    stops = [line.removeprefix("  %% ") for line in done.stdout.splitlines() if line.startswith("  %%")]
    hops = [stop.partition(":")[0] for stop in stops]
    assert hops == ["1 sm-apigw-a/nettools", "2 sm-apigw-a/nettools sidecar", "3 server-0", "4 ✗ bigip"]
    assert "said no by bookinfo-only" in stops[-1]

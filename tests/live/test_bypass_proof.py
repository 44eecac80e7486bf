"""`egresslab bypass` on labs that stand: a tight lab lets nothing out, and a hole in it is found and named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from command_line import egresslab
from small_lab import own_name, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.live

SECONDS = 170.0


def small(lab: dict[str, Any]) -> None:
    """Leave what the proof needs: one site, and the proxy's first virtual server."""
    del lab["outside"]["devcentral.f5.com"]
    del lab["services"]["bigip-dns-san-svc"]
    del lab["outside"]["bigip"]["virtual_servers"]["bookinfo-proxy-dns-san"]


def holed(lab: dict[str, Any]) -> None:
    """Put a server on the near side of the firewall, as somebody in a hurry does."""
    small(lab)
    lab["outside"]["near"] = {"kind": "echo", "on": {"dmz": {}}, "port": 9000}


def tried(
    folder: Path, edit: Callable[[dict[str, Any]], None], word: str, *, code: int
) -> list[dict[str, Any]]:
    """Return what came of every way out of a lab."""
    files = write(folder, [], edit)
    done = egresslab("bypass", str(files.lab), "--name", own_name(word), "--json", seconds=SECONDS)
    assert done.returncode == code, done.stderr + done.stdout[-3000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)["tried"]
    return found


def test_a_tight_lab_lets_nothing_out(tmp_path: Path) -> None:
    """Each attempt was permitted by the proxy, or denied by a hop that recorded it; only the tenant is permitted."""
    found = tried(tmp_path, small, "bypass-tight", code=0)
    assert {one["fate"] for one in found} == {"permitted", "denied"}
    permitted = [one for one in found if one["fate"] == "permitted"]
    assert {(one["pod"], one["at"], one["bypass"]) for one in permitted} == {
        ("bookinfo/traffic-generator", "bigip", False)
    }
    ways = {(one["target"]["scheme"], one["target"]["state"], one["bypass"]) for one in found}
    assert {("tcp", "listening", True), ("tcp", "closed", False), ("udp", "any", False)} <= ways


def test_a_hole_is_found_and_named(tmp_path: Path) -> None:
    """A server before the firewall is reached by every pod and permitted by nobody: exit code 1, with the passport."""
    found = tried(tmp_path, holed, "bypass-hole", code=1)
    out = [one for one in found if one["fate"] == "out"]
    assert {one["at"] for one in out} == {"near"}
    assert {one["pod"] for one in out} == {
        "bookinfo/traffic-generator",
        "sm-apigw-a/nettools",
        "outsiders/bare",
    }
    assert {one["target"]["port"] for one in out} >= {9000}
    assert all(any(line.startswith("near: ") for line in one["passport"]) for one in out)

"""The lab mesh-mtls: every scenario holds, and its pairs are listed as they really talk."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from edited_lab import written
from small_lab import own_name, standing, write

from harness import ready, shipped
from harness.cli import main
from harness.drivers.netns.lab import NamespaceLab, stand_up
from harness.lab import load_lab
from harness.mtls_table import pairs
from harness.plan import make_plan
from harness.run import Session
from harness.running import Mark
from harness.scenario import load_scenarios

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.live

SECONDS = 20.0
SPACE = "wordpress-app"
KNOWN = "-peverybody-knows-it"
BEGINNING = Mark(0, {})
"""Before everything that a lab has recorded."""
SERVERS = ("mysql-strict", "mysql-permissive", "mysql-disable")
MODES = {
    f"{SPACE}/wordpress": ("mutual", "mutual", "refused"),
    f"{SPACE}/wordpress-plain": ("refused", "plain", "plain"),
    f"{SPACE}/wordpress-bare": ("refused", "plain", "plain"),
    f"{SPACE}/impostor": ("refused", "refused", "refused"),
    "blog/wordpress": ("mutual", "mutual", "plain"),
}
"""How each client reaches the strict, the permissive and the plain server."""


@pytest.fixture(scope="module")
def lab() -> Iterator[NamespaceLab]:
    """Stand the lab up."""
    path = shipped.find_lab("mesh-mtls")
    source = (str(path), path.read_text(encoding="utf-8"))
    found = stand_up(make_plan(load_lab(path)), own_name("mesh-mtls-test"), source, owned=True)
    try:
        yield found
    finally:
        found.close()


def only(data: dict[str, Any], *names: str) -> None:
    """Leave only some pods of the lab, of which nothing is said but that servers are strict."""
    workloads = data["namespaces"][SPACE]["workloads"]
    data["namespaces"] = {SPACE: {"inject": True, "workloads": {name: workloads[name] for name in names}}}
    data["mesh"]["mtls"] = {"default": "strict"}


def modes(lab: NamespaceLab) -> dict[str, tuple[str, ...]]:
    """Return how each client reaches each server, as `egresslab mtls` has it."""
    found = {(pair.client, pair.service): pair.mode for pair in pairs(lab)}
    clients = dict.fromkeys(client for client, _ in found)
    return {client: tuple(found[client, f"{SPACE}/{server}"] for server in SERVERS) for client in clients}


def asked(lab: NamespaceLab, pod: str, server: str, statement: str) -> int | None:
    """Have a pod ask a server something; returns the client's exit status."""
    host = f"{server}.{SPACE}"
    client = ["mariadb", "-h", host, "-u", "wordpress", KNOWN, "wordpress", "-e", statement]
    return lab.run(pod, client, seconds=SECONDS).code


def log(lab: NamespaceLab, server: str) -> str:
    """Return all that a server's database has printed."""
    lines = lab.collect(BEGINNING, ("lines",)).lines.get(f"{SPACE}/{server} app", ())
    return "\n".join(line for _, line in lines)


def test_every_scenario_holds(lab: NamespaceLab) -> None:
    """Every cell of servers by clients, and every wrong certificate, each at the first try."""
    items = [item for path in shipped.scenario_paths("mesh-mtls") for item in load_scenarios(path)]
    session = Session(lab, items)
    results = [session.run(item) for item in items]
    assert [
        f"{one.item.id}: {one.verdict}" for one in results if one.verdict.state != "held" or one.tries > 1
    ] == []


def test_each_pair_is_listed_as_it_talks(lab: NamespaceLab) -> None:
    """Mutual, plain or refused, by the hop and the rule that said no; nothing is left unknown."""
    assert modes(lab) == MODES
    refused = {(pair.client, pair.service): pair.by for pair in pairs(lab) if pair.mode == "refused"}
    assert (
        refused[f"{SPACE}/wordpress-bare", f"{SPACE}/mysql-strict"]
        == f"{SPACE}/mysql-strict sidecar (mutual-tls)"
    )
    assert (
        refused[f"{SPACE}/wordpress", f"{SPACE}/mysql-disable"] == f"{SPACE}/wordpress sidecar (server-tls)"
    )


def test_the_database_of_a_strict_server_hears_of_nobody_refused(lab: NamespaceLab) -> None:
    """Its log has the statement of a client with a certificate, and no connection of any other."""
    for pod in ("wordpress-plain", "wordpress-bare", "impostor"):
        assert asked(lab, f"{SPACE}/{pod}", "mysql-strict", "SELECT 4710") == 1
    assert asked(lab, f"{SPACE}/wordpress", "mysql-strict", "SELECT 4711") == 0
    ready.until("the query is logged", lambda: "4711" in log(lab, "mysql-strict"), seconds=5)
    said = log(lab, "mysql-strict")
    assert "4710" not in said
    assert "Aborted connection" not in said


def test_a_database_that_is_sent_a_handshake_gives_up(lab: NamespaceLab) -> None:
    """Mutual TLS towards the plain server reaches its database, which knows it for no client."""
    assert asked(lab, f"{SPACE}/wordpress", "mysql-disable", "SELECT 1") == 1
    ready.until("it is logged", lambda: "Aborted connection" in log(lab, "mysql-disable"), seconds=5)


def test_a_database_that_was_started_again_is_the_same_witness(lab: NamespaceLab) -> None:
    """It has its rows still, and names both ends of each connection as before."""
    lab.end_program(f"{SPACE}/mysql-permissive", "app")
    lab.start_program(f"{SPACE}/mysql-permissive", "app")
    assert asked(lab, f"{SPACE}/wordpress", "mysql-permissive", "SELECT 4712 FROM wp_posts") == 0
    ready.until("the query is logged", lambda: "4712" in log(lab, "mysql-permissive"), seconds=5)
    after = log(lab, "mysql-permissive").rpartition("ready for connections")[2]
    assert "Execute\tDO '10.53." in after
    assert "Access denied" not in after


def test_the_list_follows_the_wire(tmp_path: Path) -> None:
    """A server that was switched from strict to permissive is listed by what then happens."""

    def edit(data: dict[str, Any]) -> None:
        data["mesh"]["mtls"]["overrides"][f"{SPACE}/mysql-strict"] = "permissive"

    with standing(written("mesh-mtls", tmp_path, edit), own_name("mesh-mtls-changed")) as changed:
        found = modes(changed.lab)
    assert found[f"{SPACE}/wordpress-bare"] == ("plain", "plain", "plain")
    assert found[f"{SPACE}/wordpress"] == MODES[f"{SPACE}/wordpress"]


def test_a_server_whose_tap_is_blind_is_not_judged(tmp_path: Path) -> None:
    """Without evidence there is none in the list, whatever the settings say."""

    def edit(data: dict[str, Any]) -> None:
        only(data, "mysql-strict", "mysql-permissive", "wordpress")

    files = written("mesh-mtls", tmp_path, edit, scenarios=False)
    with standing(files, own_name("mesh-mtls-blind")) as blind:
        blind.lab.blind(f"{SPACE}/mysql-strict")
        found = {pair.service: pair.mode for pair in pairs(blind.lab)}
    assert found == {f"{SPACE}/mysql-strict": "no evidence", f"{SPACE}/mysql-permissive": "mutual"}


def test_plain_http_to_a_permissive_server_is_no_refusal(tmp_path: Path) -> None:
    """Where the client speaks first its words are known for no TLS at once, and are served like mutual TLS."""

    def edit(data: dict[str, Any]) -> None:
        data["namespaces"]["bookinfo"]["workloads"]["details"] = {"runs": "http", "port": 9080}

    with standing(write(tmp_path, (), edit), own_name("mesh-mtls-http")) as small:
        found = {pair.client: (pair.service, pair.mode) for pair in pairs(small.lab)}
    assert found == {
        "bookinfo/traffic-generator": ("bookinfo/details", "mutual"),
        "sm-apigw-a/nettools": ("bookinfo/details", "mutual"),
        "outsiders/bare": ("bookinfo/details", "plain"),
    }


def test_the_command_prints_a_line_for_each_pair(tmp_path: Path) -> None:
    """As a table, and as JSON; the lab is stood up for it, and a lab without such pairs says so with exit code 5."""

    def one_pair(data: dict[str, Any]) -> None:
        only(data, "mysql-strict", "wordpress")

    lab = str(written("mesh-mtls", tmp_path, one_pair, scenarios=False).lab)
    printed = CliRunner().invoke(main, ["mtls", lab])
    assert printed.exit_code == 0, printed.output
    heading, line = printed.output.splitlines()
    assert heading.split() == ["FROM", "TO", "MODE", "BY"]
    name = f"spiffe://cluster.local/ns/{SPACE}/sa/wordpress"
    assert line.split() == [f"{SPACE}/wordpress", f"{SPACE}/mysql-strict", "mutual", name]
    (told,) = json.loads(CliRunner().invoke(main, ["mtls", lab, "--json"]).output)
    assert (told["mode"], told["by"]) == ("mutual", name)
    nothing = CliRunner().invoke(main, ["mtls", "legacy-database"])
    assert nothing.exit_code == 5

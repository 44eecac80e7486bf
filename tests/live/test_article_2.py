"""The labs of the second article: every scenario holds, and what proxy and servers themselves say of the flows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from small_lab import own_name

from harness import ready, shipped
from harness.comparison import compare
from harness.drivers.netns.lab import NamespaceLab, stand_up
from harness.lab import load_lab
from harness.plan import make_plan
from harness.run import Result, Session
from harness.running import Mark
from harness.scenario import load_scenarios

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.evidence import CommandResult

pytestmark = pytest.mark.live

SECONDS = 20.0
POOL = "10.4.0.211"
KNOWN = "everybody-knows-it"
"""The ledger's password."""
BEGINNING = Mark(0, {})
"""Before everything that a lab has recorded."""


@pytest.fixture(scope="module")
def echo() -> Iterator[NamespaceLab]:
    """Stand the echo's lab up."""
    yield from _standing("echo-without-envoy")


@pytest.fixture(scope="module")
def database() -> Iterator[NamespaceLab]:
    """Stand the database's lab up."""
    yield from _standing("legacy-database")


@pytest.fixture(scope="module")
def ways() -> Iterator[NamespaceLab]:
    """Stand the lab of the three ways up."""
    yield from _standing("three-ways")


def _standing(name: str) -> Iterator[NamespaceLab]:
    path = shipped.find_lab(name)
    source = (str(path), path.read_text(encoding="utf-8"))
    lab = stand_up(make_plan(load_lab(path)), own_name(f"{name}-test"), source, owned=True)
    try:
        yield lab
    finally:
        lab.close()


def results_of(lab: NamespaceLab) -> list[Result]:
    """Run every shipped scenario of a lab."""
    items = [item for path in shipped.scenario_paths(lab.plan.lab.lab) for item in load_scenarios(path)]
    session = Session(lab, items)
    return [session.run(item) for item in items]


def not_held(results: list[Result]) -> list[str]:
    """Return the verdicts of those results that are not held at the first try."""
    return [
        f"{result.item.id}: {result.verdict}"
        for result in results
        if result.verdict.state != "held" or result.tries > 1
    ]


def lines_of(lab: NamespaceLab, program: str) -> list[str]:
    """Return every line that a program (`node program`) has printed since the lab began."""
    return [line for _, line in lab.collect(BEGINNING, ("lines",)).lines.get(program, ())]


def decisions_of(lab: NamespaceLab) -> list[dict[str, Any]]:
    """Return the egress proxy's decisions."""
    events = [json.loads(line) for line in lines_of(lab, "bigip egress-proxy") if line.startswith("{")]
    return [event for event in events if event["event"] == "decision"]


def say_hi(lab: NamespaceLab, pod: str) -> CommandResult:
    """Say hi to the service behind the proxy, as the article does."""
    command = "echo hi | nc -N bigip.default.svc.cluster.local 9000"
    return lab.run(pod, ["sh", "-c", command], seconds=SECONDS)


def ask(lab: NamespaceLab, statement: str, password: str = KNOWN) -> CommandResult:
    """Ask the database something, as the one application that may."""
    client = ["mariadb", "-h", "accounts-db", "-u", "ledger", f"-p{password}", "accounts", "-e", statement]
    return lab.run("billing/ledger", client, seconds=SECONDS)


def test_every_scenario_of_the_echo_holds(echo: NamespaceLab) -> None:
    """The good container is answered, all others and all ways round the proxy are not, each at the first try."""
    assert not_held(results_of(echo)) == []


def test_hi_is_answered_in_capitals_and_the_rejected_get_nothing(echo: NamespaceLab) -> None:
    """`nc` prints `HI` or nothing at all, and its exit status is 0 both times."""
    good, bad = say_hi(echo, "trusted/sleep"), say_hi(echo, "default/default")
    assert (good.code, good.stdout, good.stderr) == (0, "HI\n", "")
    assert (bad.code, bad.stdout, bad.stderr) == (0, "", "")


def test_the_proxy_logs_rule_event_and_identity(echo: NamespaceLab) -> None:
    """A line of the proxy's log says which policy let whom pass, another whom it rejected."""
    say_hi(echo, "trusted/sleep")
    say_hi(echo, "default/default")
    said = {
        (event["event"], event["policy"], event["verdict"], event["identity"]) for event in decisions_of(echo)
    }
    allowing = ("decision", "trusted-sleep", "PERMITTED", "spiffe://cluster.local/ns/trusted/sa/sleep")
    rejecting = ("decision", "trusted-sleep", "REJECTED", "spiffe://cluster.local/ns/default/sa/default")
    assert {allowing, rejecting} <= said


def test_the_echo_knows_its_client_by_the_tenants_address_only(echo: NamespaceLab) -> None:
    """Whoever else tried in this module, the echo's log has no other client than the tenant's pool."""
    say_hi(echo, "trusted/sleep")
    events = [json.loads(line) for line in lines_of(echo, "echo echo")]
    assert {event["peer"].partition(":")[0] for event in events if "peer" in event} == {POOL}


def test_every_scenario_of_the_database_holds(database: NamespaceLab) -> None:
    """One application reads the database; nobody else does, however they come, each at the first try."""
    assert not_held(results_of(database)) == []


def test_the_database_stands_at_once(database: NamespaceLab) -> None:
    """Making the data and starting MariaDB does not make a lab slow: all programs are ready in under 3 s."""
    assert dict(database.phases)["programs ready"] < 3


def test_the_server_speaks_first(database: NamespaceLab) -> None:
    """MariaDB greets before its client says a word, through a sidecar and a proxy that must not wait for one."""
    greeted = database.run("billing/ledger", ["nc", "-w", "1", "accounts-db", "3306"], seconds=SECONDS)
    assert "MariaDB" in greeted.stdout


def test_the_database_itself_refuses_a_wrong_password(database: NamespaceLab) -> None:
    """The path lets the application pass; whether its password is right is for the database, which sees the pool."""
    refused = ask(database, "SELECT 1", password="wrong")  # noqa: S106 - meant to be wrong
    assert refused.code == 1
    assert f"Access denied for user 'ledger'@'{POOL}' (using password: YES)" in refused.stderr


def test_a_user_has_its_own_schema_only(database: NamespaceLab) -> None:
    """The grants are in force: rows of the application's schema may be changed, accounts not even be read."""
    changed = ask(
        database, "INSERT INTO balances VALUES (3, 'Edsger', 1); DELETE FROM balances WHERE account = 3"
    )
    assert (changed.code, changed.stderr) == (0, "")
    read = ask(database, "SELECT * FROM mysql.global_priv")
    assert "SELECT command denied to user 'ledger'" in read.stderr


def test_the_databases_log_is_a_witness_of_connections(database: NamespaceLab) -> None:
    """Each connection stands in MariaDB's log with its client's address and port, its statements and its end."""
    assert ask(database, "SELECT 4711").code == 0
    ready.until("the end is logged", lambda: "4711" in _log(database).rpartition("Quit")[0], seconds=5)
    log = _log(database)
    assert log.count(" Connect\t") >= log.count(f" Connect\tledger@{POOL} on ") > 0
    assert f"Execute\tDO '{POOL}:" in log
    assert "172.19." not in log


def _log(lab: NamespaceLab) -> str:
    return "\n".join(lines_of(lab, "database mariadbd"))


def test_three_ways_are_attacked_alike_and_compared(ways: NamespaceLab) -> None:
    """Every scenario holds, and the table has each attack at each way: what got through, who stopped the rest."""
    results = results_of(ways)
    assert not_held(results) == []
    found = compare(results)
    assert found is not None
    gateway, checking, host, proxy = found.columns
    assert len(found.cells) == len(found.rows) * len(found.columns) == 32
    through = {key: cell for key, cell in found.cells.items() if cell.startswith("gets through")}
    strangers = ("another namespace", "another service account", "the application's taken-over address")
    from_the_node = "straight to the server from the gateways' node"
    assert through == {
        ("the application that may", gateway): "gets through as gateway-0",
        ("the application that may", checking): "gets through as gateway-0",
        ("the application that may", host): "gets through as agent-0",
        ("the application that may", proxy): "gets through as snat/trusted",
        **{(stranger, gateway): "gets through as gateway-0" for stranger in strangers},
        (from_the_node, gateway): "gets through as gateway-0",
        (from_the_node, checking): "gets through as gateway-0",
    }
    assert found.cells["another namespace", host] == "stopped at mesh-host by 'authorization-policy'"
    assert found.cells[from_the_node, proxy] == "stopped at firewall by 'default'"


def test_the_server_behind_the_hosts_envoy_knows_loopback_only(ways: NamespaceLab) -> None:
    """It has no other client than its own host's Envoy, and one connection for each that the Envoy let through."""
    for pod in ("trusted/sleep", "default/sleep"):
        ways.run(pod, ["sh", "-c", "echo hi | nc -N mesh-host.egress 9000"], seconds=SECONDS)
    ready.until("the end is logged", lambda: len(_accepts(ways)) == len(_permitted(ways)), seconds=5)
    assert {event["peer"].partition(":")[0] for event in _accepts(ways)} == {"127.0.0.1"}
    assert {event["names"] for event in _permitted(ways)} == {"spiffe://cluster.local/ns/trusted/sa/sleep"}


def _accepts(lab: NamespaceLab) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in lines_of(lab, "mesh-host server")]
    return [event for event in events if event["event"] == "accept"]


def _permitted(lab: NamespaceLab) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in lines_of(lab, "mesh-host envoy") if line.startswith("{")]
    return [event for event in events if str(event.get("decision")).startswith("permit")]

"""MariaDB outside and in a pod: what its node runs, its first statements, and what its own log comes to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tenants import LAB, Rendered

from harness.errors import InputError
from harness.nodes import database, workload
from harness.plan import Node, Ready
from harness.programs.fivetuple import TCP, FiveTuple

WITH_DATABASE = (
    LAB
    + """\
  books:
    kind: database
    on: {internet: {}}
    port: 3307
    schema: books
    users: {reader: "it's a \\\\secret"}
    statements: [CREATE TABLE titles (title text)]
"""
)
IN_A_POD = LAB.replace(
    "      client: {runs: client}\n",
    "      client: {runs: client}\n"
    "      books: {runs: database, port: 3307, database: {schema: books, users: {reader: secret}}}\n",
    1,
)
FLOW = FiveTuple(TCP, "10.4.0.211", 42559, "10.30.0.3", 3306)

# From a lab that ran; the server writes the time only where the second is a new one.
STARTED = (
    "2026-11-21 15:37:02 0 [Note] Server socket created on IP: '10.30.0.3', port: '3306'.",
    "/usr/sbin/mariadbd, Version: 10.11.19-MariaDB-0+deb12u1-log (Debian 12). started with:",
    "Time\t\t    Id Command\tArgument",
)
SERVED = (
    "261121 15:37:04\t     4 Connect\tledger@10.4.0.211 on accounts using TCP/IP",
    "\t\t     4 Query\tSET @ends = (SELECT CONCAT(s.ip, ':', s.port, '>10.30.0.3:3306') FROM ...",
    "\t\t     4 Prepare\tDO '10.4.0.211:42559>10.30.0.3:3306'",
    "\t\t     4 Execute\tDO '10.4.0.211:42559>10.30.0.3:3306'",
    "\t\t     4 Query\tSELECT owner, balance FROM balances",
    "261121 15:37:05\t     4 Quit\t",
)
DENIED = (
    "\t\t     5 Connect\tledger@10.4.0.211 on  using TCP/IP",
    "\t\t     5 Connect\tAccess denied for user 'ledger'@'10.4.0.211' (using password: YES)",
    "2026-11-21 15:37:05 5 [Warning] Access denied for user 'ledger'@'10.4.0.211' (using password: YES)",
)
ABORTED = (
    "2026-11-21 15:31:50 4 [Warning] Aborted connection 4 to db: 'accounts' user: 'ledger' "
    "host: '10.4.0.211' (Got an error reading communication packets)"
)


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    """Return the lab of two tenants with a database, rendered once."""
    return Rendered(WITH_DATABASE)


def read(*lines: str) -> list[tuple[str, FiveTuple | None, dict[str, str]]]:
    """Return event, flow and facts of what lines of the server come to."""
    node = Node("database", ("database",), "outside")
    found = database.read_log(node, "mariadbd", list(enumerate(lines)))
    return [(sighting.event, sighting.flow, dict(sighting.facts)) for sighting in found]


def test_it_starts_from_an_empty_folder(rendered: Rendered) -> None:
    """MariaDB takes no option of the host, listens at the node's address, and has its data in the node's folder."""
    folder, bindings = rendered.bindings.folder("books"), rendered.bindings
    program = rendered.program("books", "mariadbd")
    assert program.argv[:2] == ("mariadbd", "--no-defaults")
    address = bindings.addresses["books", "internet"]
    for option in (f"--bind-address={address}", "--port=3307", f"--datadir={folder}/data"):
        assert option in program.argv
    assert f"--init-file={folder}/data/first.sql" in program.argv
    assert program.ready == Ready("log", "ready for connections")


def test_passwords_are_for_the_server_only(rendered: Rendered) -> None:
    """The file with the users' passwords can be read by the server's user alone."""
    (file,) = rendered.runtimes["books"].files
    assert (file.path, file.mode) == ("data/first.sql", 0o600)


def test_first_statements(rendered: Rendered) -> None:
    """Accounts come before the grants are read, the lab's statements run in its schema, and each has its line.

    A server that is started again fails at the schema that is there, and no earlier.
    """
    lines = rendered.files("books")["data/first.sql"].splitlines()
    assert lines[-4:] == [
        *("FLUSH PRIVILEGES;", "CREATE DATABASE books;"),
        *("USE books;", "CREATE TABLE titles (title text);"),
    ]
    assert all("IF NOT EXISTS" in line for line in lines if line.startswith("CREATE") and "mysql" in line)
    assert not any(line.startswith("INSERT") for line in lines)
    assert all(line.endswith(";") for line in lines)


def test_a_password_is_text_whatever_it_has_in_it(rendered: Rendered) -> None:
    """Quotes and backslashes of a password do not end the text that it is in SQL."""
    assert r"PASSWORD('it\'s a \\secret')" in rendered.files("books")["data/first.sql"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("schema: books", "schema: 'books; DROP'", "is not a word"),
        ("schema: books", "schema: ", "'schema' must be text"),
        ('{reader: "it\'s a \\\\secret"}', "{}", "'users'"),
        ("[CREATE TABLE titles (title text)]", '["SELECT 1\\nSELECT 2"]', "is not text on one line"),
    ],
)
def test_what_cannot_be_sql_is_refused(old: str, new: str, says: str) -> None:
    """Names are words, there is a user, and a statement is one line."""
    assert old in WITH_DATABASE
    with pytest.raises(InputError, match=says):
        Rendered(WITH_DATABASE.replace(old, new))


def test_a_connection_is_seen_with_user_statements_and_end() -> None:
    """The log's own lines come to connect, query and close of one flow, with both ends' ports."""
    assert read(*STARTED, *SERVED) == [
        ("connect", FLOW, {"connection": "4", "user": "ledger", "schema": "accounts"}),
        ("query", FLOW, {"connection": "4", "request": "SELECT owner, balance FROM balances"}),
        ("close", FLOW, {"connection": "4"}),
    ]


def test_a_client_that_vanishes_ends_its_connection_too() -> None:
    """Where no Quit came, the server's warning about the aborted connection is its end."""
    assert [event for event, _, _ in read(*SERVED[:5], ABORTED)] == ["connect", "query", "close"]


def test_a_connection_that_did_not_log_in_is_not_one() -> None:
    """Of a connection without a known port nothing can be said; packets and conntrack are its witnesses."""
    assert read(*DENIED) == []


def test_a_client_cannot_rename_itself() -> None:
    """What looks like the server's own statement counts once for each connection: the first is the server's."""
    forged = "\t\t     4 Execute\tDO '10.9.9.9:1>10.30.0.3:3306'"
    assert {flow for _, flow, _ in read(*SERVED[:4], forged, *SERVED[4:])} == {FLOW}


def test_other_programs_have_no_say() -> None:
    """Only what the server prints is its log."""
    node = Node("database", ("database",), "outside")
    assert not list(database.read_log(node, "other", list(enumerate(SERVED))))


@given(st.lists(st.text() | st.sampled_from(SERVED + DENIED + STARTED), max_size=8))
def test_no_line_upsets_the_reader(lines: list[str]) -> None:
    """Whatever is printed, in whatever order: lines are read or passed over."""
    for event, flow, facts in read(*lines):
        assert event in ("connect", "query", "close")
        assert flow is not None
        assert facts["connection"].isdecimal()


def test_a_pod_may_run_it() -> None:
    """In a pod it listens at the pod's address, as the app behind the sidecar, and has a service of its name."""
    found = Rendered(IN_A_POD)
    address, program = found.bindings.pods["red/books"], found.program("red/books", "app")
    assert program.argv[0] == "mariadbd"
    for option in (f"--bind-address={address}", "--port=3307"):
        assert option in program.argv
    assert f"{address}:3307" in found.files("red/books")["data/first.sql"]
    assert "sidecar" in {one.name for one in found.runtimes["red/books"].programs}
    assert (found.plan.services["red/books"].port, found.plan.services["red/books"].selector) == (
        3307,
        "books",
    )


def test_its_passwords_are_for_the_server_only_in_a_pod_too() -> None:
    """The file with them can be read by the server's user alone."""
    files = {file.path: file.mode for file in Rendered(IN_A_POD).runtimes["red/books"].files}
    assert files["data/first.sql"] == 0o600


def test_its_log_is_the_pods() -> None:
    """What it says in a pod is seen at the pod, where its sidecar is the client."""
    node = Rendered(IN_A_POD).plan.node("red/books")
    assert workload.keeps_log(node)
    seen = list(workload.read_log(node, "app", list(enumerate(SERVED))))
    assert [(sighting.at, sighting.event, sighting.flow) for sighting in seen] == [
        ("red/books", event, FLOW) for event in ("connect", "query", "close")
    ]
    assert not list(workload.read_log(node, "sidecar", list(enumerate(SERVED))))

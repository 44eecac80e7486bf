"""MariaDB as a program of a node, wherever that is: how it is started, what it is told first, and its log.

It starts from an empty folder in memory: the few system tables that accounts need are written before the grants
are read, which takes 0.1 s, where mariadb-install-db takes several times as long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address

from harness.evidence import Sighting
from harness.lab import Database
from harness.plan import File as NodeFile
from harness.plan import Program, Ready, Runtime
from harness.programs.fivetuple import FiveTuple
from harness.sightings import tcp

_PRIVILEGES = (
    *("Select", "Insert", "Update", "Delete", "Create", "Drop", "Grant", "References", "Index", "Alter"),
    *("Create_tmp_table", "Lock_tables", "Create_view", "Show_view", "Create_routine", "Alter_routine"),
    *("Execute", "Event", "Trigger", "Delete_history"),
)
_TABLES = {
    "servers": "Server_name char(64) NOT NULL, Host varchar(2048) NOT NULL, Db char(64) NOT NULL, "
    "Username char(128) NOT NULL, Password char(64) NOT NULL, Port int NOT NULL, Socket char(108) NOT NULL, "
    "Wrapper char(64) NOT NULL, Owner varchar(512) NOT NULL, PRIMARY KEY (Server_name)",
    "global_priv": "Host char(255) NOT NULL, User char(128) NOT NULL, Priv longtext NOT NULL, "
    "PRIMARY KEY (Host, User)",
    "db": "Host char(255) NOT NULL, Db char(64) NOT NULL, User char(128) NOT NULL, "
    + ", ".join(f"{word}_priv enum('N','Y') NOT NULL DEFAULT 'N'" for word in _PRIVILEGES)
    + ", PRIMARY KEY (Host, Db, User)",
    "proxies_priv": "Host char(255) NOT NULL, User char(128) NOT NULL, Proxied_host char(255) NOT NULL, "
    "Proxied_user char(128) NOT NULL, With_grant bool NOT NULL, Grantor varchar(384) NOT NULL, "
    "Timestamp timestamp NOT NULL, PRIMARY KEY (Host, User, Proxied_host, Proxied_user)",
    "roles_mapping": "Host char(255) NOT NULL, User char(128) NOT NULL, Role char(128) NOT NULL, "
    "Admin_option enum('N','Y') COLLATE utf8mb3_general_ci NOT NULL, UNIQUE (Host, User, Role)",
    "tables_priv": "Host char(255) NOT NULL, Db char(64) NOT NULL, User char(128) NOT NULL, "
    "Table_name char(64) NOT NULL, Grantor varchar(384), Timestamp timestamp, Table_priv set('Select') NOT NULL, "
    "Column_priv set('Select') NOT NULL, PRIMARY KEY (Host, Db, User, Table_name)",
    "columns_priv": "Host char(255) NOT NULL, Db char(64) NOT NULL, User char(128) NOT NULL, "
    "Table_name char(64) NOT NULL, Column_name char(64) NOT NULL, Timestamp timestamp, "
    "Column_priv set('Select') NOT NULL, PRIMARY KEY (Host, Db, User, Table_name, Column_name)",
    "procs_priv": "Host char(255) NOT NULL, Db char(64) NOT NULL, User char(128) NOT NULL, "
    "Routine_name char(64) NOT NULL, Routine_type enum('FUNCTION') NOT NULL, Grantor varchar(384), "
    "Proc_priv set('Execute') NOT NULL, Timestamp timestamp, "
    "PRIMARY KEY (Host, Db, User, Routine_name, Routine_type)",
}
"""What the server opens when it reads accounts and grants (MariaDB 10.11; it checks names and types of columns)."""

_GRANTED = ("Select", "Insert", "Update", "Delete")
_FORM = "ENGINE=Aria CHARACTER SET utf8mb3 COLLATE utf8mb3_bin"

_NAME_BOTH_ENDS = (
    "SET @ends = (SELECT CONCAT(s.ip, ':', s.port, '>{local}') FROM performance_schema.socket_instances s "
    "JOIN performance_schema.threads t USING (thread_id) WHERE t.processlist_id = CONNECTION_ID() LIMIT 1); "
    "EXECUTE IMMEDIATE CONCAT('DO ', QUOTE(@ends))"
)
"""Run for each connection: by itself the log names a client's address and not its port, but it shows this text."""

_SETTINGS = (
    "--no-defaults",
    "--user=root",  # asked for where the program is root; nobody else is asked
    "--skip-name-resolve",  # an address in the log, not what DNS makes of it
    "--skip-grant-tables",  # until the first statements have made them
    "--skip-innodb",
    "--default-storage-engine=Aria",
    "--aria-pagecache-buffer-size=8M",
    "--key-buffer-size=1M",
    "--max-connections=100",
    "--table-open-cache=64",
    "--open-files-limit=1024",
    "--performance-schema=ON",
    "--performance-schema-instrument=wait/io/socket/%=ON",
    "--general-log",
    "--general-log-file=/dev/stdout",
    "--log-warnings=2",
)

_ENTRY = re.compile(
    r"(?:\d{6} +\d+:\d\d:\d\d)?\t+ *(?P<number>\d+) (?P<command>[A-Z][A-Za-z ]*?)\t(?P<text>.*)"
)
_WHO = re.compile(r"(?P<user>\S*)@[0-9.]+ on (?P<schema>\S*) ?using TCP/IP")
_ENDS = re.compile(r"DO '(?P<peer>[0-9.]+:\d+)>(?P<local>[0-9.]+:\d+)'")
_ABORTED = re.compile(r"[0-9-]+ +[0-9:]+ \d+ \[Warning\] Aborted connection (?P<number>\d+) to db: ")


def runtime(name: str, held: Database, folder: str, address: IPv4Address, port: int) -> Runtime:
    """Return MariaDB in the foreground as program `name`, logging every connection and statement to its output."""
    argv = (
        "mariadbd",
        *_SETTINGS,
        f"--bind-address={address}",
        f"--port={port}",
        f"--datadir={folder}/data",
        f"--init-file={folder}/data/first.sql",
        f"--socket={folder}/mariadbd.sock",
        f"--pid-file={folder}/mariadbd.pid",
    )
    program = Program(name, argv, Ready("log", "ready for connections"))
    # The first statements lie where the data goes: so the folder is there.
    return Runtime(
        programs=(program,),
        files=(NodeFile("data/first.sql", first_statements(held, f"{address}:{port}"), 0o600),),
    )


def first_statements(held: Database, local: str) -> str:
    """Return what makes an empty server at `local` one with accounts, a schema and the lab's own statements."""
    lines = ["CREATE DATABASE IF NOT EXISTS mysql"]
    lines += [
        f"CREATE TABLE IF NOT EXISTS mysql.{name} ({columns}) {_FORM}" for name, columns in _TABLES.items()
    ]
    granted, yes = ", ".join(f"{word}_priv" for word in _GRANTED), ", 'Y'" * len(_GRANTED)
    for user, password in held.users.items():
        account = (
            "JSON_OBJECT('access', 0, 'plugin', 'mysql_native_password', "
            f"'authentication_string', PASSWORD({_quoted(password)}))"
        )
        lines.append(f"REPLACE INTO mysql.global_priv VALUES ('%', '{user}', {account})")  # noqa: S608 - words and quoted text
        lines += [
            f"REPLACE INTO mysql.db (Host, Db, User, {granted}) VALUES ('%', '{schema}', '{user}'{yes})"  # noqa: S608 - words only
            for schema in (held.schema_, "performance_schema")
        ]
    lines += [f'SET GLOBAL init_connect = "{_NAME_BOTH_ENDS.format(local=local)}"', "FLUSH PRIVILEGES"]
    # A server that is started again has its data already: the first error ends this file, and is its first here.
    lines += [f"CREATE DATABASE {held.schema_}", f"USE {held.schema_}", *held.statements]
    return "".join(f"{line};\n" for line in lines)


def read_log(at: str, lines: Sequence[tuple[int, str]]) -> Iterator[Sighting]:
    """Yield each connection that logged in at a place, with its statements and its end.

    A connection's first statement is ours and names both ends; what a client says after it is only text.
    """
    who: dict[str, dict[str, str]] = {}
    flows: dict[str, FiveTuple | None] = {}
    for time, line in lines:
        if aborted := _ABORTED.match(line):
            number, command, text = aborted["number"], "Quit", ""
        elif entry := _ENTRY.fullmatch(line):
            number, command, text = entry["number"], entry["command"], entry["text"]
        else:
            continue
        event, facts = "", {"connection": number}
        if number in flows:
            event = {"Query": "query", "Quit": "close"}.get(command, "")
            facts |= {"request": text} if event == "query" else {}
        elif command == "Connect" and (found := _WHO.fullmatch(text)):
            who[number] = {key: value for key, value in found.groupdict().items() if value}
        elif command == "Execute" and (found := _ENDS.fullmatch(text)):
            event, facts = "connect", facts | who.get(number, {})
            flows[number] = tcp(found["peer"], found["local"])
        if event:
            yield Sighting(at, "log", event, time, flows[number], None, facts)


def _quoted(text: str) -> str:
    """Return a text as SQL has it (MariaDB, String Literals)."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

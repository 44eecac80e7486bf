"""A legacy database outside the cluster: MariaDB, which knows users and passwords and nothing of the mesh."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from harness import mariadb
from harness.evidence import Sighting
from harness.identity import Certificates
from harness.lab import Database, Line, Lines, Outside, Port, Word
from harness.plan import Bindings, Node, Plan, Runtime

FORWARDS = False


class Spec(Outside):
    """A database in a lab file."""

    kind: Literal["database"]
    port: Port = 3306
    schema_: Word = Field(alias="schema")
    users: dict[Word, Line] = Field(min_length=1)
    statements: Lines = ()


def render(node: Node, plan: Plan, bindings: Bindings, certificates: Certificates) -> Runtime:  # noqa: ARG001 - every kind's form
    """Return MariaDB, listening at the node's own address."""
    spec = node.spec
    if not isinstance(spec, Spec):
        raise TypeError(f"{node.name} is no database")
    held = Database(schema_=spec.schema_, users=spec.users, statements=spec.statements)
    return mariadb.runtime("mariadbd", held, bindings.folder(node.name), bindings.address(node), spec.port)


def read_log(node: Node, program: str, lines: Sequence[tuple[int, str]]) -> Iterator[Sighting]:
    """Yield each connection that logged in, with its statements and its end."""
    if program == "mariadbd":
        yield from mariadb.read_log(node.name, lines)

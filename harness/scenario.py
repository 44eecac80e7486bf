"""The scenario file: what must be true of a lab's flows. Frozen and validated."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from harness.lab import Entry

Duration = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(ms|s|m)$")]


class Client(Entry):
    """What the client saw: its exit status, and words in what it printed (either stream)."""

    exit: int | None = None
    shows: tuple[str, ...] = ()


class Identity(Entry):
    """The peer identity (a SPIFFE ID) that a hop verified."""

    at: str
    is_: str = Field(alias="is")


class Source(Entry):
    """The client address that a hop saw: `snat/<pool>`, `node`, `pod`, or the name of a node."""

    at: str | None = None
    is_: str = Field(alias="is")


class Packets(Entry):
    """Packets of this flow at a tap."""

    at: str
    where: str | None = None
    count: int | str | None = None
    layers: tuple[str, ...] = ()
    fields: dict[str, Any] = {}
    are: Literal["encrypted", "plain"] | None = None


class Outcome(Entry):
    """What may stand under each of the three outcomes."""

    client: Client | None = None
    identity: Identity | None = None
    source: Source | None = None
    packets: tuple[Packets, ...] = ()


class Allowed(Outcome):
    """The flow reached its destination, through these hops in this order."""

    path: tuple[str, ...] = ()


class Denied(Outcome):
    """A hop said no: which one, by what rule, and who behind it must have seen nothing."""

    at: str
    by: str | None = None
    unseen_by: tuple[str, ...] = ()


class Expect(Entry):
    """Exactly one outcome: `allowed`; `rejected` (the hop answered); `dropped` (the hop kept silent)."""

    allowed: Allowed | None = None
    rejected: Denied | None = None
    dropped: Denied | None = None


class Scenario(Entry):
    """One claim about one kind of flow, for one or more sources."""

    name: str
    labels: tuple[str, ...] = ()
    from_: tuple[str, ...] = Field(alias="from", default=())
    matrix: dict[Literal["from", "to", "through"], tuple[str, ...]] = {}
    run: str | None = None
    to: str | None = None
    through: str | None = None
    bypass: Literal["sidecar"] | None = None
    control: str | None = None
    within: Duration | None = None
    stable: int | None = None
    expect: Expect


class Defaults(Entry):
    """What holds for every scenario of a file that does not say otherwise."""

    within: Duration | None = None
    stable: int | None = None


class ScenarioFile(Entry):
    """A scenario file."""

    lab: str
    defaults: Defaults = Defaults()
    scenarios: tuple[Scenario, ...]


class Item(Entry):
    """One runnable case: a scenario with its matrix expanded. `id` is unique in its lab."""

    id: str
    scenario: Scenario
    source: str
    to: str | None = None
    through: str | None = None
    path: str
    line: int

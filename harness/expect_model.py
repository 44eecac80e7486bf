"""The models of what a scenario expects: what may stand under its outcome, key by key. Frozen."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from harness.entry import Entry
from harness.lab_words import Duration, Flag, Form, Line, Lines, SpiffeId, listed, shown

OUTCOMES = ("allowed", "rejected", "dropped")


def _count(value: Any) -> Any:
    number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if number or (isinstance(value, str) and re.fullmatch(r"(>=|<=|>|<) [0-9]{1,9}", value)):
        return value
    raise ValueError(f"{shown(value)} is not a count such as 3 or '>= 3'")


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, dict | Identity) else value


FieldName = Annotated[
    str, Form(r"^[A-Za-z0-9_]+\.[A-Za-z0-9_]+(#[1-9])?$", "a packet's field such as IP.ttl or IP.ttl#2")
]
"""`#2`: of the second such layer from outside, as in Wireshark's display filters (wireshark-filter(4))."""

LayerName = Annotated[str, Form(r"^[A-Za-z0-9_]+$", "a packet's layer such as TCP")]
Layers = Annotated[
    tuple[LayerName, ...], BeforeValidator(listed, json_schema_input_type=LayerName | list[LayerName])
]
Count = Annotated[
    int | str,
    BeforeValidator(_count),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": "^(>=|<=|>|<) [0-9]{1,9}$"},
            ]
        }
    ),
]
Texts = Annotated[tuple[str, ...], BeforeValidator(listed, json_schema_input_type=str | list[str])]


class Client(Entry):
    """What the client saw: its exit status, and words in what it printed (either stream)."""

    exit: Annotated[int, Field(ge=0, le=255, strict=True)] | None = None
    shows: Texts = ()


class Identity(Entry):
    """The peer identity (a SPIFFE ID) that a hop verified."""

    at: Line
    is_: SpiffeId = Field(alias="is")


Identities = Annotated[
    tuple[Identity, ...], BeforeValidator(_one_or_more, json_schema_input_type=Identity | list[Identity])
]


class Certificate(Entry):
    """The peer's certificate that a hop saw: `rotated`, the one in use after another was."""

    at: Line
    is_: Literal["rotated"] = Field(alias="is")


class Source(Entry):
    """The client address that a hop saw: `snat/<pool>`, `automap/<listener>`, `node`, `pod`, `net1`, or a node's name.

    Without `at`, a denial's own hop is meant. With `sticky`, all flows of a load that one pod sends have the same one;
    with `spread`, its flows have all addresses of the pool, and not only some.
    """

    at: Line | None = None
    is_: Line = Field(alias="is")
    sticky: Flag = False
    spread: Flag = False


class MtlsMode(Entry):
    """How the flow reached a pod, by the bytes on the wire there and by whom its sidecar verified."""

    at: Line
    is_: Literal["mutual", "plain"] = Field(alias="is")


class OtherTap(Entry):
    """Packets of this flow at another tap, of which there must be as many; `where` is a filter for those there."""

    at: Line
    where: Line | None = None


class Packets(Entry):
    """Packets of this flow at a tap (`<node>.<network>` or `<namespace>/<pod>.eth0`).

    `where` is a BPF filter; `count` a number, or a bound such as `>= 3`; `as_many_as` another tap with as many;
    `layers` (from outside) and `fields` are scapy's. A value may be `node/NAME` or `pod/NAMESPACE/NAME`: its address.
    What is wrapped in a tunnel's packet is of this flow too; `shows` is for what the innermost packets carry.
    """

    at: Line
    where: Line | None = None
    sent_by: Literal["client", "server"] | None = None
    count: Count | None = None
    as_many_as: OtherTap | None = None
    layers: Layers = ()
    fields: dict[FieldName, Any] = Field(default_factory=dict)
    shows: Texts = ()
    are: Literal["encrypted", "plain"] | None = None


Percent = Annotated[int, Field(ge=0, le=100, strict=True)]


class Split(Entry):
    """How a load's flows are divided among pods, in percent; `then` from a change of weights during the load on."""

    over: dict[Line, Percent]
    then: dict[Line, Percent] = Field(default_factory=dict)
    confidence: Annotated[float, Field(ge=0.9, le=0.999999)] = 0.999


Asn = Annotated[int, Field(ge=1, le=4294967294, strict=True)]


class RouteTo(Entry):
    """What a node's route to somewhere is like: by the kernel's own table, and BIRD's where BGP brought it.

    `to` is `pods/NODE` (the blocks of a cluster node), `former-pods/NODE` (those that it had before the steps and has
    no more), a pod, or a network. `via` is the next hop that the kernel has, `next_hop` BGP's attribute. `within` and
    `after` bound the time from the beginning of the last step to the change that made it so.
    """

    at: Line
    to: Line
    via: Line | None = None
    next_hop: Line | None = None
    protocol: Literal["bgp", "static", "boot", "kernel"] | None = None
    as_path: tuple[Asn, ...] | None = None
    absent: Flag = False
    within: Duration | None = None
    after: Duration | None = None


class Outcome(Entry):
    """What may stand under each of the three outcomes."""

    client: Client | None = None
    identity: Identities = ()
    certificate: Certificate | None = None
    source: Source | None = None
    mtls_mode: MtlsMode | None = None
    packets: tuple[Packets, ...] = ()
    routes: tuple[RouteTo, ...] = ()


class Allowed(Outcome):
    """The flow reached its destination, through these hops in this order."""

    path: Lines = ()
    split: Split | None = None


class Denied(Outcome):
    """A hop said no: which one (`any` if it does not matter), by what rule, and who behind it saw nothing."""

    at: Line
    by: Line | None = None
    unseen_by: Lines = ()


class Expect(Entry):
    """Exactly one outcome: `allowed`; `rejected` (the hop answered); `dropped` (the hop kept silent)."""

    allowed: Allowed | None = None
    rejected: Denied | None = None
    dropped: Denied | None = None

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_not_written(cls, data: Any) -> Any:
        """Keep an outcome with nothing after it: `allowed:` says all that must be said."""
        if not isinstance(data, dict):
            return {} if data is None else data
        return {key: {} if value is None and key in OUTCOMES else value for key, value in data.items()}

    @model_validator(mode="after")
    def _one_outcome(self) -> Self:
        found = [word for word in OUTCOMES if getattr(self, word) is not None]
        if len(found) != 1:
            words = " and ".join(found) or "none"
            raise ValueError(f"say exactly one of allowed, rejected and dropped; found {words}")
        return self

"""The models of the scenario file: what may stand in it, key by key. Frozen; the JSON schema comes from here.

Checks against the lab and between scenarios are in harness/scenario_checks.py.
"""

from __future__ import annotations

import shlex
from ipaddress import ip_address
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from harness.attacks import ATTACKS
from harness.entry import Entry
from harness.expect_model import Expect, Percent
from harness.lab_model import ClientTls, Mtls
from harness.lab_words import Capabilities, Duration, Flag, Form, Line, Lines, SpiffeId, listed, shown
from harness.labels import PodLabels

SCHEMES = ("tcp", "udp", "icmp", "http", "https", "tls")
READDRESSINGS = ("reboot", "add_block", "release_block")
STEPS = (
    "delete",
    "create",
    "kill",
    "stop",
    "restart",
    "break_",
    "weights",
    "mtls",
    "rotate",
    "route",
    "rp_filter",
    *READDRESSINGS,
)
_PROGRAM_STEPS = ("kill", "stop", "restart")
_BELONGS = {
    "address_of": ("create",),
    "service_account": ("create",),
    "inject": ("create",),
    "labels": ("create",),
    "program": _PROGRAM_STEPS,
    "to": ("weights",),
    "accepts": ("mtls",),
    "sends": ("mtls",),
    "keep": ("rotate",),
    "toward": ("route",),
    "via": ("route",),
    "mode": ("rp_filter",),
}
_NO_LABELS = (
    "and",
    "or",
    "not",
    "True",
    "False",
    "None",
    "parametrize",
    "skip",
    "skipif",
    "usefixtures",
    "xfail",
)


def _command(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError:
        raise ValueError(f"{shown(value)} has a quote or a backslash that nothing closes") from None
    if not words:
        raise ValueError("the command is empty")
    return value


def _url(value: str) -> str:
    try:
        url = urlsplit(value)
        host, port = url.hostname or "", url.port
    except ValueError:
        raise ValueError(f"{shown(value)} is not a URL with a port from 1 to 65535") from None
    if url.scheme not in SCHEMES or not host or url.username is not None or url.query or url.fragment:
        raise ValueError(
            f"{shown(value)} is not a URL such as tcp://tinyproxy:8888 or https://www.example.com/path"
        )
    if url.scheme in {"tcp", "udp", "tls"} and (port is None or url.path):
        raise ValueError(f"{shown(value)} must be {url.scheme}://NAME:PORT")
    if url.scheme == "icmp" and (port is not None or url.path):
        raise ValueError(f"{shown(value)} must be icmp://NAME")
    if port == 0:
        raise ValueError(f"{shown(value)} is not a URL with a port from 1 to 65535")
    if _is_address(host):
        raise ValueError(f"{shown(value)} holds an address; scenarios use the lab's names")
    return value


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _hop_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if _is_address(host):
        raise ValueError(f"{shown(value)} holds an address; scenarios use the lab's names")
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"port {port} is out of range; a port is 1 to 65535")
    return value


def _label(value: str) -> str:
    if value in _NO_LABELS:
        raise ValueError(f"{value!r} has a meaning of its own in pytest; choose another label")
    return value


Positive = Annotated[int, Field(ge=1, strict=True)]
Command = Annotated[str, AfterValidator(_command)]
Url = Annotated[str, AfterValidator(_url)]
Through = Annotated[
    str,
    Form(r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?:[0-9]{1,5}$", "a service and port such as bigip-proxy-svc:3128"),
    AfterValidator(_hop_and_port),
]
Marker = Annotated[
    str,
    Form(r"^[a-z][a-z0-9_-]*$", "a label (lower-case letters, digits, '_' and '-', a letter first)", 63),
    AfterValidator(_label),
]
AttackName = Annotated[Line, WithJsonSchema({"type": "string", "enum": list(ATTACKS)})]
AttackNames = Annotated[
    tuple[AttackName, ...], BeforeValidator(listed, json_schema_input_type=AttackName | list[AttackName])
]
Urls = Annotated[tuple[Url, ...], BeforeValidator(listed, json_schema_input_type=Url | list[Url])]
Throughs = Annotated[
    tuple[Through, ...], BeforeValidator(listed, json_schema_input_type=Through | list[Through])
]
Markers = Annotated[tuple[Marker, ...], BeforeValidator(listed, json_schema_input_type=Marker | list[Marker])]


class Matrix(Entry):
    """Lists of which every combination is a case of its own."""

    from_: Lines = Field(alias="from", default=())
    to: Urls = ()
    through: Throughs = ()
    attack: AttackNames = ()


class Step(Entry):
    """One thing done to the lab before a scenario, and undone after it.

    `delete` and `create` take a pod away and add one (a client; with `address_of` at the address of a pod that was
    deleted before it). `kill`, `stop` and `restart` name a node, and with `program` one program of it; `break` a tap
    whose link goes down. `weights` gives a route others: `to` names each of its destinations with its percentage.
    `mtls` gives a namespace or workload another policy: what its servers accept, what its clients send.
    `rotate` replaces the certificates of a pod or node, or with `ca` the mesh's authority and
    all that it issued, but for the pods in `keep`.
    `route` names a node on which a route is written by hand: `toward` a node's pods or a network, `via` a node.
    `rp_filter` has a gateway check in another `mode` by which interface a packet came in.
    `reboot` starts a cluster node anew, with another block for its pods; `add_block` and `release_block` give it one
    more, and take it back.
    """

    delete: Line | None = None
    create: Line | None = None
    address_of: Line | None = None
    service_account: Line | None = None
    inject: bool | None = None
    labels: PodLabels | None = None
    kill: Line | None = None
    stop: Line | None = None
    restart: Line | None = None
    program: Line | None = None
    break_: Line | None = Field(alias="break", default=None)
    weights: Line | None = None
    to: dict[Line, Percent] = Field(default_factory=dict)
    mtls: Line | None = None
    accepts: Mtls | None = None
    sends: ClientTls | None = None
    rotate: Line | None = None
    keep: Lines | None = None
    route: Line | None = None
    toward: Line | None = None
    via: Line | None = None
    rp_filter: Line | None = None
    mode: Literal["off", "loose", "strict"] | None = None
    reboot: Line | None = None
    add_block: Line | None = None
    release_block: Line | None = None

    @model_validator(mode="after")
    def _one_step(self) -> Self:
        found = [word for word in STEPS if getattr(self, word) is not None]
        if len(found) != 1:
            known = ", ".join(word.rstrip("_") for word in STEPS)
            raise ValueError(f"say exactly one of {known}; found {' and '.join(found) or 'none'}")
        for key, words in _BELONGS.items():
            if getattr(self, key) not in (None, {}) and found[0] not in words:
                raise ValueError(f"{key!r} goes with {' or '.join(words)} only")
        if self.rp_filter is not None and self.mode is None:
            raise ValueError("say how strictly reverse paths are to be checked: 'mode' off, loose or strict")
        if self.mtls is not None and self.accepts is None and self.sends is None:
            raise ValueError(
                "say what of mutual TLS is to be: what servers accept ('accepts'), clients send ('sends')"
            )
        return self

    @property
    def does(self) -> tuple[str, str]:
        """The step's word and what it is done to."""
        word = next(word for word in STEPS if getattr(self, word) is not None)
        return word.rstrip("_"), getattr(self, word)


class Load(Entry):
    """A scenario's flow sent again and again at a steady rate; each is judged by itself.

    With `in_turn` the pods of `from` send them in turn, in place of each its own load.
    """

    flows: Annotated[int, Field(ge=2, le=2000, strict=True)]
    per_second: Annotated[int, Field(ge=1, le=500, strict=True)] = 100
    in_turn: Flag = False


class Table(Entry):
    """Where a scenario stands in the report's table; row and column come in the order of the files.

    Without `row`, an attack's own title is its row.
    """

    row: Annotated[Line, Field(min_length=1)] | None = None
    column: Annotated[Line, Field(min_length=1)]


class Scenario(Entry):
    """One claim about one kind of flow, for one or more sources.

    `from` names pods, with `*` for any text; `run` is a command, split as a shell does; `to` a URL to probe. It is
    skipped without what it `needs`. `during` are steps done while a `load` runs, when a third of its time is over.
    Over TLS the probe `presents` a certificate of the mesh with this SPIFFE ID, or what an `attack` makes of it.
    """

    name: Annotated[Line, Field(min_length=1)]
    labels: Markers = ()
    needs: Capabilities = ()
    table: Table | None = None
    from_: Lines = Field(alias="from", default=())
    matrix: Matrix = Matrix()
    run: Command | None = None
    to: Url | None = None
    through: Through | None = None
    presents: SpiffeId | None = None
    attack: AttackName | None = None
    bypass: Literal["sidecar"] | None = None
    given: tuple[Step, ...] = ()
    load: Load | None = None
    during: tuple[Step, ...] = ()
    control: Line | None = None
    within: Duration | None = None
    stable: Positive | None = None
    expect: Expect


class Defaults(Entry):
    """What holds for every scenario of a file that does not say otherwise."""

    within: Duration | None = None
    stable: Positive | None = None


class ScenarioFile(Entry):
    """A scenario file; `lab` is the name of a shipped lab, or a path relative to the file."""

    lab: Annotated[Line, Field(min_length=1)]
    defaults: Defaults = Defaults()
    scenarios: tuple[Scenario, ...]


class Item(Entry):
    """One runnable case: a scenario with its lists, globs and matrix expanded. `id` is unique in its lab.

    `sources` are the pods that send a load in turn. `controls` are all cases of the scenario's control; `path` and
    `line` say where the scenario is written.
    """

    id: str
    scenario: Scenario
    source: str
    sources: tuple[str, ...] = ()
    to: str | None = None
    through: str | None = None
    attack: str | None = None
    path: str
    line: int
    controls: tuple[Item, ...] = ()

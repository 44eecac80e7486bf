"""The words of which lab and scenario files are made: the form of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class Form:
    """The form that a text must have: a regular expression for machines, a phrase for people."""

    pattern: str
    phrase: str
    longest: int = 253

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "pattern": self.pattern, "maxLength": self.longest}

    def _check(self, value: str) -> str:
        if not re.search(self.pattern, value) or value.endswith("\n") or len(value) > self.longest:
            raise ValueError(f"{shown(value)} is not {self.phrase}")
        return value


def seconds_of(duration: str) -> float:
    """Return a duration such as `300ms`, `5s` or `2m` in seconds; raises ValueError for another form."""
    found = re.fullmatch(r"([0-9.]+)(ms|s|m)", duration)
    if found is None:
        raise ValueError(f"{shown(duration)} is not a duration such as 300ms, 5s or 2m")
    return float(found[1]) * _UNITS[found[2]]


def shown(value: object) -> str:
    """Return a value as a message shows it: quoted, and cut when it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def listed(value: Any) -> Any:
    """Return one scalar as a list of one; for keys that take either."""
    return [value] if isinstance(value, str | int) and not isinstance(value, bool) else value


def _address(value: Any) -> Any:
    if isinstance(value, IPv4Address):
        return value
    try:
        if isinstance(value, str):
            return IPv4Address(value)
    except AddressValueError:
        pass
    raise ValueError(f"{shown(value)} is not an IPv4 address such as 10.4.0.201")


def _network(value: Any) -> Any:
    if isinstance(value, IPv4Network):
        return value
    written, slash, _ = str(value).partition("/")
    try:
        network = IPv4Network(value if slash else "", strict=False)
    except ValueError:
        raise ValueError(f"{shown(value)} is not an IPv4 network such as 10.4.0.0/24") from None
    if str(network.network_address) != written:
        raise ValueError(f"{shown(value)} has host bits set; the network is {network}")
    return network


def _network6(value: Any) -> Any:
    if isinstance(value, IPv6Network):
        return value
    written, slash, _ = str(value).partition("/")
    try:
        network = IPv6Network(value if slash else "", strict=False)
        same = network.network_address == IPv6Address(written)
    except ValueError:
        raise ValueError(f"{shown(value)} is not an IPv6 network such as fd00:10::/64") from None
    if not same:
        raise ValueError(f"{shown(value)} has host bits set; the network is {network}")
    return network


Name = Annotated[
    str,
    Form(
        r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        "a name (at most 63 lower-case letters, digits, '.' and '-', with a letter or digit at both ends)",
        63,
    ),
]
Label = Annotated[
    str,
    Form(
        r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
        "a DNS label (at most 63 lower-case letters, digits and '-', with a letter or digit at both ends)",
        63,
    ),
]
SpiffeId = Annotated[
    str,
    Form(
        r"^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)+$",
        "a SPIFFE ID such as spiffe://cluster.local/ns/bookinfo/sa/default",
        2048,  # SPIFFE-ID section 2.3
    ),
]
Line = Annotated[str, Form(r"^[^\x00-\x1f]*$", "text on one line", 253)]
Word = Annotated[
    str,
    Form(r"^[a-z][a-z0-9_]*$", "a word (at most 64 lower-case letters, digits and '_', a letter first)", 64),
]
"""What may be the name of a schema or a user (MariaDB: at most 64 characters)."""

Duration = Annotated[str, Form(r"^[0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m)$", "a duration such as 500ms, 5s or 1m")]
Capability = Literal["geneve", "ipip", "ipv6", "vxlan", "istio"]
"""What not every machine can do: links of that kind (ip-link(8)), IPv6 beside IPv4; and what not every cluster has."""
CAPABILITIES: tuple[Capability, ...] = get_args(Capability)
Flag = Annotated[bool, Field(strict=True)]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Mtu = Annotated[int, Field(ge=576, le=9000, strict=True)]
"""The longest IP packet of a link, in bytes: from what every host takes (RFC 791) to a jumbo frame's."""
Address = Annotated[IPv4Address, BeforeValidator(_address, json_schema_input_type=str)]
Cidr6 = Annotated[IPv6Network, BeforeValidator(_network6, json_schema_input_type=str)]
Cidr = Annotated[IPv4Network, BeforeValidator(_network, json_schema_input_type=str)]
Labels = Annotated[tuple[Label, ...], BeforeValidator(listed, json_schema_input_type=Label | list[Label])]
Names = Annotated[tuple[Name, ...], BeforeValidator(listed, json_schema_input_type=Name | list[Name])]
Lines = Annotated[tuple[Line, ...], BeforeValidator(listed, json_schema_input_type=Line | list[Line])]
Ports = Annotated[tuple[Port, ...], BeforeValidator(listed, json_schema_input_type=Port | list[Port])]
Capabilities = Annotated[
    tuple[Capability, ...],
    BeforeValidator(listed, json_schema_input_type=Capability | list[Capability]),
]
Addresses = Annotated[
    tuple[Address, ...],
    Field(min_length=1),
    BeforeValidator(listed, json_schema_input_type=str | list[str]),
]

"""BIRD's control socket: a request is a line of birdc's language, an answer lines with codes of four digits.

`NNNN-text` is a line of an answer, a line that begins with a blank continues the code before it, and `NNNN text` is
the last (BIRD User's Guide, chapter "Remote control"; nest/cmds, doc/reply_codes of its source).
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

SYNTAX_ERROR, RUNTIME_ERROR = 9000, 8000
"""From these codes on an answer says that the request failed."""

_LAST = re.compile(rb"^(\d{4}) ", re.MULTILINE)
_CHUNK = 1 << 16
_ROUTE = re.compile(
    r"^(?P<net>\S+)?\s+(?:unicast|blackhole|unreachable|prohibit) \[(?P<source>\S+) .*?\](?P<rest>.*)$"
)
_VIA = re.compile(r"^\s*via (?P<gateway>\S+) on (?P<device>\S+)")
_ATTRIBUTE = re.compile(r"^\s*(?P<name>BGP\.\w+|Type):(?P<value>.*)$")


class BirdError(Exception):
    """BIRD did not answer, or said that a request is wrong; the message is its own."""


@dataclass(frozen=True)
class BirdRoute:
    """A route in BIRD's table; `next_hop` and `as_path` are BGP's attributes, `gateway` is what they resolve to.

    `type` is BIRD's word, `BGP` or `inherit` and such; `best` whether it is the one that BIRD uses.
    """

    destination: str
    source: str
    best: bool
    type: str = ""
    gateway: str | None = None
    next_hop: str | None = None
    as_path: tuple[int, ...] = ()


def ask(path: str, request: str, seconds: float = 2.0) -> list[tuple[int, str]]:
    """Send a request to the socket at `path` and return the answer's lines as (code, text).

    Raises BirdError when there is no answer in time, or the answer is that it failed.
    """
    deadline = time.monotonic() + seconds
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(seconds)
            link.connect(path)
            _receive(link, deadline)  # its greeting
            link.sendall(request.encode() + b"\n")
            answer = list(_lines(_receive(link, deadline)))
    except OSError as error:
        raise BirdError(f"BIRD at {path} does not answer: {error.strerror or error}") from error
    code, text = answer[-1]
    if code >= RUNTIME_ERROR:
        raise BirdError(f"BIRD refuses {request!r}: {text}")
    return answer


def routes(answer: list[tuple[int, str]]) -> tuple[BirdRoute, ...]:
    """Return the routes in an answer to `show route all`."""
    found: list[BirdRoute] = []
    net = ""
    for _, text in answer:
        if route := _ROUTE.match(text):
            net = route["net"] or net
            found.append(BirdRoute(net, route["source"], best="*" in route["rest"]))
        elif found and (via := _VIA.match(text)):
            found[-1] = replace(found[-1], gateway=via["gateway"])
        elif found and (attribute := _ATTRIBUTE.match(text)):
            found[-1] = _with_attribute(found[-1], attribute["name"], attribute["value"].strip())
    return tuple(found)


def sessions_down(answer: list[tuple[int, str]]) -> tuple[str, ...]:
    """Return the BGP sessions in an answer to `show protocols` that are not established."""
    rows = [text.split() for _, text in answer]
    return tuple(row[0] for row in rows if row[1:2] == ["BGP"] and row[-1] != "Established")


def _with_attribute(route: BirdRoute, name: str, value: str) -> BirdRoute:
    if name == "Type":
        return replace(route, type=value.partition(" ")[0])
    if name == "BGP.next_hop":
        return replace(route, next_hop=value.partition(" ")[0])
    if name == "BGP.as_path":
        return replace(route, as_path=tuple(int(word) for word in value.split() if word.isdecimal()))
    return route


def _receive(link: socket.socket, deadline: float) -> bytes:
    """Read one whole answer; raises OSError when it does not end in time."""
    data = b""
    while not (_LAST.search(data) and data.endswith(b"\n")):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(110, "no whole answer in time")
        link.settimeout(left)
        more = link.recv(_CHUNK)
        if not more:
            raise ConnectionError(104, "it closed the connection")
        data += more
    return data


def _lines(data: bytes) -> Iterator[tuple[int, str]]:
    code = 0
    for line in data.decode(errors="replace").splitlines():
        if line[:4].isdigit() and line[4:5] in (" ", "-"):
            code, text = int(line[:4]), line[5:]
        else:
            text = line[1:]
        yield code, text

"""HAProxy as egress proxy: mutual TLS, the decision in Lua, then a TCP proxy.

HAProxy 2.6 has no fetch for alternative names, and a pattern on the certificate's bytes would also find a name that
stands elsewhere in it. So the certificate is read field by field (identity.lua). The content rule that runs it comes
before any server is chosen: the rejected are never dialled for. They are closed once their first bytes were read, for
a close over unread bytes makes the kernel send a RST, and what a client then shows is a matter of luck.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.evidence import Sighting
from harness.plan import File, Program, Ready, Runtime
from harness.proxy import (
    HUNG_UP,
    TRUST,
    Differences,
    Instead,
    Proxy,
    Rule,
    VirtualServer,
    files_of,
    read_events,
)
from harness.sightings import json_lines

DIFFERENCES = Differences(
    answer="FIN, once its first bytes are read (or after 1 s)",
    instead=(
        Instead("policy", 56, "Recv failure: Connection reset by peer", (56,), "Proxy CONNECT aborted"),
    ),
    limits=(
        "its certificates and roots cannot change while it runs: a lab that asks for `rotate` is refused",
    ),
)

_IDENTITY = Path(__file__).parent / "identity.lua"

_GLOBAL = """\
global
    log stdout format raw daemon
    nbthread 1
    maxconn 4096
    tune.ssl.cachesize 0{keylog}
    lua-load {folder}/policy.lua
    lua-load {folder}/identity.lua

defaults
    mode tcp
    log global
    timeout connect 5s
    timeout client 1h
    timeout server 1h
"""

_FRONTEND = """
frontend {name}
    bind {listen} ssl crt {folder}/{name}.pem ca-file {folder}/{trust} verify {verify} \
ssl-min-ver TLSv1.2 no-tls-tickets
    unique-id-format %Ts.%rt
    log-format '{close}'
    error-log-format '{failed}'
    tcp-request inspect-delay 1s
    tcp-request content lua.decide {policy} {name}
    tcp-request content accept if {{ var(txn.verdict) -m str PERMITTED }}
    tcp-request content reject if {{ req.len gt 0 }}
    tcp-request content reject if WAIT_END
    default_backend {name}

backend {name}
    server next {forward_to}{source}
"""

_CLIENT = '"virtual_server":"{name}","peer":"%ci:%cp","local":"%fi:%fp"'
_CLOSE = (
    '{{"event":"close","conn":"%ID",'
    + _CLIENT
    + ',"upstream_local":"%bi:%bp","upstream_remote":"%si:%sp","verdict":"%[var(txn.verdict)]",'
    '"bytes_in":%U,"bytes_out":%B,"reason":"%ts"}}'
)
_FAILED = (
    '{{"event":"tls-failed","conn":"%Ts.%rt",' + _CLIENT + ',"reason":"%[ssl_fc_err_str,json(utf8s)]",'
    '"otherwise":"%[fc_err_str,json(utf8s)]"}}'
)


def render(proxy: Proxy) -> Runtime:
    """Return HAProxy with a frontend and a backend for each virtual server, and its policies in Lua."""
    keylog = "\n    tune.ssl.keylog on" if proxy.key_log else ""
    sections = [_GLOBAL.format(folder=proxy.folder, keylog=keylog)]
    sections += [_sections(server, proxy.folder) for server in proxy.virtual_servers]
    found = (
        *files_of(proxy),
        File("haproxy.cfg", "".join(sections)),
        File("policy.lua", _policies(proxy.policies) + _key_log(proxy.key_log)),
        File("identity.lua", _IDENTITY.read_text(encoding="utf-8")),
    )
    port = proxy.virtual_servers[0].listen.rpartition(":")[2]
    argv = ("haproxy", "-db", "-f", f"{proxy.folder}/haproxy.cfg")
    return Runtime(programs=(Program("egress-proxy", argv, Ready("listens", port)),), files=found)


def read_log(name: str, program: str, lines: Sequence[tuple[int, str]]) -> Iterator[Sighting]:  # noqa: ARG001 - every engine's form
    """Yield what HAProxy says about each connection: the decision when it falls, all the rest at its end."""
    for line in json_lines(lines):
        yield from read_events(name, _events(line))


def _events(line: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    event = dict(line)
    if event.get("event") == "tls-failed":
        reason = event.get("reason") or event.get("otherwise") or HUNG_UP
        yield event | {"reason": reason}
        yield event | {"event": "close", "reason": reason}
        return
    if event.get("event") == "close" and event.get("verdict") == "PERMITTED":
        yield event | {"event": "upstream"}
    yield event


def _sections(server: VirtualServer, folder: str) -> str:
    return _FRONTEND.format(
        name=server.name,
        listen=server.listen,
        folder=folder,
        trust=TRUST,
        verify="required" if server.client_certificate_required else "optional",
        policy=server.policy,
        close=_CLOSE.format(name=server.name),
        failed=_FAILED.format(name=server.name),
        forward_to=server.forward_to,
        source=f" source {server.bind}" if server.bind else "",
    )


def _policies(policies: Mapping[str, Sequence[Rule]]) -> str:
    """Return the policies as a Lua table: name to rules in order."""
    lines = ["policies = {"]
    for name, rules in policies.items():
        lines.append(f"  [{_text(name)}] = {{")
        for rule in rules:
            field, value = (
                ("id", rule.spiffe_id) if rule.spiffe_id is not None else ("prefix", rule.spiffe_prefix)
            )
            lines.append(f"    {{permit = {str(rule.permit).lower()}, {field} = {_text(value or '')}}},")
        lines.append("  },")
    return "\n".join([*lines, "}", ""])


def _key_log(path: str | None) -> str:
    """Return what has identity.lua write secrets down: they are nothing for the log that everybody reads."""
    return f"key_log = {_text(path)}\n" if path else ""


def _text(value: str) -> str:
    """Return a Lua string: what is not a plain character as its bytes' decimal escapes."""
    plain = b"/:.-_"
    quoted = (
        chr(byte) if (chr(byte).isalnum() and byte < 128) or byte in plain else f"\\{byte:03d}"
        for byte in value.encode()
    )
    return '"' + "".join(quoted) + '"'

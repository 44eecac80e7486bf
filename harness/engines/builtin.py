"""The engine that the scenarios are written for: this project's proxy, which answers as the article shows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from harness.evidence import Sighting
from harness.plan import File, Program, Ready, Runtime
from harness.proxy import TRUST, Differences, Proxy, Rule, files_of, read_events
from harness.sightings import json_lines

DIFFERENCES = Differences(
    answer="RST, once its first bytes are read (or after 1 s)",
    faults=True,
    rotates=True,
)


def render(proxy: Proxy) -> Runtime:
    """Return the proxy program with its configuration (harness/programs/policy.py has the form).

    It looks at its certificates before each connection, so that nothing need be waited for when they change.
    """
    config = {
        "name": proxy.name,
        "fault": proxy.fault,
        **({"keylog": proxy.key_log} if proxy.key_log else {}),
        "policies": {name: [_rule(rule) for rule in rules] for name, rules in proxy.policies.items()},
        "virtual_servers": [
            {
                "name": server.name,
                "listen": server.listen,
                "certificate": f"{proxy.folder}/{server.name}.pem",
                "key": f"{proxy.folder}/{server.name}.pem",
                "trust": f"{proxy.folder}/{TRUST}",
                "client_certificate": "require" if server.client_certificate_required else "optional",
                "policy": server.policy,
                "forward_to": server.forward_to,
                "bind": server.bind,
            }
            for server in proxy.virtual_servers
        ],
    }
    argv = (*proxy.python, f"{proxy.programs}/egress_proxy.py", f"{proxy.folder}/egress_proxy.json")
    return Runtime(
        programs=(Program("egress-proxy", argv, Ready("log", '"ready"')),),
        files=(*files_of(proxy), File("egress_proxy.json", json.dumps(config))),
    )


def read_log(name: str, program: str, lines: Sequence[tuple[int, str]]) -> Iterator[Sighting]:  # noqa: ARG001 - every engine's form
    """Yield what the proxy says about each connection."""
    yield from read_events(name, json_lines(lines))


def _rule(rule: Rule) -> dict[str, str]:
    action = "permit" if rule.permit else "reject"
    if rule.spiffe_id is not None:
        return {"action": action, "spiffe_id": rule.spiffe_id}
    return {"action": action, "spiffe_prefix": rule.spiffe_prefix or ""}

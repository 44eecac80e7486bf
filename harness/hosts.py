"""testinfra hosts for the nodes of a running lab: what testinfra asks is answered from inside the node.

Of testinfra's modules, those that ask only for what every Debian has work anywhere (run, exists, file,
addr, environment, mount_point, sysctl, user, group); `interface` needs `ip` and `socket` needs `ss` (both
of iproute2); `process` needs `ps` (procps, which a minimal Debian image lacks). The nodes of a lab share
one process table: `host.process.filter(netns=...)` keeps one node's. `sudo` does not work in a sandbox and
need not: commands have its capabilities already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host

from harness.errors import InputError, LostEvidence
from harness.lookup import nearest

if TYPE_CHECKING:
    from harness.running import RunningLab

COMMAND_SECONDS = 30.0


class LabBackend(BaseBackend):  # type: ignore[misc] # testinfra's types are not followed, see pyproject.toml
    """Runs testinfra's commands in one node of a lab, each by a shell of its own."""

    NAME = "egresslab"

    def __init__(self, lab: RunningLab, node: str) -> None:
        self._lab = lab
        super().__init__(f"{lab.name}/{node}")
        self.node = node

    def run(self, command: str, *args: str, **_: Any) -> CommandResult:
        """Run a shell command; `args` are quoted into its `%s`, exit status is 128 + N after signal N.

        Raises LostEvidence when the command has no exit status after COMMAND_SECONDS, GoneError when the
        lab is gone.
        """
        line = self.get_command(command, *args)
        found = self._lab.run(self.node, ("/bin/sh", "-c", line), seconds=COMMAND_SECONDS, capable=True)
        if found.code is None:
            raise LostEvidence(f"{self.node}: {line!r} did not end within {COMMAND_SECONDS:g} s")
        code = found.code if found.code >= 0 else 128 - found.code
        return self.result(code, self.encode(line), found.stdout, found.stderr)

    def get_encoding(self) -> str:
        """Return what every node speaks; testinfra would start an interpreter in the node to ask."""
        return "utf-8"


def lab_host(lab: RunningLab, node: str) -> Host:
    """Return a testinfra host for a node (`firewall`, `bookinfo/productpage`).

    Raises InputError with the nearest name when the lab has no such node.
    """
    known = [other.name for other in lab.plan.nodes]
    if node not in known:
        raise InputError(f"no pod or node {node!r} in lab {lab.name!r}; {nearest(node, known)}")
    backend = LabBackend(lab, node)
    host = Host(backend)
    backend.set_host(host)
    return host

"""Run a command in a node of the container that this program is in, on this program's own streams.

    python3 -m harness.agent.enter TAG NODE CAPABLE COMMAND [ARGUMENT...]

The agent is passed the streams; who carries them here need not know of namespaces. Ends as the command does, with 128 +
N after signal N. By the tag the agent knows which command to send a signal to.
"""

from __future__ import annotations

import json
import socket
import sys
from typing import Any

from harness.agent import PROTOCOL
from harness.agent.container import CONTROL

_NOT_FOUND = 127


def main() -> int:
    """Run with: tag, node, 1 where it is to have capabilities, and the command."""
    tag, node, capable, *argv = sys.argv[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.connect(CONTROL)
        fields = {"node": node, "argv": argv, "capable": capable == "1", "tag": tag}
        told = _ask(link, "exec", fields, (0, 1, 2))
        if told["child"] is None:
            sys.stderr.write(told["reason"] + "\n")
            return _NOT_FOUND
        code: int = _ask(link, "wait", {"child": told["child"]})["code"]
    return code if code >= 0 else 128 - code


def _ask(link: socket.socket, op: str, fields: dict[str, Any], fds: tuple[int, ...] = ()) -> dict[str, Any]:
    request = json.dumps({"id": 1, "protocol": PROTOCOL, "op": op, **fields}).encode() + b"\n"
    if fds:
        socket.send_fds(link, [request], fds)
    else:
        link.sendall(request)
    answer = b""
    while not answer.endswith(b"\n"):
        data = link.recv(1 << 16)
        if not data:
            sys.exit("the agent of this container went away")
        answer += data
    told = json.loads(answer)
    if not told["ok"]:
        sys.exit(told["error"])
    result: dict[str, Any] = told["result"]
    return result


if __name__ == "__main__":
    sys.exit(main())

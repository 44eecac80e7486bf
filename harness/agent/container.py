"""The first process of a container: stands up what the payload beside it says, and serves whoever comes by the socket.

Files arrive before the container starts; the way in afterwards is a program beside it (`nc -U`), whose streams the
container engine carries.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path

from harness.agent import syscalls as sys_
from harness.agent.control import Server
from harness.agent.folders import PRIVATE
from harness.agent.lab_process import Lab
from harness.agent.layout import Payload
from harness.agent.readiness import Failed

PAYLOAD = f"{PRIVATE}/payload"
CONTROL = f"{PRIVATE}/control"
"""The path of the control socket; it is there once the container's part of the lab stands."""
OWNED = "EGRESSLAB_OWNED"
"""An environment variable: set when the container is to end with the connection that holds it."""
LEASE_SECONDS = 60.0
"""How long an owned container waits for its owner, who has every container of the lab to wait for."""


def main() -> int:
    """Run until told to stop, or until the owner is gone; what goes wrong before that is printed in one line."""
    stop = threading.Event()
    threading.excepthook = _end
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        payload: Payload = pickle.loads(Path(PAYLOAD).read_bytes())  # noqa: S301 - put here by who made us
        os.environ["PATH"] = payload.path
        if sys_.permitted_capabilities() >> sys_.CAP_SYS_ADMIN & 1:
            _open_sysctls()
        lab = Lab(payload, contained=True)
        lab.stop = stop
        lab.stand_up()
    except Failed as error:
        sys.stderr.write(f"failed: {error}\n")
        return 1
    except Exception:  # noqa: BLE001 - a defect of ours; whoever made the container shows it
        traceback.print_exc(file=sys.stderr)
        return 1
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.bind(CONTROL + ".new")
    control.listen(64)
    Server(lab, os.geteuid(), control).start()
    Path(CONTROL + ".new").rename(CONTROL)  # who finds it can connect
    if os.environ.get(OWNED):
        lab.held.wait(LEASE_SECONDS)
        if not lab.held.is_set():
            return 1
    stop.wait()
    lab.close()
    return 0


def _end(failed: threading.ExceptHookArgs) -> None:
    """End the container when one of its threads fails: whoever waits for it would wait for good."""
    traceback.print_exception(failed.exc_type, failed.exc_value, failed.exc_traceback)
    os._exit(1)


def _open_sysctls() -> None:
    """Have /proc/sys writable: pods are network namespaces of ours, with sysctls of their own."""
    sys_.mount("proc", "/proc", "proc", sys_.MS_NOSUID | sys_.MS_NODEV | sys_.MS_NOEXEC)


if __name__ == "__main__":
    sys.exit(main())

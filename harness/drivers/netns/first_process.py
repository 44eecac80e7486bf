"""PID 1 of the sandbox: enters it, stands the lab up, serves its owner until told to stop."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback

from harness.agent.lab_process import Lab
from harness.agent.layout import Payload
from harness.agent.readiness import Failed
from harness.drivers.netns import sandbox


def main(name: str, owner: int, payload_fd: int, status: int, control: socket.socket) -> int:
    """Run the lab until told to stop; what goes wrong before it stands goes to the status pipe in one line."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    begun = time.monotonic()
    try:
        with os.fdopen(payload_fd, "rb") as file:
            payload: Payload = pickle.load(file)  # noqa: S301 - written by our own parent, through a descriptor
        sandbox.enter(payload.keep)
        socket.sethostname(name[:63])
        os.environ["PATH"] = payload.path
        lab = Lab(payload)
        lab.stop = stop
        lab.phases.append(("sandbox", time.monotonic() - begun))
        lab.stand_up()
    except sandbox.Refused as error:
        _tell(status, error=str(error), kind="refused")
        return 1
    except Failed as error:
        _tell(status, error=str(error), kind="failed")
        return 1
    except Exception:  # noqa: BLE001 - a defect of ours; the watcher hands the traceback to the crash report
        traceback.print_exc(file=sys.stderr)
        _tell(status, error="the lab process failed; this is a defect of egresslab", kind="defect")
        return 1
    from harness.agent.control import Server  # noqa: PLC0415 - needed only once the lab stands

    Server(lab, owner, control).start()
    _tell(status, ready=True, phases=lab.phases)
    os.close(status)
    stop.wait()
    lab.close()
    return 0


def _tell(status: int, **facts: object) -> None:
    os.write(status, json.dumps(facts).encode() + b"\n")

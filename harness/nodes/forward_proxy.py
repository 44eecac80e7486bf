"""The forward proxy: tinyproxy, which tunnels with CONNECT to the ports it is told."""

from __future__ import annotations

from typing import Literal

from harness.lab import Outside, Port, Ports

FORWARDS = False


class Spec(Outside):
    """A forward proxy in a lab file."""

    kind: Literal["forward-proxy"]
    port: Port = 8888
    connect_ports: Ports = (443,)

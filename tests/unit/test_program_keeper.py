"""The program that keeps connections open: it says when all of them stand, and makes a lost one anew."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from program_process import PATIENCE, PROGRAMS, ProgramProcess

if TYPE_CHECKING:
    from pathlib import Path


def test_it_keeps_as_many_as_it_is_told(tmp_path: Path) -> None:
    """Both connections stand before it is ready; one that the server ends is made again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        config = {"to": f"{host}:{port}", "connections": 2}
        with ProgramProcess("keeper", config, tmp_path) as keeper:
            first, second = server.accept(), server.accept()
            assert keeper.until("ready")["connections"] == 2
            lost = "{}:{}".format(*first[1])
            assert keeper.until("connected", local=lost)["remote"] == f"{host}:{port}"
            first[0].close()
            keeper.until("lost", local=lost)
            third = server.accept()
            keeper.until("connected", local="{}:{}".format(*third[1]))
            second[0].close()
            third[0].close()


def test_it_tries_again_where_nobody_listens(tmp_path: Path) -> None:
    """It says why a connection could not be made, and has it once there is a server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
    keeper = ProgramProcess("keeper", {"to": f"{host}:{port}", "connections": 1}, tmp_path)
    try:
        assert "refused" in keeper.until("failed")["reason"]
        with socket.create_server((host, port)) as server:
            keeper.until("ready")
            server.accept()[0].close()
    finally:
        keeper.__exit__()


def test_an_unusable_configuration_is_told_in_a_sentence(tmp_path: Path) -> None:
    """Exit status 2, and no traceback."""
    config = tmp_path / "keeper.json"
    config.write_text(json.dumps({"to": "nowhere"}), encoding="utf-8")
    argv = [sys.executable, str(PROGRAMS / "keeper.py"), str(config)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 2
    assert "it needs `to` and `connections`" in done.stderr
    assert "Traceback" not in done.stderr

"""A program of harness/programs started as a process of its own, with its events read as they come."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

PROGRAMS = Path(__file__).parents[2] / "harness" / "programs"
PATIENCE = 20.0
"""Seconds until an event that does not come is given up; on a quiet machine they come within 0.2 s."""

Event = dict[str, Any]


class ProgramProcess:
    """A running program: `events` has every event so far, `until` waits for one more."""

    def __init__(
        self, name: str, config: dict[str, Any], folder: Path, environment: dict[str, str] | None = None
    ) -> None:
        path = folder / f"{name}.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        argv = [sys.executable, "-P", str(PROGRAMS / f"{name}.py"), str(path)]
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, env={**os.environ, **(environment or {})}
        )
        self.events: list[Event] = []
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        self.until("ready")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        self._reader.join()
        if self.process.stdout:
            self.process.stdout.close()

    def _read(self) -> None:
        if self.process.stdout:
            for line in self.process.stdout:
                self._lines.put(line)

    def until(self, event: str, **fields: Any) -> Event:
        """Return the first event of that name, past ones included, that has these fields.

        Raises queue.Empty when none comes.
        """
        seen = 0
        while True:
            for found in self.events[seen:]:
                if found["event"] == event and fields.items() <= found.items():
                    return found
            seen = len(self.events)
            self.events.append(json.loads(self._lines.get(timeout=PATIENCE)))

    def rest(self) -> list[Event]:
        """Stop the program and return every event it wrote."""
        self.process.terminate()
        self.process.wait(PATIENCE)
        self._reader.join()
        while not self._lines.empty():
            self.events.append(json.loads(self._lines.get()))
        return self.events

    def address(self, index: int = 0) -> tuple[str, int]:
        """Return where the program's listener of that index listens."""
        local = [event for event in self.events if event["event"] == "listening"][index]["local"]
        host, _, port = local.rpartition(":")
        return host, int(port)

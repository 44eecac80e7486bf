"""A driver for unit tests: containers on paper, addresses as if observed, labs that play recordings back.

Its bindings are scattered on purpose: nothing may rely on the namespace driver's tidy order.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from harness.drivers.fake.bind import bind
from harness.drivers.fake.lower import Container, lower
from harness.drivers.fake.playback import FakeLab, Recording
from harness.errors import GoneError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from harness.plan import Bindings, Plan

__all__ = [
    "STANDS_IN",
    "Container",
    "FakeLab",
    "Recording",
    "attach",
    "binding",
    "down",
    "lower",
    "missing",
    "playing",
    "running",
    "up",
]

STANDS_IN: tuple[str, ...] = ()

_up: dict[str, FakeLab] = {}
_shelf: list[Recording] = []


@contextmanager
def playing(*recordings: Recording) -> Iterator[None]:
    """Have labs that `up` makes play these back; at the end every fake lab is taken down."""
    _shelf.extend(recordings)
    try:
        yield
    finally:
        _shelf.clear()
        _up.clear()


def up(
    plan: Plan,
    name: str,
    source: tuple[str, str],
    *,
    owned: bool,
    secrets: bool = False,  # noqa: ARG001 - every driver's signature
) -> FakeLab:
    """Return a lab that plays the present recordings back."""
    lab = FakeLab(plan, name, source, _shelf, lambda: _up.pop(name, None) if owned else None)
    _up[name] = lab
    return lab


def attach(name: str) -> FakeLab:
    """Return a lab that is up; raises GoneError."""
    if name not in _up:
        raise GoneError(f"no lab named {name!r} is up")
    return _up[name]


def running() -> tuple[str, ...]:
    """Return the names of the labs that are up."""
    return tuple(_up)


def down(name: str) -> None:
    """Take a lab down; raises GoneError when there is none."""
    attach(name)
    del _up[name]


def missing(capabilities: Collection[str]) -> dict[str, str]:
    """Return which of these capabilities are missing: of what is on paper, none."""
    del capabilities
    return {}


def binding(plan: Plan) -> Bindings:
    """Return the addresses of a plan; raises InputError when a network or pool has none left."""
    return bind(plan)

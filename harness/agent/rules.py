"""The nftables of a space: a context of libnftables in it, opened when it is first needed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from harness.programs.nft import Nft

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.programs.nft import Counters

_LAST_FOR_SELECT = 1023


class TooMany(OSError):
    """No descriptor is left that libnftables can use."""


class LowNumbers:
    """Descriptors kept back for libnftables, which waits for its sockets by select(2): numbers up to 1023 only.

    In a lab of hundreds of nodes all of these would be taken by sockets and namespaces of others.
    """

    def __init__(self, count: int) -> None:
        """Keep so many back; opens /dev/null as often."""
        self._kept: list[int] = []
        if count:
            self._kept.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
            self._kept += [os.dup(self._kept[0]) for _ in range(count - 1)]

    def context(self) -> Nft:
        """Return a context for the namespace that the calling thread is in; raises TooMany.

        Past what was kept back, any number will do that is low enough.
        """
        if self._kept:
            os.close(self._kept.pop(0))
        next_one = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        os.close(next_one)
        if next_one > _LAST_FOR_SELECT:
            raise TooMany(0, "too many nodes have rules: libnftables uses descriptors up to 1023 only")
        return Nft()


class Rules:
    """A space's rules; `enter` calls a function in its namespace."""

    def __init__(self, low: LowNumbers, enter: Callable[[Callable[[], Nft]], Nft]) -> None:
        self._low = low
        self._enter = enter
        self._nft: Nft | None = None

    def run(self, commands: str) -> None:
        """Run commands in the syntax of nft(8), all of them or none; raises NftError and TooMany."""
        if self._nft is None:
            self._nft = self._enter(self._low.context)
        self._nft.run(commands)

    def counters(self) -> Counters:
        """Return all named counters; none where there never were rules."""
        return self._nft.counters() if self._nft is not None else {}

    def close(self) -> None:
        """Free the context; what it loaded stays."""
        if self._nft is not None:
            self._nft.close()

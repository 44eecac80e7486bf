"""Named waits: the only door to tenacity. Every wait says what it waits for and stops."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class NotInTime(Exception):
    """A wait ended without its condition; the message names the wait and its limit in seconds."""


def until(
    what: str,
    found: Callable[[], T | None],
    *,
    seconds: float,
    every: float = 0.005,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Poll until `found` returns something true, and return it.

    Raises NotInTime after `seconds`; what `found` raises passes through at once.
    """
    first = found()
    if first:
        return first
    import tenacity  # noqa: PLC0415 - loads asyncio; most waits are over at the first look

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda result: not result),
        stop=tenacity.stop_after_delay(seconds),
        wait=tenacity.wait_fixed(every),
        sleep=sleep,
    )
    try:
        result = retrying(found)
    except tenacity.RetryError as error:
        raise NotInTime(f"{what} within {seconds:g} s") from error
    if not result:
        raise NotInTime(f"{what} within {seconds:g} s")
    return result

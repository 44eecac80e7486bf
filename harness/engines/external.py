"""A proxy that is there already: a real BIG-IP at the lab file's addresses. Nothing runs here, nothing logs here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.evidence import Sighting
from harness.plan import Runtime
from harness.proxy import Differences, Proxy

CAPABILITY = "external-proxy"

DIFFERENCES = Differences(
    answer="what its own iRule says: `egresslab render bigip LAB` writes one that sends a RST",
    limits=(
        "it has been run against no device: needs a driver with the capability `external-proxy`, and none has it yet",
        "its log is not read, so that a scenario which needs it is unknown",
    ),
)


def render(proxy: Proxy) -> Runtime:  # noqa: ARG001 - every engine's form
    """Return nothing to run, and what the driver must be able to do."""
    return Runtime(needs=CAPABILITY)


def read_log(name: str, program: str, lines: Sequence[tuple[int, str]]) -> Iterator[Sighting]:  # noqa: ARG001 - as above
    """Yield nothing: no program of the lab prints for it."""
    yield from ()

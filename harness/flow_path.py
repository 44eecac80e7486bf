"""A passport -> the stops of a flow on the picture of its lab: where it was seen, as what, and who said no."""

from __future__ import annotations

from collections.abc import Iterator

from harness.denial import denials, rule_of
from harness.evidence import Sighting
from harness.explain import arrow
from harness.graph_path import Stop
from harness.passport import Passport
from harness.plan import Plan

_LONGEST = 150
"""Letters of what is told of a stop; all of it stands in the passport."""


def stops_of(passport: Passport, plan: Plan) -> tuple[Stop, ...]:
    """Return the stops of a flow in the order in which they first saw it."""
    no = next(iter(denials(passport)), None)
    names = {node.name for node in plan.nodes}
    return tuple(_stop(hop, passport, names, no) for hop in passport.hops())


def _stop(hop: str, passport: Passport, names: set[str], no: Sighting | None) -> Stop:
    place = hop.partition(" ")[0]
    node = place if place in names else place.rpartition("/")[0]  # `mesh-host/server` is within that host
    seen = passport.at(hop)
    denied = no is not None and no.at == hop
    words = "; ".join(dict.fromkeys(_words(seen, no if denied else None)))
    short = words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"
    came = (one.facts["tap"] for one in seen if one.witness == "tap" and one.facts.get("outgoing") == "false")
    tap = next(came, None)
    return Stop(hop, node, tap.rpartition(".")[2] if tap else None, short, denied)


def _words(seen: tuple[Sighting, ...], no: Sighting | None) -> Iterator[str]:
    """Yield as what the flow arrived, what became of it, and what was decided."""
    arrived = next((one.flow for one in seen if one.flow is not None), None)
    if arrived is not None:
        yield arrow(arrived)
    for one in sorted(
        seen, key=lambda sighting: sighting.witness == "conntrack"
    ):  # first what it opened itself
        if one.onward is not None and one.flow is not None and one.onward != one.flow:
            word = "went on as" if one.witness != "conntrack" else "by address translation"
            yield f"{word} {arrow(one.onward)}"
    if no is not None:
        yield "said no" + (f" by {rule_of(no)}" if rule_of(no) else "")

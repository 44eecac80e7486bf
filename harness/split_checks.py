"""What must hold of `split` and of a change of weights: known pods, shares that sum to 100, flows enough to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.binomial import enough, fewest
from harness.lab import pods
from harness.lookup import nearest
from harness.route_checks import name_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.expect_model import Split
    from harness.lab import Lab
    from harness.lab_checks import Found
    from harness.scenario_model import Scenario, Step

_WHOLE = 100


def check_weights(step: Step, lab: Lab) -> Found:
    """Yield what is wrong with a step that changes a route's weights, each with its place below the step."""
    known = list(lab.routes)
    if step.weights not in lab.routes:
        yield ("weights",), f"unknown route {step.weights!r}; {nearest(step.weights or '', known)}"
        return
    names = [name_of(one) for one in lab.routes[step.weights].to]
    for name in step.to:
        if name not in names:
            yield (
                ("to", name),
                f"{name!r} is no destination of route {step.weights!r}; {nearest(name, names)}",
            )
    missing = [name for name in names if name not in step.to]
    if missing:
        yield ("to",), f"say the weight of every destination of route {step.weights!r}: {', '.join(missing)}"
    total = sum(step.to.values())
    if total != _WHOLE:
        yield ("to",), f"the weights sum to {total}; they must sum to 100"


def check_split(scenario: Scenario, split: Split, lab: Lab) -> Found:
    """Yield what is wrong with `split`, each with its place below it.

    Too few flows to tell the stated shares from even ones would hold whatever happened.
    """
    if scenario.load is None:
        yield (), "'split' needs a 'load': one flow cannot be divided"
        return
    changes = any(step.weights for step in scenario.during)
    if changes and not split.then:
        yield (), "the weights change during the load: say the shares that hold from then on ('then')"
    if split.then and not changes:
        yield ("then",), "'then' is for a change of weights during the load, and 'during' has none"
    flows = scenario.load.flows
    # the change begins when a third is sent, and takes its time
    phases = (("over", split.over, flows // 3 if split.then else flows), ("then", split.then, flows // 2))
    for key, shares, sent in phases:
        if not shares and key == "then":
            continue
        for below, message in _shares(shares, lab):
            yield (key, *below), message
        fractions = tuple(share / _WHOLE for share in shares.values())
        if (
            len(shares) > 1
            and sum(shares.values()) == _WHOLE
            and not enough(sent, fractions, split.confidence)
        ):
            needed = fewest(fractions, split.confidence)
            wanted = f"it takes {needed}" if needed else "no number of flows that a lab can bear would"
            few = f"{sent} flows cannot tell these shares from others at a confidence of {split.confidence * 100:g} %"
            yield (key,), f"{few}; {wanted}"


def _shares(shares: Mapping[str, int], lab: Lab) -> Found:
    servers = [pod.name for pod in pods(lab) if pod.spec.runs == "http"]
    for name in shares:
        if name not in servers:
            yield (name,), f"unknown http pod {name!r}; {nearest(name, servers)}"
    if len(shares) == 1:
        yield (), "one pod alone divides nothing; name the pods that get none as well"
    total = sum(shares.values())
    if total != _WHOLE:
        yield (), f"the shares sum to {total}; they must sum to 100"

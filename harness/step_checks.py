"""What must hold of a scenario's steps, `given` and `during`, and of its load."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from harness.lab_checks import unknown_tenant
from harness.lookup import nearest
from harness.rotation_checks import check_rotation
from harness.routing_checks import check_written
from harness.scenario_model import READDRESSINGS
from harness.split_checks import check_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.expect_model import Outcome
    from harness.lab import Lab
    from harness.lab_checks import Found
    from harness.scenario_model import Scenario, Step
    from harness.scenario_names import Words

LONGEST_LOAD = 60
"""In seconds: all that the lab records meanwhile is kept until the load is judged."""


def check_steps(scenario: Scenario, words: Words) -> Found:
    """Yield what is wrong with a scenario's steps and load; each step is judged by what those before it left."""
    yield from _load(scenario)
    there: list[str] = list(words.pods)
    deleted: list[str] = []
    added: list[str] = []
    nodes = [*words.lab.outside, *(words.lab.cluster.nodes if words.lab.cluster else ())]
    steps = [("given", *found) for found in enumerate(scenario.given)]
    steps += [("during", *found) for found in enumerate(scenario.during)]
    for key, index, step in steps:
        word, name = step.does
        place = (key, index, word)
        checks: dict[str, Callable[[Step, Lab], Found]] = {
            **_OF_THE_LAB,
            "rotate": partial(check_rotation, pods=there),
        }
        if word in checks:
            for below, message in checks[word](step, words.lab):
                yield (*place[:2], *below), message
            continue
        if word in READDRESSINGS:
            yield from ((place, message) for message in _readdressed(word, name, words.lab, added))
            continue
        known = words.links if word == "break" else there if word == "delete" else [*nodes, *there]
        if word == "create":
            for below, message in _create(step, name, there, deleted, words):
                yield (*place[:2], *below), message
            there.append(name)
        elif name not in known:
            what = "tap" if word == "break" else "pod or node"
            yield place, f"unknown {what} {name!r}; {nearest(name, known)}"
        elif word == "delete":
            there.remove(name)
            deleted.append(name)


def check_sources_of_load(outcome: Outcome, scenario: Scenario) -> Found:
    """Yield what is said of the sources of many flows where there is one, or no pool."""
    source = outcome.source
    if source is None:
        return
    if source.sticky and scenario.load is None:
        yield ("source", "sticky"), "one flow has one address; 'sticky' is for a 'load'"
    if source.spread and (scenario.load is None or not source.is_.startswith("snat/")):
        yield ("source", "spread"), "'spread' is for a 'load' whose source is a pool ('snat/POOL')"


def _create(step: Step, name: str, there: list[str], deleted: list[str], words: Words) -> Found:
    if name in there:
        yield ("create",), f"pod {name!r} is there already"
    if name.partition("/")[0] not in words.lab.namespaces or not name.partition("/")[2]:
        yield ("create",), f"{name!r} is not NAMESPACE/NAME of a namespace of this lab"
    if step.address_of is not None and step.address_of not in deleted:
        yield ("address_of",), f"{step.address_of!r} is no pod that a step before this one deleted"


def _readdressed(word: str, name: str, lab: Lab, added: list[str]) -> Iterator[str]:
    """Yield what is wrong with a step about a node's blocks; `added` are nodes that have one more, once for each."""
    nodes = list(lab.cluster.nodes) if lab.cluster else []
    if name not in nodes:
        yield f"unknown cluster node {name!r}; {nearest(name, nodes)}"
    elif word == "add_block":
        added.append(name)
    elif word == "reboot":
        added[:] = [other for other in added if other != name]
    elif name in added:
        added.remove(name)
    else:
        yield f"no step before this one gave {name!r} a block that could be released"


def _check_policy(step: Step, lab: Lab) -> Found:
    if message := unknown_tenant(step.mtls or "", lab):
        yield ("mtls",), message
    if lab.mesh.provider == "none":
        yield ("mtls",), "the lab has no mesh that could have a policy"


def _check_rp_filter(step: Step, lab: Lab) -> Found:
    known = [name for name, spec in lab.outside.items() if hasattr(spec, "rp_filter")]
    if step.rp_filter not in known:
        yield ("rp_filter",), f"unknown gateway {step.rp_filter!r}; {nearest(step.rp_filter or '', known)}"


_OF_THE_LAB = {
    "weights": check_weights,
    "mtls": _check_policy,
    "route": check_written,
    "rp_filter": _check_rp_filter,
}
"""Steps that name parts of the lab file, each with what checks it."""


def _load(scenario: Scenario) -> Found:
    if scenario.during and scenario.load is None:
        yield ("during",), "'during' are steps while a load runs; say its 'load'"
    if scenario.load is None:
        return
    seconds = scenario.load.flows / scenario.load.per_second
    if seconds > LONGEST_LOAD:
        yield ("load",), f"this load takes {seconds:g} s; the most is {LONGEST_LOAD} s"
    for key in ("run", "within", "stable"):
        if getattr(scenario, key) is not None:
            why = "is sent by probes ('to')" if key == "run" else "is tried once, and every flow of it counts"
            yield (key,), f"a load {why}, so {key!r} has no meaning"

"""What must hold of a probe over TLS: what it presents, the attacks that it tries, and where it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from harness.attacks import ATTACKS
from harness.lab import pods
from harness.lab_words import shown
from harness.lookup import nearest
from harness.scenario_names import sources

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.lab_checks import Found
    from harness.scenario_model import Scenario
    from harness.scenario_names import Words

TLS = "tls"


def check_attacks(scenario: Scenario, words: Words) -> Found:
    """Yield what is wrong with `presents`, `attack` and a target of `tls://`, each with its place."""
    targets = scenario.matrix.to if scenario.to is None else (scenario.to,)
    over_tls = [urlsplit(target).scheme == TLS for target in targets]
    attacked = ("attack",) if scenario.attack else ("matrix", "attack") if scenario.matrix.attack else None
    for place, word in _written(scenario):
        if word not in ATTACKS:
            yield place, f"unknown attack {shown(word)}; {nearest(word, list(ATTACKS))}"
    if scenario.attack and scenario.matrix.attack:
        yield ("attack",), "'attack' is in the matrix already"
    if attacked and scenario.presents is None:
        yield (
            attacked,
            "say whom the attacker wants to be taken for ('presents'): an identity that is permitted",
        )
    if scenario.presents is not None and not (over_tls and all(over_tls)):
        yield ("presents",), f"'presents' is for probes over TLS ('to: {TLS}://NAME:PORT')"
    if scenario.presents is not None and words.lab.mesh.provider == "none":
        yield ("presents",), "certificates need a mesh, and 'provider' is none"
    if TLS in {urlsplit(target).scheme for target in targets}:
        yield from _around_sidecars(scenario, words)
    if attacked and scenario.expect.allowed is None and scenario.control is None:
        yield attacked, "an attack needs a 'control': an allowed scenario in which the identity gets through"


def _written(scenario: Scenario) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if scenario.attack is not None:
        yield ("attack",), scenario.attack
    for index, word in enumerate(scenario.matrix.attack):
        yield ("matrix", "attack", index), word


def _around_sidecars(scenario: Scenario, words: Words) -> Found:
    if scenario.through or scenario.matrix.through:
        yield ("through",), f"'through' is not for {TLS}"
    if scenario.bypass:
        return
    injected = {pod.name for pod in pods(words.lab) if pod.injected}
    for key, patterns in ((("from",), scenario.from_), (("matrix", "from"), scenario.matrix.from_)):
        for index, pattern in enumerate(patterns):
            beside = [sender for sender in sources(pattern, words) if sender in injected]
            if beside:
                yield (
                    (*key, index),
                    f"the sidecar of {beside[0]!r} would take the TLS for itself; say 'bypass: sidecar'",
                )


def same_cell(first: Scenario, second: Scenario) -> bool:
    """Tell whether two scenarios have a cell of the table in common; without `row`, an attack is the row."""
    one, other = first.table, second.table
    if one is None or other is None or one.column != other.column:
        return False
    if one.row is None and other.row is None:
        return bool(set(attacks_of(first)) & set(attacks_of(second)))
    return one.row == other.row


def attacks_of(scenario: Scenario) -> tuple[str, ...]:
    """Return the attacks that a scenario tries."""
    return scenario.matrix.attack or ((scenario.attack,) if scenario.attack else ())

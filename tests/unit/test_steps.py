"""Steps that change what the lab file says: the lab that they come to, and that nothing else of it changes."""

from __future__ import annotations

import pytest
from small_tenants import LAB, plan_of

from harness.scenario import Step
from harness.steps import with_policy


@pytest.mark.parametrize(
    ("step", "overrides", "clients"),
    [
        (Step(mtls="red", accepts="strict"), {"blue": "disable", "red": "strict"}, {"blue": "disable"}),
        (Step(mtls="blue", accepts="strict"), {"blue": "strict"}, {"blue": "disable"}),
        (
            Step(mtls="red/shop", sends="disable"),
            {"blue": "disable"},
            {"blue": "disable", "red/shop": "disable"},
        ),
        (
            Step(mtls="blue", accepts="permissive", sends="istio_mutual"),
            {"blue": "permissive"},
            {"blue": "istio_mutual"},
        ),
    ],
)
def test_another_policy(step: Step, overrides: dict[str, str], clients: dict[str, str]) -> None:
    """What is named has the new word, all others theirs, and the lab from which it was made is as it was."""
    words = "mesh: {provider: builtin, mtls: {overrides: {blue: disable}, clients: {blue: disable}}}"
    lab = plan_of(LAB.replace("mesh: {provider: builtin}", words)).lab
    _, whose = step.does
    changed = with_policy(lab, whose, step)
    assert (changed.mesh.mtls.overrides, changed.mesh.mtls.clients) == (overrides, clients)
    assert changed.namespaces == lab.namespaces
    assert lab.mesh.mtls.overrides == {"blue": "disable"}

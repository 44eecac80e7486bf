"""Standing a lab up in containers, finding it again, and taking it down."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.agent.bind import bind
from harness.agent.state import State, first_state, payload_of
from harness.agent.trial import able
from harness.drivers.k3d import image, outside, parts, store
from harness.drivers.k3d.engine import LAB, NODE, connect
from harness.drivers.k3d.fleet import Fleet
from harness.drivers.k3d.lab import ContainerLab
from harness.errors import GoneError, LabError, StartError

if TYPE_CHECKING:
    from docker import DockerClient

    from harness.plan import Bindings, Plan

_PYTHON = ("python3", "-S", "-E")
"""How programs of ours are started in the image: they need the standard library only."""


def binding(plan: Plan) -> Bindings:
    """Return the addresses that a lab gets here; all of them are ours to choose while its cluster is simulated."""
    return bind(plan, _PYTHON)


def stand_up(
    plan: Plan, name: str, source: tuple[str, str], *, owned: bool, secrets: bool = False
) -> ContainerLab:
    """Stand a lab up; what a killed run left under its name is removed before."""
    client = connect()
    held = store.lock(name)
    if held is None or running_whole(client, name):
        client.close()
        if held is not None:
            store.unlock(name, held)
        raise StartError(f"a lab named {name!r} is already up; `egresslab ls --driver k3d` lists them")
    with _gone_on_failure(client, name, held):
        if plan.cluster_nodes:
            _tell("the cluster's nodes are simulated, each by a container (docs/k3d.md)")
        clock = _Clock()
        plan = able(plan, ContainerLab.LACKS)
        state = first_state(plan, replace(binding(plan), logs_secrets=secrets))
        payload = payload_of(state, name, source, in_image=True)
        fleet = Fleet(client, name, image.ensure(client, name, _tell), owned=owned)
        clock.phase("image")
        take_away(client, name)
        clock.phase("remnants")
        outside.make_networks(client, name, parts.networks(payload))
        clock.phase("networks")
        fleet.make(parts.containers(payload))
        clock.phase("containers")
        try:
            fleet.connect()
        except BaseException:
            fleet.close()
            raise
        clock.phase("programs ready")
        phases = tuple(clock.phases)
        if not owned:
            store.keep(name, store.Kept(state, source, phases))
            store.unlock(name, held)

    def end() -> None:
        try:
            take_away(client, name)
        finally:
            store.unlock(name, held)

    return ContainerLab(
        fleet, state, source, phases, *((end, None) if owned else (None, _keeps(name, phases)))
    )


def attach_to(name: str) -> ContainerLab:
    """Connect to a lab that is up."""
    client = connect()
    kept = store.recall(name)
    if kept is None or not running_whole(client, name):
        client.close()
        raise GoneError(f"no lab named {name!r} is up; `egresslab ls --driver k3d` lists those that are")
    labelled = client.api.containers(filters={"label": f"{LAB}={name}"})
    fleet = Fleet(client, name, labelled[0]["Image"], owned=False)
    wanted = parts.containers(payload_of(kept.state, name, kept.source, in_image=True))
    fleet.know(wanted, {one["Labels"][NODE]: one["Id"] for one in labelled})
    fleet.connect()
    return ContainerLab(fleet, kept.state, kept.source, kept.phases, None, _keeps(name, kept.phases))


def _keeps(name: str, phases: tuple[tuple[str, float], ...]) -> Callable[[State, tuple[str, str]], None]:
    return lambda state, source: store.keep(name, store.Kept(state, source, phases))


def running() -> tuple[str, ...]:
    """Return the names of the labs that are up and stay so."""
    client = connect()
    try:
        return tuple(name for name in sorted(outside.labs(client)) if running_whole(client, name))
    finally:
        client.close()


def running_whole(client: DockerClient, name: str) -> bool:
    """Tell whether a lab is up, with none of its containers missing or ended."""
    kept = store.recall(name)
    if kept is None:
        return False
    every, alive = outside.labs(client).get(name, (0, 0))
    nodes = sum(node.placement != "pod" for node in kept.state.plan.nodes)
    return every == alive == nodes


def take_down(name: str) -> None:
    """Take a lab down, and whatever else carries its label; raises GoneError when there is nothing."""
    client = connect()
    try:
        if name not in outside.labs(client):
            store.forget(name)
            raise GoneError(f"no lab named {name!r} is up; `egresslab ls --driver k3d` lists those that are")
        take_away(client, name)
    finally:
        client.close()


def take_away(client: DockerClient, name: str) -> None:
    """Remove all that carries a lab's label; raises LabError with what is left."""
    store.forget(name)
    left = outside.remove(client, name)
    if left:
        raise LabError(f"lab {name!r} is not all gone: {'; '.join(left)}")


@contextmanager
def _gone_on_failure(client: DockerClient, name: str, held: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(LabError):  # what failed first is what is told
            take_away(client, name)
        store.unlock(name, held)
        client.close()
        raise


def _tell(words: str) -> None:
    sys.stderr.write(f"{words}\n")


class _Clock:
    """How long each phase took, in seconds."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, float]] = []
        self._since = time.monotonic()

    def phase(self, name: str) -> None:
        """Note the phase that ends now."""
        now = time.monotonic()
        self.phases.append((name, now - self._since))
        self._since = now

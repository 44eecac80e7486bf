"""Standing a lab up in containers, finding it again, and taking it down."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.agent.bind import bind
from harness.agent.state import START_SECONDS, first_state, payload_of
from harness.drivers.k3d import image, outside, parts, store
from harness.drivers.k3d.engine import LAB, NODE, connect
from harness.drivers.k3d.lab import ContainerLab
from harness.drivers.k3d.link import Link
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
        raise StartError(f"a lab named {name!r} is already up; `egresslab ls --driver k3d` lists them")
    clock = _Clock()
    state = first_state(plan, replace(binding(plan), logs_secrets=secrets))
    payload = payload_of(state, name, source, in_image=True)
    wanted = parts.containers(plan, state.bindings, payload)
    found = image.ensure(client, _tell)
    clock.phase("image")
    with _gone_on_failure(client, name, held):
        take_away(client, name)
        clock.phase("remnants")
        outside.make_networks(client, name, parts.networks(plan, state.bindings))
        clock.phase("networks")
        ids = outside.make_containers(client, name, found, wanted, owned=owned)
        clock.phase("containers")
        links = _ready_links(client, ids, owned=owned)
        clock.phase("programs ready")
        if not owned:
            store.keep(name, store.Kept(state, source, tuple(clock.phases)))
            store.unlock(name, held)

    def end() -> None:
        try:
            take_away(client, name)
        finally:
            store.unlock(name, held)

    holds = {node: container.name for container in wanted for node in container.holds}
    phases = tuple(clock.phases)
    return ContainerLab(client, name, state, source, phases, ids, holds, links, end if owned else None)


def attach_to(name: str) -> ContainerLab:
    """Connect to a lab that is up."""
    client = connect()
    kept = store.recall(name)
    if kept is None or not running_whole(client, name):
        raise GoneError(f"no lab named {name!r} is up; `egresslab ls --driver k3d` lists those that are")
    payload = payload_of(kept.state, name, kept.source, in_image=True)
    wanted = parts.containers(kept.state.plan, kept.state.bindings, payload)
    labelled = client.api.containers(filters={"label": f"{LAB}={name}"})
    ids = {one["Labels"][NODE]: one["Id"] for one in labelled}
    links = _links(client, {container.name: ids[container.name] for container in wanted})
    holds = {node: container.name for container in wanted for node in container.holds}
    return ContainerLab(client, name, kept.state, kept.source, kept.phases, ids, holds, links, None)


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


def _links(client: DockerClient, ids: Mapping[str, str]) -> dict[str, Link]:
    """Connect to every agent; who is not ready yet answers later."""
    links: dict[str, Link] = {}
    try:
        for name, container in ids.items():
            links[name] = Link(client, container, name)
    except BaseException:
        _close(links)
        raise
    return links


def _ready_links(client: DockerClient, ids: Mapping[str, str], *, owned: bool) -> dict[str, Link]:
    """Connect to every agent and wait until each has its part standing; raises StartError with the reason."""
    links: dict[str, Link] = {}
    try:
        links = _links(client, ids)
        for link in links.values():
            link.limit(START_SECONDS * 2)
            link.ask("hold" if owned else "hello")
        for link in links.values():
            link.answer()
            link.limit(None)
    except BaseException as error:
        _close(links)
        if not isinstance(error, GoneError):
            raise
        words = {one: said for one, made in ids.items() if (said := outside.last_words(client, made))}
        told = "\n".join(f"{one}: {said}" for one, said in words.items()) or str(error)
        raise StartError(f"the lab did not come up:\n{told}") from error
    return links


def _close(links: Mapping[str, Link]) -> None:
    for link in links.values():
        link.close()


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

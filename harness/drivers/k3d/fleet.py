"""The containers of one lab, with a connection to the agent in each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from harness import ready
from harness.agent.state import START_SECONDS
from harness.drivers.k3d import outside
from harness.drivers.k3d.link import Link
from harness.drivers.k3d.parts import Container
from harness.errors import GoneError, LabError, StartError

if TYPE_CHECKING:
    from docker import DockerClient

_PATIENCE = 2.0
"""How many times its own limit an agent is given: every container competes with all others while a lab begins."""
_THREADS = 4
_WORDS_SECONDS = 2.0


class Fleet:
    """Containers by name, each with a link, and the container that each node is in."""

    def __init__(self, client: DockerClient, lab: str, image: str, *, owned: bool) -> None:
        """Begin with none; agents of an owned lab end with their link."""
        self.client = client
        self.lab = lab
        self.image = image
        self.owned = owned
        self._ids: dict[str, str] = {}
        self._links: dict[str, Link] = {}
        self._holds: dict[str, str] = {}

    def make(self, containers: Sequence[Container]) -> None:
        """Make containers, which begin to stand their part of the lab up; raises StartError."""
        made = outside.make_containers(self.client, self.lab, self.image, containers, owned=self.owned)
        self.know(containers, made)

    def know(self, containers: Iterable[Container], ids: Mapping[str, str]) -> None:
        """Take up containers that were made."""
        for container in containers:
            self._ids[container.name] = ids[container.name]
            self.holding(container)

    def holding(self, container: Container) -> None:
        """Take up which nodes a container holds now."""
        self._holds = {node: name for node, name in self._holds.items() if name != container.name}
        self._holds |= dict.fromkeys(container.holds, container.name)

    def connect(self, names: Iterable[str] | None = None) -> None:
        """Connect to the agents of the named containers, or of all, and wait until each has its part standing.

        Raises StartError with the reason of each that has not.
        """
        wanted = list(self._ids if names is None else names)
        try:
            with ThreadPoolExecutor(_THREADS) as threads:
                made = {name: threads.submit(self.link_to, name) for name in wanted}
            # first those that are there: whoever closes us closes them
            self._links |= {name: one.result() for name, one in made.items() if one.exception() is None}
            for one in made.values():
                one.result()
            for name in wanted:
                self._links[name].limit(START_SECONDS * _PATIENCE)
                self._links[name].ask("hold" if self.owned else "hello")
            for name in wanted:
                self._links[name].answer()
                self._links[name].limit(None)
        except GoneError as error:
            told = "\n".join(f"{name}: {said}" for name, said in self._last_words(wanted).items())
            raise StartError(f"the lab did not come up:\n{told or error}") from error

    def _last_words(self, names: Sequence[str]) -> dict[str, str]:
        """Return what those printed last that have ended; a stream ends just before its container does."""

        def said() -> dict[str, str]:
            found = {name: outside.last_words(self.client, self._ids[name]) for name in names}
            return {name: words for name, words in found.items() if words}

        with suppress(ready.NotInTime):
            return ready.until("a container has ended", said, seconds=_WORDS_SECONDS, every=0.05)
        return {}

    def link_to(self, name: str) -> Link:
        """Return another connection to a container's agent."""
        return Link(self.client, self._ids[name], name)

    def container_of(self, node: str) -> str:
        """Return the container that a node is in; raises LabError."""
        if node not in self._holds:
            raise LabError(f"no node {node!r} in this lab")
        return self._holds[node]

    def id_of(self, node: str) -> str:
        """Return the id of the container that a node is in; raises LabError."""
        return self._ids[self.container_of(node)]

    def link(self, node: str) -> Link:
        """Return the connection to the agent of a node."""
        return self._links[self.container_of(node)]

    @property
    def first(self) -> Link:
        """The agent whose lock is everybody's."""
        return next(iter(self._links.values()))

    def all(self, op: str, **fields: Any) -> list[Any]:
        """Ask every agent, and return their answers when all are there."""
        return self.each(dict.fromkeys(self._links, (op, fields)))

    def each(self, requests: Mapping[str, tuple[str, Mapping[str, Any]]]) -> list[Any]:
        """Ask the agents of containers something each, at once, and return their answers in that order.

        All are heard before what the first of them raised is raised.
        """
        for name, (op, fields) in requests.items():
            self._links[name].ask(op, **fields)
        answers, failed = [], list[LabError]()
        for name in requests:
            try:
                answers.append(self._links[name].answer())
            except LabError as error:
                failed.append(error)
        if failed:
            raise failed[0]
        return answers

    def files(self, op: str) -> bytes:
        """Return the memory files with which every agent answers, one behind the other."""
        for link in self._links.values():
            link.ask(op)
        return b"".join(link.answer_bytes() for link in self._links.values())

    def drop(self, names: Iterable[str]) -> None:
        """Remove containers; raises LabError with what is left."""
        for name in names:
            if name in self._links:
                self._links.pop(name).close()
            outside.remove_container(self.client, self._ids.pop(name))
            self._holds = {node: holder for node, holder in self._holds.items() if holder != name}

    def close(self) -> None:
        """End all connections."""
        for link in self._links.values():
            link.close()
        self._links.clear()

"""What a running lab was made from: enough to compute all of it again, and to compute a change."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path
from types import MappingProxyType

import harness
from harness import tools
from harness.agent.bind import bind, with_block, without_block
from harness.agent.folders import PRIVATE
from harness.agent.layout import Layout, Payload, PlacedFile, Start
from harness.agent.lower import lower
from harness.errors import MissingCapability
from harness.identity import Certificates, issue, reissued, successions
from harness.mutation import Mutation
from harness.plan import KEY_LOG, Bindings, Plan, Runtime, certificates_of, make_plan, render
from harness.rotation_checks import AUTHORITY
from harness.running import Readdressing

START_SECONDS = 30.0
PACKAGE = Path(harness.__file__).parent
_WAYS = {"istio": "; run it on a cluster that has Istio installed, with --driver k3d (docs/k3d.md, Istio)"}
"""By capability: where it is."""
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class State:
    """A plan with its addresses and certificates; the lab process keeps it, unread, for whoever attaches."""

    plan: Plan
    bindings: Bindings
    certificates: Certificates

    def changed(self, plan: Plan, pinned: Mapping[str, IPv4Address] = MappingProxyType({})) -> State:
        """Return the state of another plan, with everything left as it is that both plans have."""
        bindings = bind(plan, self.bindings.python, self.bindings, pinned)
        authority = plan.lab.mesh.ca
        issued = issue(plan.requests, authority.root, authority.intermediate, self.certificates)
        return State(plan, bindings, issued)

    def readdressed(self, node: str, how: Readdressing) -> State:
        """Return the state in which a node has another block, one more, or one less.

        Raises InputError when the pool has none left, or the node none without pods.
        """
        if how == "reboot":
            return replace(self, bindings=bind(self.plan, self.bindings.python, self.bindings, moved=node))
        change = with_block if how == "add_block" else without_block
        return replace(self, bindings=change(self.plan, self.bindings, node))

    def rotations(self, name: str, keep: Collection[str] = ()) -> Iterator[State]:
        """Yield the states, each to be in force before the next, in which certificates are replaced.

        `name` is a node's, or `ca` for the mesh's authority and all that it issued, but for the pods in `keep`.
        """
        if name != AUTHORITY:
            yield replace(self, certificates=reissued(self.certificates, certificates_of(self.plan, name)))
            return
        words = self.plan.lab.mesh.ca
        for certificates in successions(self.certificates, words.root, words.intermediate, keep):
            yield replace(self, certificates=certificates)

    def packed(self) -> bytes:
        """Return the state as bytes."""
        return pickle.dumps(self)

    @staticmethod
    def unpacked(data: bytes) -> State:
        """Return the state that was packed; for bytes from a process of our own user only."""
        state: State = pickle.loads(data)  # noqa: S301 - from a process of our own user, checked by SO_PEERCRED
        return state


def first_state(plan: Plan, bindings: Bindings) -> State:
    """Return the state in which a plan is stood up."""
    authority = plan.lab.mesh.ca
    return State(plan, bindings, issue(plan.requests, authority.root, authority.intermediate))


def binding(plan: Plan) -> Bindings:
    """Return the addresses of a plan that was not stood up yet, for programs of this machine."""
    return bind(plan, _python())


def payload_of(
    state: State,
    name: str,
    source: tuple[str, str],
    *,
    in_image: bool = False,
    mutation: Mutation | None = None,
) -> Payload:
    """Return what the lab process is to build; with a mutation something else than the state says.

    `in_image`: programs are those of an image, on its PATH.

    Raises MissingCapability for a program that is not on this machine, and for what no namespace can be.
    """
    made, mutation = state, mutation or Mutation()
    if mutation.edits:
        made = state.changed(make_plan(mutation.lab(state.plan.lab), state.plan))
    plan, bindings = made.plan, made.bindings
    runtimes = render(plan, bindings, made.certificates)
    if mutation.runtime is not None:
        runtimes = {
            node: mutation.runtime(plan.node(node), runtime, made.certificates)
            for node, runtime in runtimes.items()
        }
    for node, runtime in runtimes.items():
        if runtime.needs:
            there = "simulated nodes of the k3d driver do" if in_image else "the namespace driver does"
            raise MissingCapability(
                runtime.needs,
                f"{node} needs {runtime.needs}, which {there} not have{_WAYS.get(runtime.needs, '')}",
            )
    found = {word: word for word in _words(runtimes)} if in_image else _programs(runtimes)
    starts = [
        Start(
            node,
            program.name,
            (found[program.argv[0]], *program.argv[1:]),
            program.ready.by,
            program.ready.value,
            program.capable,
            program.first,
            program.environment,
            program.applied.by,
            program.applied.value,
        )
        for node, runtime in runtimes.items()
        for program in runtime.programs
    ]
    files = [
        PlacedFile(node, f"{bindings.folder(node)}/{file.path}", file.content, file.mode, file.live)
        for node, runtime in runtimes.items()
        for file in runtime.files
    ]
    files += [
        PlacedFile("", f"{PRIVATE}/programs/{path.name}", path.read_text(encoding="utf-8"), 0o644)
        for path in sorted((PACKAGE / "programs").glob("*.py"))
    ]
    # what the route controller needs of us, beside the programs' folder and under its own name
    files += [
        PlacedFile(
            "", f"{PRIVATE}/harness/{path.relative_to(PACKAGE)}", path.read_text(encoding="utf-8"), 0o644
        )
        for path in (
            PACKAGE / "__init__.py",
            PACKAGE / "errors.py",
            *sorted((PACKAGE / "netlink").glob("*.py")),
        )
    ]
    directories = dict.fromkeys(str(Path(path).parent) for path in found.values() if path.startswith("/"))
    return Payload(
        lab=name,
        source=source,
        state=state.packed(),
        layout=_without_route(lower(plan, bindings, runtimes), mutation.route),
        starts=tuple(starts),
        files=tuple(files),
        keep=() if in_image else _kept(found.values()),
        path=_SYSTEM_PATH
        if in_image
        else ":".join(dict.fromkeys([*tools.private_folders(), *_SYSTEM_PATH.split(":"), *directories])),
        library_path=None if in_image else tools.library_path(),
        start_seconds=START_SECONDS,
        key_logs=_key_logs(plan, bindings),
    )


def placed(state: State) -> dict[str, dict[str, str]]:
    """Return the files of each node by path within its private folder."""
    runtimes = render(state.plan, state.bindings, state.certificates)
    return {
        node: {file.path: file.content for file in runtime.files}
        for node, runtime in runtimes.items()
        if runtime.files
    }


def _key_logs(plan: Plan, bindings: Bindings) -> dict[str, str]:
    if not bindings.logs_secrets:
        return {}
    own = {node.name: bindings.key_log(node.name) or "" for node in plan.nodes}
    return {"": f"{PRIVATE}/{KEY_LOG}", **own}


def _words(runtimes: Mapping[str, Runtime]) -> list[str]:
    return sorted({program.argv[0] for runtime in runtimes.values() for program in runtime.programs})


def _without_route(layout: Layout, route: tuple[str, str] | None) -> Layout:
    if route is None:
        return layout
    spaces = tuple(
        replace(space, routes=tuple(one for one in space.routes if (space.name, one.destination) != route))
        for space in layout.spaces
    )
    return replace(layout, spaces=spaces)


def _programs(runtimes: Mapping[str, Runtime]) -> dict[str, str]:
    return {word: word if word.startswith("/") else tools.find(word) for word in _words(runtimes)}


def _kept(programs: Iterable[str]) -> tuple[str, ...]:
    """Return the folders that must stay visible: interpreter, virtual environment, our package, private tools."""
    folders = {
        sys.prefix,
        sys.base_prefix,
        str(PACKAGE),
        str(Path(_python()[0]).resolve().parent),
    }
    # the one package that the lab process uses; `pip install --user` puts it into a home, which the sandbox hides
    waits = importlib.util.find_spec("tenacity")
    folders |= {str(Path(waits.origin).parents[1])} if waits and waits.origin else set()
    folders |= {str(Path(path).resolve().parent) for path in programs if path.startswith("/")}
    folders |= set(tools.private_folders())  # clients that scenarios run are nowhere in the plan
    library = tools.library_path()
    if library:
        folders |= set(library.split(":"))
    return tuple(sorted(folders))


def _python() -> tuple[str, ...]:
    """Return the interpreter itself, not a virtual environment's: programs of ours need the standard library only."""
    return (str(getattr(sys, "_base_executable", sys.executable)), "-S", "-E")

"""`given`: what is done to a lab before a scenario, and undone after it, in reverse, whatever happens."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import IPv4Address

from harness import bird, ready
from harness.errors import InputError, LabError
from harness.lab import Lab, Workload, pods
from harness.plan import make_plan
from harness.route_checks import name_of
from harness.routing import Steps
from harness.running import ChangeableLab
from harness.scenario import Step

_ROUTES_SECONDS = 5.0
_SETTLED_SECONDS = 6.0
_CONVERGENCE_SECONDS = 30.0
"""A node that was cut off tries its peers again after 5 s at the soonest, as Calico sets BIRD's timers."""


@contextmanager
def given(lab: ChangeableLab, steps: Sequence[Step]) -> Iterator[Steps]:
    """Do the steps, and undo them at the end; the caller has the lab's window. Yields when each began.

    Raises LabError when the lab cannot be changed, InputError for a program that the node does not run.
    """
    with suppress(
        LabError
    ):  # a session that an earlier step cut short may have ended since; faults never converge
        await_convergence(lab, _SETTLED_SECONDS)
    before = lab.state()
    addresses = dict(lab.bindings.pods)
    began: list[int] = []
    blocks = dict(lab.bindings.blocks)
    with ExitStack() as undo:
        undo.callback(await_convergence, lab)  # undone last: when the lab is what it was
        undo.callback(lab.restore, before)
        for step in steps:
            began.append(time.time_ns())
            _do(lab, step, addresses, undo)
            for node, found in lab.bindings.blocks.items():
                blocks[node] = tuple(dict.fromkeys((*blocks.get(node, ()), *found)))
        yield Steps(tuple(began), blocks)


def _do(lab: ChangeableLab, step: Step, addresses: dict[str, IPv4Address], undo: ExitStack) -> None:
    word, name = step.does
    match word:
        case "delete" | "create" | "weights" | "mtls" | "rp_filter":
            _change(lab, step, addresses)
        case "reboot" | "add_block" | "release_block":
            lab.readdress(name, word)
        case "route":
            _write_route(lab, step, undo)
        case "break":
            lab.set_link(name, up=False)
            undo.callback(lab.set_link, name, up=True)
        case "rotate":
            lab.rotate(name, step.keep or ())
        case _:
            for program in _programs(lab, name, step.program):
                _do_to(lab, word, name, program, undo)


def _do_to(lab: ChangeableLab, word: str, node: str, program: str, undo: ExitStack) -> None:
    """Stop, kill or restart a program."""
    if word == "stop":
        lab.kill(node, program, signal.SIGSTOP)
        undo.callback(lab.kill, node, program, signal.SIGCONT)
        return
    lab.end_program(node, program)
    if word == "kill":
        undo.callback(lab.start_program, node, program)
    else:
        lab.start_program(node, program)


def _change(lab: ChangeableLab, step: Step, addresses: dict[str, IPv4Address]) -> None:
    """Turn the lab into another plan."""
    word, name = step.does
    if word == "delete":
        lab.change(make_plan(without(lab.plan.lab, name), lab.plan))
    elif word == "create":
        address = addresses[step.address_of] if step.address_of else None
        pinned = {name: address} if address else {}
        lab.change(make_plan(_with(lab, name, step, address), lab.plan), pinned)
    elif word == "mtls":
        lab.change(make_plan(with_policy(lab.plan.lab, name, step), lab.plan))
    elif word == "rp_filter":
        outside = dict(lab.plan.lab.outside)
        outside[name] = outside[name].model_copy(update={"rp_filter": step.mode})
        lab.change(make_plan(lab.plan.lab.model_copy(update={"outside": outside}), lab.plan))
    else:
        lab.change(make_plan(weighted(lab.plan.lab, name, step.to), lab.plan))


def _write_route(lab: ChangeableLab, step: Step, undo: ExitStack) -> None:
    """Write routes by hand, as an administrator does; who writes them again is told by the kernel that they exist."""
    kind, _, node = (step.toward or "").partition("/")
    networks = (
        lab.bindings.blocks[node] if kind == "pods" else (lab.plan.lab.networks[step.toward or ""].cidr,)
    )
    gateway = lab.bindings.address(lab.plan.node(step.via or ""))
    for network in networks:
        words = (str(network), "via", str(gateway))
        _ip_route(lab, step.route or "", "add", *words)
        undo.callback(_ip_route, lab, step.route or "", "del", *words)


def _ip_route(lab: ChangeableLab, node: str, *words: str) -> None:
    done = lab.run(node, ["ip", "route", *words], seconds=_ROUTES_SECONDS, capable=True)
    if done.code != 0:
        raise LabError(f"{node}: ip route {' '.join(words)}: {done.stderr.strip()}")


def weighted(lab: Lab, route: str, weights: Mapping[str, int]) -> Lab:
    """Return the lab with other weights of a route, in percent by the names of its destinations."""
    found = lab.routes[route]
    to = tuple(one.model_copy(update={"weight": weights[name_of(one)]}) for one in found.to)
    return lab.model_copy(update={"routes": dict(lab.routes) | {route: found.model_copy(update={"to": to})}})


def with_policy(lab: Lab, whose: str, step: Step) -> Lab:
    """Return the lab with another policy of mutual TLS for a namespace or workload."""
    policy = lab.mesh.mtls
    update: dict[str, object] = {}
    if step.accepts is not None:
        update["overrides"] = policy.overrides | {whose: step.accepts}
    if step.sends is not None:
        update["clients"] = policy.clients | {whose: step.sends}
    mesh = lab.mesh.model_copy(update={"mtls": policy.model_copy(update=update)})
    return lab.model_copy(update={"mesh": mesh})


def await_convergence(lab: ChangeableLab, seconds: float = _CONVERGENCE_SECONDS) -> None:
    """Return when the kernel of every BGP speaker has a route to every block; raises LabError when not in time.

    Its sessions are up again, too: during a graceful restart routes are there that nobody vouches for. Each BIRD is
    asked, which wakes it (plan.Ready).
    """
    blocks = {block for found in lab.bindings.blocks.values() for block in found}
    for node in lab.plan.nodes:
        if not bird.runs_on(node, lab.plan):
            continue

        def knows_them(name: str = node.name) -> bool:
            routing = lab.routing(name, bird.control(name, lab.bindings))
            return blocks <= {route.destination for route in routing.kernel} and not routing.down

        try:
            ready.until(f"{node.name} has every route", knows_them, seconds=seconds)
        except ready.NotInTime as error:
            raise LabError(str(error)) from None


def without(lab: Lab, pod: str) -> Lab:
    """Return the lab without a pod; of a workload with versions only that one goes."""
    found = next(one for one in pods(lab) if one.name == pod)
    namespace = lab.namespaces[found.namespace]
    workloads = dict(namespace.workloads)
    spec = workloads[found.workload]
    if len(spec.versions) > 1:
        left = tuple(version for version in spec.versions if version != found.version)
        workloads[found.workload] = spec.model_copy(update={"versions": left})
    else:
        del workloads[found.workload]
    return _with_workloads(lab, found.namespace, workloads)


def _with(lab: ChangeableLab, name: str, step: Step, address: IPv4Address | None) -> Lab:
    """Return the lab with a client pod more; one with an address runs on the node whose block that is of."""
    namespace, _, workload = name.partition("/")
    blocks = lab.bindings.blocks.items()
    host = (
        next((node for node, found in blocks if any(address in block for block in found)), None)
        if address
        else None
    )
    account = step.service_account or "default"
    labels = step.labels or {}
    spec = Workload(runs="client", inject=step.inject, service_account=account, node=host, labels=labels)
    workloads = dict(lab.plan.lab.namespaces[namespace].workloads) | {workload: spec}
    return _with_workloads(lab.plan.lab, namespace, workloads)


def _with_workloads(lab: Lab, namespace: str, workloads: dict[str, Workload]) -> Lab:
    changed = lab.namespaces[namespace].model_copy(update={"workloads": workloads})
    return lab.model_copy(update={"namespaces": dict(lab.namespaces) | {namespace: changed}})


def _programs(lab: ChangeableLab, node: str, program: str | None) -> list[str]:
    names = [str(one["name"]) for one in lab.programs() if one["node"] == node]
    if program is not None and program not in names:
        raise InputError(f"{node} runs no program {program!r}; it runs: {', '.join(names) or 'none'}")
    return [program] if program is not None else names

"""`given`: what is done to a lab before a scenario, and undone after it, in reverse, whatever happens."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address

from harness.errors import InputError
from harness.lab import Lab, Workload, pods
from harness.plan import make_plan
from harness.running import ChangeableLab
from harness.scenario import Step


@contextmanager
def given(lab: ChangeableLab, steps: Sequence[Step]) -> Iterator[None]:
    """Do the steps, and undo them at the end; the caller has the lab's window.

    Raises LabError when the lab cannot be changed, InputError for a program that the node does not run.
    """
    before = lab.state()
    addresses = dict(lab.bindings.pods)
    with ExitStack() as undo:
        undo.callback(lab.restore, before)
        for step in steps:
            _do(lab, step, addresses, undo)
        yield


def _do(lab: ChangeableLab, step: Step, addresses: dict[str, IPv4Address], undo: ExitStack) -> None:
    word, name = step.does
    match word:
        case "delete":
            lab.change(make_plan(without(lab.plan.lab, name), lab.plan))
        case "create":
            address = addresses[step.address_of] if step.address_of else None
            pinned = {name: address} if address else {}
            lab.change(make_plan(_with(lab, name, step, address), lab.plan), pinned)
        case "break":
            lab.set_link(name, up=False)
            undo.callback(lab.set_link, name, up=True)
        case "stop":
            for program in _programs(lab, name, step.program):
                lab.kill(name, program, signal.SIGSTOP)
                undo.callback(lab.kill, name, program, signal.SIGCONT)
        case "kill":
            for program in _programs(lab, name, step.program):
                lab.end_program(name, program)
                undo.callback(lab.start_program, name, program)
        case "restart":
            for program in _programs(lab, name, step.program):
                lab.end_program(name, program)
                lab.start_program(name, program)


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
    spec = Workload(runs="client", inject=step.inject, service_account=account, node=host)
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

"""One flow that somebody names on the command line: its names checked against the lab, sent once, and read."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from harness import source
from harness.attempt import GREETING, observe, probe_of
from harness.errors import InputError
from harness.lookup import nearest
from harness.plan import endpoints
from harness.run import WINDOW_SECONDS
from harness.scenario import Allowed, Expect, Item, Scenario
from harness.scenario_model import Through, Url
from harness.scenario_names import CLUSTER_DOMAIN, OUTSIDE, Words, namespace_of, words_of
from harness.stages import Reading, read

if TYPE_CHECKING:
    from harness.evidence import Evidence
    from harness.lab import Service
    from harness.passport import Passport
    from harness.plan import Plan
    from harness.running import Mark, RunningLab

TIMEOUT_SECONDS = 1.0
"""For all of a probe: a hop that drops answers nothing, and to wait longer shows no more."""

SIDECAR_SECONDS = 2.7
"""For all of a probe through a sidecar, which logs a server that keeps silent when it gives up, after 5 s."""

_URL: TypeAdapter[str] = TypeAdapter(Url)
_THROUGH: TypeAdapter[str] = TypeAdapter(Through)


@dataclass(frozen=True)
class Flow:
    """Who asks for what (`to` is a URL), through which service and whether round its sidecar."""

    source: str
    to: str
    through: str | None = None
    bypass: bool = False

    def __str__(self) -> str:
        through = f" through {self.through}" if self.through else ""
        return f"{self.source} to {self.to}{through}" + (" round its sidecar" if self.bypass else "")


@dataclass(frozen=True)
class Observed:
    """A flow that was sent, all that was recorded of it, and what that says."""

    flow: Flow
    evidence: Evidence
    passport: Passport
    reading: Reading


class Prober:
    """Sends flows one after the other in a running lab; each with the lab to itself."""

    def __init__(self, lab: RunningLab) -> None:
        self.lab = lab
        self.document = source.parse(lab.source[1].encode(), os.path.relpath(lab.source[0]))
        self._earlier: Mark | None = None

    def send(self, flow: Flow) -> Observed:
        """Send a flow once and return what came of it."""
        item = item_of(flow)
        probe = replace(probe_of(item), timeout=seconds_for(flow, self.lab.plan))
        if probe.scheme in ("tcp", "udp"):
            probe = replace(probe, send=GREETING)
        with self.lab.window(WINDOW_SECONDS):
            ((evidence, passport),), self._earlier = observe(self.lab, [item], self._earlier, probes=[probe])
        ends = ends_of(flow, self.lab)
        return Observed(flow, evidence, passport, read(evidence, passport, ends, self.document))


def seconds_for(flow: Flow, plan: Plan) -> float:
    """Return how long a flow's probe may take."""
    pod = plan.node(flow.source).pod
    return SIDECAR_SECONDS if pod is not None and pod.injected and not flow.bypass else TIMEOUT_SECONDS


def item_of(flow: Flow) -> Item:
    """Return a flow as the case of a scenario that nobody wrote."""
    scenario = Scenario(
        name=str(flow)[:253],
        from_=(flow.source,),
        to=flow.to,
        through=flow.through,
        bypass="sidecar" if flow.bypass else None,
        expect=Expect(allowed=Allowed()),
    )
    return Item(
        id=str(flow),
        scenario=scenario,
        source=flow.source,
        to=flow.to,
        through=flow.through,
        path="",
        line=0,
    )


def named(sender: str, to: str, through: str | None, plan: Plan, *, bypass: bool = False) -> Flow:
    """Return the flow that words of a command line mean; `to` is a URL, or NAME:PORT for tcp.

    Raises InputError with each name that the lab does not have, and the nearest that it has.
    """
    words = words_of(plan.lab)
    problems: list[str] = []
    if sender not in words.pods + words.clients:
        problems.append(f"FROM: unknown pod {sender!r}; {nearest(sender, [*words.pods, *words.clients])}")
    url = to if "://" in to else f"tcp://{to}"
    problems += _wrong(_URL, url, "TO")
    if through is not None:
        problems += _wrong(_THROUGH, through, "--through")
    if bypass and "/" not in sender and not problems:
        problems.append(f"--bypass: {sender!r} is no pod, and has no sidecar")
    if not problems:
        namespace = namespace_of(sender)
        hosts = [("TO", urlsplit(url).hostname or "")]
        hosts += [("--through", through.rpartition(":")[0])] if through else []
        problems += [
            f"{option}: {_unknown(host, sender, words)}"
            for option, host in hosts
            if not (words.reaches(host, namespace) or (option == "TO" and through and _outside(host, words)))
        ]
    if problems:
        raise InputError(*problems)
    return Flow(sender, url, through, bypass)


def _unknown(host: str, sender: str, words: Words) -> str:
    namespace = namespace_of(sender)
    elsewhere = [ns for ns, _, name in (full.partition("/") for full in words.services) if name == host]
    if elsewhere and namespace != OUTSIDE:
        return f"{host!r} has no meaning in namespace {namespace!r}; write {host}.{elsewhere[0]}"
    return f"unknown name {host!r} for {sender!r}; {nearest(host, _hosts(words, namespace))}"


def _outside(host: str, words: Words) -> bool:
    return host in words.lab.outside


def _wrong(form: TypeAdapter[str], value: str, option: str) -> list[str]:
    try:
        form.validate_python(value)
    except ValidationError as error:
        return [f"{option}: {one['msg'].removeprefix('Value error, ')}" for one in error.errors()]
    return []


def _hosts(words: Words, namespace: str) -> list[str]:
    if namespace == OUTSIDE:
        return [*words.lab.outside, *words.entrances, *words.pod_hosts]
    services = [service.partition("/") for service in words.services]
    return [*words.lab.outside, *(name if ns == namespace else f"{name}.{ns}" for ns, _, name in services)]


def service_of(host: str, sender: str, plan: Plan) -> tuple[str, Service] | None:
    """Return the service that a host means to a pod, by `namespace/name`; None for another host."""
    name, _, rest = host.removesuffix(f".svc.{CLUSTER_DOMAIN}").removesuffix(".svc").partition(".")
    full = f"{rest or namespace_of(sender)}/{name}"
    found = plan.services.get(full)
    return None if found is None or host in plan.lab.outside else (full, found)


def ends_of(flow: Flow, lab: RunningLab) -> tuple[str, ...]:
    """Return the nodes at which a flow would have arrived; behind a proxy that forwards, that to which it does."""
    plan, host = lab.plan, urlsplit(flow.to).hostname or ""
    if host in plan.lab.outside:
        return (host,)
    found = service_of(host, flow.source, plan)
    if found is not None:
        return tuple(dict.fromkeys(behind(found[1], lab)))
    pods = [node.name for node in plan.pods if node.pod is not None]
    routed = [to.workload for route in plan.lab.routes.values() if host in route.hosts for to in route.to]
    return tuple(
        pod
        for pod in pods
        if host == f"{pod.partition('/')[2]}.{pod.partition('/')[0]}.pod"
        or any(pod == workload or pod.startswith(f"{workload}-") for workload in routed)
    )


def behind(service: Service, lab: RunningLab) -> list[str]:
    """Return the nodes that a service leads to: its endpoints, or what those that forward forward to."""
    ends = []
    for name, address, port in endpoints(lab.plan, lab.bindings, service):
        node = lab.plan.node(name)
        servers = getattr(node.spec, "virtual_servers", {}).values()
        forwards = [one.forward_to for one in servers if one.listen == f"{address}:{port}"]
        egress = getattr(node.spec, "egress", None)
        if egress is not None:
            forwards.append(egress.forward_to)
        ends += [forward.rpartition(":")[0] for forward in forwards] or [name]
    return ends

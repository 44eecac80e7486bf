"""`egresslab why`: one flow sent once, its way told hop by hop, and the nearest flow that does get through."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from harness import graph, shipped
from harness.commands import lab_for, name_for, only_lab
from harness.explain import arrow
from harness.flow_path import stops_of
from harness.lab import load_lab
from harness.listening import listening
from harness.one_flow import Flow, Observed, Prober, behind, named, service_of

if TYPE_CHECKING:
    from harness.plan import Plan
    from harness.running import Driver, RunningLab
    from harness.stages import Decision, Reading, Stage

MOST_PODS, MOST_ROUTES, MOST_PORTS = 3, 4, 2
"""How many variations of each kind are tried."""


def answer_why(  # noqa: PLR0913 - the options of one command
    sender: str,
    to: str,
    through: str | None,
    bypass: str | None,
    lab_name: str | None,
    driver: Driver,
    *,
    as_json: bool,
) -> int:
    """Print what became of a flow, and the nearest one that got through; returns the exit code.

    0 when the question was answered, whatever the answer; 3 when evidence was lost. Raises InputError for names that
    the lab does not have.
    """
    with running_lab(lab_name, driver) as lab:
        flow = named(sender, to, through, lab.plan, bypass=bypass is not None)
        prober = Prober(lab)
        found = prober.send(flow)
        tried = _vary(prober, flow) if found.reading.answer == "denied" else []
    if as_json:
        click.echo(json.dumps(_as_data(found, tried), indent=2))
    else:
        for line in lines(found, tried):
            click.echo(line)
    return 3 if found.reading.lost or found.reading.answer == "unknown" else 0


def show_way(lab_name: str, flow: tuple[str, str], through: str | None, form: str, driver: Driver) -> int:
    """Send a flow, FROM and TO, and print its lab as `mermaid` or `svg` with the way it took; returns the exit code.

    0 when its way was seen, 3 when evidence of it was lost or there is none. Raises InputError for names that the lab
    does not have.
    """
    with running_lab(lab_name, driver) as lab:
        found = Prober(lab).send(named(*flow, through, lab.plan))
    plan, bindings = found.evidence.plan, found.evidence.bindings
    stops = stops_of(found.passport, plan)
    drawn = graph.svg if form == "svg" else graph.mermaid
    click.echo(drawn(plan, bindings, stops).rstrip("\n"))
    for reason in found.reading.lost:
        click.echo(f"egresslab: lost: {reason}", err=True)
    return 0 if stops and not found.reading.lost else 3


@contextmanager
def running_lab(lab_name: str | None, driver: Driver) -> Iterator[RunningLab]:
    """Yield the lab of that name that is up, or one that stands for this time; without a name the only one."""
    if lab_name is not None and lab_name not in driver.running():
        path = shipped.find_lab(lab_name)
        lab = load_lab(path)
        with lab_for(driver, lab, path, name_for(lab.lab, "never", driver)) as (running, _):
            yield running
        return
    running = driver.attach(only_lab(driver, lab_name))
    try:
        yield running
    finally:
        running.close()


def _vary(prober: Prober, flow: Flow) -> list[Observed]:
    """Try variations until one gets through; returns all that were tried, the last of which may have."""
    tried: list[Observed] = []
    for variation in variations(flow, prober.lab):
        tried.append(prober.send(variation))
        if tried[-1].reading.answer == "allowed":
            break
    return tried


def variations(flow: Flow, lab: RunningLab) -> Iterator[Flow]:
    """Yield flows that differ in one thing: another identity, then another route, then another port."""
    whole = replace(flow, to=_qualified(flow.to, flow.source, lab.plan))
    if whole.through is not None:
        host, _, port = whole.through.rpartition(":")
        whole = replace(whole, through=f"{_full_name(host, flow.source, lab.plan)}:{port}")
    if "/" in flow.source:
        yield from _others(whole, lab.plan)
        yield from _routes(whole, lab)
    yield from _ports(whole, lab)


def _others(flow: Flow, plan: Plan) -> Iterator[Flow]:
    """Yield the flow as pods of other identities would send it; tenants that have an address outside come first."""
    seen = {_identity(flow.source, plan)}
    tenants = plan.lab.namespaces
    pods = [node.name for node in plan.pods if node.pod is not None]
    for pod in sorted(pods, key=lambda name: tenants[name.partition("/")[0]].snat is None):
        if _identity(pod, plan) not in seen and len(seen) <= MOST_PODS:
            seen.add(_identity(pod, plan))
            yield replace(flow, source=pod)


def _identity(name: str, plan: Plan) -> tuple[object, ...]:
    """Return what tells a pod from another: whose it is, whether it has a sidecar, and with what certificate."""
    pod = plan.node(name).pod
    return (pod.namespace, pod.service_account, pod.injected, pod.spec.certificate) if pod else (name,)


def _routes(flow: Flow, lab: RunningLab) -> Iterator[Flow]:
    if flow.bypass:
        yield replace(flow, bypass=False)
    url = urlsplit(flow.to)
    left = MOST_ROUTES
    for full, service in lab.plan.services.items():
        namespace, _, name = full.partition("/")
        at = f"{name}.{namespace}:{service.port}"
        leads = behind(service, lab)
        outside = [node for node in leads if node in lab.plan.lab.outside]
        if not outside or left == 0 or at == flow.through:
            continue
        if any(lab.plan.lab.outside[node].kind == "forward-proxy" for node in outside):
            if url.hostname not in outside and url.scheme != "udp":
                left -= 1
                yield replace(flow, through=at, bypass=False)
        elif url.hostname in outside and url.netloc != at:
            left -= 1
            yield Flow(flow.source, f"tcp://{at}")


def _ports(flow: Flow, lab: RunningLab) -> Iterator[Flow]:
    """Yield the flow to other ports on which its target listens, as its kernel says."""
    url = urlsplit(flow.to)
    host = url.hostname or ""
    if host not in lab.plan.lab.outside:
        return
    ports = [port for protocol, port, _ in listening(lab, host) if protocol == "tcp" and port != url.port]
    for port in list(dict.fromkeys(ports))[:MOST_PORTS]:
        yield replace(flow, to=f"tcp://{host}:{port}")


def _qualified(to: str, sender: str, plan: Plan) -> str:
    url = urlsplit(to)
    host = _full_name(url.hostname or "", sender, plan)
    return url._replace(netloc=host if url.port is None else f"{host}:{url.port}").geturl()


def _full_name(host: str, sender: str, plan: Plan) -> str:
    """Return a host by a name that means the same in every namespace."""
    found = service_of(host, sender, plan) if "/" in sender else None
    if found is None:
        return host
    namespace, _, name = found[0].partition("/")
    return f"{name}.{namespace}"


def lines(found: Observed, tried: Sequence[Observed]) -> Iterator[str]:
    """Yield what became of a flow, for people."""
    reading = found.reading
    yield f"{found.flow}: {_verdict(reading)}"
    begun = found.evidence.attempt.started
    for stage in reading.stages:
        yield from _stage_lines(stage, reading, begun)
    yield f"client: {reading.client}"
    for reason in reading.lost:
        yield f"lost: {reason}"
    if reading.answer == "allowed":
        yield (
            "let through by:"
            if reading.permits
            else "let through: no hop on the way decides, none recorded a rule"
        )
        for decision in reading.permits:
            yield f"  {decision.at}: {_said(decision)}"
    if reading.answer == "denied":
        yield from _tried_lines(tried)


def _verdict(reading: Reading) -> str:
    if reading.no is not None:
        by = f" by {reading.no.rule}" if reading.no.rule else ""
        return f"denied at {reading.no.at}{by}" + (f", {reading.no.place}" if reading.no.place else "")
    if reading.refused is not None:
        what = "a TCP RST" if reading.refused.event == "reset" else f"ICMP {reading.refused.facts['icmp']}"
        return f"denied at {reading.refused.at}, which answered with {what}; no rule of a hop was recorded"
    if reading.answer == "unknown":
        last = reading.stages[-1].at if reading.stages else "nowhere"
        return f"unknown: no hop recorded a decision; last seen at {last}"
    if reading.answer == "not resolved":
        return "not sent: the name was not resolved"
    return "allowed"


def _stage_lines(stage: Stage, reading: Reading, begun: int) -> Iterator[str]:
    no = reading.no.at if reading.no else reading.refused.at if reading.refused else None
    mark = ">>" if stage.at == no else "  "
    arrived = arrow(stage.arrived) if stage.arrived else ""
    seen = ", ".join(stage.witnesses)
    yield f"{mark} {(stage.time - begun) / 1e6:8.2f} ms  {stage.at}  {arrived}  ({seen})"
    indent = " " * 17
    for flow in stage.onward:
        yield f"{indent}goes on as {arrow(flow)}"
    for before, after in stage.translated:
        what = "SNAT" if before.src != after.src else "DNAT" if before.dst != after.dst else "redirected"
        yield f"{indent}{what}: {arrow(before)} becomes {arrow(after)}"
    if stage.identity and not any(one.identity for one in stage.decisions):
        yield f"{indent}identity {stage.identity}"
    for decision in stage.decisions:
        first = decision == reading.no
        yield f"{indent}{'said no' if first else 'decided'}: {_said(decision)}"
    for note in stage.notes:
        yield f"{indent}{note}"


def _said(decision: Decision) -> str:
    words = "permits" if decision.permits else "denies"
    words += f" by {decision.rule}" if decision.rule else ""
    words += f", {decision.place}" if decision.place else ""
    words += f", identity {decision.identity}" if decision.identity else ""
    words += f", reason {decision.reason}" if decision.reason else ""
    if decision.counted is not None:
        words += f", counter {decision.counted[0]} -> {decision.counted[1]} packets"
    return words


def _tried_lines(tried: Iterable[Observed]) -> Iterator[str]:
    last = None
    for last in tried:
        yield f"tried {last.flow}: {_verdict(last.reading)}"
    if last is not None and last.reading.answer == "allowed":
        yield f"nearest that got through: {last.flow}"
    else:
        yield "none of those tried got through" if last else "nothing near it could be tried"


def _as_data(found: Observed, tried: Sequence[Observed]) -> dict[str, Any]:
    return {
        **_flow_data(found),
        "variations": [_flow_data(one, short=True) for one in tried],
        "nearest": next((asdict(one.flow) for one in tried if one.reading.answer == "allowed"), None),
    }


def _flow_data(found: Observed, *, short: bool = False) -> dict[str, Any]:
    reading = found.reading
    data: dict[str, Any] = {
        "flow": asdict(found.flow),
        "answer": reading.answer,
        "no": asdict(reading.no) if reading.no else None,
        "refused_at": reading.refused.at if reading.refused else None,
        "client": reading.client,
        "lost": list(reading.lost),
    }
    if not short:
        data["permits"] = [asdict(one) for one in reading.permits]
        data["stages"] = [
            asdict(stage)
            | {
                "arrived": str(stage.arrived) if stage.arrived else None,
                "onward": [str(flow) for flow in stage.onward],
                "translated": [[str(flow) for flow in pair] for pair in stage.translated],
            }
            for stage in reading.stages
        ]
    return data

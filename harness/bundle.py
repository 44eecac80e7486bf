"""bundle.tgz: a run that did not hold in one file, for whoever looks into it elsewhere; without any private key."""

from __future__ import annotations

import datetime as dt
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from harness import __version__, doctor
from harness.errors import LabError
from harness.explain import arrow, failure_lines
from harness.pcapng import without_secrets
from harness.report import BUNDLE, Summary
from harness.reports.html.again import repeat
from harness.run import Result
from harness.running import Mark, RunningLab

_CAPTURE = "capture.pcapng"
_NETWORK = (
    "ip -d address; echo; ip rule; echo; ip route show table all; echo; ip neighbour; echo; nft list ruleset"
)
"""What a node's shell is asked for: interfaces, routing policy, routes, neighbours, packet filter with its counters."""

_NETWORK_SECONDS = 5.0
_KEY = re.compile(
    rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?:.*?-----END [A-Z0-9 ]*PRIVATE KEY-----|.*)", re.DOTALL
)
"""A private key in PEM (RFC 7468), up to the end of the text where its own end is missing."""

_INSTEAD = b"[a private key stood here]"

Part = tuple[str, str | bytes]
"""A file of the bundle: its path there, and what is in it."""


def write_bundle(summary: Summary, lab: RunningLab | None, folder: Path) -> Path:
    """Write the bundle into a run's folder, and return its path.

    What a lab that has gone can no longer tell is missing, with the reason in its place.
    """
    whole, part = folder / BUNDLE, folder / f".{BUNDLE}"
    top = f"{summary.lab}-{folder.name}"
    with tarfile.open(part, "w:gz", compresslevel=6) as archive:
        for name, content in _parts(summary, lab, folder):
            data = content if isinstance(content, bytes) else content.encode(errors="replace")
            if name != _CAPTURE:  # its blocks have lengths; _run_files sees to it
                data = without_keys(data)
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size, entry.mtime = len(data), int(summary.started.timestamp())
            archive.addfile(entry, io.BytesIO(data))
    part.replace(whole)
    return whole


def without_keys(data: bytes) -> bytes:
    """Return a text without the private keys in it, wherever they stand: in a file of their own or within JSON."""
    return _KEY.sub(_INSTEAD, data)


def _parts(summary: Summary, lab: RunningLab | None, folder: Path) -> Iterator[Part]:
    failed = [result for result in summary.results if result.verdict.state != "held"]
    yield "README.txt", "\n".join([*_readme(summary, failed, lab), ""])
    yield from _run_files(folder)
    yield from _sources(summary.results, lab)
    findings = doctor.examine()
    versions = (
        f"{name} {version}" for name, version in {"egresslab": __version__, **summary.versions}.items()
    )
    yield "machine.txt", "\n".join([*versions, "", *doctor.lines(findings), ""])
    if lab is None:
        return
    for name, parts in (
        ("recorded", _recorded),
        ("network", _network),
        ("configurations", _configurations),
        ("programs", _programs),
    ):
        try:
            yield from parts(lab)
        except LabError as error:
            yield f"{name}/MISSING.txt", f"{error}\n"


def _readme(summary: Summary, failed: Iterable[Result], lab: RunningLab | None) -> Iterator[str]:
    yield f"Egress Lab {__version__}: lab {summary.lab} on driver {summary.driver}, {summary.words}"
    yield f"started {summary.started.isoformat()}, took {summary.seconds:.2f} s"
    yield ""
    yield "report.html, flows.jsonl, ...  the run's own files; the capture is without the secrets of TLS"
    yield "lab.yaml, scenarios/           what was run, as it was read"
    yield "machine.txt                    versions, and what `egresslab doctor` says of the machine"
    yield "recorded/                      what programs printed, connection tracking told and packet filters logged"
    yield "network/                       each node's addresses, routes and rules at the end"
    yield "configurations/                each node's files, without private keys"
    yield "programs.json                  what ran, and what had ended"
    for result in failed:
        yield ""
        yield f"{result.verdict.state}: {result.item.id}"
        yield f"again: {repeat(result, summary, lab)}"
        yield from failure_lines(result)


def _run_files(folder: Path) -> Iterator[Part]:
    for path in sorted(folder.iterdir()):
        if path.name.endswith(BUNDLE) or not path.is_file():
            continue
        content = path.read_bytes()
        if path.name == _CAPTURE:
            content = without_secrets(content)
            if _KEY.search(content):
                yield (
                    f"{_CAPTURE}.MISSING.txt",
                    "a private key in PEM was on the wire: the capture is left out\n",
                )
                continue
        yield path.name, content


def _sources(results: Iterable[Result], lab: RunningLab | None) -> Iterator[Part]:
    if lab is not None:
        yield "lab.yaml", lab.source[1]
    for path in dict.fromkeys(result.item.path for result in results):
        name = f"scenarios/{Path(path).name}"
        try:
            yield name, Path(path).read_bytes()
        except OSError as error:
            yield f"{name}.MISSING.txt", f"{error}\n"


def _recorded(lab: RunningLab) -> Iterator[Part]:
    raw = lab.collect(Mark(0, {}), ("lines", "conntrack", "nflog"))
    for program, lines in raw.lines.items():
        node, _, name = program.rpartition(" ")
        yield f"recorded/{node}/{name}.log", _stamped(lines)
    for node, events in raw.conntrack.items():
        told = (
            (one.time, f"{one.kind} {arrow(one.original)}, answered {arrow(one.reply)}") for one in events
        )
        yield f"recorded/{node}/conntrack.txt", _stamped(told)
    for node, entries in raw.nflog.items():
        met = ((one.time, f"{one.prefix} {one.packet.hex()}") for one in entries)
        yield f"recorded/{node}/nflog.txt", _stamped(met)
    if raw.lost:
        yield "recorded/LOST.txt", "".join(f"{where}: {what}\n" for where, what in raw.lost.items())


def _stamped(lines: Iterable[tuple[int, str]]) -> str:
    return "".join(f"{_moment(time)} {line}\n" for time, line in lines)


def _moment(time: int) -> str:
    """Return an instant, in ns since the epoch, as ISO 8601 in UTC with all its digits."""
    seconds, rest = divmod(time, 1_000_000_000)
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _network(lab: RunningLab) -> Iterator[Part]:
    for node in lab.plan.nodes:
        found = lab.run(node.name, ("sh", "-c", _NETWORK), seconds=_NETWORK_SECONDS, capable=True)
        yield f"network/{node.name}.txt", found.stdout + found.stderr


def _configurations(lab: RunningLab) -> Iterator[Part]:
    for node, files in lab.files().items():
        yield from ((f"configurations/{node}/{path}", text) for path, text in files.items())


def _programs(lab: RunningLab) -> Iterator[Part]:
    yield "programs.json", json.dumps(list(lab.programs()), indent=1) + "\n"

"""What goes into the bundle of a run that did not hold, and that private keys do not."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from typing import TYPE_CHECKING

import pytest
from judged_flows import BLUE, RED, lab, told, without
from recorded_flows import BEGUN, Story, allowed
from test_report import result_of, summary_of

from harness.bundle import without_keys, write_bundle
from harness.drivers.fake import FakeLab
from harness.identity import Request, issue
from harness.pcapng import TapInfo, without_secrets, write_pcapng
from harness.report import write

if TYPE_CHECKING:
    from pathlib import Path

KEY = issue([Request("a", uris=("spiffe://x/a",))], "root", "mesh").leaves["a"].key


def bundled(path: Path) -> dict[str, bytes]:
    """Return a bundle's files by their path below its one folder."""
    with tarfile.open(path) as archive:
        files = {entry.name: archive.extractfile(entry) for entry in archive}
        found = {name: file.read() for name, file in files.items() if file is not None}
    assert len({name.partition("/")[0] for name in found}) == 1
    return {name.partition("/")[2]: content for name, content in found.items()}


def test_a_bundle_has_what_is_needed_elsewhere(tmp_path: Path) -> None:
    """The run's files, the lab file as it ran, versions, doctor's words, what was recorded; and the way to it again."""
    summary = summary_of(result_of(told(BLUE)), result_of(without(told(RED), at="firewall")))
    plan, bindings = lab()
    running = FakeLab(plan, "paper", ("lab.yaml", "lab: tenants\n"), [allowed(Story(plan, bindings, BEGUN))])
    running.run("red/client", ["curl"], seconds=1)
    folder = write(summary, running, tmp_path)
    found = bundled(write_bundle(summary, running, folder))
    assert {"README.txt", "machine.txt", "lab.yaml", "flows.jsonl", "report.html", "capture.pcapng"} <= set(
        found
    )
    assert found["lab.yaml"] == b"lab: tenants\n"
    readme = found["README.txt"].decode()
    assert f"broken: {RED}" in readme
    assert "again: egresslab test" in readme
    assert "held" in readme
    assert BLUE not in readme
    assert b"driver netns:" in found["machine.txt"]
    assert b"answered 198.51.100.112:8888" in found["recorded/bigip/conntrack.txt"]
    assert "scenarios/scenarios.yaml.MISSING.txt" in found, "a file that is gone is told of"


def test_what_a_dead_lab_cannot_tell_is_said(tmp_path: Path) -> None:
    """A lab that went away leaves a bundle all the same, with the reason where its part would be."""
    summary = summary_of(result_of(without(told(RED), at="firewall")))
    plan, bindings = lab()
    running = FakeLab(plan, "paper", ("lab.yaml", ""), [allowed(Story(plan, bindings, BEGUN))])
    folder = write(summary, None, tmp_path)
    found = bundled(write_bundle(summary, running, folder))
    assert b"no command was recorded" in found["network/MISSING.txt"]
    assert "programs.json" in found


@pytest.mark.parametrize(
    "label", ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY", "ENCRYPTED PRIVATE KEY"]
)
@pytest.mark.parametrize("form", ["plain", "json", "json twice", "cut off"])
def test_private_keys_are_taken_out(label: str, form: str) -> None:
    """Whatever they are called and within what they stand; what is before and behind them stays."""
    key = KEY.replace("PRIVATE KEY", label)
    body = key.splitlines()[1]
    text = f"before {key} behind"
    forms = {
        "plain": text,
        "json": json.dumps({"key": text}),
        "json twice": json.dumps({"inner": json.dumps({"key": text})}),
        "cut off": text[: text.index("-----END")],
    }
    left = without_keys(forms[form].encode()).decode()
    assert body not in left
    assert "PRIVATE" not in left
    assert "before" in left
    assert ("behind" in left) == (form != "cut off")
    if form.startswith("json"):
        json.loads(left)


def test_certificates_stay() -> None:
    """A chain is no secret, and is needed to see who was who."""
    chain = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n"
    assert without_keys((chain + KEY + chain).encode()).decode().count(chain) == 2


def test_a_capture_without_its_secrets_is_else_the_same() -> None:
    """Only the block of secrets is gone; every other is where it was."""
    files = []
    for secrets in (b"", b"CLIENT_RANDOM aa bb\n"):
        file = io.BytesIO()
        write_pcapng(file, [TapInfo("a", "b")], [], secrets=secrets)
        files.append(file.getvalue())
    assert files[0] != files[1]
    assert without_secrets(files[1]) == without_secrets(files[0]) == files[0]
    assert struct.pack("=I", 10) in files[1]

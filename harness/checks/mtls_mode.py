"""`mtls_mode`: whether a flow reached a pod by mutual TLS or in plain text.

The bytes at the pod's own tap say whether it was TLS; that it was mutual, the log of the pod's sidecar: it names the
client's identity only when it has verified the client's certificate. The lab file is no witness.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness import capture
from harness.errors import LostEvidence
from harness.evidence import SIDECAR, Evidence, Finding, State
from harness.passport import Passport
from harness.scenario import MtlsMode

MUTUAL, PLAIN = "mutual", "plain"


def judge(expected: MtlsMode, evidence: Evidence, passport: Passport) -> Iterator[Finding]:
    """Yield one finding."""
    wanted = {MUTUAL: "mutual TLS", PLAIN: "plain text"}[expected.is_]
    mode, seen = observed(expected.at, evidence, passport)
    state: State = "unknown" if mode is None else "held" if mode == expected.is_ else "broken"
    yield Finding("mtls_mode", state, expected.at, wanted, seen)


def observed(pod: str, evidence: Evidence, passport: Passport) -> tuple[str | None, str]:
    """Return how a flow reached a pod, and what shows it.

    `mutual` or `plain`, else `tls` (no verified client, or no more than a handshake) or `mixed` (TLS one way only),
    which are neither; None where the evidence does not say.
    """
    try:
        sent = _sent(f"{pod}.eth0", evidence, passport)
    except LostEvidence as error:
        return None, str(error)
    gap = evidence.gap(pod)
    if gap is not None or not sent:
        return None, gap or f"no byte of the flow at {pod}.eth0"
    verdicts = [capture.is_tls(data) for data in sent]
    wrong = "; ".join(str(verdict) for verdict in verdicts if verdict is not True)
    if not wrong:
        verified = {s.facts["identity"] for s in passport.at(f"{pod} {SIDECAR}") if s.facts.get("identity")}
        if verified:
            return MUTUAL, f"TLS records only; the client's certificate names {', '.join(sorted(verified))}"
        return "tls", "TLS records only; its sidecar's log has no verified name of the client"
    opened = [capture.opens_tls(data) for data in sent]
    if not any(opened):
        return PLAIN, f"no TLS: {wrong}"
    return (
        ("tls", f"TLS that came to nothing: {wrong}")
        if all(opened)
        else ("mixed", f"TLS one way only: {wrong}")
    )


def _sent(tap: str, evidence: Evidence, passport: Passport) -> list[bytes]:
    """Return what each side sent, as far as it sent anything, of the connections that arrived at a tap.

    Raises LostEvidence when a part of it was not recorded.
    """
    packets = [packet for packet in evidence.recorded.packets if packet.tap == tap]
    arrived = {packet.flow for packet in packets if packet.flow in passport.flows and not packet.outgoing}
    return [data for flow in sorted(arrived, key=str) for data in capture.stream(packets, flow) if data]

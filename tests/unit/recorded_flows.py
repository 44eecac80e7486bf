"""Recordings of whole flows, made on paper: every line, event and frame that a flow leaves at each of its hops.

All addresses come from the bindings, so that the same flow can be told for any driver.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.drivers.fake import Recording
from harness.evidence import CommandResult
from harness.programs.conntrack import Event
from harness.programs.fivetuple import TCP, FiveTuple
from harness.programs.nflog import Entry
from harness.programs.probe import Outcome
from harness.running import Raw

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.plan import Bindings, Plan

BEGUN = 1_795_273_667_000_000_000
STEP = 100_000
"""Nanoseconds from one thing recorded to the next."""

HELLO = b"\x16\x03\x01\x00\x04abcd"
DATA = b"\x17\x03\x03\x00\x04wxyz"
_FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16}
_CALI = 1000


def block_of(frames: Iterable[tuple[int, int, bool, bytes]], hardware: int = 1) -> bytes:
    """Return a block of a packet ring, version 3, of (time in ns, ifindex, outgoing, frame).

    `hardware` is the interfaces' ARPHRD number: 1 for Ethernet, 768 for IP-in-IP, whose frames begin with IP.
    """
    body = b""
    count = 0
    for time, ifindex, outgoing, data in frames:
        mac = 80
        size = (mac + len(data) + 7) // 8 * 8
        header = struct.pack(
            "=IIIIIIHHIIH", size, time // 10**9, time % 10**9, len(data), len(data), 0, mac, mac + 14, 0, 0, 0
        )
        address = struct.pack(
            "=H2siHB", socket.AF_PACKET, b"\x08\x00", ifindex, hardware, 4 if outgoing else 0
        )
        body += (header.ljust(48, b"\0") + address).ljust(mac, b"\0") + data.ljust(size - mac, b"\0")
        count += 1
    return struct.pack("=IIIIII", 3, 0, 1, count, 48, 48 + len(body)).ljust(48, b"\0") + body


def tcp_frame(  # noqa: PLR0913 - the fields of a segment
    flow: FiveTuple,
    flags: str,
    payload: bytes = b"",
    *,
    seq: int = 1,
    ack: int = 1,
    ip_id: int = 7,
    ttl: int = 63,
) -> bytes:
    """Return an Ethernet frame with a TCP segment; checksums are left zero."""
    bits = sum(_FLAGS[flag] for flag in flags)
    segment = struct.pack(">HHIIBBHHH", flow.sport, flow.dport, seq, ack, 5 << 4, bits, 1024, 0, 0) + payload
    ends = socket.inet_aton(flow.src), socket.inet_aton(flow.dst)
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(segment), ip_id, 0, ttl, TCP, 0, *ends)
    return bytes(12) + b"\x08\x00" + header + segment


def icmp_frame(source: str, about: bytes, kind: int = 3, code: int = 10) -> bytes:
    """Return an ICMP error from `source` that quotes the packet in another Ethernet frame, to its sender."""
    quoted = about[14 : 14 + 28]
    message = struct.pack(">BBHI", kind, code, 0, 0) + quoted
    ends = socket.inet_aton(source), quoted[12:16]
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(message), 9, 0, 63, 1, 0, *ends)
    return bytes(12) + b"\x08\x00" + header + message


@dataclass
class Story:
    """Gathers what is recorded, each thing STEP later than the one before."""

    plan: Plan
    bindings: Bindings
    begun: int = BEGUN
    time: int = 0
    lines: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    conntrack: dict[str, list[Event]] = field(default_factory=dict)
    nflog: dict[str, list[Entry]] = field(default_factory=dict)
    frames: dict[str, list[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.time = self.begun

    def interfaces(self) -> dict[str, dict[int, str]]:
        """Return the name of each node's taps by interface index."""
        named: dict[str, dict[int, str]] = {}
        for node in self.plan.nodes:
            if node.placement == "pod":
                named[node.name] = {1: f"{node.name}.lo", 2: f"{node.name}.eth0"}
            else:
                named[node.name] = {2 + n: f"{node.name}.{network}" for n, (network, _) in enumerate(node.on)}
            if node.placement == "cluster-node":
                named[node.name][_CALI] = f"{node.name}.cali"
        return named

    def says(self, node: str, program: str, line: str | dict[str, Any]) -> None:
        """Have a program print a line; a mapping is printed as our own programs do."""
        self.time += STEP
        text = line if isinstance(line, str) else json.dumps({"time": self.time, **line})
        self.lines.setdefault(f"{node} {program}", []).append((self.time, text))

    def tracks(self, node: str, original: FiveTuple, onward: FiveTuple | None = None) -> None:
        """Have conntrack tell of a new connection, translated where `onward` is another."""
        self.time += STEP
        reply = (onward or original).inverse()
        self.conntrack.setdefault(node, []).append(
            Event(self.time, "new", original, reply, 0, 0, 0, (1, 60), (0, 0))
        )

    def logs(self, node: str, prefix: str, flow: FiveTuple) -> None:
        """Have a firewall rule log a packet."""
        self.time += STEP
        entry = Entry(self.time, prefix, 2, 3, 0, "forward", b"", flow)
        self.nflog.setdefault(node, []).append(entry)

    def sees(self, tap: str, frame: bytes, *, outgoing: bool) -> None:
        """Have a tap see a frame."""
        self.time += STEP
        for node, names in self.interfaces().items():
            for ifindex, name in names.items():
                if name == tap:
                    self.frames.setdefault(node, []).append(block_of([(self.time, ifindex, outgoing, frame)]))
                    return
        raise KeyError(tap)

    def passes(self, frame: bytes, *taps: str) -> None:
        """Have a frame go from tap to tap, out of the first, into the second, and so on in turn."""
        for number, tap in enumerate(taps):
            self.sees(tap, frame, outgoing=number % 2 == 0)

    def raw(self, **others: Any) -> Raw:
        """Return all of it, undigested."""
        found: dict[str, Any] = {
            "lines": self.lines,
            "conntrack": self.conntrack,
            "nflog": self.nflog,
            "frames": self.frames,
            "lost": {},
            "ended": {},
            "interfaces": self.interfaces(),
        }
        return Raw(**(found | others))


@dataclass(frozen=True)
class Ends:
    """The addresses of the parts that a flow of these labs meets."""

    pod: str
    host: str
    service: str
    server: str
    inside: str
    pool: str
    tinyproxy: str
    site: str


def ends_of(plan: Plan, bindings: Bindings, pod: str) -> Ends:
    """Return the addresses on the way of a pod's flow through the proxy."""
    node = plan.node(pod)
    spec = plan.node("bigip").spec
    return Ends(
        pod=str(bindings.pods[pod]),
        host=str(bindings.address(plan.node(node.host or ""))),
        service=str(bindings.cluster_ips["red/proxy"]),
        server=getattr(spec, "virtual_servers", {})["exit"].listen.partition(":")[0],
        inside=str(bindings.inside["bigip", "red"]),
        pool=str(getattr(spec, "snat_pools", {})["red"][0]),
        tinyproxy=str(bindings.address(plan.node("tinyproxy"))),
        site=str(bindings.address(plan.node("site.example"))),
    )


def to_proxy(story: Story, pod: str, port: int = 40000) -> FiveTuple:
    """Tell a flow from its pod up to the proxy's log of its acceptance; return it as it arrives there."""
    ends = ends_of(story.plan, story.bindings, pod)
    host = story.plan.node(pod).host or ""
    asked = FiveTuple(TCP, ends.pod, port, ends.service, 3128)
    own = FiveTuple(TCP, ends.pod, port + 1, ends.server, 3128)
    arrives = FiveTuple(TCP, ends.host, port + 1, ends.server, 3128)
    story.tracks(pod, asked, FiveTuple(TCP, ends.pod, port, "127.0.0.1", 15001))
    story.tracks(pod, own)
    story.passes(tcp_frame(own, "S"), f"{pod}.eth0", f"{host}.cali")
    story.tracks(host, own, arrives)
    story.passes(tcp_frame(arrives, "S"), f"{host}.nodes", "bigip.nodes")
    story.passes(tcp_frame(arrives.inverse(), "SA", seq=100, ack=2), "bigip.nodes", f"{host}.nodes")
    story.passes(tcp_frame(arrives, "PA", HELLO + DATA, seq=2, ack=101), f"{host}.nodes", "bigip.nodes")
    common = {"conn": port, "virtual_server": "exit", "peer": end(arrives), "local": end(arrives.inverse())}
    story.says("bigip", "egress-proxy", {"event": "accept", **common})
    return arrives


def sidecar_line(story: Story, pod: str, port: int = 40000, failure: str | None = None) -> None:
    """Have the sidecar log a flow's end, as Envoy does: with the time at which it began."""
    ends = ends_of(story.plan, story.bindings, pod)
    line = {
        "event": "connection",
        "failure": failure,
        "flags": "-",
        "listener": "outbound red/proxy",
        "peer": f"{ends.pod}:{port}",
        "local": f"{ends.service}:3128",
        "upstream_local": None if failure else f"{ends.pod}:{port + 1}",
        "upstream_remote": None if failure else f"{ends.server}:3128",
        "server_identity": "spiffe://cluster.local/ns/red/sa/default",
        "time": str(story.begun + STEP),
    }
    story.says(pod, "sidecar", json.dumps(line))


def decision(arrives: FiveTuple, verdict: str, tenant: str, conn: int = 40000) -> dict[str, Any]:
    """Return the proxy's event of its decision."""
    return {
        "event": "decision",
        "conn": conn,
        "virtual_server": "exit",
        "peer": end(arrives),
        "local": end(arrives.inverse()),
        "policy": "red-only",
        "rule": 0 if verdict == "PERMITTED" else "no match",
        "verdict": verdict,
        "identity": f"spiffe://cluster.local/ns/{tenant}/sa/default",
    }


def end(flow: FiveTuple) -> str:
    """Write where a flow comes from as `ip:port`."""
    return f"{flow.src}:{flow.sport}"


def behind_proxy(story: Story, port: int = 50000, conn: int = 40000, descriptor: int = 7) -> FiveTuple:
    """Tell a permitted flow from the proxy to the site; return it as it leaves from the tenant's pool."""
    ends = ends_of(story.plan, story.bindings, "red/client")
    bound = FiveTuple(TCP, ends.inside, port, ends.tinyproxy, 8888)
    leaves = FiveTuple(TCP, ends.pool, port, ends.tinyproxy, 8888)
    fetches = FiveTuple(TCP, ends.tinyproxy, port + 1, ends.site, 443)
    story.tracks("bigip", bound, leaves)
    story.passes(tcp_frame(leaves, "S", ip_id=port), "bigip.dmz", "firewall.dmz")
    story.logs("firewall", "allow proxy-out", leaves)
    story.passes(tcp_frame(leaves, "S", ip_id=port), "firewall.internet", "tinyproxy.internet")
    upstream = {"local": end(bound), "remote": end(bound.inverse())}
    story.says("bigip", "egress-proxy", {"event": "upstream", "conn": conn, **upstream})
    number = f"(file descriptor {descriptor})"
    story.says("tinyproxy", "tinyproxy", f"CONNECT   Nov 21 15:07:47.621 [45]: Connect {number}: {ends.pool}")
    request = f"CONNECT   Nov 21 15:07:47.622 [45]: Request {number}: CONNECT site.example:443 HTTP/1.1"
    story.says("tinyproxy", "tinyproxy", request)
    story.passes(tcp_frame(fetches, "S"), "tinyproxy.internet", "site.example.internet")
    asked = {"event": "request", "peer": end(fetches), "local": end(fetches.inverse()), "status": 200}
    story.says("site.example", "website", {**asked, "method": "HEAD", "path": "/", "host": "site.example"})
    ends_at = f"(fd:{descriptor}) and remote client (fd:8)"
    gone = f"INFO      Nov 21 15:07:47.690 [45]: Closed connection between local client {ends_at}"
    story.says("tinyproxy", "tinyproxy", gone)
    return leaves


def closed(arrives: FiveTuple, verdict: str, conn: int = 40000, **fields: Any) -> dict[str, Any]:
    """Return the proxy's event of a connection's end."""
    common = {"event": "close", "conn": conn, "peer": end(arrives), "local": end(arrives.inverse())}
    return {**common, "upstream_local": None, "upstream_remote": None, "verdict": verdict, **fields}


def counted(plan: Plan, pod: str, snat: int = 0) -> dict[str, dict[str, tuple[int, int]]]:
    """Return by how much a flow moves the counters on its way, as (packets, bytes)."""
    host = plan.node(pod).host or ""
    return {"bigip": {"snat_red": (snat, 60 * snat)}, host: {"masqueraded": (1, 60)}}


def allowed(story: Story) -> Recording:
    """Tell how red's client is let out to the site."""
    pod = "red/client"
    host = story.plan.node(pod).host or ""
    arrives = to_proxy(story, pod)
    story.says("bigip", "egress-proxy", decision(arrives, "PERMITTED", "red"))
    behind_proxy(story)
    answer = tcp_frame(arrives.inverse(), "PA", HELLO + DATA, seq=101, ack=2 + len(HELLO + DATA))
    story.passes(answer, "bigip.nodes", f"{host}.nodes")
    story.says("bigip", "egress-proxy", closed(arrives, "PERMITTED", reason="both sides ended"))
    sidecar_line(story, pod)
    argv = ("curl", "-sSkIx", "proxy:3128", "https://site.example")
    said = "HTTP/1.0 200 Connection established\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    return Recording(
        pod,
        story.raw(),
        story.begun,
        story.time + STEP,
        command=CommandResult(argv, 0, said, ""),
        counted=counted(story.plan, pod, 1),
    )


def rejected(story: Story, flags: str = "RA", payload: bytes = b"") -> Recording:
    """Tell how blue's client is refused by the proxy: with a reset, or what else it answers."""
    pod = "blue/client"
    host = story.plan.node(pod).host or ""
    arrives = to_proxy(story, pod)
    story.says("bigip", "egress-proxy", decision(arrives, "REJECTED", "blue"))
    story.passes(tcp_frame(arrives.inverse(), flags, payload, seq=101), "bigip.nodes", f"{host}.nodes")
    story.says("bigip", "egress-proxy", closed(arrives, "REJECTED", reason="rejected"))
    sidecar_line(story, pod)
    argv = ("curl", "-sSkIx", "proxy.red:3128", "https://site.example")
    return Recording(
        pod,
        story.raw(),
        story.begun,
        story.time + STEP,
        command=CommandResult(argv, 56, "", "curl: (56) Recv failure: Connection reset by peer\n"),
        counted=counted(story.plan, pod),
    )


def dropped(story: Story, *, ttl: int = 64, ip_id: int = 7) -> Recording:
    """Tell how a probe of blue's client that goes round its sidecar is dropped by the firewall.

    `ttl` and `ip_id` are those of the opening packet as it comes to the node that changes its address.
    """
    pod = "blue/client"
    host = story.plan.node(pod).host or ""
    ends = ends_of(story.plan, story.bindings, pod)
    sent = FiveTuple(TCP, ends.pod, 41000, ends.tinyproxy, 8888)
    masked = FiveTuple(TCP, ends.host, 41000, ends.tinyproxy, 8888)
    story.passes(tcp_frame(sent, "S", ttl=ttl, ip_id=ip_id), f"{pod}.eth0", f"{host}.cali")
    story.tracks(host, sent, masked)
    story.passes(tcp_frame(masked, "S"), f"{host}.nodes", "bigip.nodes", "bigip.dmz", "firewall.dmz")
    story.logs("firewall", "drop default", masked)
    outcome = Outcome(
        0,
        "timeout",
        "connect",
        "no answer within 0.5 s",
        f"{ends.pod}:41000",
        f"{ends.tinyproxy}:8888",
        None,
        None,
        (),
        b"",
        story.begun,
        story.time,
    )
    return Recording(
        pod,
        story.raw(),
        story.begun,
        story.time + STEP,
        outcome=outcome,
        counted=counted(story.plan, pod),
    )

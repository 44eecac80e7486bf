"""Connection tracking: what events and the table tell of a translated flow, and what is lost."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from own_namespace import alone
from two_spaces import FAR, FAR_INDEX, NEAR, NEAR_INDEX, exchange, inside, join, read_until

from harness.netlink import Socket, address, neighbour
from harness.programs import conntrack
from harness.programs import nfnetlink as nf
from harness.programs.fivetuple import ICMP, TCP, UDP, FiveTuple
from harness.programs.nft import Nft

pytestmark = pytest.mark.live

TRANSLATE = """
table ip nat {
  chain post { type nat hook postrouting priority 100; oifname "eth0" meta l4proto tcp snat to 10.0.0.77; }
}
"""


def translated() -> tuple[int, int]:
    """Join two namespaces and translate what leaves this one to 10.0.0.77."""
    home, away = join()
    with Socket() as route:
        route.send([address(NEAR_INDEX, "10.0.0.77/32")])
    with inside(home, away), Socket() as route:
        route.send([neighbour(FAR_INDEX, "10.0.0.77", "02:00:00:00:00:01")])
    Nft().run(TRANSLATE)
    return home, away


@alone
def test_events_tell_of_translation() -> None:
    """A flow's beginning shows its 5-tuple before and after translation, with the status bit."""
    home, away = translated()
    with conntrack.Events() as events:
        before = time.time_ns()
        server_saw = exchange(8080, b"up", b"down", away=away, home=home)
        found = read_until(events, lambda seen: any(event.kind == "new" for event in seen))
        assert events.lost == 0
    event = next(event for event in found if event.kind == "new")
    assert (event.original.protocol, event.original.src, event.original.dst, event.original.dport) == (
        TCP,
        NEAR,
        FAR,
        8080,
    )
    assert event.reply == FiveTuple(TCP, FAR, 8080, *server_saw)
    assert server_saw[0] == "10.0.0.77"
    assert event.status & conntrack.SRC_NAT
    assert not event.status & conntrack.DST_NAT
    assert before <= event.time <= time.time_ns()


@alone
def test_updates_come_only_when_asked_for() -> None:
    """Changes of state are told to the subscriber that wanted them, and to no other."""
    home, away = translated()
    with conntrack.Events() as few, conntrack.Events(updates=True) as all_of_them:
        exchange(8080, b"up", b"down", away=away, home=home)
        seen = read_until(all_of_them, lambda events: any(event.kind == "update" for event in events))
        assert {event.kind for event in few.read()} == {"new"}
    assert seen[0].kind == "new"


@alone
def test_end_of_a_flow_carries_its_counters() -> None:
    """With accounting on, the event of a flow's end counts packets and bytes of both directions."""
    home, away = translated()
    Path("/proc/sys/net/netfilter/nf_conntrack_acct").write_text("1", encoding="ascii")
    with conntrack.Events() as events:
        exchange(8080, b"u" * 1000, b"d" * 2000, away=away, home=home)
        Nft().run("flush ruleset")
        _forget_all()
        found = read_until(events, lambda seen: any(event.kind == "destroy" for event in seen))
    event = next(event for event in found if event.kind == "destroy")
    assert event.sent[0] > 3
    assert event.sent[1] > 1000
    assert event.received[1] > 2000


@alone
def test_table_finds_one_flow() -> None:
    """A lookup by the original 5-tuple returns that entry, and None for one that is not there."""
    home, away = translated()
    with conntrack.Table() as table, conntrack.Events() as events:
        exchange(8080, b"up", b"down", away=away, home=home)
        begun = read_until(events, lambda seen: seen)[0]
        entry = table.get(begun.original)
        assert entry is not None
        assert (entry.kind, entry.original, entry.reply, entry.id) == (
            "entry",
            begun.original,
            begun.reply,
            begun.id,
        )
        assert entry.status & conntrack.ASSURED
        assert table.get(FiveTuple(TCP, NEAR, 1, FAR, 2)) is None
        assert begun.original in {found.original for found in table.dump()}


@alone
def test_echo_is_named_by_its_identifier() -> None:
    """An ICMP echo has its identifier for a source port, its type and code for a destination port."""
    translated()
    with conntrack.Events() as events, conntrack.Table() as table:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.sendto(bytes.fromhex("0800e5ca12340001"), (FAR, 0))
        (event, *_) = read_until(events, lambda seen: seen)
        assert event.original == FiveTuple(ICMP, NEAR, 0x1234, FAR, 8 << 8)
        assert event.reply == FiveTuple(ICMP, FAR, 0x1234, NEAR, 0)
        found = table.get(event.original)
        assert found is not None
        assert found.original == event.original


@alone
def test_ipv6_flows_are_told() -> None:
    """Addresses of IPv6 are written as text like those of IPv4, and looked up likewise."""
    join()
    Nft().run("table inet t { chain c { type filter hook output priority 0; ct state new accept; }; }")
    with (
        conntrack.Events() as events,
        conntrack.Table() as table,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one,
    ):
        one.sendto(b"x", ("::1", 9))
        event = read_until(events, lambda seen: [event for event in seen if ":" in event.original.src])[0]
        assert (event.original.protocol, event.original.src, event.original.dport) == (UDP, "::1", 9)
        assert table.get(event.original) is not None


@alone
def test_nothing_is_tracked_without_a_rule() -> None:
    """A namespace whose rules do not ask for tracking tells nothing: silence there proves nothing."""
    home, away = join()
    with conntrack.Events() as events, conntrack.Table() as table:
        exchange(8080, b"up", b"down", away=away, home=home)
        assert events.read() == []
        assert table.dump() == []


@alone
def test_overflow_is_counted() -> None:
    """When nobody reads, the kernel drops events; that is counted, and what comes later is still told."""
    join()
    Nft().run("table inet t { chain c { type filter hook output priority 0; ct state new accept; }; }")
    with conntrack.Events() as events, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        events._channel._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for port in range(1000, 1200):
            sender.sendto(b"x", ("127.0.0.1", port))
        seen = len(events.read())
        assert events.lost >= 1
        assert 0 < seen < 200
        sender.sendto(b"x", ("127.0.0.1", 2000))
        assert [event.original.dport for event in read_until(events, lambda later: later)] == [2000]


@alone
def test_thousands_of_flows_fit_when_read_late() -> None:
    """What a buffer has room for is kept until somebody reads, 2 KB an event at most."""
    join()
    Nft().run("table inet t { chain c { type filter hook output priority 0; ct state new accept; }; }")
    with conntrack.Events() as events, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        room = events._channel._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        flows = min(2000, room // 2048)
        for port in range(1000, 1000 + flows):
            sender.sendto(b"x", ("127.0.0.1", port))
        found: list[conntrack.Event] = read_until(events, lambda seen: len(seen) >= flows)
        assert events.lost == 0
    assert len({event.original for event in found}) == flows


def _forget_all() -> None:
    """Delete every entry, as `conntrack -F` does (IPCTNL_MSG_CT_DELETE without a tuple)."""
    channel = nf.Channel()
    assert list(channel.request(1 << 8 | 2, nf.ACK, socket.AF_UNSPEC, 0, b"")) == []
    channel.close()

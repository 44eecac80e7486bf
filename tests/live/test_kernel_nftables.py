"""libnftables and the log group: rules are loaded, refused with a reason, counted and told of."""

from __future__ import annotations

import errno
import socket
import time

import pytest
from own_namespace import alone
from two_spaces import FAR, NEAR, NEAR_INDEX, exchange, inside, join, read_until

from harness.programs.fivetuple import TCP, UDP, FiveTuple
from harness.programs.nflog import Listener
from harness.programs.nft import Nft, NftError

pytestmark = pytest.mark.live

RULES = """
table inet fw {
  counter dropped { }
  chain out {
    type filter hook output priority 0;
    udp dport 9 counter name dropped log prefix "drop default" group 5 drop
    tcp dport 8080 tcp flags & (syn | ack) == syn meta mark set 7 log prefix "allow web" group 5
  }
}
"""


@alone
def test_counters_count() -> None:
    """A named counter tells packets and bytes by family, table and name."""
    join()
    nft = Nft()
    nft.run(RULES)
    assert nft.counters() == {("inet", "fw", "dropped"): (0, 0)}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(3):
            with pytest.raises(PermissionError):
                sender.sendto(b"12", ("127.0.0.1", 9))
    assert nft.counters() == {("inet", "fw", "dropped"): (3, 90)}


@alone
def test_refusal_carries_what_nft_prints() -> None:
    """A rule that cannot be is refused whole, with nft's own words; the context works on."""
    join()
    nft = Nft()
    with pytest.raises(NftError, match="No such file or directory"):
        nft.run("add table ip one\nadd rule ip nowhere out accept")
    with pytest.raises(NftError, match="syntax error"):
        nft.run("nonsense here")
    assert nft.run_json("list tables")["nftables"][1:] == []
    nft.run("add table ip two")
    assert nft.run_json("list tables")["nftables"][1]["table"]["name"] == "two"


@alone
def test_context_stays_where_it_was_made() -> None:
    """Rules go to the namespace in which the context was made, wherever its user went since."""
    home, away = join()
    with inside(home, away):
        there = Nft()
    there.run("add table ip only_there")
    assert Nft().run_json("list tables")["nftables"][1:] == []
    assert len(there.run_json("list tables")["nftables"]) == 2


@alone
def test_closed_context_is_refused() -> None:
    """A context that was closed says so instead of reading freed memory, and may be closed again."""
    nft = Nft()
    nft.close()
    nft.close()
    with pytest.raises(NftError, match="closed"):
        nft.run("list tables")


@alone
def test_log_entries_arrive_at_once_with_their_flow() -> None:
    """A logged packet tells rule, interfaces, mark and flow, without waiting for others."""
    home, away = join()
    Nft().run(RULES)
    before = time.time_ns()
    with Listener(5) as listener:
        client = exchange(8080, b"up", b"down", away=away, home=home)
        (entry,) = read_until(listener, lambda seen: seen, seconds=1)
        assert listener.lost == 0
    assert (entry.prefix, entry.hook, entry.mark) == ("allow web", "output", 7)
    assert (entry.in_ifindex, entry.out_ifindex) == (0, NEAR_INDEX)
    assert entry.flow == FiveTuple(TCP, NEAR, client[1], FAR, 8080)
    assert entry.packet[0] >> 4 == 4
    assert before <= entry.time <= time.time_ns()


@alone
def test_log_knows_ipv6_and_copies_no_more_than_asked() -> None:
    """Entries of IPv6 come without binding the family; the packet is cut at the copy range."""
    join()
    Nft().run(RULES)
    with Listener(5, copy_range=60) as listener, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
        with pytest.raises(PermissionError):
            sender.sendto(b"x" * 500, ("::1", 9))
        (entry,) = read_until(listener, lambda seen: seen)
    assert entry.flow == FiveTuple(UDP, "::1", entry.flow.sport if entry.flow else 0, "::1", 9)
    assert len(entry.packet) == 60


@alone
def test_losses_of_the_log_are_counted() -> None:
    """Entries that found no room leave a gap in the numbers, and the gap is counted."""
    join()
    Nft().run(RULES)
    with Listener(5) as listener, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        listener._channel._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        for _ in range(300):
            with pytest.raises(PermissionError):
                sender.sendto(b"x" * 200, ("127.0.0.1", 9))
        seen = len(listener.read())
        with pytest.raises(PermissionError):
            sender.sendto(b"last", ("127.0.0.1", 9))
        later = len(read_until(listener, lambda entries: entries))
        assert 0 < seen < 300
        assert listener.lost >= 300 - seen
        assert later == 1


@alone
def test_a_group_has_one_reader() -> None:
    """A second reader of a group is refused rather than left without entries."""
    with Listener(5), pytest.raises(OSError, match="not permitted") as caught:
        Listener(5)
    assert caught.value.errno == errno.EPERM

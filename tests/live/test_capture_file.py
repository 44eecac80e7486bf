"""capture.pcapng of a real run, as a stranger with tshark reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from command_line import egresslab
from small_lab import ALLOWED, REJECTED, own_name, write
from wireshark import fields, tshark

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.live

BOOKINFO = "spiffe://cluster.local/ns/bookinfo/sa/default"
STRANGER = "spiffe://cluster.local/ns/sm-apigw-a/sa/default"
POD, POOL, PROXY = "10.53.0.1", "10.4.0.211", "10.4.0.201"
EVERY_PORT = ("-o", "tcp.try_heuristic_first:TRUE")
"""Wireshark takes port 3128 for plain HTTP unless it is told to look first."""

CONNECT = "tls && http.request.method == CONNECT"
SEGMENT = ("tcp.seq_raw", "ip.id", "tcp.srcport")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run two scenarios on a small lab, with secrets and without, and give the captures."""
    found = {}
    for word, options in (("open", ()), ("closed", ("--no-secrets",))):
        folder = tmp_path_factory.mktemp(word)
        written = write(folder, [REJECTED])
        name = ("--name", own_name(f"capture-{word}"))
        done = egresslab("test", str(written.scenarios), *name, *options, "--out", str(folder))
        assert done.returncode == 0, done.stdout + done.stderr
        (found[word],) = folder.glob("*/latest/capture.pcapng")
    return found


def test_the_connect_inside_mutual_tls_is_read(files: dict[str, Path]) -> None:
    """With the secrets in the file, the request to the proxy and the one within the tunnel's own TLS are plain."""
    asked = fields(files["open"], CONNECT, ("frame.interface_name", "http.request.uri"), *EVERY_PORT)
    assert ("bookinfo/traffic-generator.eth0", "www.f5.com:443") in asked
    inner = fields(files["open"], "http.request.method == GET || http.request.method == HEAD", ("http.host",))
    assert ("www.f5.com",) in inner


def test_both_identities_are_read(files: dict[str, Path]) -> None:
    """The certificates of client and proxy, which TLS 1.3 encrypts, show their SPIFFE IDs on either connection."""
    name = ("x509ce.uniformResourceIdentifier",)
    shown = fields(files["open"], f"ip.dst == {PROXY} && {name[0]}", name, *EVERY_PORT)
    assert {value for (value,) in shown} == {BOOKINFO, STRANGER}
    served = fields(files["open"], f"ip.src == {PROXY} && {name[0]}", name, *EVERY_PORT)
    assert {value for (value,) in served} == {BOOKINFO}


def test_one_segment_is_seen_before_and_after_translation(files: dict[str, Path]) -> None:
    """A pod's SYN leaves its node with the node's address and is else the same: number, IP id and port."""
    opening = f"tcp.flags.syn == 1 && tcp.flags.ack == 0 && ip.dst == {PROXY}"
    before = fields(files["open"], f"{opening} && ip.src == 10.53.0.0/16", SEGMENT)
    after = fields(files["open"], f"{opening} && ip.src == 172.19.0.0/16", SEGMENT)
    assert len(set(before)) == 2
    assert set(before) == set(after)


def test_comments_tell_scenarios_and_translations(files: dict[str, Path]) -> None:
    """The first packet of each flow has its scenario and verdict; one that a node translated, what it was before."""
    shown = fields(files["open"], "frame.comment", ("frame.interface_name", "frame.comment"))
    comments = [comment for _, comment in shown]
    assert {f"{ALLOWED}: held", f"{REJECTED}: held"} <= set(comments)
    translated = [at for at, comment in shown if f"became {POOL}:" in comment]
    assert translated == ["bigip.dmz"]


def test_names_and_taps_are_told(files: dict[str, Path]) -> None:
    """Addresses have names, and every interface says whose it is; frames are in order of time."""
    line = tshark(files["open"], "-N", "n", "-Y", f"ip.src == {POOL}", "-c", "2000")[0]
    assert "snat-bookinfo.bigip" in line
    where = ("frame.interface_name", "frame.interface_description")
    known = {row[0]: row[1] for row in fields(files["open"], "ip", where)}
    assert known["bigip.dmz"] == "bigip (egress-proxy) on network dmz, 10.4.0.2"
    assert known["bookinfo/traffic-generator.eth0"].startswith("pod bookinfo/traffic-generator, 10.53.")
    assert " ".join(EVERY_PORT).encode() in files["open"].read_bytes()[:1000], "the file says how to read it"
    times = [float(moment) for (moment,) in fields(files["open"], "frame", ("frame.time_relative",))]
    assert times == sorted(times)


def test_without_secrets_nothing_is_read(files: dict[str, Path]) -> None:
    """With --no-secrets the file has the same flows and none of their secrets: no block of them, and no request."""
    assert fields(files["closed"], f"ip.dst == {PROXY} && tls.handshake.type == 1", ("ip.src",), *EVERY_PORT)
    assert fields(files["closed"], CONNECT, ("http.request.uri",), *EVERY_PORT) == []
    assert b"TRAFFIC_SECRET" in files["open"].read_bytes()
    assert b"TRAFFIC_SECRET" not in files["closed"].read_bytes()

"""Names as a pod resolves them, asked of a real UDP responder."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from listeners import DnsListener

from harness.programs.probe import Engine, Outcome, Probe, Resolver

SEARCH = ("bookinfo.svc.cluster.local", "svc.cluster.local", "cluster.local")


def looked_up(dns: DnsListener, host: str, *, timeout: float = 5.0, **more: Any) -> Outcome:
    """Probe a port that nobody listens on; what was resolved is in `remote`."""
    resolver = Resolver(dns.host, port=dns.port, **more)
    engine = Engine(lambda _, *kind: socket.socket(*kind), lambda _: resolver)
    [outcome] = engine.run([Probe(1, "here", "tcp", host, 9, timeout=timeout)])
    return outcome


def test_the_search_list_is_tried_in_order_before_the_name_itself() -> None:
    """With ndots 5, www.f5.com is asked for in each search domain first, as in a real pod."""
    with DnsListener({"www.f5.com": ["127.0.77.6"]}) as dns:
        outcome = looked_up(dns, "www.f5.com", search=SEARCH, ndots=5)
        assert dns.asked == [*(f"www.f5.com.{domain}" for domain in SEARCH), "www.f5.com"]
    assert outcome.remote == "127.0.77.6:9"


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("proxy", ["proxy.bookinfo.svc.cluster.local"]),
        ("proxy.bookinfo.svc.cluster.local.", ["proxy.bookinfo.svc.cluster.local"]),
    ],
)
def test_the_first_that_exists_ends_the_search(host: str, asked: list[str]) -> None:
    """A short name is found in its first domain; a name with a final dot is asked for as it is."""
    with DnsListener({"proxy.bookinfo.svc.cluster.local": ["127.0.77.6"]}) as dns:
        assert looked_up(dns, host, search=SEARCH, ndots=5).remote == "127.0.77.6:9"
        assert dns.asked == asked


def test_enough_dots_put_the_name_itself_first() -> None:
    """With ndots 1, a name with a dot is asked for as it is, then in the search list."""
    with DnsListener({"a.b.svc.cluster.local": ["127.0.77.6"]}) as dns:
        assert looked_up(dns, "a.b", search=SEARCH[1:2], ndots=1).remote == "127.0.77.6:9"
        assert dns.asked == ["a.b", "a.b.svc.cluster.local"]


def test_aliases_are_followed_within_an_answer_and_beyond() -> None:
    """A chain of CNAMEs is followed; where the server gives only its first part, the rest is asked for."""
    table = {
        "whole": ["-> middle", "-> end", "127.0.77.6"],
        "part": ["-> other"],
        "other": ["127.0.77.7"],
        "round": ["-> round-2"],
        "round-2": ["-> round"],
    }
    with DnsListener(table) as dns:
        assert looked_up(dns, "whole").remote == "127.0.77.6:9"
        assert looked_up(dns, "part").remote == "127.0.77.7:9"
        assert looked_up(dns, "round").status == "resolve-failed"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (None, "no address, says 127.0.77.5, for site"),
        ("empty", "no address, says 127.0.77.5, for site"),
        ("servfail", "SERVFAIL for site, from 127.0.77.5"),
        ("truncated", "the answer for site was cut short (TC), from 127.0.77.5"),
        ("garbage", "a malformed answer for site, from 127.0.77.5"),
    ],
)
def test_how_resolving_fails(record: str | None, words: str) -> None:
    """No such name, no address, a failing server and unreadable answers are told apart, with who said it."""
    with DnsListener({"site": [record]} if record else {}) as dns:
        outcome = looked_up(dns, "site")
    assert (outcome.status, outcome.stage, outcome.detail) == ("resolve-failed", "resolve", words)
    assert outcome.local is outcome.remote is None


def test_a_lost_query_is_asked_once_more() -> None:
    """Without an answer the query is repeated after a second, and given up after one more."""
    with DnsListener({"late": ["once-silent", "127.0.77.6"], "never": ["silent"]}) as dns:
        assert looked_up(dns, "late").remote == "127.0.77.6:9"
        outcome = looked_up(dns, "never")
        assert dns.asked == ["late", "late", "never", "never"]
    assert outcome.detail == "no answer for never to 2 queries, from 127.0.77.5"
    assert 1.9e9 < outcome.ended - outcome.started < 5e9


def test_the_probes_own_timeout_ends_a_lookup() -> None:
    """When the probe's time is up before the resolver's, the outcome is a timeout at stage resolve."""
    with DnsListener({"never": ["silent"]}) as dns:
        outcome = looked_up(dns, "never", timeout=0.2)
    assert (outcome.status, outcome.stage) == ("timeout", "resolve")


def test_answers_to_other_questions_are_passed_over() -> None:
    """An answer with another number, or for another name, is not taken for ours."""
    with DnsListener({"site": ["forged", "127.0.77.6"]}) as dns:
        assert looked_up(dns, "site").remote == "127.0.77.6:9"


def test_a_server_that_is_not_there() -> None:
    """A refused query says so, with the ICMP message."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.77.5", 0))
        port = sock.getsockname()[1]
    resolver = Resolver("127.0.77.5", port=port)
    engine = Engine(lambda _, *kind: socket.socket(*kind), lambda _: resolver)
    [outcome] = engine.run([Probe(1, "here", "tcp", "site", 9)])
    assert outcome.status == "resolve-failed"
    assert outcome.detail == "site: 127.0.77.5 is refused: ICMP type 3 code 3 from 127.0.77.5"


@pytest.mark.parametrize("host", ["", "a..b", "x" * 64, ".".join(["abcdefgh"] * 30), "münchen"])
def test_what_is_no_host_name_is_not_asked_for(host: str) -> None:
    """Names that DNS cannot carry fail without a query."""
    with DnsListener({}) as dns:
        assert looked_up(dns, host).status == "resolve-failed"
        assert dns.asked == []


def test_hosts_and_literal_addresses_come_first() -> None:
    """What the hosts file has, in any case, and what is an address already, is not asked for."""
    with DnsListener({}) as dns:
        assert looked_up(dns, "Site.TEST", hosts={"site.test": "127.0.77.6"}).remote == "127.0.77.6:9"
        assert looked_up(dns, "127.0.77.7").remote == "127.0.77.7:9"
        assert dns.asked == []


def test_resolv_conf_and_hosts_are_read_as_the_c_library_does() -> None:
    """The first nameserver, the last search line, ndots among options; comments and aliases in hosts."""
    resolv = "# a comment\nnameserver 10.0.0.10\nnameserver 10.0.0.11\nsearch a.test b.test\n"
    resolv += "options edns0 ndots:5\n"
    hosts = "127.0.0.1 localhost # this one\n\n# 9.9.9.9 no\n198.51.100.4\ttinyproxy Proxy.test\n"
    assert Resolver.parse(resolv, hosts) == Resolver(
        "10.0.0.10",
        ("a.test", "b.test"),
        5,
        {"localhost": "127.0.0.1", "tinyproxy": "198.51.100.4", "proxy.test": "198.51.100.4"},
    )
    assert Resolver.parse("") == Resolver(None)

"""The kind `echo`: what its node runs, and what its log comes to."""

from __future__ import annotations

import json

from small_tenants import LAB, Rendered

from harness.nodes import echo
from harness.plan import Ready
from harness.programs.fivetuple import TCP, FiveTuple

WITH_ECHO = LAB + "  capitals: {kind: echo, on: {internet: {}}, port: 9001}\n"
FLOW = FiveTuple(TCP, "10.4.0.211", 43119, "10.20.0.3", 9000)
BOTH_ENDS = '"conn": 1, "peer": "10.4.0.211:43119", "local": "10.20.0.3:9000"'
LINES = (
    '{"time": 1795275352000000001, "event": "listening", "local": "0.0.0.0:9000"}',
    f'{{"time": 1795275352000000002, "event": "accept", {BOTH_ENDS}}}',
    f'{{"time": 1795275352000000003, "event": "answer", {BOTH_ENDS}, "bytes": 3}}',
    f'{{"time": 1795275352000000004, "event": "close", {BOTH_ENDS}, "bytes": 3, "reason": "client ended"}}',
)


def test_its_program_listens_where_the_lab_says() -> None:
    """The program is told the node's name and port, and counts as ready when it says so itself."""
    rendered = Rendered(WITH_ECHO)
    assert rendered.json("capitals", "echo.json") == {"name": "capitals", "listen": "0.0.0.0:9001"}
    program = rendered.program("capitals", "echo")
    assert program.argv[-1] == f"{rendered.bindings.folder('capitals')}/echo.json"
    assert program.ready == Ready("log", '"ready"')


def test_each_connection_is_seen_from_its_beginning_to_its_end() -> None:
    """accept, answer and close become sightings of one flow, with the number by which its end is awaited."""
    node = Rendered(WITH_ECHO).plan.node("capitals")
    found = list(echo.read_log(node, "echo", [(7, line) for line in LINES]))
    assert [sighting.event for sighting in found] == ["accept", "answer", "close"]
    assert {sighting.flow for sighting in found} == {FLOW}
    assert {sighting.facts["conn"] for sighting in found} == {"1"}
    assert found[-1].facts["reason"] == "client ended"
    assert [sighting.time % 10 for sighting in found] == [2, 3, 4]


def test_other_lines_are_no_sightings() -> None:
    """What is no event of a connection, or no JSON at all, is passed over."""
    node = Rendered(WITH_ECHO).plan.node("capitals")
    lines = ["", "Traceback", "{", json.dumps(["accept"]), json.dumps({"event": ["accept"]}), LINES[0]]
    assert not list(echo.read_log(node, "echo", [(7, line) for line in lines]))

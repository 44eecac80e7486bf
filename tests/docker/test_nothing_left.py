"""Labs that come and go at a real Docker Engine: whatever is killed, the next stands and nothing is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from command_line import EGRESSLAB, ENVIRONMENT, egresslab
from shipped_lab import items_of, plan_of
from small_lab import own_name

from harness import shipped
from harness.agent.state import first_state, payload_of
from harness.drivers import k3d
from harness.drivers.k3d import image, outside, parts
from harness.drivers.k3d.engine import connect
from harness.drivers.k3d.fleet import Fleet
from harness.errors import GoneError, StartError
from harness.run import Session

if TYPE_CHECKING:
    from own_engine import Engine

pytestmark = pytest.mark.live

LAB = "echo-without-envoy"
DRIVER = ("--driver", "k3d")
_PATIENCE = 180.0
_LEAST = 0.7
"""Seconds in which a command has not yet asked the engine for anything."""


def test_a_node_that_does_not_come_up_says_why(docker_engine: Engine) -> None:
    """The reason is the node's own, and all of the lab is removed by its label."""
    assert docker_engine.host
    plan, name = plan_of("echo-without-envoy"), own_name("broken")
    payload = payload_of(first_state(plan, k3d.binding(plan)), name, ("lab.yaml", ""), in_image=True)
    first = replace(payload.starts[0], argv=("no-such-program",))
    client = connect()
    fleet = Fleet(client, name, image.ensure(client, name, print), owned=True)
    try:
        outside.make_networks(client, name, parts.networks(payload))
        fleet.make(parts.containers(replace(payload, starts=(first, *payload.starts[1:]))))
        with pytest.raises(StartError, match="cannot start no-such-program"):
            fleet.connect()
    finally:
        fleet.close()
        assert outside.remove(client, name) == []
    assert name not in outside.labs(client)
    client.close()


def test_a_lab_that_stays_is_found_again(docker_engine: Engine) -> None:
    """`up`, `ls`, `test`, `exec` and `down` by processes of their own; afterwards the engine has what it had."""
    before = pictured(docker_engine)
    name = own_name("stays")
    lab = "echo-without-envoy"
    words = ("--driver", "k3d")
    up = egresslab("up", lab, "--name", name, *words, seconds=180)
    try:
        assert up.returncode == 0, up.stderr
        assert name in egresslab("ls", *words).stdout.split()
        tested = egresslab("test", "--lab", lab, "--name", name, *words, seconds=180)
        assert tested.returncode == 0, tested.stdout + tested.stderr
        said = egresslab(
            "exec", "--lab", name, *words, "-i", "bigip", "--", "sh", "-c", "cat; exit 7", given="hi"
        )
        assert (said.returncode, said.stdout) == (7, "hi"), said.stderr
        again = egresslab("up", lab, "--name", name, *words)
        assert again.returncode == 4
        assert "already up" in again.stderr
    finally:
        down = egresslab("down", name, *words)
    assert down.returncode == 0, down.stderr
    with pytest.raises(GoneError):
        k3d.attach(name)
    assert pictured(docker_engine) == before


def pictured(engine: Engine) -> dict[str, Any]:
    """Return the engine's containers, networks and volumes, and the network that it is in where we may look."""
    client = connect()
    try:
        api = client.api
        return {
            "containers": sorted(one["Id"] for one in api.containers(all=True)),
            "networks": sorted(one["Name"] for one in api.networks()),
            "volumes": sorted(one["Name"] for one in api.volumes()["Volumes"] or ()),
            **engine.network_of(),
        }
    finally:
        client.close()


def kill_at_random(docker_engine: Engine, kills: int) -> None:
    """Kill `up` and `test` at random moments of their time; each time `down` is to leave what was there before."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    moments = random.Random(seed)  # noqa: S311 - moments, not secrets
    name = own_name("killed")
    before = pictured(docker_engine)
    begun = time.monotonic()
    assert egresslab("up", LAB, "--name", name, *DRIVER, seconds=_PATIENCE).returncode == 0
    whole = time.monotonic() - begun
    assert egresslab("down", name, *DRIVER, seconds=_PATIENCE).returncode == 0
    for number in range(kills):
        words = ("up", LAB, "--name", name) if number % 2 == 0 else ("test", "--lab", LAB, "--name", name)
        process = subprocess.Popen(
            [*EGRESSLAB, *words, *DRIVER],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(moments.uniform(_LEAST, whole))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if number % 3 == 2:  # the next stands upon what is left
            again = egresslab("test", "--lab", LAB, "--name", name, *DRIVER, seconds=_PATIENCE)
            assert again.returncode == 0, again.stdout + again.stderr
        # a lab whose `up` was killed in its last moment is up, and `test` has left it so
        down = egresslab("down", name, *DRIVER, seconds=_PATIENCE)
        assert down.returncode == 0 or "no lab named" in down.stderr, down.stderr
        assert pictured(docker_engine) == before
    up = egresslab("up", LAB, "--name", name, *DRIVER, seconds=_PATIENCE)
    assert up.returncode == 0, up.stderr
    assert egresslab("down", name, *DRIVER, seconds=_PATIENCE).returncode == 0
    assert pictured(docker_engine) == before


def test_killed_at_random(docker_engine: Engine) -> None:
    """Two kills, and the lab stands again afterwards."""
    kill_at_random(docker_engine, 2)


@pytest.mark.prove
def test_killed_twenty_times(docker_engine: Engine) -> None:
    """Twenty kills at random moments: the engine, its interfaces and its packet filter are as before each time."""
    kill_at_random(docker_engine, 20)


@pytest.mark.prove
@pytest.mark.parametrize("name", sorted(shipped.shipped_labs()))
def test_shipped_labs_hold(name: str, docker_engine: Engine) -> None:
    """Every shipped lab stands in containers, and each of its scenarios holds there."""
    assert docker_engine.host
    lab = k3d.up(plan_of(name), f"{name}-{os.getpid()}", ("lab.yaml", ""), owned=True, secrets=True)
    try:
        items = items_of(name)
        session = Session(lab, items)
        verdicts = {item.id: str(session.run(item).verdict) for item in items}
    finally:
        lab.close()
    assert {word: said for word, said in verdicts.items() if not said.startswith("held")} == {}

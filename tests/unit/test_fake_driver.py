"""One plan, two lowerings: namespaces and containers, with different addresses on purpose; and the fake itself."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from recorded_flows import BEGUN, Story, allowed, dropped, rejected
from small_tenants import plan_of, pretended_certificates, written

from harness.agent.bind import bind as computed
from harness.agent.lower import lower as to_namespaces
from harness.drivers import fake
from harness.drivers.fake.lower import lower as to_containers
from harness.dual_stack import twin_network
from harness.errors import GoneError, InputError
from harness.lab import Lab
from harness.plan import Bindings, Plan, Runtime, render
from harness.programs.probe import Probe
from harness.run import Session

if TYPE_CHECKING:
    from harness.running import Driver, RunningLab

PLANS = Path(__file__).parents[1] / "plans"
REGENERATE = "EGRESSLAB_WRITE_PLANS"
"""Set to anything, this makes the golden files anew from what the code gives now; read the difference."""

Lowering = Callable[[Plan, Bindings, Mapping[str, Runtime]], object]
LOWERINGS: dict[str, tuple[Lowering, Callable[[Plan], Bindings]]] = {
    "namespaces": (to_namespaces, computed),  # type: ignore[dict-item] # it asks for a dict where this is one
    "containers": (to_containers, fake.binding),
}

GOLDEN = (
    "bgp-peers",
    "dual-stack",
    "four-nodes",
    "mesh-modes",
    "overlay",
    "tunnels",
    "two-envoys",
    "two-ways-out",
    "way-in",
)
"""What is written down: BGP; one node of each placement; mutual TLS; VXLAN; other tunnels; Envoys; ways out and in."""


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Return the plan of the lab with a node of each placement."""
    return written_down("four-nodes")


def written_down(lab: str) -> Plan:
    """Return the plan of a lab that has golden files."""
    return plan_of((PLANS / f"{lab}.yaml").read_text(encoding="utf-8"))


def lowered(plan: Plan, lowering: Lowering, bindings: Bindings) -> object:
    """Return a lowered plan as plain data, JSON files within it decoded."""
    runtimes = render(plan, bindings, pretended_certificates(plan))
    return plain(lowering(plan, bindings, runtimes))


def plain(value: Any) -> Any:
    """Return dataclasses as mappings, addresses as texts, long texts as lines, JSON as what it says."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {
            " ".join(key) if isinstance(key, tuple) else str(key): plain(item) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str) and value.startswith("{"):
        return json.loads(value)
    if isinstance(value, str) and "\n" in value:
        return value.splitlines()
    return value if isinstance(value, int | str | None) else str(value)


def symbolic(value: object, bindings: Bindings, lab: Lab) -> str:
    """Return plain data with each address, block and folder replaced by what it stands for."""
    words = {
        str(address): f"<{node} on {network}>" for (node, network), address in bindings.addresses.items()
    }
    words |= {  # where a node's end of an overlay is
        text.format(block.network_address): f"<first of {host}>"
        for host, blocks in bindings.blocks.items()
        for block in blocks
        for text in ("{}/32", '"{}"')
    }
    words |= {str(address): f"<pod {pod}>" for pod, address in bindings.pods.items()}
    words |= {str(address): f"<second of {pod}>" for pod, address in bindings.second.items()}
    words |= {str(address): f"<service {name}>" for name, address in bindings.cluster_ips.items()}
    words |= {str(address): f"<{node} for {pool}>" for (node, pool), address in bindings.inside.items()}
    words |= {
        str(block): f"<block of {host}>" for host, blocks in bindings.blocks.items() for block in blocks
    }
    for host, blocks in bindings.blocks.items():
        for six in filter(None, (twin_network(block, lab) for block in blocks)):
            words |= {
                str(six): f"<IPv6 block of {host}>",
                f"{six.network_address}/128": f"<IPv6 end of {host}>",
            }
            words[f'"{six.network_address}"'] = f"<IPv6 end of {host}>"
    words |= {str(six): f"<IPv6 of {words[str(four)]}>" for four, six in bindings.sixes.items()}
    words[bindings.directory] = "<folder>"
    longest_first = sorted(words, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\d.])({'|'.join(map(re.escape, longest_first))})(?![\d.])")
    named = pattern.sub(lambda found: words[found[1]], json.dumps(value, indent=1))
    return re.sub(r"\b[0-9a-f]{64}\b", "<digest>", named)  # of a file in which addresses stand


def test_bindings_differ_in_all_that_is_not_declared(plan: Plan) -> None:
    """The two drivers agree on declared addresses only: nothing else may be taken for granted."""
    ours, theirs = computed(plan), fake.binding(plan)
    assert ours.directory != theirs.directory
    for kind in ("addresses", "pods", "blocks", "cluster_ips", "inside"):
        first, second = getattr(ours, kind), getattr(theirs, kind)
        assert first.keys() == second.keys()
        same = {key for key in first if first[key] == second[key]}
        declared = {name for name, service in plan.services.items() if service.cluster_ip}
        assert same <= declared, kind


def test_declared_addresses_are_kept_by_every_driver() -> None:
    """An address written in the lab file is the node's or the service's on every driver."""
    text = (PLANS / "four-nodes.yaml").read_text(encoding="utf-8")
    pinned = text.replace(
        "tinyproxy: {kind: forward-proxy, on: {internet: {}}}",
        "tinyproxy: {kind: forward-proxy, on: {internet: {address: 198.51.100.77}}}",
    )
    plan = plan_of(pinned.replace("port: 3128, endpoints", "port: 3128, cluster_ip: 10.235.7.7, endpoints"))
    for bindings in (computed(plan), fake.binding(plan)):
        assert str(bindings.addresses["tinyproxy", "internet"]) == "198.51.100.77"
        assert str(bindings.cluster_ips["red/proxy"]) == "10.235.7.7"


@pytest.mark.parametrize("name", LOWERINGS)
@pytest.mark.parametrize("lab", GOLDEN)
def test_lowering_is_as_written_down(lab: str, name: str) -> None:
    """Each lowering of a plan is what its golden file says, to the last rule and file."""
    lowering, binding = LOWERINGS[name]
    plan = written_down(lab)
    found = json.dumps(lowered(plan, lowering, binding(plan)), indent=1) + "\n"
    golden = PLANS / f"{lab}.{name}.json"
    if REGENERATE in os.environ:
        golden.write_text(found, encoding="utf-8")
    assert found == golden.read_text(encoding="utf-8"), f"{REGENERATE}=1 writes {golden.name} anew"


@pytest.mark.parametrize("name", LOWERINGS)
@pytest.mark.parametrize("lab", GOLDEN)
def test_lowerings_differ_by_addresses_and_folder_only(lab: str, name: str) -> None:
    """Files, rules, commands and routes are the same for other bindings once addresses are taken for names."""
    lowering, _ = LOWERINGS[name]
    plan = written_down(lab)
    first, second = computed(plan), fake.binding(plan)
    ours, theirs = lowered(plan, lowering, first), lowered(plan, lowering, second)
    assert ours != theirs
    assert symbolic(ours, first, plan.lab).splitlines() == symbolic(theirs, second, plan.lab).splitlines()


def test_shared_pieces_are_equal_in_both_lowerings(plan: Plan) -> None:
    """A node's rules are the same text, and its files have the same content, in a namespace and in a container."""
    bindings = fake.binding(plan)
    runtimes = render(plan, bindings, pretended_certificates(plan))
    spaces = {space.name: space for space in to_namespaces(plan, bindings, runtimes).spaces}
    containers = {container.name: container for container in to_containers(plan, bindings, runtimes)}
    assert spaces.keys() == containers.keys() == {node.name for node in plan.nodes}
    for name, space in spaces.items():
        assert space.rules == containers[name].rules
        etc = {
            path.rpartition("/etc/")[2]: text for path, text, _ in containers[name].files if "/etc/" in path
        }
        assert dict(space.etc) == etc


def test_containers_hold_what_their_node_needs(plan: Plan) -> None:
    """A node that translates or forwards may administer its network; one that does neither may not."""
    bindings = fake.binding(plan)
    found = {
        container.name: container
        for container in to_containers(plan, bindings, render(plan, bindings, pretended_certificates(plan)))
    }
    assert "NET_ADMIN" in found["bigip"].capabilities
    assert "NET_ADMIN" not in found["tinyproxy"].capabilities
    assert dict(found["bigip"].sysctls)["net.ipv4.ip_forward"] == "1"
    assert dict(found["tinyproxy"].sysctls)["net.ipv4.ip_forward"] == "0"
    assert [str(address) for address in found["bigip"].addresses][:3] == [
        "198.51.100.201",
        "198.51.100.211",
        "198.51.100.212",
    ]
    assert dict(found["red/client"].networks).keys() == {"pods"}


def test_scattered_addresses_are_unique_and_repeatable(plan: Plan) -> None:
    """The fake's addresses are the same each time, no two alike, and each within its network."""
    bindings = fake.binding(plan)
    assert bindings == fake.binding(plan)
    given = [*bindings.addresses.values(), *bindings.pods.values(), *bindings.cluster_ips.values()]
    assert len(set(given)) == len(given)
    for (_, network), address in bindings.addresses.items():
        assert address in plan.lab.networks[network].cidr
    for pod, address in bindings.pods.items():
        assert any(address in block for block in bindings.blocks[plan.node(pod).host or ""])


def test_a_full_network_is_said() -> None:
    """When a network or pool has no address left, the fake says so as the real driver does."""
    text = (PLANS / "four-nodes.yaml").read_text(encoding="utf-8")
    tight = text.replace("{cidr: 10.53.0.0/16}", "{cidr: 10.53.0.0/32, block: 32}")
    with pytest.raises(InputError, match=r"the pool 10\.53\.0\.0/32 has no block left for node 'server-0'"):
        fake.binding(plan_of(tight))
    with pytest.raises(InputError, match=r"172\.19\.0\.0/31 has no free address left"):
        fake.binding(
            plan_of(
                text.replace("172.19.0.0/24", "172.19.0.0/31").replace(
                    "nodes: [server-0]", "nodes: [server-0, a, b]"
                )
            )
        )


def test_a_flow_told_for_other_addresses_is_judged_alike(tmp_path: Path) -> None:
    """Join, checks and verdict take every address from the bindings: the same flows hold on the fake's."""
    files, plan = written(tmp_path), plan_of()
    bindings = fake.binding(plan)
    tellings = (allowed, rejected, dropped)
    recordings = [tell(Story(plan, bindings, BEGUN + number * 10**9)) for number, tell in enumerate(tellings)]
    session = Session(fake.FakeLab(plan, "paper", ("", ""), recordings))
    verdicts = {name: str(session.run(item).verdict) for name, item in files.items.items()}
    assert verdicts == dict.fromkeys(files.items, "held")


def test_the_fake_speaks_the_protocols() -> None:
    """The fake driver and its labs have all that the protocols ask for."""
    driver: Driver = fake
    plan = plan_of()
    with fake.playing():
        lab: RunningLab = driver.up(plan, "one", ("lab.yaml", "text"), owned=False)
        assert driver.running() == ("one",)
        assert driver.attach("one") is lab
        assert lab.source == ("lab.yaml", "text")
        assert {program["node"] for program in lab.programs()} == {node.name for node in plan.nodes}
        lab.close()
        assert driver.running() == ("one",)
        driver.down("one")
        assert driver.running() == ()
        with pytest.raises(GoneError, match="no lab named 'one' is up"):
            driver.down("one")


def test_an_owned_fake_ends_when_it_is_closed() -> None:
    """As with a real driver, a lab that this process owns ends with the connection to it."""
    with fake.playing():
        fake.up(plan_of(), "mine", ("", ""), owned=True).close()
        assert fake.running() == ()


def test_recordings_are_played_in_order_and_the_last_for_ever() -> None:
    """Each flow gets its pod's next recording; what was recorded since a mark is that of the flows since then."""
    plan = plan_of()
    bindings = fake.binding(plan)
    first, second = rejected(Story(plan, bindings)), dropped(Story(plan, bindings, BEGUN + 10**9))
    lab = fake.FakeLab(plan, "paper", ("", ""), [first, second])
    start = lab.mark()
    command = lab.run("blue/client", ["curl"], seconds=1)
    assert (command.argv, command.code) == (("curl",), 56)
    between = lab.mark()
    assert start.time == BEGUN
    assert between.time == first.ended
    probe = Probe(5, "blue/client", "tcp", "tinyproxy", 8888)
    assert [outcome.id for outcome in lab.probe([probe, probe])] == [5, 5]
    assert set(lab.collect(start, ("lines",)).lines) == {"bigip egress-proxy", "blue/client sidecar"}
    assert lab.collect(between, ("lines",)).lines == {}
    assert len(lab.collect(between).nflog["firewall"]) == 2
    assert lab.counters()["agent-0"]["masqueraded"] == (3, 180)


def test_what_was_not_recorded_is_gone() -> None:
    """A flow of a pod without recordings, or of the other sort, is an error and never an outcome."""
    plan = plan_of()
    lab = fake.FakeLab(plan, "paper", ("", ""), [dropped(Story(plan, fake.binding(plan)))])
    with pytest.raises(GoneError, match="no command was recorded for 'red/client'"):
        lab.run("red/client", ["true"], seconds=1)
    with pytest.raises(GoneError, match="no command was recorded for 'blue/client'"):
        lab.run("blue/client", ["true"], seconds=1)

"""`egresslab generate`: a lab of a given size, and its matrix of flows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from harness.cli import main
from harness.generated import Size
from harness.lab import load_lab, pods
from harness.scenario import load_scenarios

if TYPE_CHECKING:
    from pathlib import Path


def generate(folder: Path, **size: int) -> Result:
    """Run `egresslab generate`."""
    words = [word for name, value in size.items() for word in (f"--{name}", str(value))]
    return CliRunner().invoke(main, ["generate", str(folder), *words])


def test_the_files_are_valid_and_as_large_as_asked_for(tmp_path: Path) -> None:
    """Pods are dealt out to nodes and tenants; every probe sends to every target, once."""
    result = generate(tmp_path / "big", nodes=4, pods=50, tenants=3, probes=7, targets=5)
    assert result.exit_code == 0, result.output
    lab = load_lab(tmp_path / "big" / "lab.yaml")
    assert lab.lab == "big"
    assert lab.cluster is not None
    assert len(lab.cluster.nodes) == 4
    assert Counter(pod.namespace for pod in pods(lab)) == {"tenant-1": 17, "tenant-2": 17, "tenant-3": 16}
    assert set(Counter(pod.spec.node for pod in pods(lab)).values()) == {12, 13}
    items = load_scenarios(tmp_path / "big" / "scenarios.yaml", lab)
    assert len({(item.source, item.to) for item in items}) == len(items) == 7 * 5
    allowed = [item for item in items if item.scenario.expect.allowed]
    assert {item.source.partition("/")[0] for item in allowed if "site-2" in (item.to or "")} == {"tenant-2"}
    assert all(item.controls for item in items if not item.scenario.expect.allowed)


def test_one_tenant_alone_has_nobody_to_be_kept_out(tmp_path: Path) -> None:
    """The smallest lab is one pod on one node that reaches one site."""
    assert generate(tmp_path / "one", nodes=1, pods=1, tenants=1).exit_code == 0
    items = load_scenarios(tmp_path / "one" / "scenarios.yaml")
    assert [(item.source, item.to) for item in items] == [("tenant-1/probe-1", "tcp://site-1:9000")]


def test_a_thousand_pods_fit(tmp_path: Path) -> None:
    """A matrix of a hundred by a hundred on a thousand pods is ten thousand cases."""
    size = {"nodes": 20, "pods": 1000, "tenants": 10, "probes": 100, "targets": 100}
    assert generate(tmp_path / "large", **size).exit_code == 0
    assert len(load_scenarios(tmp_path / "large" / "scenarios.yaml")) == 10_000


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ({"tenants": 0}, "--tenants 0: a lab has 1 to 50 tenants"),
        ({"nodes": 0}, "--nodes 0: a lab has 1 to 1024 nodes"),
        ({"pods": 3, "tenants": 4}, "--pods 3: each of 4 tenants needs a pod"),
        ({"pods": 9000, "nodes": 1, "tenants": 1}, "--pods 9000: too many for a tenant's pool on 1 nodes"),
        ({"pods": 10, "probes": 11}, "--probes 11: from one for each tenant (4) to all pods (10)"),
        ({"targets": 401}, "--targets 401: from one for each tenant (4) to a hundred (400)"),
    ],
)
def test_a_size_that_no_lab_can_have_is_refused(tmp_path: Path, size: dict[str, int], words: str) -> None:
    """The message names the option and its bounds; nothing is written."""
    result = generate(tmp_path / "no", **size)
    assert result.exit_code == 2
    assert words in result.output
    assert not (tmp_path / "no").exists()


def test_blocks_hold_the_pods_of_a_node() -> None:
    """A node's block in a tenant's pool has room for the tenant's pods there, for network and broadcast too."""
    for pods_of_one in (1, 60, 61, 62, 63, 125, 300):
        size = Size.of(nodes=1, pods=pods_of_one, tenants=1)
        assert 1 << 32 - size.block >= pods_of_one + 2

"""The commands that write a lab of one's own: `init` and `generate`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("my-lab"))
def init(folder: Path) -> None:
    """Write a new lab and scenario file that run."""
    from harness.starter import write_starter  # noqa: PLC0415

    write_starter(folder)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--nodes", default=5, show_default=True, help="Cluster nodes, each with BIRD.")
@click.option("--pods", default=100, show_default=True, help="Pods without sidecars, dealt out to the nodes.")
@click.option(
    "--tenants", default=4, show_default=True, help="Namespaces, each with a pool and a site outside."
)
@click.option("--probes", type=int, help="Pods that the scenarios send from.  [default: 25, or one a tenant]")
@click.option("--targets", type=int, help="Places outside that they send to.  [default: one a tenant]")
def generate(  # noqa: PLR0913 - the options of one command
    folder: Path, nodes: int, pods: int, tenants: int, probes: int | None, targets: int | None
) -> None:
    """Write a lab of a given size, and scenarios that send from every probe to every target."""
    from harness.generated import Size  # noqa: PLC0415
    from harness.starter import write_generated  # noqa: PLC0415

    write_generated(folder, Size.of(nodes, pods, tenants, probes, targets))

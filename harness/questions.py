"""The commands that ask a lab something about flows that no scenario names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.command_line import driver_option


@click.command()
@click.argument("sender", metavar="FROM")
@click.argument("to")
@click.option("--through", metavar="SVC:PORT", help="A service that is asked to tunnel (CONNECT).")
@click.option("--bypass", type=click.Choice(["sidecar"]), help="Go round the pod's sidecar.")
@click.option(
    "--lab", "lab_name", envvar="EGRESSLAB_LAB", help="A lab that is up, or one to stand up for this."
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@driver_option
@click.pass_context
def why(ctx: click.Context, /, **options: Any) -> None:
    """Send one flow and say what became of it: each hop, who said no by which rule, and what would get through.

    FROM is a pod (NAMESPACE/POD), TO a URL as in scenarios or NAME:PORT. Exit code 0 when the question was answered,
    whatever the answer; 3 when evidence was lost.
    """
    from harness.why import answer_why  # noqa: PLC0415

    ctx.exit(answer_why(**options))


@click.command()
@click.argument("lab")
@click.option("--name", help="The running lab to use, when it is not called as its file says.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@driver_option
@click.pass_context
def bypass(ctx: click.Context, lab: str, name: str | None, as_json: bool, driver: Any) -> None:  # noqa: FBT001 - click's way
    """Try every way out from every pod, and say of each who permitted or denied it, and what got out.

    Starts the lab unless it is up. Exit code 1 when something got out that no egress proxy, gateway or firewall rule
    permitted, 3 when something could not be seen, 5 when there is no way to try.
    """
    from harness.bypass_table import show_ways_out  # noqa: PLC0415

    ctx.exit(show_ways_out(lab, name, driver, as_json=as_json))


@click.command()
@click.argument("lab")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("-k", "words", default="", help="Only mutants whose name contains this.")
@click.option("--copies", type=click.IntRange(1, 16), default=2, show_default=True, help="Labs side by side.")
@click.option("--list", "listed", is_flag=True, help="Only list the mutants, and try none.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.option("-v", "--verbose", is_flag=True, help="A line for each mutant, with the case that caught it.")
@driver_option
@click.pass_context
def mutate(ctx: click.Context, /, **options: Any) -> None:
    """Test the tests: make each mistake a lab may have, one at a time, and list those that no scenario catches.

    Removes or widens each rule, policy, SNAT address, route and certificate check of copies of the lab; the
    scenarios are those of PATHS, else the lab's own. Exit code 1 when a mutant was missed that mutants.yaml beside the
    lab file does not accept, 3 when one could not be tried.
    """
    from harness.mutate_table import show_mutants  # noqa: PLC0415

    ctx.exit(show_mutants(options.pop("lab"), **options))


@click.command()
@click.argument("lab")
@click.option("--name", help="The running lab to use, when it is not called as its file says.")
@click.option(
    "--virtual-server",
    "servers",
    multiple=True,
    metavar="NODE[:NAME]",
    help="Only this egress proxy, or this virtual server of it; may be repeated.",
)
@click.option("--policy", default="", help="Only virtual servers with this policy.")
@click.option(
    "--from", "sender", default="", metavar="POD", help="Who attacks; else a pod, one without sidecar first."
)
@click.option(
    "--identity", default="", metavar="SPIFFE_ID", help="Whom to be taken for: one that the policy permits."
)
@click.option("-k", "words", default="", help="Only attacks with this in their name or title.")
@click.option("--engine", default="", help="The egress proxy's engine, in place of the lab file's.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out"),
    show_default=True,
    help="Where the run's folder goes; table.md in it has the table.",
)
@click.option("-v", "--verbose", count=True, help="Time per phase; twice: passports.")
@driver_option
@click.pass_context
def attack(ctx: click.Context, /, **options: Any) -> None:
    """Forge identities at a lab's egress proxies in every way there is, and say of each what stopped it.

    LAB is a shipped lab or a lab file of your own: its policies are what is attacked. The certificates are of the lab's
    own authorities. Starts the lab unless it is up. Exit code 1 when an attack got through, 3 when something could
    not be seen.
    """
    from harness.attack_lab import run_attacks  # noqa: PLC0415

    ctx.exit(run_attacks(lab_name=options.pop("lab"), **options))


@click.command()
@click.argument("lab")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--name", help="The running lab to use, when it is not called as its file says.")
@click.option(
    "--all", "every", is_flag=True, help="List what was exercised, too, with the first case that did."
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@driver_option
@click.pass_context
def coverage(ctx: click.Context, /, **options: Any) -> None:
    """Run a lab's scenarios and list what of the lab no flow of theirs exercised.

    Namespaces, workloads, services, rules, policies, listeners, pool members and network policies, by what hops
    recorded, not by what scenarios say; the scenarios are those of PATHS, else the lab's own. Exit code 1 when
    something was not exercised.
    """
    from harness.coverage_table import show_coverage  # noqa: PLC0415

    ctx.exit(show_coverage(options.pop("lab"), **options))


@click.command()
@click.argument("lab")
@click.option("--drivers", default="netns,k3d", show_default=True, help="Two drivers or more, by commas.")
@click.option("-k", "words", default="", help="Only scenarios whose id contains this.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/compare"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_context
def compare(ctx: click.Context, lab: str, drivers: str, words: str, out: Path, as_json: bool) -> None:  # noqa: FBT001, PLR0913 - click's way
    """Run a lab's scenarios on several drivers and show the verdicts side by side, differences first.

    Exit codes are those of `test`, of the worst run. A driver that cannot stand the lab up is told of, and counts 4.
    """
    from harness.driver_table import show_drivers  # noqa: PLC0415

    ctx.exit(show_drivers(lab, drivers, words, out, as_json=as_json))


@click.command()
@click.argument("lab")
@click.option("--name", help="The running lab to use, when it is not called as its file says.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="Write to this new file, not to standard output."
)
@driver_option
@click.pass_context
def learn(ctx: click.Context, lab: str, name: str | None, out: Path | None, driver: Any) -> None:
    """Draft a scenario file from what a lab does: what passes as allowed, all else as explicit denials.

    Sends each pod to each service, and round its sidecar to each port of each node outside, and writes what was
    recorded. The file holds as it stands; whether it is what you want is yours to read.
    """
    from harness.learn_file import write_learned  # noqa: PLC0415

    ctx.exit(write_learned(lab, name, out, driver))

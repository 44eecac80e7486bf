"""The command line. Heavy parts are imported by the command that needs them: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness import __version__, own_labs, questions
from harness.command_line import CONTEXT, Commands, driver_option


@click.group(cls=Commands, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="egresslab")
def main() -> None:
    """Stand up the path that traffic takes out of a Kubernetes cluster, and prove every flow.

    Exit codes: 0 all held; 1 broken; 2 unusable input; 3 unknown, or skipped for want of what
    --allow-missing did not name; 4 lab or host failed; 5 nothing selected.
    """


@main.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--lab", "lab_name", help="A shipped lab or a path; its shipped scenarios are run.")
@click.option("--name", help="The running lab to use, when it is not called as its file says.")
@click.option("-k", "words", default="", help="Only scenarios whose id contains this.")
@click.option("-m", "label", default="", help="Only scenarios with this label.")
@click.option(
    "--keep", type=click.Choice(["never", "on-failure", "always"]), default="never", show_default=True
)
@click.option("--engine", default="", help="The egress proxy's engine, in place of the lab file's.")
@click.option(
    "--allow-missing",
    multiple=True,
    metavar="CAPABILITY",
    help="Scenarios may be skipped for want of this (ipip, ...); may be repeated.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True)
@click.option(
    "--no-secrets", is_flag=True, help="No secrets of TLS connections in the capture; none are logged."
)
@click.option("-v", "--verbose", count=True, help="Time per phase and every finding; twice: passports.")
@driver_option
@click.pass_context
def test(ctx: click.Context, /, **options: Any) -> None:
    """Run scenarios: those of a lab, of files, or of folders. Starts each lab unless it is up."""
    from harness.commands import run_tests  # noqa: PLC0415

    ctx.exit(run_tests(**options))


@main.command()
@click.argument("lab")
@click.option("--name", help="A second copy of the lab, by another name.")
@click.option("--engine", default="", help="The egress proxy's engine, in place of the lab file's.")
@click.option("--no-secrets", is_flag=True, help="Log no secrets of TLS connections.")
@click.option("-v", "--verbose", count=True, help="Time per phase.")
@driver_option
def up(**options: Any) -> None:
    """Stand up a lab that stays up until `down`."""
    from harness.commands import stand_up  # noqa: PLC0415

    stand_up(**options)


@main.command()
@click.argument("lab")
@click.option("--name", help="The running lab, when it is not called as its file says.")
@driver_option
def apply(lab: str, name: str | None, driver: Any) -> None:
    """Turn a running lab into what its file says now; shows the difference."""
    from harness.commands import apply_file  # noqa: PLC0415

    apply_file(lab, name, driver)


@main.command()
@driver_option
def ls(driver: Any) -> None:
    """List the labs that are up."""
    for name in driver.running():
        click.echo(name)


@main.command()
@click.argument("what", type=click.Choice(["pods", "services", "outside", "taps", "nodes", "programs"]))
@click.option("-n", "namespace", help="Only this namespace.")
@click.option("--lab", "lab_name", envvar="EGRESSLAB_LAB", help="Which lab, when several are up.")
@driver_option
def get(what: str, namespace: str | None, lab_name: str | None, driver: Any) -> None:
    """Show what a running lab has, as kubectl would."""
    from harness.look import show  # noqa: PLC0415

    show(driver, lab_name, what, namespace)


@main.command()
@click.argument("lab", required=False)
@driver_option
def stats(lab: str | None, driver: Any) -> None:
    """Show what each listener of a running lab's gateways let through: bytes and connections."""
    from harness.look_stats import show_stats  # noqa: PLC0415

    show_stats(lab, driver)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("-n", "namespace", help="The pod's namespace; none for nodes outside the cluster.")
@click.option("-c", "container", help="Accepted as kubectl's; app and sidecar share the pod's network.")
@click.option("-i", "--stdin", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option("--lab", "lab_name", envvar="EGRESSLAB_LAB", help="Which lab, when several are up.")
@driver_option
@click.pass_context
def exec(ctx: click.Context, /, **options: Any) -> None:  # noqa: A001 - kubectl's word
    """Run a command in a pod or on a node: exec -n bookinfo traffic-generator -- curl ..."""
    from harness.look import execute  # noqa: PLC0415

    ctx.exit(execute(**options))


@main.command()
@click.argument("node")
@click.option("-n", "namespace", help="The pod's namespace.")
@click.option("--lab", "lab_name", envvar="EGRESSLAB_LAB", help="Which lab, when several are up.")
@driver_option
@click.pass_context
def shell(ctx: click.Context, node: str, namespace: str | None, lab_name: str | None, driver: Any) -> None:
    """Open a shell in a pod or on a node."""
    from harness.look import execute  # noqa: PLC0415

    ctx.exit(
        execute(
            node, ("/bin/sh", "-i"), namespace, None, stdin=True, tty=True, lab_name=lab_name, driver=driver
        )
    )


@main.command()
@click.argument("node")
@click.option("-n", "namespace", help="The pod's namespace.")
@click.option("-c", "container", help="Only this program: app, sidecar, ...; rules: the packet filter.")
@click.option("-f", "--follow", is_flag=True, help="Keep printing as lines come.")
@click.option("--lab", "lab_name", envvar="EGRESSLAB_LAB", help="Which lab, when several are up.")
@driver_option
def logs(**options: Any) -> None:
    """Print what a pod's or node's programs printed, and what its packet filter logged."""
    from harness.look import print_logs  # noqa: PLC0415

    print_logs(**options)


@main.command()
@click.argument("where", nargs=-1)
@click.option("--tap", "taps", multiple=True, help="Only this tap (`get taps` lists them); may be repeated.")
@click.option(
    "-w", "file", type=click.Path(path_type=Path), help="Write pcapng to this file, `-` for standard output."
)
@click.option("-c", "count", type=int, help="Stop after so many packets.")
@click.option("--lab", "lab_name", envvar="EGRESSLAB_LAB", help="Which lab, when several are up.")
@driver_option
def capture(**options: Any) -> None:
    """Show packets as they pass, at every tap at once; WHERE is a filter in tcpdump's language."""
    from harness.look_packets import capture_packets  # noqa: PLC0415

    capture_packets(**options)


@main.command()
@click.argument("lab")
@click.option("--name", help="The running lab to use, when it is not called as its file says.")
@click.option("--json", "as_json", is_flag=True, help="As a JSON list.")
@driver_option
@click.pass_context
def mtls(ctx: click.Context, lab: str, name: str | None, as_json: bool, driver: Any) -> None:  # noqa: FBT001 - click's way
    """Say how each client pod reaches each service of the mesh: mutual TLS, plain text, or who refused it.

    By what is seen on the wire of one flow each. Starts the lab unless it is up; exit code 3 when something
    could not be seen, 5 when there is no such pair.
    """
    from harness.mtls_table import show_modes  # noqa: PLC0415

    ctx.exit(show_modes(lab, name, driver, as_json=as_json))


main.add_command(questions.why)
main.add_command(questions.bypass)
main.add_command(questions.mutate)
main.add_command(questions.attack)
main.add_command(questions.coverage)
main.add_command(questions.learn)


@main.command()
@click.argument("labs", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All that are up.")
@driver_option
def down(labs: tuple[str, ...], every: bool, driver: Any) -> None:  # noqa: FBT001 - click's way
    """Take labs down; with no name, the only one that is up."""
    from harness.look import take_down  # noqa: PLC0415

    take_down(driver, labs, every=every)


main.add_command(own_labs.init)
main.add_command(own_labs.generate)


@main.command()
@click.argument("lab")
@driver_option
def plan(lab: str, driver: Any) -> None:
    """Show what a lab file comes to: nodes, addresses, services, programs."""
    from harness.look import show_plan  # noqa: PLC0415

    show_plan(lab, driver)


@main.command()
@click.argument("lab")
@click.option("--format", "form", type=click.Choice(["mermaid", "svg"]), default="mermaid", show_default=True)
@click.option(
    "--flow", nargs=2, metavar="FROM TO", help="Send this flow, as `why` does, and draw the way that it took."
)
@click.option(
    "--through", metavar="SVC:PORT", help="Of that flow: a service that is asked to tunnel (CONNECT)."
)
@driver_option
@click.pass_context
def graph(ctx: click.Context, lab: str, form: str, flow: Any, through: str | None, driver: Any) -> None:  # noqa: PLR0913 - as many options
    """Draw a lab: networks, cluster nodes with their pods, services, and what is outside.

    With --flow the lab is the one that is up by that name, or stands for this time; exit code 3 when nothing of the
    flow was seen, or evidence of it was lost.
    """
    if flow is not None:
        from harness.why import show_way  # noqa: PLC0415

        ctx.exit(show_way(lab, flow, through, form, driver))
    if through is not None:
        raise click.UsageError("--through belongs to --flow")
    from harness.commands import draw  # noqa: PLC0415

    draw(lab, form, driver)


@main.command()
@click.argument("what", type=click.Choice(["bigip"]))
@click.argument("lab")
@driver_option
def render(what: str, lab: str, driver: Any) -> None:  # noqa: ARG001 - the only choice so far
    """Print a lab's egress proxies for a BIG-IP: AS3 and iRule. It was not run on a BIG-IP."""
    from harness.commands import render_bigip  # noqa: PLC0415

    render_bigip(lab, driver)


@main.command()
@click.argument("before", metavar="RUN1", type=click.Path(path_type=Path))
@click.argument("after", metavar="RUN2", type=click.Path(path_type=Path))
@click.option(
    "--time",
    "factor",
    type=click.FloatRange(min=1.0),
    help="So many times as slow or fast is a difference, too.",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_context
def diff(ctx: click.Context, before: Path, after: Path, factor: float | None, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """Compare two runs of a lab: verdicts, who decided, SNAT, time. RUN is a run's folder (out/LAB/latest).

    Exit code 0 when every flow is the same, 1 when one differs or is in one run only, 2 for what cannot be compared.
    """
    from harness.diff_table import show_difference  # noqa: PLC0415

    ctx.exit(show_difference(before, after, factor, as_json=as_json))


main.add_command(questions.compare)


@main.command()
@click.argument("of", type=click.Choice(["lab", "scenario"]))
def schema(of: str) -> None:
    """Print the JSON schema of lab or scenario files, for editors."""
    import json  # noqa: PLC0415

    from harness import schema as schemas  # noqa: PLC0415

    found = schemas.lab_schema() if of == "lab" else schemas.scenario_schema()
    click.echo(json.dumps(found, indent=2))


@main.command()
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """Say what this machine can and cannot do, and the command that mends it."""
    from harness import doctor as examination  # noqa: PLC0415

    findings = examination.examine()
    for line in examination.lines(findings):
        click.echo(line)
    ctx.exit(0 if examination.verdict(findings).get("netns") else 4)


if __name__ == "__main__":
    main()

"""The commands that ask a lab something about flows that no scenario names."""

from __future__ import annotations

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

"""What every command has: errors of ours as one sentence with their exit code, and the choice of a driver."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from harness.errors import InputError, LabError

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Commands(click.Group):
    """The commands in the order of a day's work, and every error of ours as one sentence with its exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """List the commands as they were defined."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a LabError ends it with its sentence."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            for problem in error.problems:
                click.echo(f"egresslab: {problem}", err=True)
            ctx.exit(error.exit_code)
        except LabError as error:
            click.echo(f"egresslab: {error}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            sys.stderr.close()  # the reader of our output left, as `head` does
            ctx.exit(0)


def driver_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --driver, which hands the driver's module to the command."""

    @click.option("--driver", default="netns", show_default=True, help="What stands the lab up.")
    @wraps(function)
    def with_driver(*args: Any, driver: str, **kwargs: Any) -> Any:
        from harness import lookup  # noqa: PLC0415

        try:
            module = lookup.find("drivers", driver)
        except lookup.UnknownName as error:
            raise InputError(str(error)) from error
        return function(*args, driver=module, **kwargs)

    return with_driver

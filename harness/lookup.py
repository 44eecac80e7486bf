"""From a word in a file to the plug of that name: the only dynamic import of the project.

A plug is a module in one of the plug folders (`nodes`, `engines`, `checks`, `drivers`, `reports`), or one that another
distribution registers under the entry point group `egresslab.<folder>`. Its name is the module's file name with
hyphens for underscores.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache
from types import ModuleType

FOLDERS = ("nodes", "engines", "checks", "drivers", "reports")


class UnknownName(LookupError):
    """No plug has that name; the message lists the known ones and the nearest."""


def nearest(word: str, known: list[str]) -> str:
    """Return a sentence part that lists `known` and suggests the nearest name to `word`."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"known: {', '.join(sorted(known)) or 'none'}{hint}"


@cache
def names(folder: str) -> tuple[str, ...]:
    """List the plugs of a folder, ours first, then those of other distributions."""
    package = importlib.import_module(f"harness.{folder}")
    ours = [module.name.replace("_", "-") for module in pkgutil.iter_modules(package.__path__)]
    return tuple(ours + sorted(_entry_points(folder)))


@cache
def find(folder: str, name: str) -> ModuleType:
    """Return the plug's module.

    Raises UnknownName when there is none of that name.
    """
    if name not in names(folder):
        raise UnknownName(f"unknown {folder[:-1]} {name!r}; {nearest(name, list(names(folder)))}")
    points = _entry_points(folder)
    target = points.get(name, f"harness.{folder}.{name.replace('-', '_')}")
    return importlib.import_module(target)


@cache
def _entry_points(folder: str) -> dict[str, str]:
    from importlib.metadata import entry_points  # noqa: PLC0415 - costs 15 ms, and most runs ask for nothing of it

    return {point.name: point.value for point in entry_points(group=f"egresslab.{folder}")}

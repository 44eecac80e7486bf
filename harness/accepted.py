"""`mutants.yaml` beside a lab file: the mutants that no scenario need notice, each with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from harness import source
from harness.entry import Entry
from harness.errors import InputError
from harness.lab_words import Lines, Name
from harness.lookup import nearest
from harness.validation import validate

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from harness.errors import Problem

FILE = "mutants.yaml"


class Acceptance(Entry):
    """Mutants by name, and why none of the lab's flows can tell them from the lab as it is."""

    mutants: Annotated[Lines, Field(min_length=1)]
    reason: Annotated[str, Field(min_length=1)]


class AcceptedFile(Entry):
    """The whole file; `lab` is the lab's name."""

    lab: Name
    accepted: tuple[Acceptance, ...] = ()


class Accepted:
    """What the file beside a lab says; nothing where there is none.

    Raises InputError for a file that cannot be used.
    """

    def __init__(self, lab_file: Path) -> None:
        path = lab_file.parent / FILE
        self._document = source.read(path) if path.exists() else None
        found = validate(self._document, AcceptedFile) if self._document else None
        self._entries = found.accepted if found else ()
        twice = [
            problem
            for number, entry in enumerate(self._entries)
            for index, name in enumerate(entry.mutants)
            if name in [*entry.mutants[:index], *(one for e in self._entries[:number] for one in e.mutants)]
            for problem in self._at(number, index, f"{name!r} is written twice")
        ]
        if twice:
            raise InputError(*twice)

    @property
    def reasons(self) -> Mapping[str, str]:
        """The reason of each accepted mutant, by its name."""
        return {name: entry.reason for entry in self._entries for name in entry.mutants}

    def unknown(self, known: Collection[str]) -> Iterator[Problem]:
        """Yield a problem for each entry that is no mutant of the lab."""
        for number, entry in enumerate(self._entries):
            for index, name in enumerate(entry.mutants):
                if name not in known:
                    hint = nearest(name, list(known))
                    yield from self._at(number, index, f"no mutant of this lab is called {name!r}; {hint}")

    def stale(self, caught: Collection[str]) -> Iterator[Problem]:
        """Yield a problem for each entry that a scenario catches after all."""
        for number, entry in enumerate(self._entries):
            for index, name in enumerate(entry.mutants):
                if name in caught:
                    message = f"{name!r} is caught by a scenario, and needs no exception"
                    yield from self._at(number, index, message)

    def _at(self, number: int, index: int, message: str) -> Iterator[Problem]:
        if self._document is not None:
            yield self._document.problem(("accepted", number, "mutants", index), message)

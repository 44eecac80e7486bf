"""The errors of Egress Lab, one tree.

LabError                 something this project says in one sentence; never a traceback for a user
+-- InputError           a lab or scenario file, or a command line, cannot be used (exit code 2)
+-- MissingCapability    this machine or driver cannot do what the lab needs (exit code 3 or 4)
+-- StartError           the lab did not come up, and everything of it was taken down (exit code 4)
+-- GoneError            the running lab went away or cannot be reached (exit code 4)
+-- LostEvidence         what a verdict needs was not recorded; the verdict is `unknown` (exit code 3)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class LabError(Exception):
    """Something this project says in one sentence."""

    exit_code: ClassVar[int] = 4


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong in one place of an input file.

    `line` and `column` count from 1; 0 means the file as a whole.
    """

    path: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:{self.column}" if self.line else self.path
        return f"{place}: {self.message}"


class InputError(LabError):
    """A lab file, a scenario file or a command line cannot be used; carries every problem found."""

    exit_code: ClassVar[int] = 2

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))


class MissingCapability(LabError):
    """This machine or driver cannot do what the lab needs."""

    def __init__(self, capability: str, message: str) -> None:
        self.capability = capability
        super().__init__(message)


class StartError(LabError):
    """The lab did not come up, and everything of it was taken down."""


class GoneError(LabError):
    """The running lab went away or cannot be reached."""


class LostEvidence(LabError):
    """What a verdict needs was not recorded; the verdict is `unknown`."""

    exit_code: ClassVar[int] = 3

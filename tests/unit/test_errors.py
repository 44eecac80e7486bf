"""The error tree: what its docstring draws is what there is, each with its exit code."""

from __future__ import annotations

import inspect

import pytest

from harness import errors
from harness.errors import (
    GoneError,
    InputError,
    LabError,
    LostEvidence,
    MissingCapability,
    Problem,
    StartError,
)


def test_the_drawing_is_true() -> None:
    """Every error of the module is drawn in its docstring, and nothing else is."""
    drawn = {
        line.split()[1] for line in (errors.__doc__ or "").splitlines() if line.strip().startswith("+--")
    }
    leaves = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, LabError) and value is not LabError
    }
    assert drawn == leaves


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LabError, 4),
        (InputError, 2),
        (MissingCapability, 4),
        (StartError, 4),
        (GoneError, 4),
        (LostEvidence, 3),
    ],
)
def test_exit_codes(error: type[LabError], code: int) -> None:
    """Each error ends the command line with the code that the documentation gives it."""
    assert error.exit_code == code
    assert issubclass(error, LabError)


def test_a_problem_names_its_place() -> None:
    """A problem is path:line:column and a sentence; without a line it is about the file as a whole."""
    assert str(Problem("a.yaml", 3, 5, "wrong")) == "a.yaml:3:5: wrong"
    assert str(Problem("a.yaml", 0, 0, "empty")) == "a.yaml: empty"


def test_problems_sort_as_a_reader_reads() -> None:
    """Problems are ordered by file, line, column."""
    places = [("b", 1, 1), ("a", 10, 1), ("a", 2, 9), ("a", 2, 1)]
    assert [(p.path, p.line, p.column) for p in sorted(Problem(*place, "x") for place in places)] == sorted(
        places
    )


def test_an_input_error_carries_every_problem() -> None:
    """All problems of a file are in one error, a line each."""
    error = InputError(Problem("a", 1, 2, "first"), "second")
    assert str(error) == "a:1:2: first\nsecond"
    assert len(error.problems) == 2


def test_a_missing_capability_has_a_name() -> None:
    """What a machine cannot do is named, so that it can be allowed to be missing."""
    error = MissingCapability("sandbox", "no user namespaces")
    assert (error.capability, str(error)) == ("sandbox", "no user namespaces")

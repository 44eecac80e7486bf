"""Where labs and scenarios are: those of this project, and those of a user's own files."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from harness import source
from harness.errors import InputError
from harness.lookup import nearest

LAB_FILE = "lab.yaml"


@cache
def _roots() -> tuple[Path, Path]:
    """Return the folders of labs and scenarios: a checkout's own, else those that the wheel ships."""
    package = Path(__file__).resolve().parent
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "labs").is_dir():
        return checkout / "labs", checkout / "scenarios"
    return package / "shipped" / "labs", package / "shipped" / "scenarios"


def shipped_labs() -> dict[str, Path]:
    """Return the lab files of this project by name."""
    return {file.parent.name: file for file in sorted(_roots()[0].glob(f"*/{LAB_FILE}"))}


def scenario_paths(lab_name: str) -> tuple[Path, ...]:
    """Return the scenario files that this project ships for a lab; none for a lab of a user's own."""
    return tuple(sorted((_roots()[1] / lab_name).glob("*.yaml"))) if lab_name in shipped_labs() else ()


def find_lab(name_or_path: str) -> Path:
    """Return the lab file meant: of a shipped name, in a folder, or the file itself.

    Raises InputError when there is none; the message lists the shipped labs and the nearest.
    """
    known = shipped_labs()
    return known[name_or_path] if name_or_path in known else _lab_at(Path(name_or_path), name_or_path)


def lab_of(path: Path) -> Path:
    """Return the lab file that a scenario file is for, resolved.

    Raises InputError when the scenario file cannot be read, or its `lab` is neither a shipped name nor a path
    from the scenario file's folder.
    """
    return lab_of_document(source.read(path))


def lab_of_document(document: source.Document) -> Path:
    """Return the lab file that a parsed scenario file is for; raises InputError as `lab_of` does."""
    word = document.data.get("lab") if isinstance(document.data, dict) else None
    if not isinstance(word, str) or not word:
        raise InputError(document.problem(("lab",), "a scenario file needs 'lab': a shipped name, or a path"))
    if word in shipped_labs():
        return shipped_labs()[word].resolve()
    try:
        return _lab_at(Path(document.path).parent / word, word).resolve()
    except InputError as error:
        raise InputError(document.problem(("lab",), str(error))) from None


def _lab_at(path: Path, word: str) -> Path:
    try:
        found = path / LAB_FILE if path.is_dir() else path
        exists = found.is_file()
    except (OSError, ValueError):
        exists = False
    if exists:
        return found
    raise InputError(
        f"{word!r} is neither a shipped lab nor a lab file; {nearest(word, list(shipped_labs()))}"
    )

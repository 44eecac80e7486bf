"""The commands in README.md and in the labs' own are run, and print what stands there.

A block marked `console` is a terminal: a line that begins with `$ ` is a command, what follows is what it prints on
both streams. In it, `...` stands for any text, as in doctest, and on a line of its own for any number of lines. What
differs from run to run (`MASKS`: durations, times, chosen ports, versions) is not compared, nor how many blanks stand
between words. The commands of a page run one after the other in one shell, in an empty folder.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import harness
from harness import starter

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(harness.__file__).resolve().parent.parent
PAGES = tuple(sorted([ROOT / "README.md", *ROOT.glob("labs/*/README.md"), *ROOT.glob("docs/*.md")]))
PAGE_SECONDS = 300
MASKS = (
    (r"\d+\.\d+ (m?s)\b", r"N \1"),
    (r"\d{4}-\d\d-\d\dT[0-9:.-]+", "TIME"),
    (r"\w{3}, \d\d \w{3} \d{4} [0-9:]{8} GMT", "TIME"),
    (r"\w{3} \d\d [0-9:.]{12} \[\d+\]", "TIME"),
    (r"\b\d{19}\b", "TIME"),
    (r":[3-6]\d{4}\b", ":PORT"),
    (r"(tinyproxy|curl)/[0-9.]+", r"\1/VERSION"),
    (r" +", " "),
)
_BLOCK = re.compile(r"^```(?P<word>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Example:
    """A command with the lines that the page shows below it."""

    line: int
    command: str
    shown: str


def blocks(text: str, word: str) -> Iterator[tuple[int, str]]:
    """Yield the first line's number and the text of each block marked with a word."""
    for found in _BLOCK.finditer(text):
        if found["word"] == word:
            yield text[: found.start("text")].count("\n") + 1, found["text"]


def examples(text: str) -> list[Example]:
    """Return the commands of a page in order."""
    found: list[Example] = []
    for first, block in blocks(text, "console"):
        for number, line in enumerate(block.splitlines(), first):
            if line.startswith("$ "):
                found.append(Example(number, line[2:], ""))
            else:
                last = found.pop()
                found.append(Example(last.line, last.command, f"{last.shown}{line.rstrip()}\n"))
    return found


def masked(text: str) -> str:
    """Return a text without what differs from run to run."""
    for pattern, word in MASKS:
        text = re.sub(pattern, word, text)
    return text


def any_lines(text: str) -> str:
    """Let `...` on a line of its own match no line as well: doctest would want its line end."""
    return re.sub(r"^\.\.\.\n", "...", text, flags=re.MULTILINE)


def run_all(commands: list[str], folder: Path) -> list[str]:
    """Run commands in one shell and return what each printed.

    The shell has a network namespace of its own: the names of labs that are up are per network namespace, so
    other labs on the machine are neither seen nor in the way. Whatever is up at the end is taken down.
    """
    tools = folder / "bin"
    tools.mkdir()
    command = tools / "egresslab"
    command.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m harness.cli "$@"\n', encoding="utf-8"
    )
    command.chmod(0o755)
    (folder / "work").mkdir()
    parts = ["trap 'egresslab down --all >&2' EXIT"]
    for number, text in enumerate(commands):
        output = shlex.quote(str(folder / f"{number}.out"))
        parts.append(f"{{ {text}\n}} >{output} 2>&1 </dev/null")
    unshare = (
        ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-current-user", "--net"]
    )
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "130",
        "NO_COLOR": "1",
    }
    subprocess.run(
        [*unshare, "bash", "-c", "\n".join(parts)],
        cwd=folder / "work",
        env=environment,
        check=False,
        timeout=PAGE_SECONDS,
    )
    outputs = [folder / f"{number}.out" for number in range(len(commands))]
    return [
        "".join(f"{line.rstrip()}\n" for line in output.read_text(encoding="utf-8").splitlines())
        if output.exists()
        else "(not run)\n"
        for output in outputs
    ]


def page_name(page: Path) -> str:
    """Return a page's path in the project, which is the test's id."""
    return str(page.relative_to(ROOT))


@pytest.mark.live
@pytest.mark.parametrize("page", [page for page in PAGES if examples(page.read_text("utf-8"))], ids=page_name)
def test_every_command_of_a_page_prints_what_stands_there(page: Path, tmp_path: Path) -> None:
    """Each command of the page, run as it stands, prints the lines below it."""
    wanted = examples(page.read_text(encoding="utf-8"))
    printed = run_all([example.command for example in wanted], tmp_path)
    checker = doctest.OutputChecker()
    wrong = [
        f"{page_name(page)}:{example.line}: $ {example.command}\nshown:\n{example.shown}\nprinted:\n{seen}"
        for example, seen in zip(wanted, printed, strict=True)
        if not checker.check_output(any_lines(masked(example.shown)), masked(seen), doctest.ELLIPSIS)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_first_lab_stands_in_the_readme_as_init_writes_it() -> None:
    """The YAML blocks of README.md are the files that `egresslab init my-lab` writes."""
    shown = [text for _, text in blocks((ROOT / "README.md").read_text(encoding="utf-8"), "yaml")]
    assert shown == [starter.LAB.replace("NAME", "my-lab"), starter.SCENARIOS]


def test_make_lab_is_the_command_that_the_readme_says() -> None:
    """The excerpt in README.md is of what `make lab` runs after set-up."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert '.venv/bin/egresslab test -v --lab "$$LAB"' in makefile
    assert "LAB ?= bookinfo-egress\n" in makefile


def test_every_link_of_the_pages_leads_somewhere() -> None:
    """Links between the pages and to files of the project are not broken."""
    broken = [
        f"{page_name(page)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken

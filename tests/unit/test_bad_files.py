"""Every bad file gives its exact message, and nothing but that: no traceback, bounded time and memory."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import source
from harness.errors import InputError
from harness.lab import load_lab, parse_lab
from harness.scenario import load_scenarios

BAD_FILES = Path(__file__).parent.parent / "bad_files"
FILES = Path(__file__).parent / "files"
BAD = sorted(path.name for path in BAD_FILES.glob("*.yaml"))
GOOD_LAB = (FILES / "lab.yaml").read_bytes()
GOOD_SCENARIOS = (FILES / "scenarios.yaml").read_bytes()
SECONDS = 10.0


def complaint(path: Path) -> str:
    """Return what loading a file says is wrong with it; lab files are told apart by their names."""
    with pytest.raises(InputError) as caught:
        load_lab(path) if path.name.startswith("lab") else load_scenarios(path)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("name", BAD)
def test_message(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad file gives exactly the message that lies beside it: all of its problems, each with its place."""
    shutil.copy(BAD_FILES / name, tmp_path)
    shutil.copy(FILES / "lab.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    expected = (BAD_FILES / name).with_suffix(".txt").read_text(encoding="utf-8")
    assert complaint(Path(name)) + "\n" == expected


def test_each_message_has_its_file() -> None:
    """No message lies there without its bad file, and each bad file has one."""
    assert sorted(path.stem for path in BAD_FILES.glob("*.txt")) == [Path(name).stem for name in BAD]
    assert len(BAD) >= 30


def laughs() -> bytes:
    """Return aliases that would expand to nine to the power of fourteen values."""
    lines = ["lab: [x, x, x, x, x, x, x, x, &a0 x]"]
    lines += [f"k{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 15)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(
            b"lab: big\n# " + b"x" * 10_000_000,
            "1:1: larger than 1048576 bytes (1 MiB), the most a file may have",
            id="10 MB",
        ),
        pytest.param(b"lab: [\xff]", "1:7: not UTF-8 (byte 0xff); save the file as UTF-8", id="not UTF-8"),
        pytest.param(
            "lab: x\ntitle: Grüße\n".encode("latin-1"),
            "2:10: not UTF-8 (byte 0xfc); save the file as UTF-8",
            id="Latin-1",
        ),
        pytest.param(
            "lab: x\n".encode("utf-16"), "1:1: encoded as UTF-16; save the file as UTF-8", id="UTF-16"
        ),
        pytest.param(
            b"\xef\xbb\xbflab: x\n",
            "1:1: begins with a byte order mark; save the file as UTF-8 without one",
            id="byte order mark",
        ),
        pytest.param(b"lab: x\n\0", "2:1: the character U+0000 may not stand in YAML", id="NUL"),
        pytest.param(
            b"lab: \x1b[31m\n", "1:6: the character U+001B may not stand in YAML", id="escape sequence"
        ),
        pytest.param(b"lab: " + b"[" * 100_000, "1:37: nested deeper than 32 levels", id="deep flow"),
        pytest.param(b"- " * 100_000, "1:65: nested deeper than 32 levels", id="deep block"),
        pytest.param(b"{a: " * 100_000, "1:126: nested deeper than 32 levels", id="deep mappings"),
        pytest.param(
            b"lab: [" + b"x," * 20_000 + b"]",
            "1:20001: more than 10000 values, aliases expanded",
            id="many values",
        ),
        pytest.param(laughs(), "6:10: more than 10000 values, aliases expanded", id="exploding aliases"),
    ],
)
def test_generated_message(
    content: bytes, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is too large to keep here, or that no editor should touch, gives one problem, and soon."""
    monkeypatch.chdir(tmp_path)
    Path("lab.yaml").write_bytes(content)
    begun = time.process_time()
    assert complaint(Path("lab.yaml")) == f"lab.yaml:{expected}"
    assert time.process_time() - begun < SECONDS


def test_deep_through_aliases() -> None:
    """Nesting counts through aliases, so that short lines cannot build a deep value."""
    lines = ["a0: &a0 []", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 40))]
    with pytest.raises(InputError, match=r"32:1[0-9]: nested deeper than 32 levels"):
        source.parse("\n".join(lines).encode(), "deep.yaml")


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param("outside:\n" + "".join(f"  n{i}: {{kind: nothing}}\n" for i in range(2000)), id="kinds"),
        pytest.param(
            "networks:\n" + "".join(f"  n{i}: {{cidr: 10.0.0.0/8}}\n" for i in range(2000)), id="overlaps"
        ),
        pytest.param(
            "networks: {dmz: {cidr: 10.4.0.0/24}}\noutside:\n"
            + "".join(f"  n{i}: {{kind: website, on: [n{i + 1}]}}\n" for i in range(1300)),
            id="unknown names",
        ),
        pytest.param("".join(f"key-{i}: 1\n" for i in range(4000)), id="unknown keys"),
    ],
)
def test_thousands_of_problems(wrong: str, tmp_path: Path) -> None:
    """A file that is wrong everywhere is refused in bounded time all the same."""
    path = tmp_path / "lab.yaml"
    path.write_text(f"lab: bad\n{wrong}", encoding="utf-8")
    begun = time.process_time()
    assert len(complaint(path).splitlines()) >= 100
    assert time.process_time() - begun < SECONDS


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is one problem of the file as a whole."""
    path = tmp_path / "lab.yaml"
    assert complaint(path) == f"{path}: cannot be read: No such file or directory"


def test_folder_and_pipe(tmp_path: Path) -> None:
    """A folder or a pipe in a file's place is refused without waiting for anything to be written into it."""
    folder, pipe = tmp_path / "lab-folder", tmp_path / "lab-pipe"
    folder.mkdir()
    os.mkfifo(pipe)
    assert complaint(folder) == f"{folder}: not a file that can be read"
    assert complaint(pipe) == f"{pipe}: not a file that can be read"


quick = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 70000), st.floats(allow_nan=True), st.text(max_size=8)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
)


@quick
@given(
    content=st.binary(max_size=200) | st.text("[]{}:,-&*!|>'\"%#? ab01\n\t\\~<", max_size=60).map(str.encode)
)
def test_any_bytes(content: bytes) -> None:
    """Whatever bytes a file holds, reading gives a document or an input error, and nothing else."""
    with suppress(InputError):
        document = source.parse(content, "any.yaml")
        parse_lab(document)


@quick
@given(data=st.data())
def test_any_change_of_a_good_lab(data: st.DataObject) -> None:
    """Whatever one puts in the place of any value of a good lab, loading gives a lab or an input error."""
    document = source.parse(GOOD_LAB, "lab.yaml")
    changed = changed_somewhere(document.data, data)
    with suppress(InputError):
        parse_lab(source.Document(document.path, changed, document.root))


@quick
@given(data=st.data())
def test_any_change_of_good_scenarios(data: st.DataObject, tmp_path: Path) -> None:
    """Whatever one puts in place of any value of good scenarios, loading gives cases or an input error."""
    lab = load_lab(FILES / "lab.yaml")
    changed = changed_somewhere(source.parse(GOOD_SCENARIOS, "scenarios.yaml").data, data)
    path = tmp_path / "scenarios.yaml"
    path.write_text(written(changed), encoding="utf-8")
    with suppress(InputError):
        load_scenarios(path, lab)


def changed_somewhere(value: object, data: st.DataObject) -> object:
    """Return a copy with one value replaced, taken away or renamed, at a place that hypothesis chooses."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 3)):
        key = data.draw(st.sampled_from(sorted(value)))
        rest = {other: inner for other, inner in value.items() if other != key}
        how = data.draw(st.sampled_from(["descend", "descend", "descend", "remove", "rename"]))
        if how == "remove":
            return rest
        if how == "rename":
            return {**rest, data.draw(st.text(max_size=6)): value[key]}
        return {**value, key: changed_somewhere(value[key], data)}
    if isinstance(value, list) and value and data.draw(st.integers(0, 3)):
        index = data.draw(st.integers(0, len(value) - 1))
        return [*value[:index], changed_somewhere(value[index], data), *value[index + 1 :]]
    return data.draw(values)


def written(value: object) -> str:
    """Return a value as YAML in flow style; JSON would write numbers and text that our dialect refuses."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(str(key))}: {written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, str):
        return "'" + "".join(c for c in value if c.isprintable()).replace("'", "''") + "'"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)

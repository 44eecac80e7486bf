"""Where programs are found, what they say of themselves, and what is said when one is missing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness import tools
from harness.errors import MissingCapability

PLACES = tools._SYSTEM


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a cache folder of its own; programs are this machine's, wherever set-up put them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a private folder of programs, as set-up unpacks it, and a cache folder of its own."""
    folder = tmp_path / "tools"
    (folder / "usr" / "sbin").mkdir(parents=True)
    monkeypatch.setenv("EGRESSLAB_TOOLS", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def program(path: Path, text: str) -> Path:
    """Write a shell program."""
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_private_program_wins(private: Path) -> None:
    """A program in the private folder is taken before the system's."""
    mine = program(private / "usr" / "sbin" / "curl", "echo curl 99.1.2")
    assert tools.find("curl") == str(mine)


def test_link_that_leads_nowhere_is_passed_over(private: Path) -> None:
    """An unpacked package may hold a link into a root that is not its own; the next folder is looked at."""
    (private / "usr" / "sbin" / "ip").symlink_to(private / "nowhere")
    (private / "bin").mkdir()
    mine = program(private / "bin" / "ip", "true")
    assert tools.find("ip") == str(mine)


def test_administrators_folders_are_searched(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's PATH lacks the folders where nft and bird lie; those are searched all the same."""
    folder = private.parent / "sbin"
    folder.mkdir()
    mine = program(folder / "egresslab-test", "true")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(tools, "_SYSTEM", (str(folder),))
    assert tools.find("egresslab-test") == str(mine)
    assert "/usr/sbin" in PLACES


def test_envoy_is_the_binary_of_its_distribution(private: Path) -> None:
    """Envoy is the ELF file inside the Python package, not the script that pip put on PATH."""
    assert private.is_dir()
    with Path(tools.find("envoy")).open("rb") as file:
        assert file.read(4) == b"\x7fELF"


@pytest.mark.parametrize(
    ("name", "command"),
    [("tinyproxy", "apt-get install tinyproxy-bin"), ("bird", "apt-get install bird2")],
)
def test_missing_program_names_its_package(
    name: str, command: str, private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that is nowhere is an error that carries the command which mends it."""
    monkeypatch.setenv("PATH", str(private))
    monkeypatch.setattr(tools, "_SYSTEM", ())
    with pytest.raises(MissingCapability, match=command) as caught:
        tools.find(name)
    assert caught.value.capability == name


def test_folders_of_private_programs(private: Path) -> None:
    """The folders that a PATH needs for private programs are those that are there."""
    assert tools.private_folders() == (str(private / "usr" / "sbin"),)
    (private / "bin").mkdir()
    assert tools.private_folders() == (str(private / "usr" / "sbin"), str(private / "bin"))


def test_library_path_names_private_libraries(private: Path) -> None:
    """Programs of the private folder are given its libraries; without any there is nothing to give."""
    assert tools.library_path() is None
    libraries = private / "usr" / "lib" / "x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    (libraries / "libmnl.so.0").touch()
    assert str(libraries) in str(tools.library_path()).split(":")
    assert str(libraries) in tools.environment()["LD_LIBRARY_PATH"].split(":")


def test_library_is_loaded_by_its_soname(private: Path) -> None:
    """A library of the system is loaded by name; one that nobody has is an error that says what to do."""
    assert private.is_dir()
    assert tools.load_library("libc.so.6").getpid() == os.getpid()
    with pytest.raises(MissingCapability, match=r"libnowhere\.so\.7"):
        tools.load_library("libnowhere.so.7")


def test_versions_of_all_components(cache: Path) -> None:
    """Every component of a lab says its version; the second time the answer comes from the cache."""
    first = tools.versions()
    assert (cache / "egresslab" / "versions.json").is_file()
    assert {"kernel", "python", "bird", "nft", "tinyproxy", "dnsmasq", "envoy", "haproxy", "curl"} == set(
        first
    )
    assert all(version[0].isdigit() for version in first.values())
    asked = time.process_time()
    assert tools.versions() == first
    assert time.process_time() - asked < 0.05


def test_version_is_asked_again_when_the_file_changed(private: Path) -> None:
    """An upgraded program is noticed by its size and time stamp."""
    mine = program(private / "usr" / "sbin" / "bird", "echo BIRD version 2.0.12 >&2")
    assert tools.versions()["bird"] == "2.0.12"
    program(mine, "echo BIRD version 3.1 >&2  # newer")
    assert tools.versions()["bird"] == "3.1"


def test_unreadable_cache_is_no_error(cache: Path) -> None:
    """A damaged cache is as good as none."""
    (cache / "egresslab").mkdir(parents=True)
    (cache / "egresslab" / "versions.json").write_text("[not json", encoding="utf-8")
    assert "curl" in tools.versions()


def test_commands_run_at_the_same_time(private: Path) -> None:
    """Each command sees the other's sign of life, which one after the other could not."""
    meet = "touch {mine}; while [ ! -e {other} ]; do :; done; echo met"
    one = program(private / "one", meet.format(mine=private / "1", other=private / "2"))
    two = program(private / "two", meet.format(mine=private / "2", other=private / "1"))
    assert tools.outputs({"one": [str(one)], "two": [str(two)]}) == {"one": "met\n", "two": "met\n"}


def test_command_that_does_not_end_is_killed(private: Path) -> None:
    """A program that hangs or cannot start has no entry, and the others are not lost by it."""
    hangs = program(private / "hangs", "while :; do :; done")
    fine = program(private / "fine", "echo fine")
    answers = tools.outputs({"a": [str(hangs)], "b": [str(fine)], "c": ["/nowhere"]}, seconds=0.5)
    assert answers == {"b": "fine\n"}

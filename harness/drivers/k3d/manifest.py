"""A manifest of others, from a URL or a path, checked by its SHA-256, as objects.

What comes from a URL is kept in the user's cache by its checksum, so that it is fetched once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from harness.errors import StartError

MOST_BYTES = 16 << 20
SECONDS = 60.0


def objects_from(place: str, checksum: str) -> list[dict[str, Any]]:
    """Return the objects of a manifest; raises StartError when it cannot be had, or is not the one that is meant.

    `checksum` is the SHA-256 in hexadecimal; empty where a path is to be taken as it is.
    """
    url = place.startswith(("https://", "http://"))
    if url and not checksum:
        raise StartError(
            f"{place}: a manifest from a URL needs its SHA-256 (k3d/versions.toml, calico.sha256)"
        )
    return parsed(_fetched(place, checksum) if url else _read(place, checksum), place)


def first_sum(url: str, told: Callable[[str], None]) -> str:
    """Return the SHA-256 of what a URL gave the first time, for those that are not pinned: later ones must be the same.

    Raises StartError where it cannot be fetched.
    """
    kept = _cache() / f"manifest-sum-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    if kept.is_file():
        return kept.read_text(encoding="ascii").strip()
    found = hashlib.sha256(_downloaded(url)).hexdigest()
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(found, encoding="ascii")
    told(
        f"{url} is used for the first time: its SHA-256 is {found}, and must be from now on (k3d/versions.toml)"
    )
    return found


def parsed(content: bytes, place: str) -> list[dict[str, Any]]:
    """Return the objects of a text of YAML documents; raises StartError."""
    try:
        found = [one for one in yaml.safe_load_all(content) if one]
    except yaml.YAMLError as error:
        raise StartError(f"{place}: no YAML: {error}") from error
    for one in found:
        named = (
            isinstance(one, dict) and isinstance(one.get("metadata"), dict) and one["metadata"].get("name")
        )
        if not named or not isinstance(one.get("kind"), str) or not isinstance(one.get("apiVersion"), str):
            raise StartError(f"{place}: what stands there is no Kubernetes object: {str(one)[:80]}")
    return found


def values_of(text: str) -> Any:
    """Return what one YAML document says; raises StartError."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StartError(f"this is no YAML: {error}") from error


def written(found: object) -> str:
    """Return data as YAML."""
    return yaml.safe_dump(found, sort_keys=False)


def _read(place: str, checksum: str) -> bytes:
    try:
        content = Path(place).read_bytes()
    except OSError as error:
        raise StartError(f"{place}: {error.strerror}") from error
    return _checked(content, place, checksum) if checksum else content


def _fetched(url: str, checksum: str) -> bytes:
    kept = _cache() / f"manifest-{checksum}.yaml"
    if kept.is_file() and hashlib.sha256(kept.read_bytes()).hexdigest() == checksum:
        return kept.read_bytes()
    content = _downloaded(url)
    _checked(content, url, checksum)
    kept.parent.mkdir(parents=True, exist_ok=True)
    draft = kept.with_suffix(f".{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(kept)
    return content


def _downloaded(url: str) -> bytes:
    from urllib.request import urlopen  # noqa: PLC0415 - costs 40 ms

    try:
        with urlopen(url, timeout=SECONDS) as answer:  # noqa: S310 - https or http, which the caller has looked at
            content: bytes = answer.read(MOST_BYTES)
    except OSError as error:
        raise StartError(
            f"{url} cannot be fetched ({getattr(error, 'reason', error)}); download it elsewhere and name its path "
            "in EGRESSLAB_CALICO"
        ) from error
    return content


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - see tools._cache_file
    return Path(root, "egresslab")


def _checked(content: bytes, place: str, checksum: str) -> bytes:
    found = hashlib.sha256(content).hexdigest()
    if found != checksum.lower():
        raise StartError(
            f"{place} is not the manifest that is meant: its SHA-256 is {found}, wanted {checksum}"
        )
    return content

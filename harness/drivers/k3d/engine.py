"""The container engine: where it is, what of it is ours, and how that is removed. The one door to the docker SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import MissingCapability

if TYPE_CHECKING:
    from docker import DockerClient

LABEL = "egresslab"
LAB = f"{LABEL}.lab"
"""The label, with the lab's name, of everything that a lab is made of; nothing without it is ever touched."""
NODE = f"{LABEL}.node"
NETWORK = f"{LABEL}.network"

_MEND = "install it (Debian: apt-get install docker.io) and start it, or point DOCKER_HOST at one that runs"


def connect() -> DockerClient:
    """Return a client of the user's engine (DOCKER_HOST, else the usual socket); raises MissingCapability."""
    import docker  # noqa: PLC0415 - costs 0.26 s
    from docker.errors import DockerException  # noqa: PLC0415 - as above

    try:
        client = docker.from_env(timeout=120)
    except DockerException as error:
        raise MissingCapability("docker", f"no Docker Engine answers ({_words(error)}); {_MEND}") from error
    try:
        client.ping()
    except DockerException as error:
        client.close()
        raise MissingCapability("docker", f"no Docker Engine answers ({_words(error)}); {_MEND}") from error
    return client


def _words(error: Exception) -> str:
    """Return the innermost reason of an error of the SDK, which wraps it many times."""
    inner: BaseException = error
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__ or inner
    return str(getattr(inner, "strerror", None) or inner)

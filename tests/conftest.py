"""What all tests share: which files are no tests, and a Docker Engine for those that need one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from own_engine import Engine

collect_ignore_glob = ["*.yaml"]
"""The scenario files below this folder are input of tests, and many of them are bad on purpose."""


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Engine]:
    """Have a Docker Engine for the whole run."""
    from own_engine import engine  # noqa: PLC0415 - most tests need none

    with engine() as found:
        yield found

"""What live tests share: the first lab, as its file says."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from harness import shipped
from harness.drivers import netns
from harness.lab import load_lab
from harness.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.running import RunningLab


@pytest.fixture(scope="module")
def bookinfo() -> Iterator[RunningLab]:
    """Stand up bookinfo-egress under a name of this process, for all tests of a module."""
    path = shipped.find_lab("bookinfo-egress")
    source = (str(path), path.read_text(encoding="utf-8"))
    lab = netns.up(make_plan(load_lab(path)), f"bookinfo-{os.getpid()}", source, owned=True)
    yield lab
    lab.close()

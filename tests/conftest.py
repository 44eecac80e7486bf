"""What all tests share: the tools to run pytest in tests, and which files are no tests."""

from __future__ import annotations

from importlib.metadata import entry_points

collect_ignore_glob = ["*.yaml"]
"""The scenario files below this folder are input of tests, and many of them are bad on purpose."""

pytest_plugins = ["pytester"]
if not entry_points(group="pytest11", name="egresslab"):
    pytest_plugins.append("harness.pytest_plugin")  # a checkout that is not installed

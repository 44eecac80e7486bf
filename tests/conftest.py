"""What all tests share: which files are no tests."""

from __future__ import annotations

collect_ignore_glob = ["*.yaml"]
"""The scenario files below this folder are input of tests, and many of them are bad on purpose."""

"""The command that tries one case of a run again."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from harness import shipped
from harness.report import Summary
from harness.run import Result
from harness.running import RunningLab


def repeat(result: Result, summary: Summary, lab: RunningLab | None) -> str:
    """Return the command that tries a case again."""
    ours = result.item.path in map(str, shipped.scenario_paths(summary.lab))
    where = ["--lab", summary.lab] if ours else [os.path.relpath(result.item.path)]
    words = ["egresslab", "test", *where, "-k", result.item.id]
    if summary.driver != "netns":
        words += ["--driver", summary.driver]
    if lab is not None and _is_of_another_text(lab):
        engines = {getattr(node.spec, "engine", "") for node in lab.plan.of_kind("egress-proxy")}
        words += [f"--engine={engine}" for engine in engines if len(engines) == 1]
    return shlex.join(words)


def _is_of_another_text(lab: RunningLab) -> bool:
    """Tell whether a lab differs from its file, as it does with `--engine`."""
    path, text = lab.source
    try:
        return Path(path).read_text(encoding="utf-8") != text
    except OSError:
        return False

"""Scenario files as pytest's own tests: one item a case, one lab a folder, held by the pytest process.

held = passed, broken = failed, unknown = error: evidence is collected in an item's setup and judged in its
call. A lab stands from the first of its cases in a folder until pytest leaves that folder; then the process
that ran it writes its reports. A lab that is up by the name in its file (or by --egresslab-name) is used as
it stands; else each process starts its own, called after the lab and the process, so that runs and xdist
workers never meet.

Ours is imported late, all that is large: pytest loads this module in every project it is installed beside.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.discovery import Asked, ahead, is_scenarios
from harness.errors import InputError, LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from testinfra.host import Host

    from harness.held import HeldLab, Labs, Runs
    from harness.run import Result
    from harness.scenario import Item

_LABS = pytest.StashKey["Labs"]()
_READ = pytest.StashKey[dict[Path, "tuple[Item, ...] | InputError"]]()
_WRITTEN = pytest.StashKey[list[str]]()
_FILES = pytest.StashKey[tuple[Path, ...]]()


class NotHeld(Exception):
    """A verdict other than held; the message is all that is to be printed."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup("egresslab", "scenarios of egress labs")
    group.addoption("--egresslab-driver", default="netns", help="What stands labs up.")
    group.addoption(
        "--egresslab-out", default="out", help="Folder for reports, from where pytest was started."
    )
    group.addoption(
        "--egresslab-name", default="", help="The running lab to use, or the name of one to start."
    )
    no_secrets = "Log no secrets of TLS connections; the capture has none."
    group.addoption("--egresslab-no-secrets", action="store_true", help=no_secrets)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the labels of every scenario file to come."""
    config.stash[_READ] = {}
    config.stash[_WRITTEN] = []
    config.addinivalue_line("markers", "egresslab(lab): the lab whose nodes the `host` fixture gives")
    if not config.pluginmanager.hasplugin("pytest11.testinfra"):
        config.pluginmanager.register(HostFixture(), "egresslab-host")
    starts = [config.invocation_params.dir / word.partition("::")[0] for word in config.args]
    files = dict.fromkeys(ahead(starts, _asked(config), config.getini("norecursedirs")))
    for label in dict.fromkeys(label for path in files for label in _labels(config, path)):
        config.addinivalue_line("markers", f"{label}: a label of scenarios")
    config.stash[_FILES] = tuple(files)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the cases of a lab on one xdist worker, where tests are dealt out one by one."""
    labs = {path.resolve(): group for path in config.stash[_FILES] if (group := _group(path))}
    if not labs or config.getoption("dist") not in {"load", "loadgroup"}:
        return None
    from harness.scheduling import ByLab  # noqa: PLC0415 - see the module's docstring

    return ByLab(config, log, labs)


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect a folder that holds scenarios as one that holds their labs."""
    if (path / "__init__.py").exists():  # a package is pytest's own; there each file holds its lab itself
        return None
    if any(_is_ours(parent, file) for file in path.glob("*.yaml")):
        return ScenarioFolder.from_parent(parent, path=path)
    return None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect a scenario file."""
    if _is_ours(parent, file_path):
        return ScenarioFile.from_parent(parent, path=file_path)
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what a scenario's failure says, without the way our code took to it."""
    report = yield
    if isinstance(item, ScenarioItem) and call.excinfo and isinstance(call.excinfo.value, NotHeld | LabError):
        report.longrepr = str(call.excinfo.value)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the xdist controller, if there is one, what was written here."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["egresslab"] = session.config.stash[_WRITTEN]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:  # noqa: ARG001 - xdist's signature
    """Take over what a worker wrote."""
    node.config.stash[_WRITTEN].extend(getattr(node, "workeroutput", {}).get("egresslab", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say where the reports are."""
    for line in config.stash[_WRITTEN]:
        terminalreporter.write_line(f"egresslab: {line}")


def _asked(config: pytest.Config) -> Asked:
    return "folder" if config.args_source is pytest.Config.ArgsSource.ARGS else "nothing"


def _is_ours(parent: pytest.Collector, path: Path) -> bool:
    return is_scenarios(path, "file" if parent.session.isinitpath(path) else _asked(parent.config))


def _read(config: pytest.Config, path: Path) -> tuple[Item, ...]:
    """Return a file's cases, read once; raises InputError."""
    known = config.stash[_READ]
    if path not in known:
        from harness.scenario import load_scenarios  # noqa: PLC0415 - as above

        shown = os.path.relpath(path, config.invocation_params.dir)
        try:
            known[path] = load_scenarios(path if shown.startswith("..") else Path(shown))
        except InputError as error:
            known[path] = error
    found = known[path]
    if isinstance(found, InputError):
        raise found
    return found


def _lab_of(path: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the lab file of a scenario file, and the label that its article stands for."""
    from harness.lab import load_lab  # noqa: PLC0415 - as above
    from harness.shipped import lab_of  # noqa: PLC0415 - as above

    lab_file = lab_of(path)
    lab = load_lab(lab_file)
    return lab_file, (f"article-{lab.article}",) if lab.article is not None else ()


def _labels(config: pytest.Config, path: Path) -> Iterable[str]:
    try:
        cases = _read(config, path)
        article = _lab_of(path)[1] if cases else ()
    except InputError:
        return ()  # reported where the file is collected
    return (*article, *(label for case in cases for label in case.scenario.labels))


def _group(path: Path) -> str:
    try:
        return str(_lab_of(path)[0])
    except InputError:
        return ""  # reported where the file is collected


def _labs(config: pytest.Config) -> Labs:
    if _LABS not in config.stash:
        from harness.held import Labs  # noqa: PLC0415 - as above

        worker = os.environ.get("PYTEST_XDIST_WORKER", "")
        driver, name = (config.getoption(f"egresslab_{word}") for word in ("driver", "name"))
        secrets = not config.getoption("egresslab_no_secrets")
        config.stash[_LABS] = Labs(driver, name, worker, secrets=secrets)
    return config.stash[_LABS]


class _Holder:
    """Part of a collector that holds the labs of the cases below it."""

    config: pytest.Config
    _runs: Runs | None = None

    @property
    def runs(self) -> Runs:
        """The runs of this collector's cases."""
        if self._runs is None:
            from harness.held import Runs  # noqa: PLC0415 - as above

            out = self.config.invocation_params.dir / self.config.getoption("egresslab_out")
            self._runs = Runs(_labs(self.config), out)
        return self._runs

    def teardown(self) -> None:
        """Write the reports, take the labs down."""
        if self._runs is not None:
            self.config.stash[_WRITTEN].extend(self._runs.end())


class ScenarioFolder(_Holder, pytest.Directory):
    """A folder with scenario files; the labs of its cases end when pytest leaves it."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Collect what pytest's own collector finds in the folder, our files among it."""
        return pytest.Dir.from_parent(self, path=self.path).collect()


class ScenarioFile(_Holder, pytest.File):
    """A scenario file; outside any folder that pytest collects, it holds its lab itself."""

    def collect(self) -> Iterator[ScenarioItem]:
        """Yield the cases; raises CollectError with our own lines for what is wrong with the file."""
        try:
            cases = _read(self.config, self.path)
            lab, article = _lab_of(self.path) if cases else (self.path, ())
        except InputError as error:
            raise self.CollectError(str(error)) from None
        runs = (self.getparent(ScenarioFolder) or self).runs if cases else None
        for case in cases:
            item: ScenarioItem = ScenarioItem.from_parent(self, name=case.id, case=case, lab=lab, runs=runs)
            for label in (*article, *case.scenario.labels):
                item.add_marker(label)
            yield item


class ScenarioItem(pytest.Item):
    """One case of a scenario."""

    def __init__(self, *, case: Item, lab: Path, runs: Runs, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.case = case
        self.lab = lab
        self.runs = runs
        self._result: Result | None = None

    def setup(self) -> None:
        """Send the flow and collect its evidence; evidence that proves nothing is an error."""
        if (skipped := self.runs.skipped(self.lab, self.case, self._selected())) is not None:
            pytest.skip(str(skipped))
        self._result = self.runs.result(self.lab, self.case, self._selected())
        self.user_properties.append(("verdict", self._result.verdict.state))
        if self._result.verdict.state == "unknown":
            raise NotHeld(_words(self._result))

    def _selected(self) -> Iterator[Item]:
        for item in self.session.items:
            if isinstance(item, ScenarioItem) and item.runs is self.runs and item.lab == self.lab:
                yield item.case

    def runtest(self) -> None:
        """Judge: what is not held now is broken."""
        if self._result is not None and self._result.verdict.state != "held":
            raise NotHeld(_words(self._result))

    def reportinfo(self) -> tuple[Path, int, str]:
        """Say where the scenario is written."""
        return self.path, self.case.line - 1, self.name


def _words(result: Result) -> str:
    from harness.explain import failure_lines  # noqa: PLC0415 - as above

    return "\n".join(failure_lines(result))


@pytest.fixture(scope="session")
def egresslab(pytestconfig: pytest.Config) -> Iterator[Callable[[str | Path], HeldLab]]:
    """Give labs by shipped name or path: `egresslab("bookinfo-egress").host("firewall")`."""
    labs = _labs(pytestconfig)
    taken: dict[Path, HeldLab] = {}

    def lab(name_or_path: str | Path) -> HeldLab:
        from harness.held import HeldLab  # noqa: PLC0415 - as above
        from harness.shipped import find_lab  # noqa: PLC0415 - as above

        try:
            path = find_lab(str(name_or_path)).resolve()
            if path not in taken:
                taken[path] = HeldLab(labs.take(path))
        except LabError as error:
            pytest.fail(str(error), pytrace=False)
        return taken[path]

    yield lab
    for path in reversed(taken):
        labs.give_back(path)


class HostFixture:
    """Registered only where testinfra's own plugin is off: both define `host`."""

    @pytest.fixture
    def host(self, request: pytest.FixtureRequest, egresslab: Callable[[str | Path], HeldLab]) -> Host:
        """Give a node that the test names: `parametrize("host", ["firewall"], indirect=True)`.

        The lab is that of the nearest `egresslab` marker.
        """
        mark = request.node.get_closest_marker("egresslab")
        if mark is None or not mark.args or not hasattr(request, "param"):
            pytest.fail(
                "`host` needs a lab, pytest.mark.egresslab(LAB), "
                "and a node, pytest.mark.parametrize('host', [NODE], indirect=True)",
                pytrace=False,
            )
        try:
            return egresslab(mark.args[0]).host(request.param)
        except InputError as error:
            pytest.fail(str(error), pytrace=False)

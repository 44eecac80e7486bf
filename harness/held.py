"""Labs that a test process holds, and the runs of scenarios on them; knows nothing of the test runner."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness import lookup, tools
from harness.capabilities import Skipped, runnable
from harness.commands import lab_for
from harness.errors import InputError, LabError
from harness.lab import load_lab
from harness.report import Summary, write
from harness.run import Result, Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from testinfra.host import Host

    from harness.running import Driver, RunningLab
    from harness.scenario import Item


class Labs:
    """The labs that this process holds, by lab file: each stands up once and ends with its last user.

    `name` is the running lab to use, or the name of the one to start. Without it, a lab that is up by its
    file's name is used, else one is started that is called after the file and this process. `worker` tells
    processes apart that were given the same name; `secrets` has labs that are started log those of TLS connections.
    """

    def __init__(self, driver: str, name: str = "", worker: str = "", *, secrets: bool = True) -> None:
        self.driver_name = driver
        self.secrets = secrets
        self._name = name
        self._worker = worker
        self._held: dict[Path, tuple[ExitStack, RunningLab]] = {}
        self._users: dict[Path, int] = {}

    def take(self, path: Path) -> RunningLab:
        """Return a lab that stands, until `give_back`.

        Raises LabError when it does not come up, InputError when the one that is up has another text.
        """
        if path not in self._held:
            lab = load_lab(path)
            driver = self.driver()
            stack = ExitStack()
            name = self._name_for(lab.lab, driver)
            running, _ = stack.enter_context(lab_for(driver, lab, path, name, secrets=self.secrets))
            self._held[path] = (stack, running)
        self._users[path] = self._users.get(path, 0) + 1
        return self._held[path][1]

    def give_back(self, path: Path) -> None:
        """Give up a lab; it ends when nobody else here uses it, unless it was up before."""
        self._users[path] -= 1
        if not self._users[path]:
            stack, _ = self._held.pop(path)
            stack.close()

    def driver(self) -> Driver:
        """Return what stands these labs up; raises InputError where there is none of that name."""
        try:
            module: Any = lookup.find("drivers", self.driver_name)
        except lookup.UnknownName as error:
            raise InputError(str(error)) from error
        found: Driver = module
        return found

    def _name_for(self, lab: str, driver: Driver) -> str:
        wanted = self._name or lab
        taken = driver.running()
        if wanted in taken:
            return wanted
        if self._name:
            return "-".join(filter(None, (self._name, self._worker)))
        own = f"{lab}-{os.getpid()}"
        # this process may hold two labs whose files give them the same name
        names = itertools.chain([own], (f"{own}.{number}" for number in itertools.count(2)))
        return next(name for name in names if name not in taken)


@dataclass(frozen=True)
class HeldLab:
    """A lab for a user's own tests: `running` for flows and commands, `host` for what a node has."""

    running: RunningLab

    def host(self, node: str) -> Host:
        """Return a testinfra host for a node; raises InputError with the nearest name."""
        from harness.hosts import lab_host  # noqa: PLC0415 - testinfra is for those who ask for it

        return lab_host(self.running, node)


@dataclass
class _Run:
    lab: RunningLab
    session: Session
    started: dt.datetime
    begun: float
    skipped: tuple[Skipped, ...]
    results: list[Result] = field(default_factory=list)


class Runs:
    """One run for each lab: it stands from the first result asked for; reports are written at the end."""

    def __init__(self, labs: Labs, out: Path) -> None:
        self._labs = labs
        self._out = out
        self._runs: dict[Path, _Run | LabError] = {}
        self._skipped: dict[Path, dict[str, Skipped]] = {}

    def skipped(self, lab: Path, case: Item, selected: Iterable[Item]) -> Skipped | None:
        """Return why a case cannot be run on this machine, None where it can; `selected` as below.

        Raises LabError where there is no such driver.
        """
        if lab not in self._skipped:
            missing = self._labs.driver().missing
            _, found = runnable(tuple(selected), load_lab(lab), missing, ())
            self._skipped[lab] = {one.item.id: one for one in found}
        return self._skipped[lab].get(case.id)

    def result(self, lab: Path, case: Item, selected: Iterable[Item]) -> Result:
        """Return a case's result; `selected` are all cases of the lab that will be asked for.

        Raises LabError, the same one for every case when the lab does not stand.
        """
        if lab not in self._runs:
            try:
                self._runs[lab] = self._begin(lab, tuple(selected))
            except LabError as error:
                self._runs[lab] = error
        run = self._runs[lab]
        if isinstance(run, LabError):
            raise run
        run.results.append(run.session.run(case))
        return run.results[-1]

    def end(self) -> Iterator[str]:
        """Write each run's reports and give its lab back; yield a line about each, with its folder."""
        runs, self._runs = self._runs, {}
        with ExitStack() as stack:
            for lab, run in runs.items():
                if isinstance(run, _Run):
                    stack.callback(self._labs.give_back, lab)
            for run in runs.values():
                if isinstance(run, _Run):
                    yield self._write(run)

    def _begin(self, lab: Path, selected: tuple[Item, ...]) -> _Run:
        begun = time.monotonic()
        started = dt.datetime.now(dt.UTC).astimezone()
        running = self._labs.take(lab)
        session = Session(running, selected)
        return _Run(running, session, started, begun, tuple(self._skipped.get(lab, {}).values()))

    def _write(self, run: _Run) -> str:
        lab = run.lab.plan.lab
        summary = Summary(
            lab.lab,
            lab.title,
            self._labs.driver_name,
            tuple(run.results),
            run.lab.phases,
            tools.versions(),
            run.started,
            time.monotonic() - run.begun,
            self._labs.secrets,
            run.skipped,
        )
        folder = write(summary, run.lab, self._out)
        if summary.failed:
            from harness.bundle import write_bundle  # noqa: PLC0415 - and the doctor with it

            write_bundle(summary, run.lab, folder)
        return f"{lab.lab}: {summary.words or 'nothing judged'}; files in {os.path.relpath(folder)}"

"""The pytest plugin: a fixture `lab`, up while a test runs; nothing is left but the logs of a test that failed.

Loaded by pytest wherever the project is installed, so it imports the rest only when a test wants a lab.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

if TYPE_CHECKING:
    from lab.testing.running import RunningLab

_LAB: Final = pytest.StashKey["RunningLab"]()
_DEFAULT: Final = "topologies/default.yaml"
_SCOPES: Final = ("function", "module")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("teredo-lab")
    group.addoption(
        "--lab-backend",
        metavar="BACKEND",
        default=os.environ.get("TEREDO_LAB_BACKEND", "netns"),
        help="where labs of tests run that do not say it: netns (the default, or $TEREDO_LAB_BACKEND) or docker",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "lab(topology=…, backend=…, scope=…): the fixture `lab` is a lab from this topology: a file, looked for beside"
        " the test and in the root directory, or its text; in this backend, netns or docker; anew for each test, or"
        " one for the whole module (scope='module')",
    )


class _Wanted(NamedTuple):
    topology: str | Path
    backend: str
    scope: str


def _arguments(topology: str = "", *, backend: str = "", scope: str = "function") -> tuple[str, str, str]:
    return topology, backend, scope


def _wanted(request: pytest.FixtureRequest) -> _Wanted:
    """What a test's marker asks for, or a failure that says what is wrong with it."""
    marker = request.node.get_closest_marker("lab")
    mark: pytest.Mark = marker or pytest.mark.lab().mark
    try:
        inspect.signature(_arguments).bind(*mark.args, **mark.kwargs)
    except TypeError as error:
        wrong = str(error)
    else:
        wrong = ""
    if wrong:
        pytest.fail(f"@pytest.mark.lab: {wrong}; it takes a topology, backend=… and scope=…", pytrace=False)
    topology, backend, scope = _arguments(*mark.args, **mark.kwargs)
    backend = backend or str(request.config.getoption("--lab-backend"))
    for what, value, known in (("backend", backend, ("netns", "docker")), ("scope", scope, _SCOPES)):
        if value not in known:
            pytest.fail(f"@pytest.mark.lab: {what}={value!r}: take {' or '.join(known)}", pytrace=False)
    if "\n" in topology:
        return _Wanted(topology, backend, scope)
    places = [request.path.parent, request.config.rootpath, Path.cwd()]
    for place in places:
        if (path := place / (topology or _DEFAULT)).is_file():
            return _Wanted(path, backend, scope)
    looked = ", ".join(dict.fromkeys(map(str, places)))
    remedy = "give a topology: @pytest.mark.lab('my.yaml')" if not topology else "correct it, or give a topology's text"
    pytest.fail(f"there is no file {topology or _DEFAULT} in {looked}: {remedy}", pytrace=False)


@contextlib.contextmanager
def _started(wanted: _Wanted, directory: Path) -> Iterator[RunningLab]:
    """A lab, or a failure or skip that says why there can be none."""
    from lab.testing.running import CannotStartError, running  # noqa: PLC0415 - only those who want a lab pay for it

    with contextlib.ExitStack() as stack:
        lab, lacking, why = None, False, ""
        try:
            lab = stack.enter_context(running(wanted.topology, directory, backend=wanted.backend))
        except CannotStartError as error:
            lacking, why = error.lacking, str(error)
        if lab is not None:
            yield lab
        elif lacking and os.environ.get("TEREDO_LAB_NO_SKIP") != "1":
            pytest.skip(why)
        else:
            pytest.fail(why, pytrace=False)


@pytest.fixture(scope="module")
def _labs_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[_Wanted, RunningLab]]:
    """Labs that tests of a module share, started by the first that wants one."""
    with contextlib.ExitStack() as stack:

        class Labs(dict[_Wanted, Any]):
            def __missing__(self, wanted: _Wanted) -> RunningLab:
                self[wanted] = stack.enter_context(_started(wanted, tmp_path_factory.mktemp("lab")))
                shared: RunningLab = self[wanted]
                return shared

        yield Labs()


@pytest.fixture
def lab(
    request: pytest.FixtureRequest, tmp_path: Path, _labs_of_module: dict[_Wanted, RunningLab]
) -> Iterator[RunningLab]:
    """A lab that is up, as the marker `lab` says; without one, of topologies/default.yaml.

    If the test fails, the lab's logs are kept beside its captures; if it leaves another lab behind, it fails.
    """
    wanted = _wanted(request)
    with contextlib.ExitStack() as stack:
        own = wanted.scope == "function"
        running = stack.enter_context(_started(wanted, tmp_path)) if own else _labs_of_module[wanted]
        request.node.stash[_LAB] = running
        before = _everything()
        yield running
        left = _everything() - before
    _take_down(left)


def _everything() -> set[tuple[str, str]]:
    """Of all labs there are, the backend and the name."""
    from lab.backends.base import everything  # noqa: PLC0415

    return {(type(each).__name__, each.name) for each in everything()}


def _take_down(left: set[tuple[str, str]]) -> None:
    from lab.backends.base import everything  # noqa: PLC0415

    for each in everything():
        if (type(each).__name__, each.name) in left:
            each.down()
    if left:
        pytest.fail(f"the test has left labs behind: {', '.join(sorted(name for _, name in left))}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the logs of a failed test's lab while it is still up, and say where they are."""
    report = yield
    lab = item.stash.get(_LAB, None)
    if lab is not None and call.when == "call" and report.failed:
        kept = "\n".join(map(str, lab.keep()))
        report.sections.append((f"logs and captures of the lab {lab.name}", kept))
    return report

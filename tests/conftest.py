"""What all tests share: in CI nothing of ours is skipped."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

OUTCOMES = pytest.StashKey[dict[str, dict[str, str]]]()
NO_SKIP = os.environ.get("TEREDO_LAB_NO_SKIP") == "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--requirements", type=Path, help="write which test proves what, and its outcome, to this file")


def pytest_configure(config: pytest.Config) -> None:
    outcomes: dict[str, dict[str, str]] = defaultdict(dict)
    config.stash[OUTCOMES] = outcomes


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--requirements")
    if path is not None:
        path.write_text(json.dumps(session.config.stash[OUTCOMES], indent=2, sort_keys=True))


def _note(item: pytest.Item, report: pytest.TestReport) -> None:
    """Remember the outcome of a test for each requirement that it proves; of a parametrized one, the worst."""
    if report.when != "call" and report.passed:
        return
    name = item.nodeid.split("[")[0]
    for marker in item.iter_markers("requirement"):
        for requirement in marker.args:
            outcomes = item.config.stash[OUTCOMES][requirement]
            if outcomes.get(name, "passed") == "passed":
                outcomes[name] = report.outcome


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where nothing may be skipped, a skip is a failure that says so."""
    report = yield
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped (TEREDO_LAB_NO_SKIP=1): {report.longrepr}"
    _note(item, report)
    return report

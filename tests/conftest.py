"""What all tests share: in CI nothing of ours is skipped."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest

OUTCOMES: dict[str, dict[str, str]] = defaultdict(dict)
"""Of each requirement, the tests that name it, each with its outcome."""

NO_SKIP = os.environ.get("TEREDO_LAB_NO_SKIP") == "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--requirements", type=Path, help="write which test proves what, and its outcome, to this file")


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--requirements")
    if path is not None:
        path.write_text(json.dumps(OUTCOMES, indent=2, sort_keys=True))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember the outcome of a test for each requirement that it proves; of a parametrized one, the worst."""
    if report.when != "call" and report.passed:
        return
    name = report.nodeid.split("[")[0]
    for kind, requirement in report.user_properties:
        if kind == "requirement" and OUTCOMES[str(requirement)].get(name, "passed") == "passed":
            OUTCOMES[str(requirement)][name] = report.outcome


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: at the end nobody waits for one of them alone."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where nothing may be skipped, a skip is a failure that says so."""
    report = yield
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped (TEREDO_LAB_NO_SKIP=1): {report.longrepr}"
    report.user_properties += [
        ("requirement", requirement) for marker in item.iter_markers("requirement") for requirement in marker.args
    ]
    return report

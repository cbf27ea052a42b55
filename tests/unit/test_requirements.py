"""Every requirement of the three RFCs is named by a test that proves it, or there is a reason why not."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TABLE = (TESTS.parent / "docs" / "requirements.md").read_text(encoding="utf-8")

OMITTED: dict[str, str] = json.loads((TESTS.parent / "docs" / "omitted.json").read_text(encoding="utf-8"))
"""Why some requirements have no test."""


def rows() -> dict[str, tuple[int, str]]:
    """Section number and level of each requirement."""
    found, section = {}, 0
    for line in TABLE.splitlines():
        if heading := re.match(r"## (\d+)\.", line):
            section = int(heading[1])
        elif row := re.match(r"\| ([A-Z]+\d+) \| [^|]* \| ([^|]+) \|", line):
            found[row[1]] = (section, row[2].strip())
    return found


def named() -> set[str]:
    """The ids in `@pytest.mark.requirement(...)` of all tests."""
    found = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "requirement":
                found |= {str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)}
    return found


def test_the_table_is_whole() -> None:
    assert len(rows()) == 263


def test_tests_name_only_requirements_that_exist() -> None:
    assert named() - rows().keys() == set()


def test_every_requirement_has_a_test_or_a_reason() -> None:
    assert rows().keys() - named() == OMITTED.keys()
    assert all(OMITTED.values())


def test_nothing_that_must_be_is_omitted() -> None:
    assert {name for name in OMITTED if rows()[name][1] == "M"} == set()


def test_the_report_has_every_requirement() -> None:
    report = (TESTS.parent / "docs" / "conformance.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([A-Z]+\d+) \|", report, re.MULTILINE) == list(rows())
    shown = set(re.findall(r"`(test_\w+)::(test_\w+)`", report))
    functions = {
        (path.stem, name)
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert shown - functions == set(), "run: make conformance"
    assert len(shown) > 100

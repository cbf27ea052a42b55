"""Every requirement of RFC 4380 and RFC 5991 that concerns our programs is named by a test that proves it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
TABLE = (TESTS.parent / "docs" / "requirements.md").read_text(encoding="utf-8")

BUILT = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 13, 14, 15)
"""The sections of the table that the programs implement; the others are extensions and optional procedures."""

WITHOUT_TEST = {
    "F3": "local discovery (section 11) is optional and not built",
    "R10": "local discovery",
    "R11": "local discovery",
    "X4": "local discovery",
    "V27": "an operator's announcement, not a program's",
    "H2": "a program of ours announces no prefix to anybody",
}


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


def test_every_requirement_that_concerns_us_has_a_test() -> None:
    needed = {name for name, (section, level) in rows().items() if section in BUILT and level != "O"}
    assert needed - named() == WITHOUT_TEST.keys()

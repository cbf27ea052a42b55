"""The ruler that any implementation can be measured with: ours meets it, and Miredo is what it is known to be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lab.conformance.run import PARTS
from tests.e2e.labs import cli

pytestmark = pytest.mark.e2e


def results(program: str) -> tuple[int, list[dict[str, Any]]]:
    run = cli("conformance", "--program", program, "--json")
    assert run.returncode in (0, 1), run.stderr
    return run.returncode, json.loads(run.stdout)["results"]


def test_ours_meets_everything() -> None:
    code, found = results("ours")
    assert [result for result in found if not result["met"]] == []
    assert code == 0
    assert {result["part"] for result in found} == set(PARTS)
    assert len(found) >= 40


def test_miredo_is_a_teredo_of_rfc_4380_without_extensions() -> None:
    code, found = results("miredo")
    met = {requirement for result in found if result["met"] for requirement in result["requirements"]}
    unmet = {requirement for result in found if not result["met"] for requirement in result["requirements"]}
    assert {"V6", "V14", "V18", "V24", "R5", "R8", "D1", "Y6", "Y8"} <= met
    assert {"SN3", "SN11", "PP18", "HP5", "LR3", "T3"} <= unmet
    assert code == 1

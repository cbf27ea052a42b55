"""RFC 6081 Figure 1 by experiment on the real kernel, all cells and all sets of extensions."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lab.nat.matrix import BEYOND, FIGURE_1, OPEN
from lab.state import all_labs
from tests.e2e.labs import COMMAND, cli

pytestmark = [pytest.mark.e2e, pytest.mark.long]

LONGEST = 900
"""Seconds for six labs of 162 sites, one after the other; without a limit a test would never end that hangs."""


class Outcome(NamedTuple):
    exit_code: int
    facts: dict[str, Any]
    page: str
    rows: list[dict[str, str]]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    directory = tmp_path_factory.mktemp("matrix")
    page, table = directory / "matrix.html", directory / "matrix.csv"
    result = subprocess.run(
        (*COMMAND, "matrix", "--json", "--html", str(page), "--csv", str(table)),
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
    )
    assert result.returncode in (0, 1), result.stderr
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    yield Outcome(result.returncode, json.loads(result.stdout), page.read_text(), rows)


def test_every_label_is_the_figures(outcome: Outcome) -> None:
    wrong = [cell for cell in outcome.facts["cells"] if not cell["agrees"]]
    assert (wrong, outcome.facts["agree"], outcome.exit_code) == ([], 81, 0)
    derived = {(cell["source"], cell["destination"]): cell["derived"] for cell in outcome.facts["cells"]}
    for source, row in FIGURE_1.items():
        for destination, label in row.items():
            assert label == "No" or derived[source, destination] == label


def test_who_is_not_reached_with_everything_on_is_unreachable_in_a_bounded_time(outcome: Outcome) -> None:
    failed = [cell["tries"]["all"] for cell in outcome.facts["cells"] if not cell["tries"]["all"]["reached"]]
    assert len(failed) >= 20
    assert {found["why"] for found in failed} == {"no route to host"}  # what ICMPv6 has told the socket


def test_what_connects_beyond_the_figure_is_known(outcome: Outcome) -> None:
    beyond = {
        (cell["source"], cell["destination"])
        for cell in outcome.facts["cells"]
        if cell["figure"] == "No" and cell["tries"]["all"]["reached"]
    }
    assert beyond - OPEN == BEYOND.keys()


def test_without_extensions_only_rfc_4380_is_left(outcome: Outcome) -> None:
    for cell in outcome.facts["cells"]:
        alone = cell["tries"]["none"]
        assert alone["reached"] == (cell["figure"] == "Yes")
        if not alone["reached"]:
            assert "off-line (symmetric NAT" in alone["why"]


def test_the_table_and_the_page_say_the_same(outcome: Outcome) -> None:
    assert len(outcome.rows) == 81
    for row, cell in zip(outcome.rows, outcome.facts["cells"], strict=True):
        assert (row["source"], row["destination"], row["derived"]) == (
            cell["source"],
            cell["destination"],
            cell["derived"],
        )
    assert "81 of 81 labels agree" in outcome.page
    assert outcome.page.count("<section") == 81
    for words in ("indirect bubble", "random port", "router advertisement, origin", "echo reply"):
        assert words in outcome.page
    assert "http" not in outcome.page.split("</style>")[1]  # it needs nothing else


def test_nothing_is_left_of_its_labs(outcome: Outcome) -> None:
    assert outcome.facts
    assert not [lab.name for lab in all_labs() if lab.name.startswith("rfc6081-")]


def test_the_simulation_finds_the_same_labels() -> None:
    result = cli("matrix", "--simulated", "--json", check=True)
    assert json.loads(result.stdout)["agree"] == 81


@pytest.mark.parametrize(
    ("text", "arguments", "error"),
    [
        ("servers: {s: }\n", (), "this topology has no matrix; add matrix:"),
        ("servers: {s: }\nmatrix: {a: cgn}\n", (), "a is cgn, which the figure does not have; take one of cone,"),
        ("servers: {s: }\nmatrix: {a: cone}\n", ("--only", "SNX"), "unknown set of extensions SNX; known: none, SNS,"),
    ],
)
def test_what_cannot_be_a_matrix_is_refused(tmp_path: Path, text: str, arguments: tuple[str, ...], error: str) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    result = cli("matrix", str(path), *arguments)
    assert result.returncode == 2
    assert error in result.stderr.replace("\n", " ")

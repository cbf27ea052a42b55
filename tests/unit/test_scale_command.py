"""`teredo-lab scale`: what it says, draws and refuses."""

from __future__ import annotations

import json
from importlib import util
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer import Typer
from typer.testing import CliRunner

from lab.cli_scale import number, scale
from lab.console import BAD_INPUT, MACHINE
from lab.simulation.scale import scenarios


def run(*arguments: str) -> tuple[int, str, str]:
    app = Typer()
    app.command()(scale)
    result = CliRunner().invoke(app, [*arguments, "--minutes", "15"] if "--minutes" not in arguments else arguments)
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests and pauses for a small run."""
    monkeypatch.setattr(scenarios, "REQUESTS", 200)
    monkeypatch.setattr(scenarios, "PAUSES", (scenarios.TOLD,))


def test_every_scenario_has_numbers_and_curves_the_same_ones_for_a_seed(few: None) -> None:
    arguments = ("--clients", "300", "--machines", "10", "--json")
    code, text, _ = run(*arguments)
    report = json.loads(text)
    assert code == 0
    assert report["size"] == {"clients": 300, "seconds": 900.0, "seed": 0, "machines": 10}
    assert list(report["scenarios"]) == list(scenarios.SCENARIOS)
    for found in report["scenarios"].values():
        assert found["figures"]
        assert found["panels"]
        assert all(len(curve["x"]) == len(curve["y"]) > 0 for panel in found["panels"] for curve in panel["curves"])
    assert run(*arguments) == (0, text, "")
    assert run(*arguments, "--seed", "1")[1] != text


def panel(report: str, scenario: str, at: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(report)["scenarios"][scenario]["panels"][at]
    return found


def test_after_a_restart_all_clients_are_reachable_again_and_none_before() -> None:
    _, text, _ = run("--clients", "2000", "--only", "nat-restart", "--json")
    curve = panel(text, "nat-restart", 1)["curves"][0]
    shares = dict(zip(curve["x"], curve["y"], strict=True))
    assert shares[-1.5] == 100
    assert shares[0.5] < 10
    assert shares[31.5] == 100


def test_numbers_are_printed_and_go_into_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n")
    code, text, _ = run("--clients", "1000", "--only", "start", "--markdown", str(page))
    assert code == 0
    assert "busiest second, fixed interval" in text
    written = page.read_text()
    assert written.startswith("before\n<!-- figures -->\n\n1000 clients, 15 minutes, seed 0.\n")
    assert "\n| busiest second, fixed interval | 1,000 | packets |\n" in written
    assert written.endswith("\n\n<!-- end of figures -->\nafter\n")
    assert "old" not in written


def test_curves_are_drawn_the_same_ones_to_the_byte(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        assert run("--clients", "500", "--only", "start", "--machines", "6", "--plot", str(tmp_path / folder))[0] == 0
    one, two = (tmp_path / folder / "scale-start.svg" for folder in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    texts = {element.text for element in ElementTree.parse(one).iter() if element.tag.endswith("text")}
    assert {"All start at once", "fixed interval", "dots: state machines", "solicitations a second"} <= texts


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--only", "nonsense"), "unknown scenario nonsense; known: start, nat-restart"),
        (("--minutes", "2"), "--minutes 2 is too short to see anything end: give 15 or more"),
        (("--minutes", "nan"), "--minutes nan is too short"),
        (("--clients", "3"), "--clients 3 is odd, and some talk in pairs: give 4"),
        (("--machines", "1"), "--machines 1 is odd"),
        (("--clients", "100", "--only", "start", "--markdown", "/nowhere/page.md"), "cannot renew /nowhere/page.md"),
        (("--clients", "100", "--only", "start", "--plot", "/dev/null/x"), "cannot write to /dev/null/x"),
    ],
)
def test_bad_input_is_named(arguments: tuple[str, ...], says: str) -> None:
    code, _, error = run(*arguments)
    assert code == BAD_INPUT
    assert says in error


def test_a_page_without_a_place_for_numbers_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    code, _, error = run("--clients", "100", "--only", "start", "--markdown", str(page))
    assert code == BAD_INPUT
    assert "has no place for numbers" in error
    assert page.read_text() == "nothing here\n"


@pytest.mark.parametrize(("missing", "arguments"), [("numpy", ()), ("matplotlib", ("--plot", "x"))])
def test_what_is_missing_is_named_with_the_remedy(
    missing: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == missing else found(name))
    code, _, error = run(*arguments)
    assert code == MACHINE
    assert f"`python -m pip install {missing}`" in error


def test_all_commands_are_there_without_numpy() -> None:
    """Who wants a lab need not have it: only the simulation at scale imports it, and only when asked."""
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['numpy'] = sys.modules['matplotlib'] = None; import lab.cli, lab.simulation;"
        "from importlib import import_module; [import_module(f'lab.{name}') for name in lab.cli.COMMANDS.values()]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (1.23456, "1.23"), (38023.4, "38,023"), (99.95, "100")])
def test_numbers_have_the_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text

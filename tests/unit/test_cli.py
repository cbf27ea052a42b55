"""The command line as a whole: each command is imported when it is called, and none is lost by that."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from lab.cli import COMMANDS, app

ALL = "[typer.main.get_command(lab.cli.app).commands[name] for name in lab.cli.COMMANDS]"


def imported(code: str) -> set[str]:
    """What a fresh interpreter has imported after this code."""
    program = f"import sys, typer, lab.cli; {code}; print(*sys.modules)"
    return set(
        subprocess.run((sys.executable, "-c", program), capture_output=True, check=True, text=True).stdout.split()
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_there_by_its_name(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert f"teredo-lab {name}" in result.output


def test_help_shows_all_commands_in_their_order() -> None:
    shown = CliRunner().invoke(app, ["-h"]).output
    assert re.findall(r"^│ ([a-z]+) ", shown, re.MULTILINE) == list(COMMANDS)


def test_a_name_that_is_nearly_right_is_corrected() -> None:
    result = CliRunner().invoke(app, ["stauts"])
    assert result.exit_code == 2
    assert "Did you mean 'status'" in result.output


def test_shells_complete_the_commands() -> None:
    shell = {"_TEREDO_LAB_COMPLETE": "complete_bash", "COMP_WORDS": "teredo-lab s", "COMP_CWORD": "1"}
    program = (sys.executable, "-c", "from lab.cli import app; app(prog_name='teredo-lab')")
    done = subprocess.run(program, env=os.environ | shell, capture_output=True, check=False, text=True)
    assert done.stdout.split() == [name for name in COMMANDS if name.startswith("s")], done.stderr


@pytest.mark.parametrize("name", ["exec", "status", "down", "logs", "nat", "check"])
def test_a_command_does_not_wait_for_what_only_others_need(name: str) -> None:
    heavy = {"pydantic", "docker", "yaml", "asyncio", "lab.plan"}
    assert not imported(f"typer.main.get_command(lab.cli.app).commands['{name}']") & heavy


def test_a_lab_of_namespaces_does_not_wait_for_dockers_library() -> None:
    assert "docker" not in imported("from lab.backends import base, netns; import lab.cli_up")


def test_no_command_waits_for_numpy_before_it_is_called() -> None:
    assert not imported(ALL) & {"numpy", "matplotlib"}

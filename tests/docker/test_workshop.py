"""The workshop with labs in containers: what learners type is the same, and the backend is remembered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.backends import base
from lab.workshop.lesson import commands
from lab.workshop.library import entry
from tests.e2e.labs import cli
from tests.e2e.test_workshop import graded, learner

pytestmark = [pytest.mark.docker, pytest.mark.alone]

LESSONS = (entry("1"), entry("8"))


@pytest.fixture(autouse=True)
def _at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TEREDO_LAB_RUN", str(tmp_path / "run"))
    yield
    for lesson in LESSONS:
        base.lab_of("docker", lesson.lab).down()


def test_lessons_are_done_in_containers_as_in_namespaces() -> None:
    chosen: tuple[str, ...] = ("--backend", "docker")
    for lesson in LESSONS:
        cli("workshop", "start", str(lesson.number), *chosen, check=True)
        chosen = ()
        assert base.lab_of("docker", lesson.lab).runs(), "the backend is forgotten"
        graded(1)
        for line in [*(command.line for command in commands(lesson.text("en"))), *lesson.lesson.solution]:
            result = learner(line)
            assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"
        graded(0)
        assert base.lab_of("docker", lesson.lab).runs(), "made anew elsewhere"

"""Reports are written as a whole or not at all, and what cannot be written is said before there is work to lose."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab import files
from lab.cli import app


def test_a_file_is_new_or_as_it_was(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    files.put(report, "whole")
    with pytest.raises(UnicodeEncodeError):
        files.put(report, "part" * 100_000 + "\ud800")
    assert report.read_text() == "whole"
    assert [*tmp_path.iterdir()] == [report]


def test_a_new_file_has_the_mode_of_any_other_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    report = tmp_path / "report.html"
    files.put(report, "one")
    assert report.stat().st_mode == (tmp_path / "other").stat().st_mode
    report.chmod(0o640)
    files.put(report, "two")
    assert report.stat().st_mode & 0o777 == 0o640


def test_a_link_stays_one_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    link, target = tmp_path / "latest.html", tmp_path / "report.html"
    link.symlink_to(target)
    files.put(link, "linked")
    assert link.is_symlink()
    assert target.read_text() == "linked"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.try_to_put(pipe)
    files.put(pipe, "piped")
    assert os.read(reader, 100) == b"piped"
    os.close(reader)
    assert pipe.is_fifo()


def test_trying_leaves_nothing(tmp_path: Path) -> None:
    files.try_to_put(tmp_path / "report.html")
    assert [*tmp_path.iterdir()] == []


REPORTS = (
    ("check", "--html"),
    ("check", "--junit"),
    ("up", "--check", "--html"),
    ("matrix", "--simulated", "--html"),
    ("matrix", "--simulated", "--csv"),
    ("interop", "--html"),
    ("interop", "--markdown"),
)


@pytest.mark.parametrize("arguments", REPORTS, ids=" ".join)
@pytest.mark.parametrize("place", ["nowhere/report", "."])
def test_a_file_that_cannot_be_written_is_said_at_once(
    arguments: tuple[str, ...], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEREDO_LAB_RUN", str(tmp_path / "labs"))
    result = CliRunner().invoke(app, [*arguments, str(tmp_path / place)])
    assert result.exit_code == 2
    assert f"cannot write {tmp_path / place}: " in result.stderr
    assert "name a file in a directory that is there and writable" in result.stderr
    assert [*tmp_path.iterdir()] == []


def test_a_page_of_a_check_wants_a_check(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["up", "--html", str(tmp_path / "report.html")])
    assert result.exit_code == 2
    assert "--html is the report of a check: add --check" in result.stderr

"""How far a learner is: a file of the learner's own, and a class's files as a table."""

from __future__ import annotations

import csv
import getpass
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from lab import files
from lab.backends import base
from lab.workshop.lesson import Language

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
COLUMNS: Final = ("learner", "lesson", "result", "started", "passed", "checks", "hints", "solution")


class ProgressError(Exception):
    """A file of progress cannot be used; the message says why, and what to do."""


class Record(BaseModel):
    """What a learner has done with one lesson. Times are ISO 8601 in UTC; `hints` and `checks` count."""

    started: str | None = None
    passed: str | None = None
    checks: int = 0
    hints: int = 0
    solution: bool = False
    answer: str | None = None

    @property
    def result(self) -> str:
        return "passed" if self.passed else "started" if self.started else "not started"


class Progress(BaseModel):
    """What a learner has done with all; `current` is the lesson started last, `backend` where its lab is made."""

    learner: str
    language: Language = "en"
    backend: str = base.DEFAULT
    current: str | None = None
    lessons: dict[str, Record] = {}

    def of(self, lesson: str) -> Record:
        """The record of a lesson, which may be altered."""
        return self.lessons.setdefault(lesson, Record())


def directory() -> Path:
    """Where this user's state is kept."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "teredo-lab"


def file() -> Path:
    return directory() / "workshop.json"


def load() -> Progress:
    """This user's progress; none at first. Raises ProgressError."""
    return read(file()) if file().exists() else Progress(learner=_user())


def read(path: Path) -> Progress:
    """The progress in a file. Raises ProgressError."""
    try:
        return Progress.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ProgressError(f"cannot read {path}: {error.strerror}; check its owner and mode") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        what = f"{where + ': ' if where else ''}{first['msg']}"
        raise ProgressError(f"{path} is no file of progress: {what}; move it away") from error


def save(progress: Progress) -> None:
    """Keep it, at once or not at all. Raises ProgressError."""
    put(file(), progress.model_dump_json(indent=2) + "\n")


def put(path: Path, text: str) -> None:
    """Write a file of the learner's, at once or not at all. Raises ProgressError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.put(path, text)
    except OSError as error:
        raise ProgressError(
            f"cannot write {path}: {error.strerror}; set XDG_STATE_HOME to a directory of yours"
        ) from error


def gathered(place: Path) -> list[Progress]:
    """The progress in each JSON file of a directory or below it, by learner. Raises ProgressError.

    Learners of one name have the paths of their files beside it.
    """
    if not place.is_dir():
        raise ProgressError(f"{place} is no directory; give the one with the learners' workshop.json")
    paths = sorted(place.rglob("*.json"))
    if not paths:
        raise ProgressError(f"there is no .json in {place}; gather the learners' workshop.json there")
    found = {path: read(path) for path in paths}
    names = Counter(each.learner for each in found.values())
    for path, each in found.items():
        if names[each.learner] > 1:
            each.learner = f"{each.learner} ({path.relative_to(place)})"
    return sorted(found.values(), key=lambda progress: progress.learner)


def rows(learners: Iterable[Progress], lessons: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each learner and lesson."""
    found = []
    for learner in learners:
        for lesson in lessons:
            record = learner.lessons.get(lesson, Record())
            facts = record.model_dump(exclude={"answer"})
            found.append({"learner": learner.learner, "lesson": lesson, "result": record.result} | facts)
    return found


def table(learners: Iterable[Progress], lessons: Sequence[str]) -> str:
    """The same as CSV. A name that a spreadsheet would take for a formula has an apostrophe before it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows(learners, lessons):
        name = row["learner"]
        shown = f"'{name}" if name.startswith(_FORMULA) else name
        writer.writerow({**row, "learner": shown, "solution": "yes" if row["solution"] else "no"})
    return text.getvalue()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # nobody has that number
        return str(os.getuid())

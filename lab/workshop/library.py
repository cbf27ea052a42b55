"""The lessons of the package: where they are, and reading them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import yaml

from lab.workshop.lesson import Language, Lesson

LESSONS: Final = Path(__file__).parent / "lessons"


class UnknownLessonError(Exception):
    """There is no such lesson; the message says which there are."""


@dataclass(frozen=True)
class Entry:
    """A lesson by its directory, such as `03-keep-alive`."""

    directory: Path

    @property
    def id(self) -> str:
        return self.directory.name

    @property
    def number(self) -> int:
        return int(self.id.partition("-")[0])

    @property
    def lab(self) -> str:
        """The name of its lab."""
        return f"workshop-{self.number:02}"

    @property
    def topology(self) -> str:
        """What its topology is at the start."""
        return (self.directory / "topology.yaml").read_text(encoding="utf-8")

    @cached_property
    def lesson(self) -> Lesson:
        return Lesson.model_validate(yaml.safe_load((self.directory / "lesson.yaml").read_text(encoding="utf-8")))

    def text(self, language: Language) -> str:
        """What the learner reads, in Markdown."""
        return (self.directory / f"lesson.{language}.md").read_text(encoding="utf-8")


def entries() -> list[Entry]:
    """All lessons, in order."""
    return [Entry(path.parent) for path in sorted(LESSONS.glob("*/lesson.yaml"))]


def entry(wanted: str) -> Entry:
    """A lesson by its number or its name. Raises UnknownLessonError."""
    known = entries()
    for each in known:
        if wanted in (each.id, str(each.number), f"{each.number:02}"):
            return each
    names = ", ".join(each.id for each in known)
    raise UnknownLessonError(f"there is no lesson {wanted!r}; give a number or a name of these: {names}")

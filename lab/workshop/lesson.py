"""What a lesson is: its graded checks, hints and solution as `lesson.yaml` has them, and its text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Language = Literal["en", "es"]
LANGUAGES: Final[tuple[Language, ...]] = ("en", "es")

KINDS: Final = {"status": 3, "state": 3, "nat": 3, "pair": 4, "link": 3, "topology": 2, "answer": 1}
"""The kinds of facts, each with the least number of words that name one."""

_FAILING: Final = re.compile(r"#.*\b1$")


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Words(_Data):
    """The same in each language."""

    en: str = Field(min_length=1)
    es: str = Field(min_length=1)

    def of(self, language: Language) -> str:
        return self.en if language == "en" else self.es


def _is_fact(words: str) -> str:
    """A fact's name: `status NODE KEY`, `pair A B KEY`, `answer` and so on. Raises ValueError."""
    kind, *rest = words.split() or [""]
    if len(rest) + 1 < KINDS.get(kind, len(rest) + 2):
        raise ValueError(f"{words!r} names no fact; the kinds are {', '.join(KINDS)}")
    return words


class Check(_Data):
    """One condition on a fact of the running lab, and what is said while it does not hold.

    `{value}` in `otherwise` stands for the fact; `same_as` names another fact.
    """

    title: Words
    fact: str
    is_: Any = Field(default=None, alias="is")
    one_of: tuple[Any, ...] | None = None
    same_as: str | None = None
    below: float | None = None
    otherwise: Words

    @field_validator("fact", "same_as")
    @classmethod
    def _names_a_fact(cls, words: str | None) -> str | None:
        return None if words is None else _is_fact(words)

    @model_validator(mode="after")
    def _one_condition(self) -> Check:
        if len(self.model_fields_set & {"is_", "one_of", "same_as", "below"}) != 1:
            raise ValueError("a check has one condition: is, one_of, same_as or below")
        return self

    @property
    def facts(self) -> tuple[str, ...]:
        """The names of the facts that it looks at."""
        return (self.fact,) if self.same_as is None else (self.fact, self.same_as)


class Lesson(_Data):
    """What `lesson.yaml` says. `debug`: its lab is broken, and to be repaired."""

    title: Words
    minutes: int = Field(ge=1, le=60)
    debug: bool = False
    checks: Annotated[tuple[Check, ...], Field(min_length=1)]
    hints: Annotated[tuple[Words, ...], Field(min_length=1)]
    solution: Annotated[tuple[str, ...], Field(min_length=1)]

    @property
    def wants_answer(self) -> bool:
        return any(check.fact == "answer" for check in self.checks)


@dataclass(frozen=True)
class Command:
    """A command that a lesson's text has its reader run, and whether it ends well."""

    line: str
    succeeds: bool


def commands(markdown: str) -> list[Command]:
    """The lines after `$ ` in blocks of `console`. One whose comment ends with the exit code 1 ends so."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                command = re.sub(r"\s+# .*", "", line[2:])
                found.append(Command(command, _FAILING.search(line) is None))
    return found


def outline(markdown: str) -> list[int]:
    """The levels of a text's headings, in order."""
    plain = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return [len(marks) for marks in re.findall(r"^(#+) ", plain, re.MULTILINE)]

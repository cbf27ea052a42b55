"""Whether a lesson's task is done: which facts that needs, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from lab.workshop.lesson import Check, Language, Lesson, Words

Facts = Mapping[str, Any]
"""What was found out: of each kind, facts by node; of `pair`, by caller and callee."""


_SPANISH: Final = {
    "reachable": "al alcance",
    "unreachable": "fuera de alcance",
    "qualified": "cualificado",
    "off-line": "fuera de línea",
    "direct": "directo",
    "relay": "por un relé",
    "starting": "arrancando",
    "sequential": "uno tras otro",
    "preserving": "el mismo que dentro",
    "random": "al azar",
}
"""Facts in Spanish, where they are words of the lab's own."""


@dataclass(frozen=True)
class Wanted:
    """What must be found out for a lesson's checks, beside what costs nothing."""

    states: tuple[str, ...]
    nats: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Verdict:
    """What has become of one check; `why` is what is still wrong."""

    title: str
    passed: bool
    why: str | None


def wanted(lesson: Lesson) -> Wanted:
    """What to ask the lab for."""
    names = dict.fromkeys(tuple(fact.split()) for check in lesson.checks for fact in check.facts)
    of = {kind: [name for name in names if name[0] == kind] for kind in ("state", "nat", "pair")}
    return Wanted(
        tuple(dict.fromkeys(name[1] for name in of["state"])),
        tuple(dict.fromkeys(name[1] for name in of["nat"])),
        tuple(dict.fromkeys((name[1], name[2]) for name in of["pair"])),
    )


def value(name: str, facts: Facts) -> Any:  # noqa: ANN401 - facts are of all sorts
    """A fact by its name; None if there is none."""
    found: Any = facts
    for word in name.split():
        if isinstance(found, Mapping):
            found = found.get(word)
        elif isinstance(found, list | tuple) and word.isdecimal() and int(word) < len(found):
            found = found[int(word)]
        else:
            return None
    return found


def judge(lesson: Lesson, facts: Facts, language: Language, no_answer: str) -> list[Verdict]:
    """What has become of each check; `no_answer` is what to say where the learner has not answered yet."""
    return [_verdict(check, facts, language, no_answer) for check in lesson.checks]


def _verdict(check: Check, facts: Facts, language: Language, no_answer: str) -> Verdict:
    found = value(check.fact, facts)
    passed = _holds(check, found, facts)
    why = check.otherwise.of(language).replace("{value}", _shown(found).of(language))
    if check.fact == "answer" and found is None:
        why = no_answer
    return Verdict(check.title.of(language), passed, None if passed else why)


def _holds(check: Check, found: Any, facts: Facts) -> bool:  # noqa: ANN401
    if check.below is not None:
        return isinstance(found, int | float) and found < check.below
    if check.same_as is not None:
        expected = value(check.same_as, facts)
        accepted = [] if expected is None else [expected]
    else:
        accepted = list(check.one_of) if check.one_of is not None else [check.is_]
    if check.fact == "answer":
        return found is not None and _plain(found) in map(_plain, accepted)
    return found in accepted


def _shown(found: object) -> Words:
    """A fact as people read it."""
    if found is None or found == []:
        return Words(en="none", es="ninguno")
    if isinstance(found, list):
        found = ", ".join(map(str, found))
    return Words(en=str(found), es=_SPANISH.get(str(found), str(found)))


def _plain(answer: object) -> str:
    """An answer without what does not matter: case, blanks, a full stop."""
    return " ".join(str(answer).casefold().replace(",", " ").split()).rstrip(".")

"""A YAML file as plain data that remembers its lines, and a list of what is wrong with it as YAML.

Every scalar stays the text that was written, for the model to make sense of: `no` is a good name, and 0123 a secret of
four digits. Aliases and tags have no use in a topology and are refused, so no file unfolds to more than its own size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

Loc = tuple[str | int, ...]
"""The path of a value: mapping keys and list indexes from the root, which is ()."""

Data = str | list["Data"] | dict[str, "Data"] | None
"""What YAML is read into."""

MAX_DEPTH: Final = 16
"""Far more than a topology needs. libyaml takes time in the square of the depth, and recursion has its limits."""

_NO_VALUE: Final = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True, order=True, slots=True)
class Problem:
    """Something wrong with a file, in a line counted from 1; 0 stands for the file as a whole."""

    line: int
    text: str


@dataclass(slots=True)
class Document:
    """`lines` tells where each value of `data` is: where its key is, if it has one."""

    data: Data = None
    lines: dict[Loc, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, loc: Loc) -> int:
        """The line of a value, or of the nearest thing around it that is in the file."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        return self.lines.get(loc, 1)


def read(text: str) -> Document:
    """The first document of a text. It raises nothing: what is wrong becomes a problem, broken YAML the only one."""
    document = Document()
    try:
        _Reader(text, document).read()
    except yaml.YAMLError as error:
        document.problems = [_broken(error, text)]
        document.data = None
    return document


class _TooDeepError(yaml.MarkedYAMLError):
    """Lists and mappings are nested more than MAX_DEPTH times."""


class _Reader:
    def __init__(self, text: str, document: Document) -> None:
        self._events: Iterator[Any] = yaml.parse(text, Loader=yaml.CSafeLoader)
        self._document = document

    def read(self) -> None:
        next(self._events)
        if isinstance(start := next(self._events), yaml.StreamEndEvent):
            return
        self._document.lines[()] = _line(start)
        self._document.data = self._value(next(self._events), ())
        next(self._events)
        if isinstance(again := next(self._events), yaml.DocumentStartEvent):
            self._complain(again, "a second document starts here; put each topology into a file of its own")

    def _complain(self, event: yaml.Event, text: str) -> None:
        self._document.problems.append(Problem(_line(event), text))

    def _value(self, event: Any, loc: Loc) -> Data:  # noqa: ANN401 - the kinds of events have no common type
        if len(loc) > MAX_DEPTH:
            raise _TooDeepError(problem="lists and mappings are nested too deeply", problem_mark=event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            self._complain(event, f"*{event.anchor} is an alias, which topologies do not have; write its options out")
            return None
        if event.tag is not None:
            self._complain(event, f"{event.tag} is a tag, which topologies do not have; leave it out")
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(loc)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(loc)
        plain, text = event.implicit[0], str(event.value)
        return None if plain and text in _NO_VALUE else text

    def _list(self, loc: Loc) -> list[Data]:
        items: list[Data] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            here = (*loc, len(items))
            self._document.lines[here] = _line(event)
            items.append(self._value(event, here))
        return items

    def _mapping(self, loc: Loc) -> dict[str, Data]:
        items: dict[str, Data] = {}
        while not isinstance(key := next(self._events), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent):
                self._complain(key, "this key is not a name; write 'name: value'")
                self._skip(key, loc)
                self._skip(next(self._events), loc)
                continue
            here = (*loc, key.value)
            if here in self._document.lines:
                first = self._document.lines[here]
                self._complain(
                    key, f"{shown(key.value)} is here a second time, after line {first}; remove or rename one"
                )
                self._skip(next(self._events), here)
                continue
            self._document.lines[here] = _line(key)
            items[key.value] = self._value(next(self._events), here)
        return items

    def _skip(self, event: yaml.Event, loc: Loc) -> None:
        """Read a value that shall leave no trace but its problems."""
        lines, self._document.lines = self._document.lines, {}
        self._value(event, (*loc, ""))
        self._document.lines = lines


def shown(text: str) -> str:
    """A text of the user's in quotes, made safe and short enough for a message of one line."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _line(event: yaml.Event) -> int:
    assert event.start_mark is not None
    return event.start_mark.line + 1


def _broken(error: yaml.YAMLError, text: str) -> Problem:
    if isinstance(error, yaml.reader.ReaderError):
        line = text.encode()[: error.position].count(b"\n") + 1
        return Problem(line, "this is not YAML: it has a control character; remove it")
    assert isinstance(error, yaml.MarkedYAMLError)
    assert error.problem_mark is not None
    line = error.problem_mark.line + 1
    if isinstance(error, _TooDeepError):
        return Problem(line, f"{error.problem}; a topology needs no more than {MAX_DEPTH} levels")
    what = f"this is not YAML: {error.problem}"
    if error.context is not None and error.context_mark is not None:
        what += f" {error.context} from line {error.context_mark.line + 1}"
    written = text.split("\n")[line - 1 : line]
    if written and "\t" in written[0][: len(written[0]) - len(written[0].lstrip())]:
        return Problem(line, f"{what}; indent with spaces, not with tabs")
    return Problem(line, f"{what}; look for a wrong indentation, a missing colon or an open quote or bracket")

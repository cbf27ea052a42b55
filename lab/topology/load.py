"""Reads a topology file. Whatever is wrong with it is told at once, each problem with its line and a remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lab.topology.counts import multiplied, numbered, uncounted
from lab.topology.document import Data, Document, Loc, Problem, read
from lab.topology.model import Topology
from lab.topology.pairs import expanded, pairs
from lab.topology.rules import Finding, findings
from lab.topology.wording import explain

MAX_BYTES: Final = 1 << 20
MAX_LINES: Final = 10_000
MAX_FINDINGS: Final = 1000
"""A file that is wrong everywhere is not looked at to its end: each guess at what was meant takes milliseconds."""


class TopologyError(Exception):
    """A topology cannot be used. Its text has a line for each problem: ``file:line: what is wrong; what to do``."""

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        self.file = file
        self.problems = tuple(sorted(set(problems)))
        super().__init__(
            "\n".join(
                f"{file}:{problem.line}: {problem.text}" if problem.line else f"{file}: {problem.text}"
                for problem in self.problems
            )
        )


def load(path: Path) -> Topology:
    """The topology in a file; its name is the file's unless it has one. Raises TopologyError and nothing else."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise TopologyError(str(path), [Problem(0, "there is no such file; give the path of a topology")]) from None
    except IsADirectoryError:
        raise TopologyError(str(path), [Problem(0, "this is a directory; give the path of a file in it")]) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise TopologyError(str(path), [Problem(0, f"this cannot be read: {reason}; check the path")]) from None
    return parse(content, str(path), _name(path.stem))


def parse(content: bytes, file: str, name: str = "lab") -> Topology:
    """The topology in a file's content. `file` is for messages, `name` the lab's default name. Raises TopologyError."""
    document = read(_text(content, file))
    data, problems = document.data, document.problems
    if data is None and not problems:
        raise TopologyError(file, [Problem(1, "the file is empty; begin with servers: and a server's name below it")])
    if isinstance(data, dict):
        if data.get("name") is None:
            data["name"] = name
        topology = _validated(document, data)
        if topology is not None and not problems:
            return topology
    elif data is not None:
        what = "a topology is a mapping of options; begin with servers: and a server's name below it"
        problems.append(Problem(document.line(()), what))
    raise TopologyError(file, problems)


def _text(content: bytes, file: str) -> str:
    if len(content) > MAX_BYTES:
        raise TopologyError(file, [Problem(0, f"too long: more than {MAX_BYTES:,} bytes; make several topologies")])
    if content.count(b"\n") + (not content.endswith(b"\n")) > MAX_LINES:
        what = f"too long: a topology has no more than {MAX_LINES:,} lines; make several topologies"
        raise TopologyError(file, [Problem(MAX_LINES + 1, what)])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise TopologyError(file, [Problem(line, "this is not UTF-8 text; save the file as UTF-8")]) from None


def _validated(document: Document, data: dict[str, Data]) -> Topology | None:
    """The topology that `data`, the document's, makes, adding problems to the document's.

    When single options are wrong the rest is looked at as if they had not been written, so that their errors do not
    hide others; there may be no topology even so.
    """
    try:
        topology = Topology.model_validate(data)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        document.problems += [Problem(document.line(item["loc"]), explain(item)) for item in errors]
        try:
            topology = Topology.model_validate(_without(data, errors))
        except ValidationError:
            return None
    uncountable = [Problem(document.line(loc), what) for loc, what in uncounted(topology)]
    if uncountable:
        document.problems += uncountable
        return None
    written = {each.name: ("sites", each.written) for each in numbered(topology) if each.name != each.written}
    topology = expanded(multiplied(topology))
    places: dict[str, Loc] = dict(written)
    places |= {site: ("matrix", row) for pair in pairs(topology) for site, row in zip(pair[:2], pair[2:], strict=True)}
    for finding in islice(findings(topology), MAX_FINDINGS):
        place = places.get(str(finding.loc[1])) if finding.loc[0] == "sites" else None
        document.problems.append(_problem(finding if place is None else replace(finding, loc=place), document))
    return topology


def _without(data: dict[str, Data], errors: Sequence[ErrorDetails]) -> dict[str, Data]:
    """`data` itself, with no value where an error is, and without unknown options."""
    for error in errors:
        loc = error["loc"]
        around = data
        for key in loc[:-1]:
            inner = around.get(str(key))
            if not isinstance(inner, dict):
                break
            around, loc = inner, loc[1:]
        if error["type"] == "extra_forbidden":
            around.pop(str(loc[0]), None)
        elif loc[0] in around:
            around[str(loc[0])] = None
    return data


def _problem(finding: Finding, document: Document) -> Problem:
    other = "" if finding.other is None else f" (see line {document.line(finding.other)})"
    return Problem(document.line(finding.loc), f"{finding.what}{other}; {finding.remedy}")


def _name(stem: str) -> str:
    """A name for a lab out of a file's."""
    name = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")
    return (name if name[:1].isalpha() else f"lab-{name}")[:31].rstrip("-")

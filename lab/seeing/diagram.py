"""A story as a sequence diagram of characters, for terminals, and as Mermaid."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Final, NamedTuple

from lab.seeing.conversation import Step, Story

_TIME: Final = 11
"""Columns for the time, before the lifelines."""

_NARROWEST, _WIDEST = 13, 22


class Row(NamedTuple):
    """A line of the diagram, and what it is: a style of `STYLES`."""

    text: str
    style: str = ""


STYLES: Final = {"head": "bold", "name": "bold", "drop": "bold red", "rewrite": "cyan", "why": "dim", "": ""}


def rows(story: Story, width: int) -> Iterator[Row]:
    """The lines of a diagram that is no wider than so many columns, if there is room for it at all."""
    names = [line.name for line in story.lifelines]
    column = max(_NARROWEST, min(_WIDEST, (width - _TIME) // len(names)))
    centres = {name: _TIME + column * at + column // 2 for at, name in enumerate(names)}
    yield Row(" " * _TIME + "".join(_centred(line.name, column) for line in story.lifelines), "head")
    yield Row(" " * _TIME + "".join(_centred(line.words, column) for line in story.lifelines), "why")
    indent = " " * (_TIME + 2)
    for step in story.steps:
        yield Row(_lifelines(centres))
        yield Row(_arrow(step, centres), "drop" if step.drop else "")
        for text, style in notes(step):
            lines = textwrap.wrap(text, max(40, width - len(indent)), break_long_words=False)
            yield from (Row(indent + each, style) for each in lines)
    if story.steps:
        yield Row(_lifelines(centres))


def notes(step: Step) -> Iterator[tuple[str, str]]:
    """What there is to say of a step, a line each, with its style."""
    again = f"  (and {step.again} more)" if step.again else ""
    yield f"{step.name}{f', {step.details}' if step.details else ''}{again}", "name"
    for rewrite in step.rewrites:
        yield f"{rewrite.nat}: {rewrite.before} → {rewrite.after}", "rewrite"
    if step.drop is not None:
        yield f"✗ dropped by {step.drop.node}: {step.drop.reason}", "drop"
    yield f"{step.why}{f' [{step.rfc}]' if step.rfc else ''}", "why"


def _centred(text: str, column: int) -> str:
    shown = text if len(text) < column else f"{text[: column - 2]}…"
    left = column // 2 - len(shown) // 2
    return (" " * left + shown).ljust(column)


def _lifelines(centres: dict[str, int]) -> str:
    return "".join("│" if at in centres.values() else " " for at in range(max(centres.values()) + 1))


def _arrow(step: Step, centres: dict[str, int]) -> str:
    line = list(_lifelines(centres))
    line[:_TIME] = f"{step.at:>{_TIME - 3}.1f} ms"
    for here, there in zip(step.path, step.path[1:], strict=False):
        low, high = sorted((centres[here], centres[there]))
        line[low + 1 : high] = ["┼" if line[at] == "│" else "─" for at in range(low + 1, high)]
    for name in step.path[:-1]:
        line[centres[name]] = "●"
    end = centres[step.path[-1]]
    if step.drop is not None:
        line[end] = "✗"
    elif len(step.path) > 1:
        back = 1 if centres[step.path[-2]] > end else -1
        line[end + back] = "◀" if back == 1 else "▶"
    return "".join(line).rstrip()


def mermaid(story: Story) -> str:
    """A story as a sequence diagram of Mermaid: each packet link by link."""
    ids = {line.name: f"p{number}" for number, line in enumerate(story.lifelines)}
    lines = ["sequenceDiagram", f"    accTitle: {_plain(story.title)}", f"    accDescr: {_plain(story.outcome)}"]
    lines += (f"    participant {ids[name]} as {_plain(name)}<br/>{_plain(words)}" for name, words in story.lifelines)
    for step in story.steps:
        hops = [*zip(step.path, step.path[1:], strict=False)]
        for number, (here, there) in enumerate(hops):
            lost = step.drop is not None and number == len(hops) - 1
            name = f"{step.name}{f', {step.details}' if step.details and not number else ''}"
            lines.append(f"    {ids[here]}{'-x' if lost else '->>'}{ids[there]}: {_plain(name)}")
            lines += (
                f"    Note over {ids[there]}: {_plain(f'{each.before} → {each.after}')}"
                for each in step.rewrites
                if each.nat == there
            )
        if step.drop is not None:
            lines.append(f"    Note over {ids[step.drop.node]}: dropped: {_plain(step.drop.reason)}")
        first, last = ids[step.path[0]], ids[step.path[-1]]
        over = first if first == last else f"{first},{last}"
        lines.append(f"    Note over {over}: {_plain(step.why)}{f' ({step.rfc})' if step.rfc else ''}")
    return "\n".join([*lines, ""])


def _plain(text: str) -> str:
    """Without the characters that mean something to Mermaid."""
    return text.replace("#", "").replace(";", ",").replace("<", "#lt;").replace(">", "#gt;")

"""A story as one SVG that needs nothing else: light and dark, large enough for a projector, with words to listen to."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from lab.seeing.conversation import Step, Story
from lab.seeing.diagram import notes

_COLUMN, _MARGIN, _HEAD = 190, 90, 96
_NOTES, _NOTE_CHARACTERS = 680, 68
_LINE, _GAP = 22, 26

_STYLE: Final = """
text { font: 16px system-ui, sans-serif; fill: #1c2430 } .paper { fill: #fff }
text.title { font-size: 24px; font-weight: 600 } text.head { font-size: 18px; font-weight: 600; text-anchor: middle }
text.words { text-anchor: middle } text.words, text.why, text.time { fill: #5b6675 } text.time { text-anchor: end }
text.name, text.drop { font-weight: 600 } text.rewrite { fill: #00629b } text.drop { fill: #c62828 }
.life { stroke: #b9c1cc; stroke-width: 2 } .way { stroke: #1c2430; stroke-width: 3; fill: none }
.stop, .tip { fill: #1c2430 } .stop.nat { fill: #00629b }
.way.lost, .cross { stroke: #c62828 } .cross { stroke-width: 4 }
@media (prefers-color-scheme: dark) {
text, .stop, .tip { fill: #e4e9f0 } .paper { fill: #14181f } .life { stroke: #4a5566 } .way { stroke: #e4e9f0 }
text.words, text.why, text.time { fill: #a3aebd } text.rewrite, .stop.nat { fill: #6cc4ff } text.drop { fill: #ff8a80 }
.way.lost, .cross { stroke: #ff8a80 }
}
"""
"""Without variables, which viewers other than browsers do not know."""


def svg(story: Story) -> str:
    """The picture: lifelines from left to right, time downwards, and at the right what there is to say of packets."""
    centres = {line.name: _MARGIN + 60 + _COLUMN * at for at, line in enumerate(story.lifelines)}
    words_at = max(centres.values()) + _COLUMN // 2 + 20
    parts: list[str] = []
    y = _HEAD + 70
    for step in story.steps:
        said = [*_wrapped(step)]
        parts += _step(step, said, centres, words_at, y)
        y += _LINE * len(said) + _GAP
    outcome = textwrap.wrap(story.outcome, 110)
    bottom = y
    height = bottom + _LINE * len(outcome) + 40
    width = words_at + _NOTES
    nats = [
        f"<text class='head' x='{centres[name]}' y='{_HEAD}'>{escape(name)}</text>"
        f"<text class='words' x='{centres[name]}' y='{_HEAD + _LINE}'>{escape(_short(words))}</text>"
        f"<line class='life' x1='{centres[name]}' y1='{_HEAD + 34}' x2='{centres[name]}' y2='{bottom - 12}'/>"
        for name, words in story.lifelines
    ]
    ending = [
        f"<text class='name' x='30' y='{bottom + 20 + _LINE * at}'>{escape(each)}</text>"
        for at, each in enumerate(outcome)
    ]
    description = " ".join(f"{step.at:.1f} ms: {_said(step)}." for step in story.steps)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}'"
        f" role='img' aria-labelledby='title desc'><title id='title'>{escape(story.title)}</title>"
        f"<desc id='desc'>{escape(story.outcome)}. {escape(description)}</desc><style>{_STYLE}</style>"
        f"<rect class='paper' width='{width}' height='{height}'/>"
        f"<text class='title' x='30' y='42'>{escape(story.title)}</text>{''.join((*nats, *parts, *ending))}"
        "</svg>\n"
    )


def _short(words: str) -> str:
    return words if len(words) <= 22 else f"{words[:21]}…"


def _said(step: Step) -> str:
    """A step for who cannot see it."""
    return f"{' to '.join(step.path)}: {', '.join(text for text, _ in notes(step))}"


def _wrapped(step: Step) -> Iterator[tuple[str, str]]:
    for text, style in notes(step):
        yield from ((each, style) for each in textwrap.wrap(text, _NOTE_CHARACTERS, break_long_words=False))


def _step(step: Step, said: Sequence[tuple[str, str]], centres: dict[str, int], words_at: int, y: int) -> Iterator[str]:
    way = [centres[name] for name in step.path]
    end = way[-1]
    lost = step.drop is not None
    yield f"<text class='time' x='{_MARGIN - 10}' y='{y + 5}'>{step.at:.1f} ms</text>"
    if len(way) > 1:
        points = " ".join(f"{x},{y}" for x in way)
        yield f"<polyline class='way{' lost' if lost else ''}' points='{points}'/>"
    changed = {rewrite.nat for rewrite in step.rewrites}
    for name in step.path[:-1]:
        yield f"<circle class='stop{' nat' if name in changed else ''}' cx='{centres[name]}' cy='{y}' r='6'/>"
    if lost:
        yield f"<path class='cross' d='M{end - 9} {y - 9}l18 18m0 -18l-18 18'/>"
    elif len(way) > 1:
        back = 14 if way[-2] > end else -14
        yield f"<path class='tip' d='M{end} {y}l{back} -8v16z'/>"
    for at, (text, style) in enumerate(said):
        yield f"<text class='{style}' x='{words_at}' y='{y + 5 + _LINE * at}'>{escape(text)}</text>"

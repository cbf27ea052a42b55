"""A check as one HTML page that needs nothing else: for whoever looks at a run of CI, and was not there."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, Final

from lab.check.report import Grid, Result, grid, summary, words
from lab.page import page
from lab.seeing.cast import Actor, Cast
from lab.seeing.conversation import Step, Story
from lab.seeing.diagram import notes
from lab.seeing.svg import svg

_WIDEST: Final = 40
"""Destinations up to which a matrix is of use; a larger lab has its table of results alone."""

_SHOWN: Final = 40
"""Steps of a story that are shown: what goes round in circles would never end."""

_PROBES: Final = {"icmp6": "ICMPv6", "udp": "UDP", "tcp": "TCP"}

_STYLE: Final = """
:root { --good: #1b6e2c; --bad: #b3261e; --good-paper: #e3f4e5; --bad-paper: #fde5e2; --quiet: #5b6675 }
@media (prefers-color-scheme: dark) {
:root { --good: #86d993; --bad: #ff9d94; --good-paper: #16301b; --bad-paper: #431b18; --quiet: #a3aebd } }
.verdict { font-size: 1.25rem; font-weight: 600 } .good { color: var(--good) } .bad { color: var(--bad) }
td.good { background: var(--good-paper) } td.bad { background: var(--bad-paper) } .bad, .bad a { font-weight: 600 }
small, caption, .quiet { color: var(--quiet) } caption { text-align: left; padding-bottom: .4rem }
small { display: block } dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem }
dd { margin: 0; overflow-wrap: anywhere } nav a { margin-right: 1rem } a { color: inherit }
td, th { border-top: 1px solid var(--line) } .matrix td, .matrix th { white-space: nowrap }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap } h3 { font-size: 1rem }
.wide { overflow-x: auto } figure { margin: 0 } figure img { min-width: 60rem; max-width: 100%; height: auto }
li div { padding-left: 1rem } .drop { color: var(--bad) } .why { color: var(--quiet) }
@media print { .wide { overflow: visible } figure img { min-width: 0 } details, nav { display: none }
td, th { padding: .15rem .3rem } * { print-color-adjust: exact } }
"""


@dataclass(frozen=True)
class Record:
    """All that a page tells. `seconds`: how long the check took; `status`: the answer of `status` when it ended.

    `tried_again`: what came out in the attempts of the stories, whose capture is the file `capture`, and `no_stories`
    why there are none.
    """

    command: str
    began: str
    seconds: float
    results: Sequence[Result]
    left_out: Mapping[str, str]
    status: Mapping[str, Any]
    cast: Cast
    environment: Mapping[str, str]
    stories: Sequence[Story] = ()
    tried_again: Sequence[Result] = ()
    capture: str = ""
    no_stories: str = ""

    @property
    def failed(self) -> list[Result]:
        """The results that are not as expected."""
        return [result for result in self.results if not result["ok"]]


def html_text(record: Record) -> str:
    """The page."""
    found = grid(record.results)
    told = {(story.caller, story.callee) for story in record.stories}
    parts = {
        "failures": ("Not as expected", _failures(record, told)),
        "matrix": ("Who reaches whom", _matrix(found)),
        "stories": ("Packet by packet", "".join(_stories(record, found))),
        "results": ("All results", _results(found)),
        "topology": ("Topology", _topology(record)),
        "environment": ("Environment", _list(record.environment)),
    }
    links = "".join(f"<a href='#{part}'>{title}</a>" for part, (title, _) in parts.items())
    sections = "".join(
        f"<section id='{part}' aria-labelledby='{part}-title'><h2 id='{part}-title'>{title}</h2>{body}</section>"
        for part, (title, body) in parts.items()
    )
    title = f"Check of the lab {record.status['name']}"
    return page(title, _STYLE, f"{_summary(record)}<nav aria-label='Parts of this page'>{links}</nav>{sections}")


def _summary(record: Record) -> str:
    good = not record.failed
    facts = {
        "command": record.command,
        "lab": record.status["name"],
        "topology": record.status["topology"] or "none",
        "backend": record.status["backend"],
        "began": record.began,
        "took": f"{record.seconds:.1f} s",
    }
    facts |= {f"left out: {name}": reason for name, reason in record.left_out.items()}
    verdict = f"{_mark(good)} {summary([*record.results])}"
    return f"<p class='verdict {_kind(good)}'>{escape(verdict)}</p>{_list(facts)}"


def _mark(good: bool) -> str:
    return "✓" if good else "✗"


def _kind(good: bool) -> str:
    return "good" if good else "bad"


def _list(facts: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(what)}</dt><dd>{escape(value)}</dd>' for what, value in facts.items())}</dl>"


def _table(caption: str, head: Iterable[str], rows: str, kind: str = "") -> str:
    """A table that can be scrolled by keys where it is wider than the page. `rows` are HTML, the rest is text."""
    names = "".join(f"<th scope='col'>{escape(name)}</th>" for name in head)
    return (
        f"<div class='wide' role='group' aria-label='{escape(caption)}' tabindex='0'><table class='{kind}'>"
        f"<caption>{escape(caption)}</caption><thead><tr>{names}</tr></thead>{rows}</table></div>"
    )


def _pair(source: str, destination: str) -> str:
    """The id of a pair: no name has a full stop in it."""
    return f"{source}.{destination}"


def _failures(record: Record, told: set[tuple[str, str]]) -> str:
    if not record.failed:
        return "<p>Nothing: all is as expected.</p>"
    rows = []
    for each in record.failed:
        source, destination = each["source"], each["destination"]
        pair = f"{source} → {destination}"
        if (source, destination) in told:
            pair = f"<a href='#story.{_pair(source, destination)}'>{pair}</a>"
        rows.append(
            f"<tr><th scope='row'>{pair}</th><td>{_PROBES[each['probe']]}</td>"
            f"<td>{each['expected']}<small>{escape(each['because'])}</small></td>"
            f"<td class='bad'>✗ {each['observed']}</td><td>{escape(_reason(each))}</td></tr>"
        )
    caption = f"{len(rows)} results that are not as expected; a pair that is a link leads to its packets"
    head = ("pair", "probe", "expected", "observed", "path, reason")
    return _table(caption, head, f"<tbody>{''.join(rows)}</tbody>")


def _reason(result: Result) -> str:
    """Why a probe failed; or by which path one got through that was not to."""
    return "; ".join(filter(None, (result["path"], result["reason"])))


def _matrix(found: Grid) -> str:
    if len(found.destinations) > _WIDEST:
        return (
            f"<p>{len(found.sources)} sources and {len(found.destinations)} destinations are too many for a matrix: "
            "see <a href='#results'>all results</a>.</p>"
        )
    rows = "".join(
        f"<tr><th scope='row'>{source}</th>"
        f"{''.join(_cell(source, to, found.cells.get((source, to), ())) for to in found.destinations)}</tr>"
        for source in found.sources
    )
    caption = "From the rows to the columns: path, first packet on the cold path, and round trip thereafter"
    return _table(caption, ("from", *(f"to {name}" for name in found.destinations)), f"<tbody>{rows}</tbody>", "matrix")


def _cell(source: str, destination: str, results: Sequence[Result]) -> str:
    if not results:
        return "<td class='quiet'><span aria-label='not checked'>·</span></td>"
    wrong = [_PROBES[result["probe"]] for result in results if not result["ok"]]
    what, *more = words(results) if results[0]["observed"] == "reachable" else (" ".join(words(results)),)
    if results[0]["rtt_ms"] is not None:
        more.append(f"round trip {results[0]['rtt_ms']:.2f} ms")
    if wrong:
        more.append(f"not as expected: {', '.join(wrong)}")
    link = f"<a href='#{_pair(source, destination)}'>{'✗ ' if wrong else ''}{escape(what)}</a>"
    return f"<td class='{_kind(not wrong)}'>{link}{''.join(f'<small>{escape(each)}</small>' for each in more)}</td>"


def _stories(record: Record, found: Grid) -> Iterator[str]:
    if record.no_stories:
        yield f"<p>There are none: {escape(record.no_stories)}.</p>"
    elif not record.stories:
        yield "<p>There are none: nobody reaches anybody.</p>"
    elif not record.failed:
        yield "<p>All is as expected: here is one pair for each kind of path, once more and with a capture.</p>"
    else:
        pairs = len({(each["source"], each["destination"]) for each in record.failed})
        kept = f", which is kept: {escape(record.capture)}" if record.capture else ""
        yield (
            f"<p>Of {pairs} pairs that are not as expected, {len(record.stories)} were tried once more with a capture"
            f"{kept}. What fails only now and then may work the second time.</p>"
        )
    again = grid(record.tried_again).cells
    for story in record.stories:
        pair = story.caller, story.callee
        yield _story(story, found.cells[pair], again.get(pair, []) if record.failed else [])


def _story(story: Story, before: Iterable[Result], again: Sequence[Result]) -> str:
    pair = _pair(story.caller, story.callee)
    told = replace(story, steps=story.steps[:_SHOWN])
    cut = f"; the first {_SHOWN} of {len(story.steps)} steps" if len(story.steps) > _SHOWN else ""
    picture = base64.b64encode(svg(told).encode()).decode()
    title = f"{story.caller} → {story.callee}"
    return (
        f"<article id='story.{pair}' aria-labelledby='title.{pair}'><h3 id='title.{pair}'>{title}</h3>"
        f"<p>{escape(story.outcome)}{cut}. {_compared(before, again)}</p>"
        f"<figure class='wide' role='group' aria-label='Sequence diagram of {title}' tabindex='0'>"
        f"<img src='data:image/svg+xml;base64,{picture}'"
        f" alt='Sequence diagram of {title}; the same follows in words'></figure>"
        f"<details><summary>{title} in words: {len(told.steps)} steps</summary>"
        f"<ol>{''.join(map(_step, told.steps))}</ol></details></article>"
    )


def _compared(before: Iterable[Result], again: Sequence[Result]) -> str:
    """What the second attempt found that the first had not."""
    if not again:
        return ""
    first = {each["probe"]: each["observed"] for each in before}
    changes = [
        f"{_PROBES[each['probe']]} was {first[each['probe']]}, and then {each['observed']}"
        for each in again
        if first[each["probe"]] != each["observed"]
    ]
    return f"Tried again: {'; '.join(changes) or 'the same'}."


def _step(step: Step) -> str:
    said = "".join(f"<div class='{style}'>{escape(text)}</div>" for text, style in notes(step))
    return f"<li><strong>{step.at:.1f} ms, {' → '.join(step.path)}{' ✗' if step.drop else ''}</strong>{said}</li>"


def _results(found: Grid) -> str:
    rows = []
    for (source, destination), results in found.cells.items():
        for number, each in enumerate(results):
            good = each["ok"]
            anchor = "" if number else f" id='{_pair(source, destination)}'"
            rows.append(
                f"<tr{anchor}>"
                f"<th scope='row'>{source} → {destination}</th><td>{_PROBES[each['probe']]}</td>"
                f"<td class='{_kind(good)}'>{_mark(good)} {each['observed']}</td><td>{escape(each['path'] or '')}</td>"
                f"{_time(each['first_packet_ms'], 1)}{_time(each['rtt_ms'], 2)}"
                f"<td>{each['expected']}<small>{escape(each['because'])}</small></td>"
                f"<td>{escape(each['reason'] or '')}</td></tr>"
            )
    caption = f"{len(rows)} results; ✓ is as expected, ✗ is not; times are in milliseconds"
    head = ("pair", "probe", "observed", "path", "first packet", "round trip", "expected", "reason")
    return _table(caption, head, f"<tbody>{''.join(rows)}</tbody>")


def _time(milliseconds: float | None, digits: int) -> str:
    return f"<td class='number'>{'' if milliseconds is None else f'{milliseconds:.{digits}f}'}</td>"


def _topology(record: Record) -> str:
    """The nodes, those of a site together."""
    actors = record.cast.actors
    sites: dict[str | None, list[str]] = {}
    for node in record.status["nodes"]:
        if node["name"] in actors:
            sites.setdefault(node["site"], []).append(_node(node, actors[node["name"]]))
    bodies = []
    for site, members in sites.items():
        named = "on the Internet" if site is None else f"site {site}"
        rows = "".join(members)
        bodies.append(f"<tbody><tr><th colspan='5' scope='rowgroup'>{named}</th></tr>{rows}</tbody>")
    head = ("node", "what it is", "linked to", "state", "addresses")
    return _table("Nodes, with the kinds of NAT as they were when the check had ended", head, "".join(bodies))


def _node(node: Mapping[str, Any], actor: Actor) -> str:
    kind = actor.words + (" (Miredo)" if node["program"] == "miredo" else "")
    addresses = (*filter(None, (node["teredo_address"],)), *node["ipv4"], *node["ipv6"])
    bad = " class='bad'" if node["state"] == "failed" else ""
    trouble = f"<small>{escape(actor.trouble)}</small>" if actor.trouble else ""
    return (
        f"<tr><th scope='row'>{actor.name}</th><td>{escape(kind)}</td><td>{actor.upstream}{trouble}</td>"
        f"<td{bad}>{escape(actor.state)}</td><td>{'<br>'.join(addresses)}</td></tr>"
    )

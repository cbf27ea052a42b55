"""The page of a check: all that was found is on it, in words, and it asks nobody for anything."""

from __future__ import annotations

import base64
import re
from collections import Counter
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from itertools import permutations
from typing import Any

import pytest

from lab.check.html import Record, html_text
from lab.check.report import Result
from lab.seeing.again import examples
from lab.seeing.cast import Cast
from tests.unit.test_story import Wire, actors

HOSTILE = "<script>alert(1)</script> & 'quotes\""
PROBES = ("icmp6", "udp", "tcp")


def result(source: str, destination: str, probe: str = "icmp6", **more: Any) -> Result:
    found = {
        "source": source,
        "destination": destination,
        "probe": probe,
        "expected": "reachable",
        "observed": "reachable",
        "path": "direct",
        "first_packet_ms": 8.94,
        "rtt_ms": 0.318,
        "reason": None,
        "because": "RFC 6081 Figure 1: cone → cone needs RFC 4380 alone",
    } | more
    return found | {"ok": found["observed"] == found["expected"]}


def failed(source: str, destination: str, probe: str = "icmp6", **more: Any) -> Result:
    gone = {"observed": "unreachable", "path": None, "first_packet_ms": None, "rtt_ms": None, "reason": HOSTILE}
    return result(source, destination, probe, **gone | more)


def node(name: str, role: str, site: str | None, **more: Any) -> dict[str, Any]:
    facts = {"ipv4": ["192.0.2.9"], "ipv6": [], "teredo_address": None, "state": "running", "program": None}
    return {"name": name, "role": role, "site": site, **facts, **more}


NODES = [
    node("internet", "internet", None),
    node("server", "server", None, state="failed"),
    node("home-nat", "nat", "home"),
    node("alice", "client", "home", program="miredo", teredo_address="2001::1"),
    node("away-nat", "nat", "away"),
    node("carol", "client", "away"),
]


def record(*results: Result, **more: Any) -> Record:
    cast = actors()
    cast["server"] = replace(cast["server"], state=f"failed: {HOSTILE}", trouble="loses 10 % of all packets")
    facts: dict[str, Any] = {
        "command": f"teredo-lab check --html '{HOSTILE}'",
        "began": "2026-02-03 04:05:06 UTC",
        "seconds": 7.25,
        "results": results,
        "left_out": {"dave": HOSTILE},
        "status": {"name": "small", "topology": HOSTILE, "backend": "netns", "nodes": NODES},
        "cast": Cast(cast),
        "environment": {"kernel": HOSTILE, "Miredo": "1.2.6"},
    }
    return Record(**facts | more)


class Elements(HTMLParser):
    """Start tags with their attributes, after a check that each is ended, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def all(self, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for _, attributes in self.found if attribute in attributes]


def words(page: str) -> str:
    """What is on a page, without its tags."""
    return re.sub(r"\s+", " ", unescape(re.sub("<[^>]*>", " ", page.split("</style>")[1])))


@pytest.fixture
def wire() -> Wire:
    made = Wire(actors())
    made.bubbles()
    made.ping(1)
    return made


@pytest.fixture
def page(wire: Wire) -> str:
    pair = "alice", "carol"
    results = [*(failed(*pair, probe) for probe in PROBES), *(result(*pair[::-1], probe) for probe in PROBES)]
    again = [failed("alice", "carol"), result("alice", "carol", "udp"), failed("alice", "carol", "tcp")]
    return html_text(record(*results, stories=[wire.story()], tried_again=again, capture="/run/<lab>/failed.pcapng"))


def test_all_results_are_on_the_page_those_that_are_wrong_first(page: str) -> None:
    text = words(page)
    assert "✗ 3 of 6 results are as expected" in text
    failures, rest = page.split("<section id='matrix'")
    assert failures.count("<td class='bad'>✗ unreachable") == 3
    assert "✓ reachable" not in failures
    everything = rest.split("<section id='results'")[1].split("<section")[0]
    assert len(re.findall(r"<th scope='row'>(alice → carol|carol → alice)", everything)) == 6
    assert everything.count("✗ unreachable") == everything.count("✓ reachable") == 3
    assert "direct 8.9 ms round trip 0.32 ms" in text
    assert "✗ unreachable not as expected: ICMPv6, UDP, TCP" in text


def test_it_tells_where_and_with_what_that_was(page: str) -> None:
    text = words(page)
    where = "2026-02-03 04:05:06 UTC", "7.2 s", "netns", "left out: dave", "Miredo 1.2.6", "/run/<lab>/failed.pcapng"
    for told in where:
        assert told in text
    assert "site home" in text
    assert "NAT (port_restricted)" in text
    assert "client (Miredo)" in text
    assert "loses 10 % of all packets" in text
    assert text.count(HOSTILE) == 11


def test_a_story_is_a_picture_and_words_and_says_what_the_second_attempt_found(page: str) -> None:
    assert "Tried again: UDP was unreachable, and then reachable." in words(page)
    picture = re.findall(r"<img src='data:image/svg\+xml;base64,([^']*)' alt='([^']*)'", page)
    assert [alt for _, alt in picture] == ["Sequence diagram of alice → carol; the same follows in words"]
    drawing = base64.b64decode(picture[0][0]).decode()
    assert "<title id='title'>alice → carol</title>" in drawing
    assert re.findall("https?://[^'\" <]*", drawing) == ["http://www.w3.org/2000/svg"]
    steps = page.split("<ol>")[1].split("</ol>", maxsplit=1)[0]
    assert steps.count("<li>") == 6
    assert "0.0 ms, alice → home-nat → away-nat ✗" in steps
    assert "dropped by away-nat: filtering APDF" in steps


def test_nothing_is_asked_of_anybody_and_nothing_runs(page: str) -> None:
    elements = Elements(page)
    assert {tag for tag, _ in elements.found}.isdisjoint({"script", "link", "iframe", "object", "form", "base"})
    assert all(source.startswith("data:image/svg+xml;base64,") for source in elements.all("src"))
    assert "://" not in page
    assert not re.search(r"@import|url\(|\son\w+=", page)


def test_links_lead_somewhere_and_tables_say_what_heads_what(page: str) -> None:
    elements = Elements(page)
    ids = elements.all("id")
    assert Counter(ids).most_common(1)[0][1] == 1
    assert {link.removeprefix("#") for link in elements.all("href")} <= {*ids}
    assert {*elements.all("aria-labelledby")} <= {*ids}
    heads = [attributes for tag, attributes in elements.found if tag == "th"]
    assert heads and all(head.get("scope") in ("col", "row", "rowgroup") for head in heads)
    tags = Counter(tag for tag, _ in elements.found)
    assert tags["table"] == tags["caption"] == tags["thead"] == 4
    assert tags["h1"] == tags["main"] == 1


def test_a_good_check_says_so_and_shows_an_example(wire: Wire) -> None:
    text = words(html_text(record(result("alice", "carol"), stories=[wire.story()], tried_again=[])))
    assert "✓ 1 of 1 results are as expected" in text
    assert "Nothing: all is as expected." in text
    assert "here is one pair for each kind of path" in text
    assert "Tried again" not in text


def test_why_there_are_no_stories(wire: Wire) -> None:
    assert "There are none: --no-capture was given." in html_text(record(no_stories="--no-capture was given"))
    assert "There are none: nobody reaches anybody." in html_text(record(result("a", "b", expected="unreachable")))


def test_a_story_without_end_is_cut_and_says_so(wire: Wire) -> None:
    story = wire.story()
    long = replace(story, steps=story.steps * 100)
    page = html_text(record(result("alice", "carol"), stories=[long]))
    assert page.count("<li>") == 40
    assert f"the first 40 of {len(long.steps)} steps" in page


def test_a_large_lab_has_no_matrix_but_all_results() -> None:
    names = [f"n{number}" for number in range(42)]
    ring = [result(one, other) for one, other in zip(names, names[1:] + names[:1], strict=True)]
    page = html_text(record(*ring))
    assert "42 sources and 42 destinations are too many for a matrix" in page
    assert page.count("<td class='good'>") == 42
    Elements(page)
    assert "too many" not in html_text(record(*(result(*pair) for pair in permutations(names[:5], 2))))


def test_what_got_through_and_was_not_to_says_by_which_path() -> None:
    text = words(html_text(record(result("alice", "carol", expected="unreachable", reason="1 MiB"))))
    assert "alice → carol ICMPv6 unreachable RFC 6081 Figure 1: cone → cone needs RFC 4380 alone ✗ reachable" in text
    assert "direct; 1 MiB" in text


def test_examples_are_one_for_each_kind_of_path() -> None:
    results = [
        failed("alice", "bob"),
        result("alice", "carol"),
        result("alice", "carol", "udp", path="relay"),
        result("alice", "dave", expected="unreachable"),
        result("bob", "carol"),
        result("web", "alice", path="relay"),
        failed("web", "frank", expected="unreachable"),
    ]
    assert examples(results) == [("alice", "carol"), ("web", "alice")]

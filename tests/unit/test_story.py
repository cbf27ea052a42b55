"""Stories of conversations, from packets: ways, rewrites, drops with reasons, and the diagrams of them."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import count
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from lab.nat.kinds import KINDS
from lab.seeing.cast import Actor, Cast, Tap, heard
from lab.seeing.conversation import Story, tell
from lab.seeing.diagram import mermaid, rows
from lab.seeing.notes import Notes
from lab.seeing.pcapng import ETHERNET, Packet
from lab.seeing.svg import svg
from lab.teredo.address import Endpoint, TeredoAddress, packed
from lab.teredo.packet import bubble, decode, echo_reply, echo_request, ipv6_header, origin_indication
from lab.topology.rules import INTERNET
from tests.unit.test_decode import frame

SERVER = Endpoint("192.0.2.2", 3544)
ALICE, CAROL = Endpoint("192.168.1.2", 1111), Endpoint("192.168.2.2", 2222)
ALICE_OUT, CAROL_OUT = Endpoint("198.51.100.1", 1111), Endpoint("198.51.100.2", 2222)
A, C = (TeredoAddress(SERVER.host, 0, end) for end in (ALICE_OUT, CAROL_OUT))


def actors(kind: str = "port_restricted") -> dict[str, Actor]:
    nat = KINDS[kind]
    found = (
        Actor("alice", "client", "lan", "home-nat", ipv4=(ALICE.host,), teredo=str(A)),
        Actor("carol", "client", "lan", "away-nat", ipv4=(CAROL.host,), teredo=str(C)),
        Actor("home-nat", "nat", "wan", INTERNET, ("alice",), (ALICE_OUT.host, "192.168.1.1"), nat=KINDS["cone"],
              external=(ALICE_OUT.host,), kind="cone"),
        Actor("away-nat", "nat", "wan", INTERNET, ("carol",), (CAROL_OUT.host, "192.168.2.1"), nat=nat,
              external=(CAROL_OUT.host,), kind=kind),
        Actor("server", "server", "wan", INTERNET, ipv4=(SERVER.host,)),
    )  # fmt: skip
    return {actor.name: actor for actor in found}


class Hop(NamedTuple):
    """A packet on a link."""

    node: str
    outbound: bool
    source: Endpoint
    to: Endpoint


class Wire:
    """A recording of all links, as it is made."""

    def __init__(self, cast: dict[str, Actor]) -> None:
        self.cast = Cast(cast)
        self.taps = self.cast.taps(cast)
        self.interfaces = tuple(self.cast.interface(tap, ETHERNET) for tap in self.taps)
        self.packets: list[Packet] = []
        self._clock = count(10**18, 1_000_000)
        self._identifications = count(1)

    def send(self, data: bytes, *hops: Hop) -> None:
        identification = next(self._identifications).to_bytes(2, "big")
        for hop in hops:
            whole = bytearray(frame(data, hop.source, hop.to))
            whole[18:20] = identification
            number = next(at for at, tap in enumerate(self.taps) if tap.node == hop.node)
            self.packets.append(Packet(number, next(self._clock), bytes(whole), hop.outbound))

    def bubbles(self) -> None:
        """Alice calls carol: her direct bubble is dropped, the indirect one comes through, and carol answers."""
        call = bubble(A.packed, C.packed)
        out = Hop("alice", True, ALICE, CAROL_OUT), Hop("home-nat", True, ALICE_OUT, CAROL_OUT)
        self.send(call, *out, Hop("away-nat", False, ALICE_OUT, CAROL_OUT))
        up = Hop("alice", True, ALICE, SERVER), Hop("home-nat", True, ALICE_OUT, SERVER)
        self.send(call, *up, Hop("server", False, ALICE_OUT, SERVER))
        down = Hop("server", True, SERVER, CAROL_OUT), Hop("away-nat", False, SERVER, CAROL_OUT)
        self.send(origin_indication(ALICE_OUT) + call, *down, Hop("carol", False, SERVER, CAROL))
        self.back(bubble(C.packed, A.packed))

    def there(self, data: bytes) -> None:
        out = Hop("alice", True, ALICE, CAROL_OUT), Hop("home-nat", True, ALICE_OUT, CAROL_OUT)
        self.send(data, *out, Hop("away-nat", False, ALICE_OUT, CAROL_OUT), Hop("carol", False, ALICE_OUT, CAROL))

    def back(self, data: bytes) -> None:
        out = Hop("carol", True, CAROL, ALICE_OUT), Hop("away-nat", True, CAROL_OUT, ALICE_OUT)
        self.send(data, *out, Hop("home-nat", False, CAROL_OUT, ALICE_OUT), Hop("alice", False, CAROL_OUT, ALICE))

    def ping(self, number: int) -> None:
        request = echo_request(A.packed, C.packed, bytes([number]))
        self.there(request)
        self.back(echo_reply(decode(request), C.packed))

    def story(self, reason: str | None = None) -> Story:
        return tell(self.cast, self.taps, self.interfaces, self.packets, ("alice", "carol"), reason)


@pytest.fixture
def wire() -> Wire:
    return Wire(actors())


def test_bubbles_open_a_nat(wire: Wire) -> None:
    wire.bubbles()
    wire.ping(1)
    wire.ping(2)
    story = wire.story()
    assert [(step.name, step.path, step.drop is not None, step.again) for step in story.steps] == [
        ("direct bubble", ("alice", "home-nat", "away-nat"), True, 0),
        ("indirect bubble", ("alice", "home-nat", "server"), False, 0),
        ("indirect bubble", ("server", "away-nat", "carol"), False, 0),
        ("direct bubble", ("carol", "away-nat", "home-nat", "alice"), False, 0),
        ("echo request", ("alice", "home-nat", "away-nat", "carol"), False, 1),
        ("echo reply", ("carol", "away-nat", "home-nat", "alice"), False, 1),
    ]
    dropped, _, passed_on, answer, *_ = story.steps
    assert dropped.drop is not None
    assert dropped.drop.node == "away-nat"
    assert dropped.drop.reason == "filtering APDF: nobody inside has sent to 198.51.100.1 from that port before"
    assert dropped.rewrites == (("home-nat", ALICE, ALICE_OUT),)
    assert passed_on.details == f"origin {ALICE_OUT}"
    assert passed_on.rewrites == (("away-nat", CAROL_OUT, CAROL),)
    assert answer.rewrites == (("away-nat", CAROL, CAROL_OUT), ("home-nat", ALICE_OUT, ALICE))
    assert all(step.why and step.rfc.startswith("RFC ") for step in story.steps)
    assert story.reached
    assert story.outcome == "alice reaches carol: the first answer comes 20.0 ms after the first packet"
    assert [name for name, _ in story.lifelines] == ["alice", "home-nat", "server", "away-nat", "carol"]


@pytest.mark.parametrize(
    ("kind", "before", "to", "reason"),
    [
        ("port_restricted", [], CAROL_OUT, "filtering APDF: nobody inside has sent to 198.51.100.1 from that port"),
        (
            "port_restricted",
            [Endpoint(ALICE_OUT.host, 9)],
            CAROL_OUT,
            "filtering APDF: what was sent to 198.51.100.1 was for another port than 1111",
        ),
        (
            "addr_restricted",
            [],
            CAROL_OUT,
            "filtering ADF: nobody inside has sent to 198.51.100.1 from that port before",
        ),
        ("cone", [], CAROL_OUT, "for no reason that packets show"),
        ("cone", [], Endpoint(CAROL_OUT.host, 7), "no mapping: nobody inside has port 7"),
        ("port_restricted", [ALICE_OUT], CAROL_OUT, "for no reason that packets show"),
        ("port_symmetric", [SERVER], CAROL_OUT, f"its mapping {CAROL_OUT} is for {SERVER} alone (APDM, APDF)"),
    ],
)
def test_why_a_nat_drops_what_comes_in(kind: str, before: list[Endpoint], to: Endpoint, reason: str) -> None:
    wire = Wire(actors(kind))
    for number, remote in enumerate(before):
        wire.send(bytes([number]), Hop("carol", True, CAROL, remote), Hop("away-nat", True, CAROL_OUT, remote))
    wire.send(bubble(A.packed, C.packed), Hop("away-nat", False, ALICE_OUT, to))
    (drop,) = [step.drop for step in wire.story("no answer").steps if step.drop is not None and step.path[0] != "carol"]
    assert drop.reason.startswith(reason)


def test_a_link_that_loses_is_named_and_a_private_address_has_no_route(wire: Wire) -> None:
    lossy = actors()
    lossy["carol"] = replace(lossy["carol"], trouble="loses 50 % of all packets")
    wire = Wire(lossy)
    wire.send(bubble(A.packed, C.packed), Hop("away-nat", False, ALICE_OUT, CAROL_OUT))
    wire.send(bubble(A.packed, C.packed), Hop("alice", True, ALICE, CAROL), Hop("home-nat", True, ALICE_OUT, CAROL))
    lost, unroutable = (step.drop for step in wire.story("no answer").steps)
    assert lost is not None
    assert lost.reason.startswith("lost: the link of carol loses 50 % of all packets or filtering APDF")
    assert unroutable == (INTERNET, "no route: 192.168.2.2 is a private address")


def test_what_is_cut_further_on_is_never_called_dropped(wire: Wire) -> None:
    one = ipv6_header(A.packed, C.packed, 17, 1000) + bytes(1000)
    wire.send(one * 3, Hop("alice", True, ALICE, CAROL_OUT))
    wire.there(one)
    first, *_ = wire.story().steps
    assert first.name == "3 data packets in one"
    assert first.drop is None


def test_the_same_payload_again_is_another_packet(wire: Wire) -> None:
    call = bubble(A.packed, C.packed)
    for _ in range(3):
        wire.send(call, Hop("alice", True, ALICE, CAROL_OUT), Hop("home-nat", True, ALICE_OUT, CAROL_OUT))
    assert len(wire.story("no answer").steps) == 3


def test_a_failed_conversation_says_who_gave_up_and_what_was_in_the_way(wire: Wire) -> None:
    for _ in range(2):
        wire.send(
            bubble(A.packed, C.packed),
            *(Hop("alice", True, ALICE, CAROL_OUT), Hop("home-nat", True, ALICE_OUT, CAROL_OUT)),
            Hop("away-nat", False, ALICE_OUT, CAROL_OUT),
        )
    story = wire.story("no route to host")
    assert story.reached is False
    assert story.outcome.startswith("alice gives carol up (no route to host): no answer to 2 packets")
    assert "away-nat drops 2: filtering APDF: nobody inside" in story.outcome


def test_who_has_no_address_is_said() -> None:
    cast = actors()
    cast["carol"] = replace(cast["carol"], teredo=None, state="off-line: symmetric NAT")
    story = Wire(cast).story()
    assert story.reached is False
    assert story.outcome == "carol has no Teredo address, so nothing can be sent: it is off-line: symmetric NAT"
    assert not story.steps


def test_of_nothing_nothing_is_known(wire: Wire) -> None:
    story = wire.story()
    assert (story.reached, story.outcome) == (None, "there are no packets of alice and carol")


def test_conversations_with_others_are_left_out(wire: Wire) -> None:
    cast = actors()
    cast["dave"] = Actor("dave", "client", "lan", "home-nat", ipv4=("192.168.1.9",), teredo="2001:0:c000:202::1")
    wire = Wire(cast)
    other = bubble(packed("2001:0:c000:202::1"), C.packed)
    wire.send(other, Hop("away-nat", False, ALICE_OUT, CAROL_OUT), Hop("carol", False, ALICE_OUT, CAROL))
    assert wire.story().steps == ()


def test_what_never_leaves_a_link_is_no_step(wire: Wire) -> None:
    report = ipv6_header(bytes(16), bytes.fromhex("ff02" + "00" * 13 + "16"), 0, 0)  # MLD, without an address
    number = next(at for at, tap in enumerate(wire.taps) if tap.node == "alice")
    wire.packets.append(Packet(number, 10**18 - 1, bytes(12) + b"\x86\xdd" + report, outbound=False))
    wire.bubbles()
    assert wire.story().steps[0].name == "direct bubble"


def test_a_recording_tells_its_cast(wire: Wire) -> None:
    cast, taps = heard(wire.interfaces)
    assert cast == wire.cast
    assert taps == wire.taps


def test_comments_come_when_nothing_more_can_be_seen(wire: Wire) -> None:
    wire.bubbles()
    notes = Notes(wire.cast, wire.taps, wire.interfaces)
    notes.take(wire.packets)
    assert [*notes.ready(wire.packets[-1].at)] == []  # not a quarter of a second old
    comments = [packet.comment for packet in notes.ready(wire.packets[-1].at + 10**9)]
    assert comments[:3] == [
        "direct bubble",
        f"direct bubble; home-nat: {ALICE} → {ALICE_OUT}",
        f"direct bubble; dropped by away-nat: filtering APDF: nobody inside has sent to {ALICE_OUT.host} from that port"
        " before",
    ]
    assert [*notes.ready()] == []


def test_links_are_those_that_are_meant(wire: Wire) -> None:
    assert wire.cast.links_of(["internet"]) == ("home-nat", "away-nat", "server")
    assert set(wire.cast.links_between("alice", "carol")) == {"alice", "carol", "home-nat", "away-nat", "server"}
    assert wire.cast.taps(["alice", "home-nat"], tunnels=True) == (
        Tap("alice", "alice", "lan"),
        Tap("alice/teredo", "alice", "teredo"),
        Tap("home-nat", "home-nat", "wan"),
    )


def test_the_diagram_shows_arrows_drops_and_reasons(wire: Wire) -> None:
    wire.bubbles()
    text = [row.text for row in rows(wire.story(), 100)]
    assert re.fullmatch(r" +alice +home-nat +server +away-nat +carol +", text[0])
    arrows = [line for line in text if " ms" in line]
    assert re.fullmatch(r" +0\.0 ms +●─+●─+┼─+✗ +│", arrows[0])
    assert re.fullmatch(r" +3\.0 ms +●─+●─+▶│ +│ +│", arrows[1])
    assert re.fullmatch(r" +9\.0 ms +│◀─+●─+┼─+●─+●", arrows[3])
    assert any("✗ dropped by away-nat: filtering APDF" in line for line in text)
    assert max(map(len, text)) <= 100


def test_the_picture_is_self_contained_and_has_words_for_who_cannot_see_it(wire: Wire) -> None:
    wire.bubbles()
    picture = svg(wire.story())
    root = ElementTree.fromstring(picture)
    space = {"s": "http://www.w3.org/2000/svg"}
    assert root.findtext("s:title", namespaces=space) == "alice → carol"
    description = root.findtext("s:desc", namespaces=space) or ""
    assert "alice to home-nat to away-nat: direct bubble" in description
    assert "dropped by away-nat" in description
    assert "prefers-color-scheme: dark" in picture
    assert not re.search(r"href|url\(|<script|@import", picture)
    assert len(root.findall("s:path[@class='cross']", space)) == 1
    assert len(root.findall("s:path[@class='tip']", space)) == 3
    height = float(root.get("height") or 0)
    assert all(float(text.get("y") or 0) < height for text in root.iter("{http://www.w3.org/2000/svg}text"))


def test_mermaid_has_each_hop_and_no_character_that_means_something_else(wire: Wire) -> None:
    wire.bubbles()
    lines = mermaid(wire.story()).splitlines()
    assert lines[0] == "sequenceDiagram"
    assert "    p0->>p1: direct bubble" in lines
    assert "    p1-xp3: direct bubble" in lines
    assert f"    Note over p1: {ALICE} → {ALICE_OUT}" in lines
    assert not any(";" in line or "#" in line for line in lines)

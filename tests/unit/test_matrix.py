"""Matrices of NATs: what they expand to, what labels come of them, and how a packet is told."""

from __future__ import annotations

import csv
import io

import pytest

from lab.check.recorder import Recorded
from lab.matrix.packets import stories
from lab.matrix.report import csv_text, html_text
from lab.matrix.verdict import RUNS, Judgement, Try
from lab.nat.matrix import BEYOND, OPEN, Cell
from lab.planner import plan
from lab.story import Line, describe
from lab.teredo.address import ALL_NODES, DISCOVERY_ADDRESS, PORT, Endpoint, packed
from lab.teredo.extensions import ALL, Extension, lacking
from lab.teredo.packet import (
    bubble,
    echo_reply,
    echo_request,
    ipv6_header,
    origin_indication,
    router_advertisement,
    router_solicitation,
)
from lab.teredo.packet import decode as decoded
from lab.teredo.solicitation import SOLICITATION_SOURCE
from lab.teredo.trailers import (
    Discovery,
    alternate_address_trailer,
    discovery_trailer,
    nonce_trailer,
    random_port_trailer,
)
from lab.topology.load import parse
from lab.topology.pairs import Pair, pairs, with_extensions
from tests.unit.helpers.teredo import HOST, PEER, PEER_ENDPOINT, SERVER_LINK_LOCAL, teredo

TEXT = b"""
servers: {server: }
matrix: {c: cone, ps: {kind: port_symmetric, udp_timeout: 60}}
sites: {home: {nat: office, clients: {alice: , bob: {program: miredo}, carl: {extensions: []}}}}
checks: {pairs: matrix}
"""
SERVER = Endpoint("203.0.113.1", PORT)
OWN = teredo(Endpoint("192.0.2.9", 40009))


def test_each_two_nats_have_a_pair_of_sites_in_both_orders() -> None:
    topology = parse(TEXT, "lab.yaml")
    assert list(pairs(topology)) == [
        Pair("c-c-a", "c-c-b", "c", "c"),
        Pair("c-ps-a", "c-ps-b", "c", "ps"),
        Pair("ps-c-a", "ps-c-b", "ps", "c"),
        Pair("ps-ps-a", "ps-ps-b", "ps", "ps"),
    ]
    assert len(topology.sites) == 1 + 8
    assert topology.sites["ps-c-a"].nat.udp_timeout == 60
    assert list(topology.sites["ps-c-a"].clients) == ["ps-c-a"]
    made = plan(topology)
    assert [(one.source, one.destination) for one in made.expectations] == [
        (pair.caller, pair.callee) for pair in pairs(topology) if pair.row == "c" or pair.column == "c"
    ] + [("ps-ps-a", "ps-ps-b")]


def test_extensions_are_given_to_clients_of_ours_that_have_none_of_their_own() -> None:
    changed = with_extensions(parse(TEXT, "lab.yaml"), [Extension.SYMMETRIC])
    given = {placed.name: placed.client.extensions for placed in changed.clients()}
    assert given["alice"] == given["c-ps-b"] == (Extension.SYMMETRIC,)
    assert given["bob"] is None
    assert given["carl"] == ()


def test_the_sets_that_a_matrix_is_run_with() -> None:
    assert list(RUNS) == ["none", "SNS", "SNS+UPnP", "SNS+PP", "SNS+SS", "all"]
    assert RUNS["none"] == frozenset()
    assert RUNS["all"] == ALL
    assert all(lacking(extensions) is None for extensions in RUNS.values())


def judgement(source: str, destination: str, *reached: str) -> Judgement:
    return Judgement(
        source, destination, {name: Try(name in reached, 1.0 if name in reached else None) for name in RUNS}
    )


@pytest.mark.parametrize(
    ("reached", "derived"),
    [
        (("none", "SNS", "all"), Cell.YES),
        (("SNS", "SNS+PP", "all"), Cell.SNS),
        (("SNS+PP", "SNS+SS", "all"), Cell.SNS_PP),
        (("SNS+SS", "all"), Cell.SNS_SS),
        (("SNS+UPnP", "all"), Cell.SNS_UPNP),
        (("all",), Cell.NO),
        ((), Cell.NO),
    ],
)
def test_the_first_set_that_connects_gives_the_label(reached: tuple[str, ...], derived: Cell) -> None:
    assert judgement("cone", "cone", *reached).derived is derived


def test_a_cell_agrees_when_it_is_the_figures_or_better_than_no() -> None:
    assert judgement("cone", "cone", "none", "all").agrees
    assert not judgement("cone", "cone", "SNS", "all").agrees
    assert not judgement("cone", "port_symmetric").agrees
    assert not judgement("cone", "port_symmetric", "none").agrees  # too good to be true
    nothing = judgement("port_symmetric", "port_symmetric")
    assert (nothing.agrees, nothing.beyond) == (True, None)
    better = judgement("port_symmetric", "port_symmetric", "SNS+PP")
    assert better.agrees
    assert better.beyond is not None
    for kinds in (*BEYOND, *OPEN):
        assert judgement(*kinds, "all").beyond
    assert judgement("cone", "cone", "none").beyond is None


def test_a_table_and_a_page() -> None:
    judged = {
        Pair("a-b-a", "a-b-b", "a", "b"): judgement("cone", "port_symmetric", "SNS", "all"),
        Pair("a-a-a", "a-a-b", "a", "a"): judgement("cone", "cone", "SNS"),
        Pair("b-a-a", "b-a-b", "b", "a"): judgement("port_symmetric", "cone", "SNS"),
        Pair("b-b-a", "b-b-b", "b", "b"): judgement("port_symmetric", "port_symmetric"),
    }
    rows = list(csv.DictReader(io.StringIO(csv_text(judged))))
    assert [(row["figure"], row["derived"], row["agrees"], row["extensions"]) for row in rows] == [
        ("SNS", "SNS", "yes", "SNS all"),
        ("Yes", "SNS", "no", "SNS"),
        ("SNS", "SNS", "yes", "SNS"),
        ("No", "No", "yes", ""),
    ]
    pair = next(iter(judged))
    page = html_text(judged, {pair: [Line(0.5, "A <1>", "B", "direct bubble & more")]})
    assert "3 of 4 labels agree" in page
    assert "A &lt;1&gt;" in page
    assert "direct bubble &amp; more" in page
    assert page.count("<section") == 4
    assert "wrong" in page.split("</style>")[1]


def test_packets_belong_to_the_pair_whose_nats_they_pass() -> None:
    topology = parse(TEXT, "lab.yaml")
    made = plan(topology)
    first, *_ = pairs(topology)
    ends = []
    for client in (first.caller, first.callee):
        nat = next(node.nat for node in made.nodes if node.site == client and node.nat is not None)
        ends.append(Endpoint(str(nat.setup.external[0]), 4000))
    packets = [
        Recorded(10.0, ends[0], SERVER, bubble(OWN, PEER)),
        Recorded(10.5, ends[0], ends[1], bubble(OWN, PEER)),
        Recorded(11.0, ends[1], Endpoint("192.168.7.7", 9), bubble(OWN, PEER)),
        Recorded(12.0, Endpoint("198.18.9.9", 1), SERVER, b"nobody's"),
    ]
    assert stories(made, pairs(topology), packets) == {
        first: [
            Line(0.0, f"A {ends[0]}", f"server {SERVER.host}", "indirect bubble"),
            Line(500.0, f"A {ends[0]}", f"B {ends[1]}", "direct bubble"),
            Line(1000.0, f"B {ends[1]}", "(local) 192.168.7.7:9", "direct bubble"),
        ]
    }


@pytest.mark.parametrize(
    ("data", "to", "words"),
    [
        (bubble(OWN, PEER), PEER_ENDPOINT, "direct bubble"),
        (bubble(OWN, PEER) + nonce_trailer(b"\1\2\3\4"), SERVER, "indirect bubble, nonce 01020304"),
        (
            origin_indication(PEER_ENDPOINT) + bubble(PEER, OWN) + random_port_trailer(50000),
            Endpoint("192.0.2.9", 40009),
            f"indirect bubble, origin {PEER_ENDPOINT}, random port 50000",
        ),
        (
            bubble(OWN, PEER) + alternate_address_trailer((Endpoint("10.0.0.1", 5), Endpoint("10.0.0.2", 6))),
            SERVER,
            "indirect bubble, alternate addresses 10.0.0.1:5 10.0.0.2:6",
        ),
        (bubble(OWN, ALL_NODES), Endpoint(DISCOVERY_ADDRESS, PORT), "discovery bubble"),
        (
            bubble(OWN, PEER) + discovery_trailer(Discovery.SOLICITATION),
            PEER_ENDPOINT,
            "direct bubble, solicits an answer",
        ),
        (
            bubble(OWN, PEER) + discovery_trailer(Discovery.ADVERTISEMENT),
            PEER_ENDPOINT,
            "direct bubble, answers a solicitation",
        ),
        (router_solicitation(SOLICITATION_SOURCE), SERVER, "router solicitation"),
        (
            origin_indication(PEER_ENDPOINT)
            + router_advertisement(SERVER_LINK_LOCAL, SOLICITATION_SOURCE, SERVER.host),
            PEER_ENDPOINT,
            f"router advertisement, origin {PEER_ENDPOINT}",
        ),
        (echo_request(OWN, PEER, b"x"), PEER_ENDPOINT, "echo request"),
        (echo_request(OWN, HOST, b"x"), SERVER, "echo request (connectivity test)"),
        (echo_reply(decoded(echo_request(OWN, PEER, b"x")), PEER), PEER_ENDPOINT, "echo reply"),
        (ipv6_header(OWN, PEER, 6, 0), PEER_ENDPOINT, "data"),
        (ipv6_header(OWN, packed("2001:db8::1"), 6, 0), PEER_ENDPOINT, "data for 2001:db8::1"),
        (b"hello", PEER_ENDPOINT, "not Teredo: shorter than an IPv6 header"),
    ],
)
def test_a_packet_in_words(data: bytes, to: Endpoint, words: str) -> None:
    assert describe(data, to) == words

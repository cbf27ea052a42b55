"""The interoperability grid: its cells, whose fault one is that does not work, why, and how that is told."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from lab.check.recorder import Recorded
from lab.interop.evidence import Ends, diagnose, ends, story
from lab.interop.grid import NATS, SYMMETRIC, Cell, Makers, cells, topology
from lab.interop.report import blame, facts, html_text, markdown, summary, title
from lab.interop.verdict import Found, Grid
from lab.planner import plan
from lab.story import Line
from lab.teredo.address import Endpoint, TeredoAddress, packed, text
from lab.teredo.packet import bubble, echo_request, origin_indication
from lab.teredo.trailers import nonce_trailer

OURS = Makers("ours", "ours", "ours")
WORKS = Found({"icmp6": None, "udp": None, "tcp": None}, 12.3)
FAILS = Found(
    {"icmp6": "no route to host"}, None, "It fails.", (Line(0.0, "NAT 192.0.2.9:1", "relay 192.0.2.6:2", "x"),)
)


def grid(*broken: Cell, backends: Iterable[str] = ("netns",)) -> Grid:
    """A grid in which these cells do not work."""
    return Grid({backend: {cell: FAILS if cell in broken else WORKS for cell in cells()} for backend in backends})


def with_client(client_: str, *, nat: str = SYMMETRIC) -> list[Cell]:
    return [cell for cell in cells() if (cell.makers.client, cell.nat) == (client_, nat)]


def test_each_client_server_and_relay_is_there_behind_each_nat_and_in_both_directions() -> None:
    every = list(cells())
    assert len(set(every)) == len(every) == 8 * 4 * 2
    assert {cell.nat for cell in every} == set(NATS)
    planned = plan(topology())
    for cell in every:
        client = planned.node(cell.client)
        wanted = {"ours": "teredo-lab", "miredo": "miredo"}
        assert client.program == wanted[cell.makers.client]
        assert planned.node(f"{cell.client}-nat").nat is not None
        assert planned.node(f"server-{cell.makers.server}").program == wanted[cell.makers.server]
        assert planned.node(f"relay-{cell.makers.relay}").program == wanted[cell.makers.relay]
        assert set(cell.ends) == {cell.client, cell.host}
        assert cell.ends[0 if cell.outward else 1] == cell.client


def test_a_host_is_served_by_the_relay_of_its_cell() -> None:
    hosts = topology().hosts
    assert {name: host.relay for name, host in hosts.items()} == {
        "web-ours": "relay-ours",
        "web-miredo": "relay-miredo",
    }


def test_a_part_is_at_fault_if_the_cell_works_with_ours_in_its_place() -> None:
    broken = with_client("miredo")
    found = grid(*broken)
    assert {found.miredos(cell) for cell in broken} == {("client",)}
    assert all(found.good(cell) for cell in found.cells)
    assert blame(found, broken[0]) == "Miredo's client"


def test_two_parts_are_at_fault_if_the_cell_works_only_with_both_replaced() -> None:
    makers = Makers("miredo", "ours", "miredo")
    others = (makers, makers._replace(client="ours"), makers._replace(relay="ours"))
    found = grid(*(Cell(each, "cone", True) for each in others))
    assert found.miredos(Cell(makers, "cone", True)) == ("client", "relay")
    assert blame(found, Cell(makers, "cone", True)) == "Miredo's client and relay"


def test_what_fails_with_ours_alone_is_ours() -> None:
    broken = [cell for cell in cells() if cell.nat == "cone"]
    found = grid(*broken)
    assert not found.all_good
    assert {found.miredos(cell) for cell in broken} == {()}
    assert {blame(found, cell) for cell in broken} == {"ours"}
    assert not facts(found)["ok"]


def test_backends_that_differ_are_nobodys_success() -> None:
    odd = Cell(Makers("miredo", "ours", "ours"), "cone", True)
    both = Grid({"netns": dict(grid().found["netns"]), "docker": dict(grid(odd).found["netns"])})
    assert both.differs(odd)
    assert not both.all_good
    assert blame(both, odd) == "the backends differ"
    assert "agree about 63 of 64" in summary(both)


def test_no_probes_are_no_success() -> None:
    assert not Found({}).works
    assert not Found({"icmp6": None, "tcp": "no answer"}).works


def test_a_page_and_a_document_name_every_failure_with_its_packets() -> None:
    broken = with_client("miredo")
    found = grid(*broken, backends=("netns", "docker"))
    about = {"kernel": "Linux <6>"}
    page, document = html_text(found, about), markdown(found, about)
    assert page.count("<section") == len(broken)
    assert page.count("12/12") == document.count("12/12") == 64 - len(broken)
    assert "Linux &lt;6&gt;" in page
    for cell in broken:
        assert f"<a href='#{cell.client}'>" in page
        assert f"<section id='{cell.client}'>" in page
        assert f"### {title(cell)}" in document
    assert document.count("no: Miredo's client") == len(broken)
    assert document.count("NAT 192.0.2.9:1 → relay 192.0.2.6:2") == len(broken)


# --- evidence ----------------------------------------------------------------------------------------------------

NAT, SERVER, RELAY = "198.51.100.7", "192.0.2.2", "192.0.2.6"
MAPPED, OTHER = Endpoint(NAT, 40000), Endpoint(NAT, 41111)
AT_SERVER, AT_RELAY = Endpoint(SERVER, 3544), Endpoint(RELAY, 3545)
CLIENT = TeredoAddress(SERVER, 0, MAPPED).packed
HOST, LINK_LOCAL = packed("2001:db8::2"), packed("fe80::1")
WHO = Ends(text(CLIENT), frozenset({NAT}), frozenset({SERVER}), frozenset({RELAY}))
NONCE = b"\x01\x02\x03\x04"

TEST = Recorded(0.0, MAPPED, AT_SERVER, echo_request(CLIENT, HOST, b"1"))
CALL = Recorded(0.1, AT_RELAY, AT_SERVER, bubble(LINK_LOCAL, CLIENT) + nonce_trailer(NONCE))
PASSED_ON = Recorded(0.2, AT_SERVER, MAPPED, origin_indication(AT_RELAY) + CALL.data)
PLAIN_CALL = Recorded(0.1, AT_RELAY, AT_SERVER, bubble(LINK_LOCAL, CLIENT))
PLAIN_PASSED_ON = Recorded(0.2, AT_SERVER, MAPPED, origin_indication(AT_RELAY) + PLAIN_CALL.data)


def answer(source: Endpoint, trailer: bytes = b"") -> Recorded:
    return Recorded(0.3, source, AT_RELAY, bubble(CLIENT, LINK_LOCAL) + trailer)


DATA = Recorded(0.4, AT_RELAY, OTHER, echo_request(HOST, CLIENT, b"2"))


@pytest.mark.parametrize(
    ("packets", "words"),
    [
        ((), "The relay sends nothing"),
        ((TEST,), "The relay sends nothing"),
        ((TEST, CALL, CALL), "The server forwards none of the relay's 2 bubbles"),
        ((TEST, CALL, PASSED_ON), "The client answers none of the bubble"),
        ((TEST, CALL, PASSED_ON, answer(OTHER)), "from port 41111, and its address says 40000, without the nonce"),
        ((TEST, CALL, PASSED_ON, answer(OTHER)), "sends it nothing"),
        ((TEST, CALL, PASSED_ON, answer(OTHER, nonce_trailer(NONCE))), "with the relay's nonce"),
        ((TEST, PLAIN_CALL, PLAIN_PASSED_ON, answer(OTHER)), "the relay's bubbles carried no nonce"),
        ((TEST, CALL, PASSED_ON, answer(OTHER), DATA), "What the relay sends to port 41111 stays unanswered"),
        ((TEST, CALL, PASSED_ON, answer(MAPPED)), "Bubbles pass both ways"),
    ],
)
def test_the_first_step_that_is_missing_is_the_answer(packets: tuple[Recorded, ...], words: str) -> None:
    assert words in diagnose(WHO, packets)


def test_a_client_without_an_address_is_the_answer() -> None:
    assert diagnose(Ends(None, WHO.nat, WHO.server, WHO.relay), ()) == "The client has no Teredo address."


def test_packets_are_of_the_cell_whose_nat_they_pass_or_whose_client_they_are_about() -> None:
    stranger = TeredoAddress(SERVER, 0, Endpoint("198.51.100.8", 40000)).packed
    assert WHO.owns(TEST)
    assert WHO.owns(CALL)
    assert not WHO.owns(Recorded(0.0, AT_RELAY, AT_SERVER, bubble(LINK_LOCAL, stranger)))
    assert not WHO.owns(Recorded(0.0, AT_RELAY, AT_SERVER, b"nonsense"))


def test_a_story_names_its_ends() -> None:
    lines = story(WHO, (TEST, CALL, PASSED_ON))
    assert [line.at for line in lines] == [0.0, 100.0, 200.0]
    assert lines[1].source == "relay 192.0.2.6:3545"
    assert lines[2].to == "NAT 198.51.100.7:40000"
    assert "nonce 01020304" in lines[2].what


def test_ends_are_those_of_the_plan_and_the_status() -> None:
    planned = plan(topology(["cone"]))
    cell = Cell(Makers("miredo", "ours", "miredo"), "cone", True)
    nodes = [
        {"name": cell.client, "teredo_address": "2001::1", "ipv4": ["192.168.1.2"]},
        {"name": "server-ours", "ipv4": [SERVER, "192.0.2.3"]},
        {"name": "relay-miredo", "ipv4": ["192.0.2.7"]},
    ]
    who = ends(cell, planned, nodes)
    nat = planned.node(f"{cell.client}-nat").nat
    assert nat is not None
    assert who == Ends(
        "2001::1", frozenset(map(str, nat.setup.external)), frozenset({SERVER, "192.0.2.3"}), frozenset({"192.0.2.7"})
    )

"""What checks expect, and why: what RFC 4380 promises for each pair of NATs, and what a topology says instead."""

from __future__ import annotations

import pytest

from lab.check.expectation import expectations
from lab.nat.kinds import KINDS
from lab.nat.matrix import Cell, cell
from lab.topology.model import Nat, Topology
from tests.unit.helpers.topologies import topology

CLIENTS = {"cone": "alice", "addr_restricted": "bob", "port_restricted": "carol", "port_symmetric": "erin"}
SITES = (
    "sites: {"
    + ", ".join(f"home-{name}: {{nat: {kind}, clients: {{{name}: }}}}" for kind, name in CLIENTS.items())
    + "}"
)
FOUR_KINDS = f"servers: {{server: }}\nrelays: {{relay: }}\nhosts: {{web: }}\n{SITES}\n"
REFUSED = "RFC 4380 alone refuses a symmetric NAT"


def expected(lab: Topology) -> dict[tuple[str, str], tuple[str, str]]:
    found = expectations(lab)
    by_pair: dict[tuple[str, str], tuple[str, str]] = {
        (one.source, one.destination): (one.expected, one.because) for one in found
    }
    assert len(by_pair) == len(found)
    return by_pair


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("destination", KINDS)
def test_clients_follow_the_figure(source: str, destination: str) -> None:
    sites = f"x-home: {{nat: {source}, clients: {{x: }}}}, y-home: {{nat: {destination}, clients: {{y: }}}}"
    verdict, because = expected(topology(f"{{servers: {{s: }}, sites: {{{sites}}}}}"))["x", "y"]
    needed = cell(source, destination)
    assert verdict == ("reachable" if needed is Cell.YES else "unreachable")
    promise = {Cell.YES: "needs RFC 4380 alone", Cell.NO: f"promises nothing; {REFUSED}"}
    assert because == f"RFC 6081 Figure 1: {source} → {destination} " + promise.get(
        needed, f"needs {needed}; {REFUSED}"
    )


NESTED = """
servers: {s: }
relays: {r: }
hosts: {web: }
sites:
  carrier: {nat: cgn, clients: {carl: }}
  one: {nat: port_restricted, behind: carrier, clients: {alice: , anna: }}
  two: {nat: port_symmetric, behind: carrier, clients: {bob: }}
  hall: {nat: port_restricted}
  three: {nat: {kind: cone, hairpin: true}, behind: hall, clients: {dan: , dora: }}
  hotel: {nat: hotel, clients: {guest: }}
"""


def test_the_outermost_nat_decides_about_hairpinning() -> None:
    found = expected(topology(NESTED))
    assert found["alice", "anna"][0] == "reachable"  # the carrier turns them round, their home's NAT need not
    assert found["alice", "carl"][0] == "reachable"
    assert found["dan", "dora"] == ("unreachable", "same NAT without hairpinning")  # theirs would, but it is not asked


PRESETS = """
servers: {s: }
relays: {r: }
hosts: {web: , alone: {relay: local}}
sites:
  home: {nat: home_router, clients: {alice: , anna: }}
  carrier: {nat: cgn, clients: {carl: , cleo: }}
  work: {nat: office, clients: {erin: }}
  inn: {nat: hotel, clients: {greta: }}
"""


def test_presets_count_as_the_kinds_that_they_are() -> None:
    found = expected(topology(PRESETS))
    no_udp = ("unreachable", "greta gets no address: the NAT of inn lets no UDP through")
    no_address = ("unreachable", f"erin gets no address: {REFUSED}")

    def figure(source: str, destination: str, needed: str) -> tuple[str, str]:
        symmetric = "port_symmetric" in (source, destination)
        because = f"RFC 6081 Figure 1: {source} → {destination} {needed}"
        return ("unreachable", f"{because}; {REFUSED}") if symmetric else ("reachable", because)

    alone = "needs RFC 4380 alone"
    assert {pair: verdict for pair, verdict in found.items() if "anna" not in pair and "cleo" not in pair} == {
        ("alice", "carl"): figure("port_restricted", "cone", alone),
        ("carl", "alice"): figure("cone", "port_restricted", alone),
        ("alice", "erin"): figure("port_restricted", "port_symmetric", "promises nothing"),
        ("erin", "alice"): figure("port_symmetric", "port_restricted", "promises nothing"),
        ("carl", "erin"): figure("cone", "port_symmetric", "needs SNS"),
        ("erin", "carl"): figure("port_symmetric", "cone", "needs SNS"),
        **{(name, "greta"): no_udp for name in ("alice", "carl", "erin", "web", "alone")},
        **{("greta", name): no_udp for name in ("alice", "carl", "erin", "web", "alone")},
        **{pair: no_address for host in ("web", "alone") for pair in (("erin", host), (host, "erin"))},
        **{
            pair: ("reachable", because)
            for name in ("alice", "carl")
            for host, because in (("web", "r is the relay of web"), ("alone", "alone is its own relay"))
            for pair in ((name, host), (host, name))
        },
    }
    assert found["alice", "anna"] == ("unreachable", "same NAT without hairpinning")
    assert found["carl", "cleo"] == ("reachable", f"RFC 6081 Figure 1: cone → cone {alone}")


CHAIN = """
servers: {s: }
relays: {r: }
hosts: {web: }
sites:
  outer: {nat: {kind: %s, hairpin: %s}}
  middle: {nat: %s, behind: outer}
  inner: {nat: %s, behind: middle, clients: {alice: , anna: }}
  other: {nat: cone, clients: {bob: }}
"""


@pytest.mark.parametrize(
    ("chain", "kind"),
    [
        (("cone", "no", "cone", "cone"), "cone"),
        (("cone", "no", "cone", "addr_restricted"), "addr_restricted"),
        (("cone", "no", "home_router", "cone"), "port_restricted"),
        (("port_restricted", "no", "cone", "cone"), "port_restricted"),
        (("upnp_port_restricted", "no", "cone", "addr_restricted"), "upnp_port_restricted"),
        (("cone", "no", "port_symmetric", "sequential_port_symmetric"), "port_symmetric"),
        (("cone", "no", "{mapping: ADM, filtering: EIF}", "cone"), "port_preserving_port_symmetric"),
        (("addr_symmetric", "no", "cone", "cone"), "addr_symmetric"),
    ],
)
def test_a_chain_of_nats_counts_as_the_one_that_allows_least(chain: tuple[str, ...], kind: str) -> None:
    found = expected(topology(CHAIN % chain))
    symmetric = "symmetric" in kind
    needed = cell("cone", kind)
    promise = (
        f"promises nothing; {REFUSED}"
        if needed is Cell.NO
        else f"needs {needed}; {REFUSED}"
        if symmetric
        else "needs RFC 4380 alone"
    )
    verdict = "unreachable" if symmetric else "reachable"
    assert found["bob", "alice"] == (verdict, f"RFC 6081 Figure 1: cone → {kind} {promise}")
    refused = ("unreachable", f"alice gets no address: {REFUSED}")
    assert found["alice", "web"] == (refused if symmetric else ("reachable", "r is the relay of web"))


@pytest.mark.parametrize("hairpin", ["yes", "no"])
@pytest.mark.parametrize("inner", ["cone", "{kind: cone, hairpin: yes}"])
def test_only_the_outermost_nat_turns_packets_round(hairpin: str, inner: str) -> None:
    found = expected(topology(CHAIN % ("port_restricted", hairpin, inner, inner)))
    figure = "RFC 6081 Figure 1: port_restricted → port_restricted needs RFC 4380 alone"
    same = ("unreachable", "same NAT without hairpinning")
    assert found["alice", "anna"] == (("reachable", figure) if hairpin == "yes" else same)


@pytest.mark.parametrize("place", ["outer", "middle", "inner"])
def test_one_nat_without_udp_is_enough(place: str) -> None:
    lab = topology(CHAIN % ("cone", "yes", "cone", "cone"))
    shut = lab.but(sites={**lab.sites, place: lab.sites[place].but(nat=Nat(kind="hotel"))})
    found = expected(shut)
    refused = ("unreachable", f"alice gets no address: the NAT of {place} lets no UDP through")
    assert found["alice", "web"] == found["bob", "alice"] == found["alice", "anna"] == refused


def test_miredo_behind_a_nested_symmetric_nat() -> None:
    found = expected(
        topology("""
            servers: {s: }
            relays: {r: }
            hosts: {web: }
            sites:
              outer: {nat: office}
              inner: {nat: cone, behind: outer, clients: {mira: {program: miredo}}}
              inn: {nat: hotel, clients: {max: {program: miredo}}}
              other: {nat: cone, clients: {bob: }}
        """)
    )
    assert found["mira", "web"] == ("reachable", "r is the relay of web")
    assert not {("mira", "bob"), ("bob", "mira")} & found.keys()
    assert found["max", "web"] == ("unreachable", "max gets no address: the NAT of inn lets no UDP through")


def test_of_several_nats_the_worst_counts() -> None:
    found = expected(topology(NESTED))
    assert found["dan", "carl"] == ("reachable", "RFC 6081 Figure 1: port_restricted → cone needs RFC 4380 alone")
    assert found["bob", "web"] == ("unreachable", f"bob gets no address: {REFUSED}")
    assert found["carl", "bob"] == ("unreachable", f"RFC 6081 Figure 1: cone → port_symmetric needs SNS; {REFUSED}")


def test_without_udp_there_is_no_teredo() -> None:
    found = expected(topology(NESTED))
    no_address = ("unreachable", "guest gets no address: the NAT of hotel lets no UDP through")
    assert found["guest", "web"] == found["web", "guest"] == found["guest", "carl"] == no_address


def test_clients_and_a_native_host() -> None:
    found = expected(topology(FOUR_KINDS))
    for kind, name in CLIENTS.items():
        verdict = (
            ("unreachable", f"erin gets no address: {REFUSED}")
            if kind == "port_symmetric"
            else ("reachable", "relay is the relay of web")
        )
        assert found[name, "web"] == found["web", name] == verdict
    assert len(found) == 4 * 3 + 4 * 2


def test_which_relay_serves_a_host() -> None:
    lab = "servers: {server: {relay: true}}\nsites: {home: {clients: {alice: }}}\nhosts: {web: {relay: %s}}"
    assert expected(topology(lab % ""))["alice", "web"] == ("reachable", "server is the relay of web")
    assert expected(topology(lab % "local"))["web", "alice"] == ("reachable", "web is its own relay")
    without = (lab % "").replace("{relay: true}", "")
    assert expected(topology(without))["alice", "web"] == ("unreachable", "no relay serves web")


def test_hosts_are_not_checked_among_themselves() -> None:
    assert expected(topology("{servers: {s: }, relays: {r: }, hosts: {web: , two: }}")) == {}


def test_behind_one_nat() -> None:
    found = expected(topology("{servers: {s: }, sites: {home: {nat: cone, clients: {alice: , bob: }}}}"))
    because = "same NAT without hairpinning"
    assert found == {("alice", "bob"): ("unreachable", because), ("bob", "alice"): ("unreachable", because)}


def test_miredo_behind_a_symmetric_nat() -> None:
    found = expected(
        topology("""
            servers: {server: }
            relays: {relay: }
            hosts: {web: }
            sites:
              a: {nat: port_symmetric, clients: {mira: {program: miredo}}}
              b: {nat: port_symmetric, clients: {erin: }}
              c: {nat: cone, clients: {alice: }}
              d: {nat: port_restricted, clients: {dave: {program: miredo}}}
        """)
    )
    assert found["mira", "web"] == found["web", "mira"] == ("reachable", "relay is the relay of web")
    assert not {("mira", "alice"), ("alice", "mira"), ("mira", "dave"), ("dave", "mira")} & found.keys()
    assert found["mira", "erin"][0] == found["erin", "mira"][0] == "unreachable"  # erin has no address
    assert found["dave", "alice"][0] == "reachable"


def test_who_does_not_know_the_secret_reaches_nobody() -> None:
    found = expected(
        topology("""
            servers: {secure: {secrets: {a: one, m: two}}, open: }
            relays: {relay: }
            hosts: {web: }
            sites:
              a: {clients: {alice: {client_id: a, secret: one}}}
              m: {clients: {mallory: {client_id: m, secret: one}}}
              o: {clients: {oscar: }}
              d: {clients: {dave: {program: miredo}}}
              e: {clients: {erin: {server: open}}}
        """)
    )
    assert found["alice", "erin"][0] == found["erin", "alice"][0] == found["alice", "web"][0] == "reachable"
    for name in ("mallory", "oscar", "dave"):
        refused = ("unreachable", f"{name} gets no address: it does not have the secret that secure asks for")
        assert found[name, "alice"] == found["alice", name] == found[name, "web"] == found["web", name] == refused


RING = """
servers: {s: }
relays: {r: }
hosts: {web: , two: }
sites: {home: {clients: {%s}}}
checks: {pairs: ring}
"""


@pytest.mark.parametrize(
    ("clients", "pairs"),
    [
        ("", []),
        ("a: ", [("a", "web"), ("web", "a")]),
        ("a: , b: ", [("a", "b"), ("b", "a"), ("a", "web"), ("web", "a"), ("b", "web"), ("web", "b")]),
        (
            "a: , b: , c: ",
            [
                *(("a", "b"), ("b", "c"), ("c", "a")),
                *(("a", "web"), ("web", "a"), ("b", "web"), ("web", "b"), ("c", "web"), ("web", "c")),
            ],
        ),
    ],
)
def test_a_ring(clients: str, pairs: list[tuple[str, str]]) -> None:
    assert list(expected(topology(RING % clients))) == pairs


def test_what_the_topology_expects_itself() -> None:
    found = expected(
        topology(
            FOUR_KINDS.replace("web: ", "web: , two: ")
            + """
checks:
  expect:
    - {from: alice, to: erin, is: reachable, because: measured}
    - {from: web, to: two, is: reachable}
"""
        )
    )
    assert found["alice", "erin"] == ("reachable", "measured")
    assert found["erin", "alice"][0] == "unreachable"
    assert found["web", "two"] == ("reachable", "the topology says so")
    assert ("two", "web") not in found


def test_nodes_that_are_left_out() -> None:
    found = expected(topology(FOUR_KINDS + "checks: {without: [bob, web]}"))
    assert {name for pair in found for name in pair} == {"alice", "carol", "erin"}
    assert len(found) == 6

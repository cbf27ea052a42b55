"""What checks expect, and why: what RFC 4380 promises for each pair of NATs, and what a topology says instead."""

from __future__ import annotations

import pytest

from lab.check.expectation import expectations
from lab.nat.kinds import KINDS
from lab.nat.matrix import BEYOND, OPEN, Cell, cell
from lab.topology.model import Nat, Topology
from lab.topology.pairs import with_extensions
from tests.unit.helpers.topologies import topology

CLIENTS = {"cone": "alice", "addr_restricted": "bob", "port_restricted": "carol", "port_symmetric": "erin"}
SITES = (
    "sites: {"
    + ", ".join(f"home-{name}: {{nat: {kind}, clients: {{{name}: }}}}" for kind, name in CLIENTS.items())
    + "}"
)
FOUR_KINDS = f"servers: {{server: }}\nrelays: {{relay: }}\nhosts: {{web: }}\n{SITES}\n"
NEARBY = "hairpinning (RFC 6081 section 3.5): a local address in the LAN of"
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
    found = expected(topology(f"{{servers: {{s: }}, sites: {{{sites}}}}}"))
    if (source, destination) in OPEN:
        assert ("x", "y") not in found
        return
    verdict, because = found["x", "y"]
    needed = cell(source, destination)
    promise = {Cell.YES: "needs RFC 4380 alone", Cell.NO: "promises nothing"}.get(needed, f"needs {needed}")
    if (source, destination) in BEYOND:
        promise += f", but {BEYOND[source, destination]}"
    assert verdict == ("unreachable" if promise == "promises nothing" else "reachable")
    assert because == f"RFC 6081 Figure 1: {source} → {destination} {promise}"


PAIR = "sites: {x-home: {nat: %s, clients: {x: {extensions: %s}}}, y-home: {nat: %s, clients: {y: {extensions: %s}}}}"


@pytest.mark.parametrize(
    ("nats", "extensions", "verdict", "because"),
    [
        (("cone", "cone"), ("[]", "[]"), "reachable", "needs RFC 4380 alone"),
        (("cone", "port_symmetric"), ("[]", "[]"), "unreachable", f"y gets no address: {REFUSED}"),
        (("cone", "port_symmetric"), ("[symmetric]", "[symmetric]"), "reachable", "needs SNS"),
        (
            ("cone", "port_symmetric"),
            ("[]", "[symmetric]"),
            "unreachable",
            "needs SNS, and not both have symmetric",
        ),
        (
            ("port_restricted", "sequential_port_symmetric"),
            ("[symmetric, port-preserving]", "[symmetric, port-preserving, sequential]"),
            "unreachable",
            "needs SNS+SS, and not both have sequential",
        ),
        (
            ("upnp_port_restricted", "upnp_port_symmetric"),
            ("[symmetric]", "[symmetric, upnp]"),
            "unreachable",
            "needs SNS+UPnP, and not both have upnp",
        ),
        (("port_symmetric", "port_symmetric"), ("[symmetric]", "[symmetric]"), None, ""),
        (("addr_restricted", "addr_symmetric"), ("", ""), None, ""),
        (("port_restricted", "{mapping: ADM, filtering: APDF}"), ("", ""), None, ""),
        (("cone", "{mapping: ADM, filtering: APDF}"), ("", ""), "reachable", "needs SNS"),
    ],
)
def test_what_both_clients_lack_or_have(
    nats: tuple[str, str], extensions: tuple[str, str], verdict: str | None, because: str
) -> None:
    sites = PAIR % (nats[0], extensions[0], nats[1], extensions[1])
    found = expected(topology(f"{{servers: {{s: }}, {sites}}}")).get(("x", "y"))
    assert (found and found[0]) == verdict
    assert found is None or found[1].endswith(because)


def without_extensions(lab: Topology) -> Topology:
    return with_extensions(lab, ())


def test_a_port_is_foreseen_where_nobody_else_takes_ports() -> None:
    lab = """
servers: {s: }
sites:
  one: {nat: sequential_port_symmetric, clients: {gary: %s}}
  two: {nat: port_restricted, clients: {carl: }}
  three: {nat: cone, clients: {alan: }}
"""
    alone, crowded = expected(topology(lab % "")), expected(topology(lab % ", gina: "))
    assert alone["gary", "carl"][0] == alone["carl", "gary"][0] == "reachable"
    assert not {("gary", "carl"), ("carl", "gary")} & crowded.keys()
    assert crowded["gary", "alan"] == alone["gary", "alan"]


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
    assert found["dan", "dora"] == ("reachable", f"{NEARBY} three")
    plain = expected(without_extensions(topology(NESTED)))
    assert plain["dan", "dora"] == ("unreachable", "same NAT without hairpinning")  # theirs would, but it is not asked


def test_clients_with_one_nat_in_common_know_other_ways() -> None:
    lab = """
servers: {s: }
sites:
  carrier: {nat: port_restricted, clients: {carl: , cleo: {extensions: []}}}
  one: {nat: port_restricted, behind: carrier, clients: {alice: }}
  two: {nat: port_symmetric, behind: carrier, clients: {bob: }}
  deep: {nat: cone, behind: one, clients: {dan: }}
"""
    found = expected(topology(lab))
    nearby = ("reachable", f"{NEARBY} carrier")
    same = ("unreachable", "same NAT without hairpinning")
    assert found["alice", "carl"] == found["carl", "alice"] == found["bob", "carl"] == found["carl", "dan"] == nearby
    assert found["alice", "dan"] == ("reachable", f"{NEARBY} one")
    assert found["alice", "bob"] == found["dan", "bob"] == found["alice", "cleo"] == same


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

    def figure(source: str, destination: str, needed: str) -> tuple[str, str]:
        verdict = "unreachable" if needed == "promises nothing" else "reachable"
        return verdict, f"RFC 6081 Figure 1: {source} → {destination} {needed}"

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
        **{
            pair: ("reachable", because)
            for name in ("alice", "carl", "erin")
            for host, because in (("web", "r is the relay of web"), ("alone", "alone is its own relay"))
            for pair in ((name, host), (host, name))
        },
    }
    assert found["alice", "anna"] == ("reachable", f"{NEARBY} home")
    plain = expected(without_extensions(topology(PRESETS)))
    assert plain["alice", "anna"] == ("unreachable", "same NAT without hairpinning")
    assert plain["carl", "cleo"] == ("reachable", f"RFC 6081 Figure 1: cone → cone {alone}")
    assert plain["erin", "web"] == plain["web", "erin"] == ("unreachable", f"erin gets no address: {REFUSED}")


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
    promise = "needs SNS" if "symmetric" in kind else "needs RFC 4380 alone"
    assert found["bob", "alice"] == ("reachable", f"RFC 6081 Figure 1: cone → {kind} {promise}")
    assert found["alice", "web"] == ("reachable", "r is the relay of web")


@pytest.mark.parametrize("hairpin", ["yes", "no"])
@pytest.mark.parametrize("inner", ["cone", "{kind: cone, hairpin: yes}"])
def test_only_the_outermost_nat_turns_packets_round(hairpin: str, inner: str) -> None:
    found = expected(without_extensions(topology(CHAIN % ("port_restricted", hairpin, inner, inner))))
    figure = "RFC 6081 Figure 1: port_restricted → port_restricted needs RFC 4380 alone"
    same = ("unreachable", "same NAT without hairpinning")
    assert found["alice", "anna"] == (("reachable", figure) if hairpin == "yes" else same)


def test_nothing_is_promised_to_clients_of_one_lan_that_may_discover_each_other() -> None:
    lab = """
servers: {s: }
sites:
  home:
    nat: port_restricted
    clients:
      alice: {extensions: [], local_discovery: true}
      anna: {extensions: [], local_discovery: true}
      adam: {extensions: []}
"""
    found = expected(topology(lab))
    assert ("alice", "anna") not in found
    assert found["alice", "adam"] == ("unreachable", "same NAT without hairpinning")


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
    assert found["bob", "web"] == ("reachable", "r is the relay of web")
    assert ("bob", "dan") not in found  # nothing is promised, and of two NATs too little is known


def test_without_udp_there_is_no_teredo() -> None:
    found = expected(topology(NESTED))
    no_address = ("unreachable", "guest gets no address: the NAT of hotel lets no UDP through")
    assert found["guest", "web"] == found["web", "guest"] == found["guest", "carl"] == no_address


def test_clients_and_a_native_host() -> None:
    found = expected(topology(FOUR_KINDS))
    for kind, name in CLIENTS.items():
        assert found[name, "web"] == found["web", name] == ("reachable", "relay is the relay of web"), kind
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
    because = f"{NEARBY} home"
    assert found == {("alice", "bob"): ("reachable", because), ("bob", "alice"): ("reachable", because)}


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
    assert not {("mira", "erin"), ("erin", "mira")} & found.keys()
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
    assert found["erin", "alice"][1] != "measured"
    assert found["web", "two"] == ("reachable", "the topology says so")
    assert ("two", "web") not in found


def test_nodes_that_are_left_out() -> None:
    found = expected(topology(FOUR_KINDS + "checks: {without: [bob, web]}"))
    assert {name for pair in found for name in pair} == {"alice", "carol", "erin"}
    assert len(found) == 6

"""What NATs do over time and under attack, how they are changed while a lab runs, and that a wrong one is caught."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Start
from tests.e2e.labs import RunningLab, arrives, cli, mapped, running, until

pytestmark = pytest.mark.e2e

KINDS = {
    "cone": "{kind: cone}",
    "conept": "{kind: cone, engine: iptables}",
    "addr": "{kind: addr_restricted}",
    "addript": "{kind: addr_restricted, engine: iptables}",
    "port": "{kind: port_restricted}",
    "portnft": "{kind: port_restricted, engine: nftables}",
    "random": "{kind: port_symmetric}",
    "randomnft": "{kind: port_symmetric, engine: nftables}",
    "kept": "{kind: port_preserving_port_symmetric}",
    "keptnft": "{kind: port_preserving_port_symmetric, engine: nftables, hairpin: true}",
    "seq": "{kind: sequential_port_symmetric, delta: 2}",
    "seqnft": "{kind: sequential_port_symmetric, delta: 3, engine: nftables}",
    "many": "{kind: addr_symmetric, addresses: 2}",
    "manynft": "{kind: addr_symmetric, addresses: 2, engine: nftables}",
    "router": "{kind: home_router}",
    "adm": "{mapping: ADM, filtering: ADF}",
}
ONE_HOST = ("conept", "addript")
UNSOLICITED = 10_000


def several(nats: dict[str, str], hosts: str = "abc") -> str:
    """A topology with these NATs, and so many clients behind each."""
    sites = []
    for site, nat in nats.items():
        clients = ", ".join(f"{site}{host}: " for host in (hosts[0] if site in ONE_HOST else hosts))
        sites.append(f"  {site}: {{nat: {nat}, clients: {{{clients}}}}}")
    return "\n".join(["servers: {server: }", "checks: {pairs: ring}", "sites:", *sites, ""])


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running(several(KINDS), tmp_path_factory.mktemp("behaviour")) as lab:
        yield lab


def test_unsolicited_packets_change_nothing(lab: RunningLab) -> None:
    """Before, during and after mappings are made; half of them to ports that are mapped, or just going to be."""
    externals = {
        node["site"]: [address for address in node["ipv4"] if not address.startswith("192.168.")]
        for node in lab.status()["nodes"]
        if node["role"] == "nat"
    }
    rng = random.Random(4787)
    with contextlib.ExitStack() as stack:
        attackers = [stack.enter_context(lab.socket("internet", which=1)) for _ in range(200)]
        server = stack.enter_context(lab.socket("internet"))
        insides = {site: stack.enter_context(lab.socket(f"{site}a", 31000)) for site in KINDS}
        known = {site: [(address, 31000) for address in externals[site]] for site in KINDS}

        def attack(count: int) -> None:
            for _ in range(count):
                site = rng.choice(list(KINDS))
                anywhere = (rng.choice(externals[site]), rng.randrange(1024, 65536))
                with contextlib.suppress(OSError):
                    rng.choice(attackers).sendto(b"unsolicited", rng.choice([anywhere, rng.choice(known[site])]))

        attack(UNSOLICITED // 4)
        ends = {}
        attacking = threading.Thread(target=attack, args=(UNSOLICITED // 2,))
        attacking.start()
        for site, inside in insides.items():
            ends[site] = mapped(inside, server)
            known[site].append(ends[site])
        code, rows = lab.nat()
        attacking.join()
        assert (code, [row["problems"] for row in rows if not row["ok"]]) == (0, [])
        attack(UNSOLICITED // 4)
        entered = {site for site, inside in insides.items() if _heard(inside, b"unsolicited")}
        assert entered == {
            "cone",
            "conept",
        }  # strangers come in where filtering is endpoint-independent, and only there
        for site, inside in insides.items():
            assert mapped(inside, server) == ends[site]
            assert arrives(server, inside, ends[site]), site
        code, rows = lab.nat()
        assert (code, [row["problems"] for row in rows if not row["ok"]]) == (0, [])


def _heard(inside: socket.socket, data: bytes) -> bool:
    """Whether this is among what came in while nobody read; nothing of it is left."""
    inside.setblocking(False)
    heard = set()
    with contextlib.suppress(BlockingIOError):
        while True:
            heard.add(inside.recv(100))
    return data in heard


@pytest.mark.parametrize(("site", "delta"), [("seq", 2), ("seqnft", 3)])
def test_sequential_ports_go_up_by_delta_however_hosts_take_turns(lab: RunningLab, site: str, delta: int) -> None:
    rng = random.Random(delta)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(lab.socket("internet")) for _ in range(2)]
        ports = []
        for _ in range(60):
            inside = stack.enter_context(lab.socket(f"{site}{rng.choice('abc')}"))
            ports.append(mapped(inside, rng.choice(servers))[1])
            if rng.random() < 0.5:  # an old flow in between takes no port
                mapped(inside, servers[0])
                mapped(inside, servers[1])
                ports.append(mapped(inside, stack.enter_context(lab.socket("internet")))[1])
    steps = {(after - before) // delta for before, after in itertools.pairwise(ports)}
    assert all((after - before) % delta == 0 for before, after in itertools.pairwise(ports))
    assert steps <= {1, 2}


@pytest.mark.parametrize("site", ["seq", "seqnft"])
def test_each_new_flow_gets_exactly_the_next_port(lab: RunningLab, site: str) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(lab.socket("internet"))
        insides = [stack.enter_context(lab.socket(f"{site}{'abc'[turn % 3]}")) for turn in range(60)]
        ports = [mapped(inside, server)[1] for inside in insides]
    delta = {"seq": 2, "seqnft": 3}[site]
    assert [after - before for before, after in itertools.pairwise(ports)] == [delta] * 59


@pytest.mark.parametrize("site", ["many", "manynft"])
def test_a_symmetric_nat_uses_both_of_its_addresses(lab: RunningLab, site: str) -> None:
    external = {address for address in lab.node(f"{site}-nat")["ipv4"] if not address.startswith("192.168.")}
    with contextlib.ExitStack() as stack:
        inside = stack.enter_context(lab.socket(f"{site}a"))
        ends = [mapped(inside, stack.enter_context(lab.socket("internet"))) for _ in range(10)]
    assert {address for address, _ in ends} == external
    assert len(set(ends)) == 10


LIFETIMES = {
    "cone": ("{kind: cone, udp_timeout: 4}", 4, 4, True),
    "conept": ("{kind: cone, engine: iptables, udp_timeout: 4}", 4, 4, True),
    "coneout": ("{kind: cone, udp_timeout: 4, inbound_refresh: false}", 4, 4, False),
    "addript": ("{kind: addr_restricted, engine: iptables, udp_timeout: 4}", 4, 4, True),
    "addrout": ("{kind: addr_restricted, udp_timeout: 5, inbound_refresh: false}", 5, 5, False),
    "port": ("{kind: port_restricted, udp_timeout: 5}", 5, 5, True),
    "portout": ("{kind: port_restricted, udp_timeout: 3, inbound_refresh: false}", 3, 3, False),
    "two": ("{kind: port_restricted, udp_timeout: 6, udp_timeout_new: 3}", 3, 6, True),
    "twoout": ("{kind: cone, udp_timeout: 6, udp_timeout_new: 3, inbound_refresh: false}", 3, 6, False),
    "random": ("{kind: port_symmetric, udp_timeout: 4}", 4, 4, True),
    "kept": ("{kind: port_preserving_port_symmetric, udp_timeout: 4}", 4, 4, True),
    "seqout": ("{kind: sequential_port_symmetric, udp_timeout: 4, inbound_refresh: false}", 4, 4, False),
    "router": ("{kind: home_router, udp_timeout: 6, udp_timeout_new: 3}", 3, 6, True),
    "adm": ("{mapping: ADM, filtering: EIF, udp_timeout: 4, inbound_refresh: false}", 4, 4, False),
}


def test_mappings_live_as_long_as_they_should(start: Start) -> None:
    lab = start(several({site: nat for site, (nat, *_) in LIFETIMES.items()}, hosts="a"))
    code, rows = lab.nat("--lifetime", "9")
    seen = {row["node"].removesuffix("-nat"): row for row in rows}
    for site, (_, new, established, inbound) in LIFETIMES.items():
        row = seen[site]
        assert abs(row["lifetime_new"] - new) <= 1, (site, row)
        assert abs(row["lifetime"] - established) <= 1, (site, row)
        assert row["outbound_refresh"] is True, (site, row)
        assert row["inbound_refresh"] is inbound, (site, row)
        assert row["problems"] == [], site
    assert code == 0


BREAKS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "lets everybody in": ("portnft", ("nft", "flush chain ip nat_lab filtering"), "filtering is EIF, not APDF"),
    "maps at random": (
        "port",
        ("iptables", "-t", "nat", "-I", "POSTROUTING", "-o", "wan", "-p", "udp", "-j", "MASQUERADE", "--random-fully"),
        "mapping is APDM, not EIM",
    ),
    "forgets": ("cone", ("nft", "flush chain ip nat_lab remember"), "no UDP passes"),
    "passes no UDP": ("kept", ("iptables", "-I", "FORWARD", "-p", "udp", "-j", "DROP"), "no UDP passes"),
    "does not hairpin": ("keptnft", ("nft", "flush chain ip nat_lab destination"), "there is no hairpinning"),
}


def test_a_wrong_nat_is_caught(start: Start) -> None:
    nats = {site: KINDS[site] for site, *_ in BREAKS.values()}
    lab = start(several(nats, hosts="ab"))
    assert lab.nat()[0] == 0
    for site, command, _ in BREAKS.values():
        lab.exec(f"{site}-nat", *command)
    code, rows = lab.nat()
    problems = {row["node"].removesuffix("-nat"): "; ".join(row["problems"]) for row in rows}
    assert code == 1
    for what, (site, _, problem) in BREAKS.items():
        assert problem in problems[site], what
    topology = lab.status()["topology"]
    up = cli("up", topology, "--name", lab.name)
    assert up.returncode == 1
    for site, *_ in BREAKS.values():
        assert f"{site}-nat is failed: not what the topology says" in up.stdout
        assert lab.node(f"{site}-nat")["state"] == "failed"
    for site in nats:
        cli("nat", "reset", f"{site}-nat", "--name", lab.name, check=True)
        assert lab.node(f"{site}-nat")["state"] == "running"


def test_icmp_errors_are_translated_or_not(start: Start) -> None:
    nats = {
        "no": "{kind: port_restricted, icmp_errors: false}",
        "nonft": "{kind: cone, icmp_errors: false}",
        "yes": "cone",
    }
    _, rows = start(several(nats)).nat()
    assert [(row["icmp_errors"], row["problems"]) for row in rows] == [(False, []), (False, []), (True, [])]


LESSON = """
servers: {server: }
relays: {relay: }
hosts: {web: }
sites:
  home: {nat: {kind: cone, ports: random}, clients: {alice: {refresh_interval: 2}}}
  away: {nat: port_restricted, clients: {carol: {refresh_interval: 2}}}
"""


def test_clients_recover_when_their_nat_is_power_cycled(start: Start) -> None:
    lab = start(LESSON)
    before = lab.address("alice")
    cli("nat", "reset", "home-nat", "--name", lab.name, check=True)
    lab.wait_for(lambda nodes: nodes["alice"]["teredo_address"] not in (None, before))
    assert lab.reaches("carol", "alice")
    assert lab.reaches("alice", "carol")
    assert lab.check()["ok"]


def test_a_nat_becomes_another_kind_while_the_lab_runs(start: Start) -> None:
    lab = start(LESSON)
    carol, before = lab.address("carol"), lab.address("alice")
    assert lab.reaches("carol", "alice")
    cli("nat", "set", "home-nat", "port_symmetric", "--name", lab.name, check=True)
    assert lab.node("home-nat")["nat_kind"] == "port_symmetric"
    lab.wait_for(lambda nodes: nodes["alice"]["teredo_address"] not in (None, before))
    assert not lab.reaches("carol", "alice", wait=3)
    expected = {result["because"] for result in lab.check("alice", "carol")["results"] if not result["ok"]}
    assert expected == set()  # checks know that the NAT is another one
    symmetric = lab.address("alice")
    cli("nat", "set", "home-nat", "cone", "hairpin=yes", "addresses=2", "--name", lab.name, check=True)
    (row,) = lab.nat("home-nat")[1]
    assert (row["kind"], row["mapping"], row["filtering"], row["hairpin"]) == ("cone", "EIM", "EIF", True)
    assert len([address for address in lab.node("home-nat")["ipv4"] if address.startswith("198.51.100.")]) == 2
    lab.wait_for(lambda nodes: nodes["alice"]["teredo_address"] not in (None, symmetric))
    assert lab.reaches("carol", "alice")
    assert lab.address("carol") == carol


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (("conee",), "unknown NAT kind 'conee'; did you mean 'cone'?"),
        (("cone", "filtering=APDF"), "cone has filtering EIF, not APDF"),
        (("udp_timeout=0",), "udp_timeout"),
        (("hairpin=perhaps",), "hairpin"),
        (("engine=iptables", "hairpin=yes"), "iptables cannot do this exactly"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_changes_nothing(
    lab: RunningLab, change: tuple[str, ...], error: str
) -> None:
    before = lab.node("port-nat")
    result = cli("nat", "set", "port-nat", *change, "--name", lab.name)
    assert result.returncode == 2
    assert error in result.stderr
    assert lab.node("port-nat") == before
    code, rows = lab.nat("port-nat")
    assert (code, [row["problems"] for row in rows]) == (0, [[]])


def test_only_nats_can_be_measured_and_changed(lab: RunningLab) -> None:
    for arguments in (("show", "server"), ("set", "server", "cone"), ("reset", "server")):
        result = cli("nat", *arguments, "--name", lab.name)
        assert result.returncode == 2
        assert "server is no NAT" in result.stderr
    assert cli("nat", "nobody", "--name", lab.name).returncode == 2


def test_the_rules_are_those_of_the_kernel(lab: RunningLab) -> None:
    printed = cli("nat", "adm-nat", "--rules", "--name", lab.name, check=True).stdout
    kernel = lab.exec("adm-nat", "nft", "list", "table", "ip", "nat_lab").stdout
    assert [line for line in kernel.splitlines() if "chain" in line] == [
        line for line in printed.splitlines() if "chain" in line
    ]
    lab.exec("seq-nat", "iptables", "-A", "FORWARD", "-s", "203.0.113.77", "-j", "ACCEPT")
    assert "203.0.113.77" in cli("nat", "seq-nat", "--rules", "--name", lab.name, check=True).stdout


UPNP = """
servers: {server: }
sites:
  eim: {nat: upnp_port_restricted, clients: {alice: }}
  apdm: {nat: upnp_port_symmetric, clients: {bob: }}
  nft: {nat: {kind: upnp_port_restricted, hairpin: true}, clients: {carol: }}
"""


def test_a_port_opened_by_upnp_is_open_to_everybody(start: Start) -> None:
    lab = start(UPNP)
    for client, nat in (("alice", "eim-nat"), ("bob", "apdm-nat"), ("carol", "nft-nat")):
        own, external = lab.node(client)["ipv4"][0], lab.node(nat)["ipv4"][0]
        with lab.socket(client, 33333) as inside, lab.socket("internet") as stranger, lab.socket("internet") as server:
            assert not arrives(stranger, inside, (external, 33333))
            added = lab.exec(client, "upnpc", "-e", "test", "-a", own, "33333", "33333", "udp").stdout
            assert f"external {external}:33333 UDP is redirected to internal {own}:33333" in added
            assert arrives(stranger, inside, (external, 33333))
            mapped(inside, server)
            assert arrives(stranger, inside, (external, 33333))  # also when the port has an owner by then
            lab.exec(client, "upnpc", "-d", "33333", "udp")
            with lab.socket("internet") as another:
                assert not arrives(another, inside, (external, 33333))
    assert lab.nat()[0] == 0


def test_a_symmetric_nat_with_upnp_shows_the_open_port_to_the_first_peer_only(start: Start) -> None:
    lab = start(UPNP)
    own = lab.node("bob")["ipv4"][0]
    lab.exec("bob", "upnpc", "-e", "test", "-a", own, "33333", "33333", "udp")
    with lab.socket("bob", 33333) as inside, lab.socket("internet") as first, lab.socket("internet") as second:
        assert mapped(inside, first)[1] == 33333
        assert mapped(inside, second)[1] != 33333


NESTED = """
servers: {server: }
relays: {relay: }
hosts: {web: }
sites:
  carrier: {nat: cgn, clients: {carl: }}
  hall: {nat: {kind: port_restricted, hairpin: true}, clients: {}}
  one: {nat: port_restricted, behind: carrier, clients: {alice: , anna: }}
  two: {nat: {kind: cone, hairpin: true}, behind: carrier, clients: {bob: }}
  inner: {nat: addr_restricted, behind: two, clients: {ben: }}
  far: {nat: cone, behind: hall, clients: {fay: }}
  home: {nat: port_restricted, clients: {carol: }}
"""


def test_nats_behind_nats(start: Start) -> None:
    """Three levels, clients at each, and hairpinning at the carrier, where all their addresses are."""
    lab = start(NESTED)
    answer = lab.check()
    assert answer["ok"], [result for result in answer["results"] if not result["ok"]]
    verdicts = {(result["source"], result["destination"]): result["observed"] for result in answer["results"]}
    assert set(verdicts.values()) == {"reachable"}  # even two clients of one home: the carrier turns them round
    assert len(verdicts) == 7 * 6 + 2 * 7
    code, rows = lab.nat()
    assert (code, {row["node"]: row["hairpin"] for row in rows}) == (
        0,
        {
            "carrier-nat": True,
            "hall-nat": True,
            "one-nat": False,
            "two-nat": True,
            "inner-nat": False,
            "far-nat": False,
            "home-nat": False,
        },
    )
    carrier = set(lab.node("carrier-nat")["ipv4"])
    for client in ("carl", "alice", "anna", "bob", "ben"):
        assert lab.teredo(client)["external_mapping"].split(":")[0] in carrier


def test_a_nat_without_clients_is_measured_by_a_guest_that_goes_again(start: Start) -> None:
    lab = start("servers: {server: }\nsites: {empty: {nat: port_restricted}}\n")
    until(lambda: "guest" not in lab.exec("empty-nat", "ip", "-o", "link").stdout)
    before = lab.exec("empty-nat", "ip", "-o", "link").stdout
    for _ in range(5):  # also while the one before has not gone yet
        assert lab.nat()[0] == 0
    until(lambda: lab.exec("empty-nat", "ip", "-o", "link").stdout == before)

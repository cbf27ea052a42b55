"""The ten statements of the explanation that began the project, each shown on real namespaces."""

from __future__ import annotations

import ipaddress
import json
import re
import time
from itertools import pairwise
from statistics import median

import pytest

from lab.teredo.address import PORT, Endpoint, packed, parse
from tests.e2e.conftest import Start
from tests.e2e.labs import RunningLab, until

pytestmark = pytest.mark.e2e

SEND_FROM = """
import socket, sys
port, *targets = sys.argv[1:]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.bind(("0.0.0.0", int(port)))
    for target in targets:
        sender.sendto(b"hello", (target, 9999))
"""
"""Sends one UDP datagram to port 9999 of each target, all from one local port."""


def topology(
    nat: str = "port_restricted", *, refresh: float = 30, udp_timeout: int = 120, extra: str = "", alice: str = ""
) -> str:
    """Alice, with options, behind a NAT of a kind, carol behind a port-restricted one, a native host web."""
    options = f"{{refresh_interval: {refresh}{alice}}}"
    return f"""
servers: {{server: }}
relays: {{relay: }}
hosts: {{web: }}
sites:
  home: {{nat: {{kind: {nat}, udp_timeout: {udp_timeout}}}, clients: {{alice: {options}{extra}}}}}
  away: {{nat: port_restricted, clients: {{carol: }}}}
"""


def mapped(address: str) -> Endpoint:
    """The mapped address and port in a Teredo address."""
    teredo = parse(packed(address))
    assert teredo is not None
    return teredo.mapped


def server_addresses(lab: RunningLab) -> list[str]:
    addresses: list[str] = lab.node("server")["ipv4"]
    return addresses


def test_1_a_client_wraps_an_ipv6_packet_in_udp_over_ipv4_and_sends_it_to_a_teredo_server(start: Start) -> None:
    lab = start(topology())
    primary = server_addresses(lab)[0]
    with lab.capture("alice", "lan") as capture:
        assert lab.reaches("alice", "web")
    rows = capture.fields(
        f"ip.dst == {primary} && udp.dstport == {PORT} && icmpv6.type == 128", "ip.src", "ipv6.src", "ipv6.dst"
    )
    assert rows, "no echo request in UDP over IPv4 to the server"
    assert rows[0] == (lab.node("alice")["ipv4"][0], lab.address("alice"), lab.address("web"))


def test_2_the_server_listens_on_a_public_ipv4_address(start: Start) -> None:
    lab = start(topology())
    listening = lab.exec("server", "ss", "-ulnH").stdout
    for address in server_addresses(lab):
        assert not ipaddress.IPv4Address(address).is_loopback
        assert not any(ipaddress.IPv4Address(address) in net for net in map(ipaddress.IPv4Network, RFC1918))
        assert f"{address}:{PORT}" in listening


RFC1918 = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")


def test_3_the_server_unwraps_it_and_forwards_it_to_its_destination(start: Start) -> None:
    lab = start(topology())
    with lab.capture("server", "wan", "udp or ip6") as capture:
        assert lab.reaches("alice", "web")
    wrapped = capture.fields("udp && icmpv6.type == 128", "icmpv6.checksum")
    bare = capture.fields("!udp && icmpv6.type == 128", "icmpv6.checksum", "ipv6.src", "ipv6.dst")
    assert bare, "the server has forwarded no echo request"
    assert bare[0][0] == wrapped[0][0], "not the packet that came in"
    assert bare[0][1:] == (lab.address("alice"), lab.address("web"))


def test_3_the_server_does_not_forward_what_it_may_not(start: Start) -> None:
    """RFC 4380 section 5.3.1: bubbles and ICMPv6 only. A UDP packet sent through the server does not come out."""
    lab = start(topology())
    program = """
import socket, struct, sys
source, destination, server = sys.argv[1:]
six = lambda a: socket.inet_pton(socket.AF_INET6, a)
inner = struct.pack("!IHBB", 6 << 28, 8, 17, 64) + six(source) + six(destination) + struct.pack("!4H", 9, 9, 8, 0)
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.sendto(inner, (server, 3544))
"""
    before = lab.teredo("server")["counters"].get("dropped: neither bubble nor ICMPv6", 0)
    with lab.capture("server", "wan", "ip6") as capture:
        lab.python("alice", program, lab.address("alice"), lab.address("web"), server_addresses(lab)[0])
        assert lab.reaches("carol", "web")  # what is sent later has come through, so this would have too
    assert lab.teredo("server")["counters"]["dropped: neither bubble nor ICMPv6"] == before + 1
    assert capture.fields("ipv6.nxt == 17", "ipv6.src") == []


@pytest.mark.parametrize(("refresh", "alive"), [(3, True), (3600, False)])
def test_4_keep_alives_hold_the_mapping_past_three_nat_timeouts(start: Start, refresh: float, alive: bool) -> None:
    timeout = 4
    lab = start(topology(refresh=refresh, udp_timeout=timeout))
    time.sleep(3 * timeout + 1)  # idle but for keep-alives: this is what is being tested
    assert lab.reaches("web", "alice", wait=3) is alive


def test_5_each_refresh_verifies_that_the_mapped_port_is_still_the_one_in_the_address(start: Start) -> None:
    lab = start(topology(refresh=1))
    solicitations = lab.teredo("alice")["counters"]["solicitations"]
    with lab.capture("alice", "lan") as capture:
        until(lambda: lab.teredo("alice")["counters"]["solicitations"] >= solicitations + 3)
    rows = capture.fields("icmpv6.type == 134", "teredo.orig.addr", "teredo.orig.port")
    own = mapped(lab.address("alice"))
    assert len(rows) >= 2
    assert {Endpoint(host, int(port)) for host, port in rows} == {own}


def test_6_the_interval_is_randomised(start: Start) -> None:
    lab = start(topology(refresh=2))
    solicitations = lab.teredo("alice")["counters"]["solicitations"]
    with lab.capture("alice", "lan") as capture:
        until(lambda: lab.teredo("alice")["counters"]["solicitations"] >= solicitations + 6)
    times = [float(at) for (at,) in capture.fields("icmpv6.type == 133", "frame.time_epoch")]
    intervals = [later - earlier for earlier, later in pairwise(times)]
    assert min(intervals) >= 1.5, intervals
    assert median(intervals) <= 2.1, intervals  # a busy machine may be late with one of them
    assert max(intervals) - min(intervals) > 0.005, "two real intervals are the same"


def test_7_when_the_nat_changes_the_port_the_client_notices_and_traffic_resumes(start: Start) -> None:
    lab = start(topology(refresh=2, extra=", mallory: {}"))
    before = lab.address("alice")
    port = lab.teredo("alice")["local_mapping"].split(":")[1]
    server = server_addresses(lab)[0]
    with lab.socket("mallory", int(port)) as mallory:  # another inside host takes the external port
        lab.exec("home-nat", "sh", "-c", "conntrack -F; for s in $(ipset list -n); do ipset flush $s; done")
        mallory.sendto(b"hello", (server, 9999))
    lab.wait_for(lambda nodes: nodes["alice"]["teredo_address"] not in (before, None))
    after = lab.address("alice")
    assert mapped(after).port != mapped(before).port
    assert parse(packed(after)).mapped.host == mapped(before).host  # type: ignore[union-attr]
    assert before not in lab.exec("alice", "ip", "-6", "address").stdout, "the old address is still there"
    assert lab.reaches("alice", "web")
    assert lab.reaches("carol", "alice")


def test_8_address_and_port_are_in_the_ipv6_address_and_a_stranger_reaches_the_client(start: Start) -> None:
    lab = start(topology())
    address = mapped(lab.address("alice"))
    nat = lab.node("home-nat")["ipv4"]
    assert address.host in nat
    flows = lab.exec("home-nat", "conntrack", "-L", "-p", "udp").stdout
    assert re.search(rf"dst={re.escape(address.host)} sport={PORT} dport={address.port}\b", flows)
    rules = lab.exec("home-nat", "sh", "-c", "iptables-save; nft list ruleset").stdout
    assert f"{address.port}" not in rules, "somebody has configured the NAT"
    assert lab.reaches("carol", "alice")


def test_9_a_symmetric_nat_gives_another_port_per_destination_and_forgets_it_when_idle(start: Start) -> None:
    timeout = 2
    lab = start(topology("port_symmetric", udp_timeout=timeout))
    targets = [*server_addresses(lab), lab.node("relay")["ipv4"][0]]
    with lab.capture("internet", "home-nat") as capture:
        lab.python("alice", SEND_FROM, "40000", *targets)
        time.sleep(timeout + 2)  # idle: the mappings go
        lab.python("alice", SEND_FROM, "40000", targets[0])
    ports = [int(port) for (port,) in capture.fields("udp.dstport == 9999", "udp.srcport")]
    assert len(ports) == 4
    assert len(set(ports)) == 4, "a port came twice"


def test_9_a_plain_rfc_4380_client_is_refused_service_behind_a_symmetric_nat(start: Start) -> None:
    lab = start(topology("port_symmetric", alice=", extensions: []"))
    alice = lab.node("alice")
    assert alice["state"] == "off-line"
    assert alice["teredo_address"] is None
    assert alice["reason"].startswith("symmetric NAT: mapped to ")
    assert lab.teredo("alice")["nat"] == "symmetric"
    results = [result for result in lab.check()["results"] if "alice" in (result["source"], result["destination"])]
    assert {(result["source"], result["destination"]) for result in results} == {
        ("alice", "web"),
        ("web", "alice"),
        ("alice", "carol"),
        ("carol", "alice"),
    }
    for result in results:
        assert result["observed"] == result["expected"] == "unreachable", json.dumps(result)
        assert "off-line" in result["reason"]


@pytest.mark.parametrize("nat", ["sequential_port_symmetric", "port_preserving_port_symmetric"])
def test_10_rfc_6081_overcomes_a_symmetric_nat(start: Start, nat: str) -> None:
    """Carol's NAT filters by port, and yet they reach each other: alice foresees the port that her NAT will take."""
    lab = start(topology(nat))
    assert lab.teredo("alice")["nat"] == "symmetric"
    results = [result for result in lab.check()["results"] if "alice" in (result["source"], result["destination"])]
    assert len(results) == 4 * 3
    for result in results:
        assert result["observed"] == result["expected"] == "reachable", json.dumps(result)


def test_10_what_cannot_be_foreseen_cannot_be_overcome(start: Start) -> None:
    """Random ports against a filter by port: the application is told so, in a bounded time."""
    lab = start(topology("port_symmetric"))
    for result in lab.check()["results"]:
        pair = {result["source"], result["destination"]}
        assert result["ok"], json.dumps(result)
        assert result["observed"] == ("unreachable" if pair == {"alice", "carol"} else "reachable")
        if pair == {"alice", "carol"} and result["probe"] != "tcp":  # where the kernel's own words come last
            assert result["reason"] == "no route to host"

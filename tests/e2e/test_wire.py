"""What our programs put on the wire, judged by tshark's Teredo dissector."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Start
from tests.e2e.labs import SMALL

pytestmark = pytest.mark.e2e


RANDOM_CONTENT = ("-d", "tcp.port==80,data", "-d", "tcp.port==4380,data", "-d", "udp.port==4380,data")
"""The probes' payload is random: nothing may guess a protocol in it."""

CHECKSUMS = ("-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE")


def test_tshark_finds_nothing_wrong_with_any_packet_of_ours(start: Start) -> None:
    lab = start(SMALL)
    links = {"alice": "lan", "carol": "lan", "server": "wan", "relay": "wan", "web": "wan"}
    for node, link in links.items():  # or captures show checksums that a NIC would fill in
        lab.exec(node, "ethtool", "-K", link, "tx", "off")
    with lab.capture("internet", "any", "udp or ip6") as capture:
        answer = lab.check()
        lab.teredo("alice", "refresh")
        assert lab.reaches("alice", "web")  # answered after the refresh was
    assert answer["ok"], answer
    outer = capture.fields("udp && ip", "frame.number")
    # It guesses what is Teredo from the length, and trailers (RFC 6081) are beyond that: so it is told the ports.
    ports = [lab.teredo(client)["external_mapping"].split(":")[1] for client in ("alice", "carol")]
    told = [option for port in ports for option in ("-d", f"udp.port=={port},teredo")]
    teredo = capture.tshark(*told, "-Y", "teredo || (udp && ip && ipv6)", "-T", "fields", "-e", "frame.number")
    assert len(outer) > 1000
    assert len(teredo.splitlines()) == len(outer), "tshark does not take all of our datagrams for Teredo"
    assert {"133", "134", "128", "129"} <= {kind for (kind,) in capture.fields("icmpv6 && ip", "icmpv6.type")}
    assert capture.fields("ip && ipv6.nxt == 59", "frame.number"), "no bubbles"
    assert capture.fields("teredo.orig.port", "frame.number"), "no origin indications"
    assert capture.fields("teredo.auth", "frame.number"), "no authentication headers"
    wrong = capture.tshark(
        *RANDOM_CONTENT,
        *CHECKSUMS,
        *told,
        "-Y",
        "_ws.malformed || _ws.expert.group == 16777216 || udp.checksum.status == 0 || ip.checksum.status == 0"
        " || icmpv6.checksum.status == 0 || (tcp.checksum.status == 0)",
    )
    assert wrong == ""


@pytest.mark.requirement("F16")
def test_the_outer_header_never_forbids_fragmentation(start: Start) -> None:
    """RFC 4380 section 5.1.2."""
    lab = start(SMALL)
    with lab.capture("internet", "any") as capture:
        assert lab.reaches("alice", "carol")
        assert lab.reaches("carol", "web")
    assert capture.fields("ip && ip.flags.df == 0", "frame.number")
    assert capture.fields("ip && ip.flags.df == 1", "frame.number") == []


def test_a_large_packet_arrives_whole(start: Start) -> None:
    """The link's MTU is 1280; a larger datagram of the application is fragmented inside the tunnel and put together."""
    lab = start(SMALL)
    result = lab.exec("alice", "ping", "-6", "-c", "1", "-w", "10", "-s", "4000", lab.address("carol"))
    assert "4008 bytes from" in result.stdout
    assert "mtu 1280" in lab.exec("alice", "ip", "link", "show", "teredo").stdout


@pytest.mark.requirement("C8")
def test_any_other_default_route_is_preferred_to_teredo(start: Start) -> None:
    """RFC 4380 section 3.2.1: Teredo is a last resort, so its route is worse than any other."""
    lab = start(SMALL)
    assert "default dev teredo proto static metric 1029" in lab.exec("alice", "ip", "-6", "route").stdout


@pytest.mark.requirement("C7", "Z1")
def test_a_client_rests_while_its_node_has_native_ipv6(start: Start) -> None:
    """RFC 4380 section 5.5: another default route appears, and goes again."""
    lab = start(SMALL)
    lab.exec("alice", "ip", "-6", "address", "add", "2001:db8:9::2/64", "dev", "lan", "nodad")
    lab.exec("alice", "ip", "-6", "route", "add", "default", "via", "2001:db8:9::1", "dev", "lan")
    lab.wait_for(lambda nodes: nodes["alice"]["state"] == "dormant")
    assert lab.node("alice")["teredo_address"] is None
    assert lab.node("alice")["reason"] == "the node has IPv6 connectivity of its own"
    assert "2001:0:" not in lab.exec("alice", "ip", "-6", "address").stdout
    lab.exec("alice", "ip", "-6", "route", "del", "default", "via", "2001:db8:9::1", "dev", "lan")
    lab.wait_for(lambda nodes: nodes["alice"]["state"] == "qualified")
    assert lab.reaches("alice", "web")

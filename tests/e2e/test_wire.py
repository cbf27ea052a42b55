"""What our programs put on the wire, judged by tshark's Teredo dissector."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Start

pytestmark = pytest.mark.e2e

TOPOLOGY = """
servers: {server: }
relays: {relay: }
hosts: {web: }
sites:
  home: {nat: cone, clients: {alice: {refresh_interval: 1}}}
  away: {nat: port_restricted, clients: {carol: }}
"""

CHECKSUMS = ("-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE")


def test_tshark_finds_nothing_wrong_with_any_packet_of_ours(start: Start) -> None:
    lab = start(TOPOLOGY)
    for node in ("alice", "carol", "server", "relay", "web"):  # or captures show checksums that a NIC would fill in
        lab.exec(node, "ethtool", "-K", "eth0", "tx", "off")
    with lab.capture("internet", "any", "udp or ip6") as capture:
        answer = lab.check()
    assert answer["ok"], answer
    outer = capture.fields("udp && ip", "frame.number")
    teredo = capture.fields("teredo || (udp && ip && ipv6)", "frame.number")
    assert len(outer) > 1000
    assert len(teredo) == len(outer), "tshark does not take all of our datagrams for Teredo"
    assert {"133", "134", "128", "129"} <= {kind for (kind,) in capture.fields("icmpv6 && ip", "icmpv6.type")}
    assert capture.fields("ip && ipv6.nxt == 59", "frame.number"), "no bubbles"
    assert capture.fields("teredo.orig.port", "frame.number"), "no origin indications"
    assert capture.fields("teredo.auth", "frame.number"), "no authentication headers"
    wrong = capture.tshark(
        *CHECKSUMS,
        "-Y",
        "_ws.malformed || _ws.expert.group == 16777216 || udp.checksum.status == 0 || ip.checksum.status == 0"
        " || icmpv6.checksum.status == 0 || (tcp.checksum.status == 0)",
    )
    assert wrong == ""


def test_the_outer_header_never_forbids_fragmentation(start: Start) -> None:
    """RFC 4380 section 5.1.2."""
    lab = start(TOPOLOGY)
    with lab.capture("internet", "any") as capture:
        assert lab.reaches("alice", "carol")
        assert lab.reaches("carol", "web")
    assert capture.fields("ip && ip.flags.df == 0", "frame.number")
    assert capture.fields("ip && ip.flags.df == 1", "frame.number") == []


def test_a_large_packet_arrives_whole(start: Start) -> None:
    """The link's MTU is 1280; a larger datagram of the application is fragmented inside the tunnel and put together."""
    lab = start(TOPOLOGY)
    result = lab.exec("alice", "ping", "-6", "-c", "1", "-w", "10", "-s", "4000", lab.address("carol"))
    assert "4008 bytes from" in result.stdout
    assert "mtu 1280" in lab.exec("alice", "ip", "link", "show", "teredo").stdout

"""Debian's Miredo beside our programs: the real daemon on one side, ours on the other."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import TOPOLOGIES, Start

pytestmark = pytest.mark.e2e


def test_the_miredo_client_of_the_default_lab_reaches_and_is_reached_by_ours(start: Start) -> None:
    lab = start(TOPOLOGIES / "default.yaml")
    dave = lab.node("dave")
    assert (dave["program"], dave["state"]) == ("miredo", "qualified")
    assert "miredo" in lab.exec("dave", "ps", "-C", "miredo", "-o", "comm=").stdout
    ours = {"alice", "bob", "carol"}
    results = lab.check("dave", *ours)["results"]
    for one, other in [("dave", client) for client in ours] + [(client, "dave") for client in ours]:
        found = [result for result in results if (result["source"], result["destination"]) == (one, other)]
        assert {result["probe"] for result in found} == {"icmp6", "udp", "tcp"}
        assert {(result["observed"], result["path"]) for result in found} == {("reachable", "direct")}


def test_our_client_qualifies_with_a_miredo_server_and_uses_a_miredo_relay(start: Start) -> None:
    lab = start(TOPOLOGIES / "miredo.yaml")
    assert {lab.node(name)["program"] for name in ("server", "relay")} == {"miredo"}
    assert lab.node("bob")["state"] == "qualified"
    assert lab.reaches("bob", "web")
    mapping = next(peer for peer in lab.teredo("bob")["peers"] if peer["address"] == lab.address("web"))["mapping"]
    assert mapping.split(":")[0] in lab.node("relay")["ipv4"]


def test_a_second_check_finds_the_same(start: Start) -> None:
    """Miredo keeps trusting a path for 30 s: making paths cold must not shut a NAT that it believes open."""
    lab = start(TOPOLOGIES / "default.yaml")
    for _ in range(2):
        assert [result for result in lab.check()["results"] if not result["ok"]] == []

"""The examples of RFC 6081 section 6, packet by packet, as they cross the Internet.

Bubbles to local addresses are the Hairpinning extension's, which only section 6.5 has: they are left out elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from lab.nat.kinds import KINDS, NatBehaviour
from lab.simulation import ClientNode, NatModel, ServerNode, Simulation
from lab.simulation.network import Outer
from lab.teredo.address import PORT, Endpoint, is_global_unicast
from lab.teredo.extensions import ALL, Extension
from lab.teredo.packet import ROUTER_ADVERTISEMENT, ROUTER_SOLICITATION, decode
from lab.teredo.trailers import Discovery, Trailers, parse_trailers

WITHOUT_HAIRPINNING = ALL - {Extension.HAIRPINNING}


@dataclass
class Example:
    """Client A, client B with a server of its own, and what passes between them."""

    simulation: Simulation
    servers: tuple[ServerNode, ServerNode]
    a: ClientNode
    b: ClientNode

    def call(self, *, local: bool = False) -> list[tuple[str, Trailers, Outer]]:
        """A pings B: each packet in words, with its trailers, until the answer is there."""
        trace = self.simulation.trace
        assert trace is not None
        before = len(trace)
        assert self.simulation.ping(self.a, self.b).reached
        outer = [packet for packet in trace[before:] if local or is_global_unicast(packet.to.host)]
        return [(self.words(packet), parse_trailers(decode(packet.data).trailers), packet) for packet in outer]

    def words(self, outer: Outer) -> str:
        packet = decode(outer.data)
        sender, receiver = self.name(outer.source.host), self.name(outer.to.host)
        if packet.is_bubble:
            what = "indirect bubble" if PORT in (outer.source.port, outer.to.port) else "direct bubble"
        elif packet.icmp_type in (ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT):
            what = "solicitation" if packet.icmp_type == ROUTER_SOLICITATION else "advertisement"
        else:
            what = "data"
        return f"{sender} > {receiver}: {what}"

    def name(self, host: str) -> str:
        for name, node in (("A", self.a), ("B", self.b)):
            nat = node._access
            while isinstance(nat, NatModel):
                if host in nat.external:
                    return name
                nat = nat._outside
            if host == node.endpoint.host:
                return name
        for name, server in zip("AB", self.servers, strict=True):
            if host == server.endpoint.host:
                return f"server {name}"
            if host == server.secondary.host:
                return f"server {name}, secondary"
        return host


def example(nat_a: str, nat_b: str, extensions: frozenset[Extension] = WITHOUT_HAIRPINNING) -> Example:
    simulation = Simulation(3, tracing=True)
    servers = simulation.server(), simulation.server()
    a, b = (
        simulation.client(nat, server=server, extensions=extensions)
        for nat, server in zip((nat_a, nat_b), servers, strict=True)
    )
    simulation.run_for(5.0)
    return Example(simulation, servers, a, b)


def words(packets: list[tuple[str, Trailers, Outer]]) -> list[str]:
    return [line for line, _, _ in packets]


@pytest.mark.requirement("SN2", "SN3", "SN4", "SN5", "SN11", "SN12", "B3")
def test_6_1_port_symmetric_calls_address_restricted() -> None:
    run = example("port_symmetric", "addr_restricted", frozenset({Extension.SYMMETRIC}))
    packets = run.call()
    assert words(packets)[:10] == [
        "A > B: direct bubble",  # 1
        "A > server B: indirect bubble",  # 2
        "server B > B: indirect bubble",
        "B > A: direct bubble",  # 3
        "B > server A: indirect bubble",  # 4
        "server A > A: indirect bubble",
        "A > B: direct bubble",  # 5
        "A > B: direct bubble",  # with the next attempt goes a direct bubble as well
        "A > server B: indirect bubble",  # 6
        "server B > B: indirect bubble",
    ]
    assert words(packets)[10] == "B > A: direct bubble"  # 7
    nonces = [trailers.nonce for _, trailers, _ in packets]
    assert nonces[0] == b""
    assert nonces[1] == nonces[2] == nonces[3] != b""
    assert nonces[4] == nonces[5] == nonces[6] not in (b"", nonces[1])
    assert nonces[8] == nonces[10] not in (nonces[1], nonces[4], b"")
    assert 1.9 < packets[8][2].at - packets[1][2].at < 2.1
    assert (
        packets[3][2].to.port != packets[10][2].to.port == packets[6][2].source.port
    )  # the mapping that B has learned


@pytest.mark.requirement("UP9", "UP10", "UP11", "UP14")
def test_6_2_both_behind_symmetric_nats_with_upnp() -> None:
    run = example("upnp_port_symmetric", "upnp_port_symmetric", frozenset({Extension.SYMMETRIC, Extension.UPNP}))
    packets = run.call()
    assert words(packets)[:4] == [
        "A > B: direct bubble",  # 1
        "A > server B: indirect bubble",  # 2
        "server B > B: indirect bubble",
        "B > A: direct bubble",  # 3
    ]
    own = {name: node.machine.address.mapped for name, node in (("A", run.a), ("B", run.b)) if node.machine.address}
    for line, _, outer in packets:
        if line.startswith(("A > B", "B > A")):
            assert outer.to == own[line[4]]  # always to what UPnP has opened
            assert outer.source != own[line[0]]  # and never from there
    # B calls back too, since section 5.2.4.4 drops packet 1: it has no nonce that A could have known.
    assert words(packets)[4] == "B > server A: indirect bubble"


@pytest.mark.requirement("PP3", "PP6", "PP7", "PP8", "PP9", "PP15", "PP17", "PP19")
def test_6_3_both_behind_port_preserving_symmetric_nats() -> None:
    preserving = "port_preserving_port_symmetric"
    run = example(preserving, preserving, frozenset({Extension.SYMMETRIC, Extension.PORT_PRESERVING}))
    packets = run.call()
    assert words(packets)[:10] == [
        "A > B: direct bubble",  # 1
        "A > server B: indirect bubble",  # 2
        "server B > B: indirect bubble",
        "B > A: direct bubble",  # 3
        "B > A: direct bubble",  # 4
        "B > server A: indirect bubble",  # 5
        "server A > A: indirect bubble",
        "A > B: direct bubble",  # 6
        "A > B: direct bubble",  # 7
        "A > B: direct bubble",  # with the next attempt go direct bubbles as well
    ]
    (_, second, _), (_, fifth, _) = packets[1], packets[5]
    assert packets[0][1] == Trailers()
    port_a, port_b = second.random_port, fifth.random_port
    assert port_a
    assert port_b
    fourth, seventh = packets[4], packets[8]
    assert (fourth[2].source.port, fourth[2].to.port, fourth[1].random_port) == (port_b, port_a, port_b)
    assert (seventh[2].source.port, seventh[2].to.port, seventh[1].random_port) == (port_a, port_b, port_a)
    assert fourth[1].nonce == packets[3][1].nonce == second.nonce
    assert seventh[1].nonce == packets[7][1].nonce == fifth.nonce
    rest = packets[10:]
    assert "A > server B: indirect bubble" in words(rest)  # 8
    ninth = next(packet for packet in rest if packet[0] == "B > A: direct bubble")
    assert (ninth[2].source.port, ninth[2].to.port) == (port_b, port_a)  # 9: from its random port only
    assert sum(line == "B > A: direct bubble" for line in words(rest)) == 1
    data = next(packet for packet in rest if packet[0] == "A > B: data")
    assert (data[2].source.port, data[2].to.port) == (port_a, port_b)


@pytest.mark.requirement("SQ2", "SQ3", "SQ4", "SQ7", "SQ8", "SQ9", "SQ14", "PP18")
def test_6_4_sequential_calls_port_restricted() -> None:
    run = example(
        "sequential_port_symmetric",
        "port_restricted",
        frozenset({Extension.SYMMETRIC, Extension.PORT_PRESERVING, Extension.SEQUENTIAL}),
    )
    packets = run.call()
    lines = words(packets)
    assert lines[:4] == [
        "A > B: direct bubble",  # 1
        "A > server A: solicitation",  # 2
        "A > B: direct bubble",  # 4
        "A > server A, secondary: solicitation",  # 5
    ]
    assert lines[4:6] == ["server A > A: advertisement", "server A, secondary > A: advertisement"]  # 3, 6
    assert lines[6:11] == [
        "A > server B: indirect bubble",  # 7
        "server B > B: indirect bubble",
        "B > A: direct bubble",  # 8
        "B > A: direct bubble",  # 10, before 9: else A's answer to 9 could reach B's NAT before it is open for it
        "B > server A: indirect bubble",  # 9
    ]
    lower, fourth, upper = (packets[index][2].source.port for index in (1, 2, 3))
    announced = packets[6][1].random_port
    assert announced == (lower + upper) // 2 == fourth
    assert packets[9][2].to.port == announced
    eleventh = next(packet for packet in packets[11:] if packet[0] == "A > B: direct bubble")
    assert eleventh[2].source.port == announced  # 11


@pytest.mark.requirement("HP1", "HP2", "HP3", "HP5", "HP6", "HP7")
def test_6_5_two_nats_with_upnp_behind_one_that_does_not_hairpin() -> None:
    simulation = Simulation(3, tracing=True)
    servers = simulation.server(), simulation.server()
    outer = simulation.nat("port_restricted")
    inner = [simulation.nat("upnp_port_restricted", behind=outer) for _ in range(2)]
    a, b = (
        simulation.client(nat, server=server, extensions={Extension.HAIRPINNING, Extension.SYMMETRIC})
        for nat, server in zip(inner, servers, strict=True)
    )
    simulation.run_for(5.0)
    assert [str(node.machine.nat.upnp_mapped) for node in (a, b)] == [
        f"{nat.external[0]}:{node.endpoint.port}" for nat, node in zip(inner, (a, b), strict=True)
    ]
    trace = simulation.trace
    assert trace is not None
    before = len(trace)
    assert simulation.ping(a, b).reached
    on_the_internet = [
        (packet.source.host in outer.external, decode(packet.data), parse_trailers(decode(packet.data).trailers))
        for packet in trace[before:]
    ]
    indirect = [trailers for leaves, packet, trailers in on_the_internet if leaves and packet.is_bubble]
    assert [len(trailers.alternates) for trailers in indirect] == [2, 2]  # packets 2 and 6
    assert indirect[0].alternates == (a.endpoint, a.machine.nat.upnp_mapped)
    assert indirect[1].alternates == (b.endpoint, b.machine.nat.upnp_mapped)
    peer = next(iter(a.machine._peers))
    assert peer.mapping == b.machine.nat.upnp_mapped  # where packet 5 came from
    assert all(packet.is_bubble for _, packet, _ in on_the_internet)  # data never leave the outer NAT's LAN


@pytest.mark.requirement("HP2", "HP3", "HP5", "HP6", "HP7", "HP8")
def test_6_5_packet_by_packet_as_they_come_to_the_outer_nat(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = Simulation(3)
    server_a, server_b = simulation.server(), simulation.server()
    nat_e = simulation.nat("port_restricted")
    nat_f, nat_g = (simulation.nat("upnp_port_restricted", behind=nat_e) for _ in range(2))
    a, b = (
        simulation.client(nat, server=server, extensions={Extension.HAIRPINNING, Extension.SYMMETRIC})
        for nat, server in ((nat_f, server_a), (nat_g, server_b))
    )
    simulation.run_for(5.0)
    places = {server_a.endpoint: "server A", server_b.endpoint: "server B"}
    for name, node in (("A", a), ("B", b)):
        assert node.machine.address is not None
        assert node.machine.nat.upnp_mapped is not None
        places[node.machine.address.mapped] = f"{name} as the Internet sees it"
        places[node.machine.nat.upnp_mapped] = f"{name} as UPnP says"
    seen: list[tuple[str, str, Trailers]] = []
    send = nat_e.send

    def record(source: Endpoint, to: Endpoint, data: bytes) -> None:
        packet = decode(data)
        what = places[to] if packet.is_bubble else f"data to {places[to]}"
        seen.append(("A" if source.host in nat_f.external else "B", what, parse_trailers(packet.trailers)))
        send(source, to, data)

    monkeypatch.setattr(nat_e, "send", record)
    assert simulation.ping(a, b).reached
    assert [(sender, what) for sender, what, _ in seen] == [
        ("A", "B as the Internet sees it"),  # 1: dropped, for E does not hairpin
        ("A", "server B"),  # 2
        ("B", "A as the Internet sees it"),  # 3: dropped
        # 4, to A as it sees itself, does not come here: behind G the same private address is B's own
        ("B", "A as UPnP says"),  # 5
        ("B", "server A"),  # 6
        ("A", "B as UPnP says"),  # 7
        ("A", "data to B as UPnP says"),
        ("B", "data to A as UPnP says"),
    ]
    first, second, *answers, sixth, seventh = (trailers for _, _, trailers in seen[:6])
    assert first == Trailers()
    assert second.alternates == (a.endpoint, a.machine.nat.upnp_mapped)
    assert answers == [Trailers(nonce=second.nonce)] * 2
    assert sixth.alternates == (b.endpoint, b.machine.nat.upnp_mapped)
    assert seventh == Trailers(nonce=sixth.nonce)
    assert len({b"", second.nonce, sixth.nonce}) == 3


@pytest.mark.requirement("LR1", "LR3", "LR4", "LR5")
def test_6_6_after_a_silence_a_direct_bubble_asks() -> None:
    run = example("cone", "cone")
    run.call()
    run.simulation.run_for(40.0)
    packets = run.call()
    assert (
        words(packets)[:4]
        == ["A > B: direct bubble", "B > A: direct bubble", "A > B: data", "B > A: data"][: len(packets)]
    )
    assert [trailers.discovery for _, trailers, _ in packets[:2]] == [Discovery.SOLICITATION, Discovery.ADVERTISEMENT]
    assert not any("server" in line for line in words(packets))


@pytest.mark.requirement("LR1", "LR2")
def test_a_peer_that_does_not_answer_is_called_anew_after_three_solicitations() -> None:
    run = example("port_restricted", "port_restricted")
    run.call()
    run.simulation.run_for(100.0)  # both mappings have expired
    packets = run.call()
    began = packets[0][2].at
    solicitations = [outer.at - began for _, trailers, outer in packets if trailers.discovery is Discovery.SOLICITATION]
    assert solicitations == pytest.approx([0.0, 2.0, 4.0])
    first_indirect = next(outer.at - began for line, _, outer in packets if line == "A > server B: indirect bubble")
    assert first_indirect == pytest.approx(4.0)


def test_kinds_of_the_examples_are_those_of_the_figure() -> None:
    assert KINDS["port_restricted"] == NatBehaviour()

"""Whole machines against whatever may come: valid, mutated and hostile datagrams, host packets and time, mixed."""

from __future__ import annotations

from collections import Counter, defaultdict
from random import Random
from typing import ClassVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lab.teredo.address import CONE, PORT, Endpoint, Forbidden, link_local, packed, parse
from lab.teredo.client import Client, State
from lab.teredo.machine import Send
from lab.teredo.packet import (
    ECHO_REQUEST,
    NO_NEXT_HEADER,
    ROUTER_SOLICITATION,
    Authentication,
    MalformedError,
    bubble,
    decode,
    echo_reply,
    echo_reply_data,
    echo_request,
    icmpv6,
    origin_indication,
    router_solicitation,
)
from lab.teredo.relay import Relay, RelayConfig
from lab.teredo.server import Server
from lab.teredo.solicitation import SOLICITATION_SOURCE
from tests.unit.helpers.teredo import (
    ELSEWHERE,
    HOST,
    MAPPED,
    OTHER_SERVER,
    PEER,
    PEER_ENDPOINT,
    PRIMARY,
    RELAY_ADDRESS,
    RELAY_ENDPOINT,
    SECONDARY,
    SERVER_LINK_LOCAL,
    advertise,
    new_client,
    new_server,
    outcome,
    payload,
    qualified_client,
    teredo,
)

SETTINGS = settings(max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
FORBIDDEN = Forbidden()

BAD_ENDPOINTS = [Endpoint("10.0.0.1", 4000), Endpoint("127.0.0.1", PORT), Endpoint("192.0.2.5", 0)]
ENDPOINTS = [PRIMARY, SECONDARY, MAPPED, PEER_ENDPOINT, ELSEWHERE, RELAY_ENDPOINT, *BAD_ENDPOINTS]
TEREDO_PEERS = [PEER, teredo(ELSEWHERE, OTHER_SERVER.host, CONE), teredo(RELAY_ENDPOINT, OTHER_SERVER.host)]
STRANGE = [
    teredo(BAD_ENDPOINTS[0]),
    teredo(PEER_ENDPOINT, "127.0.0.1"),
    link_local(ELSEWHERE, cone=True),
    packed("ff02::1"),
    bytes(16),
    SERVER_LINK_LOCAL,
]
NATIVE = [HOST, packed("2001:db8::81")]
ADDRESSES = [*TEREDO_PEERS, *NATIVE, *STRANGE]

endpoints = st.sampled_from(ENDPOINTS)
addresses = st.sampled_from(ADDRESSES)
own_or_other = st.sampled_from([b"", b"", b"", *ADDRESSES])
"""A destination; empty stands for the address of the machine under test."""

kinds = st.sampled_from(["bubble", "indirect bubble", "data", "data with origin", "echo", "solicitation"])


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, float, bytes]:
    return (
        draw(st.sampled_from(["none", "none", "flip", "cut", "extend"])),
        draw(st.floats(0, 1)),
        draw(st.binary(min_size=1, max_size=20)),
    )


def mutate(data: bytes, mutation: tuple[str, float, bytes]) -> bytes:
    """Flip a bit, cut short or extend a datagram at the place that a fraction tells."""
    how, where, extra = mutation
    at = min(int(where * len(data)), len(data) - 1)
    match how:
        case "flip":
            return data[:at] + bytes([data[at] ^ (1 << extra[0] % 8)]) + data[at + 1 :]
        case "cut":
            return data[:at]
        case "extend":
            return data + extra
    return data


def build(kind: str, source: bytes, destination: bytes, origin: Endpoint) -> bytes:
    """A datagram that is well-formed before it is mutated."""
    match kind:
        case "bubble":
            return bubble(source, destination)
        case "indirect bubble":
            return origin_indication(origin) + bubble(source, destination)
        case "data":
            return payload(source, destination)
        case "data with origin":
            return origin_indication(origin) + payload(source, destination, b"")
        case "echo":
            return echo_request(source, destination, b"12345678")
    return Authentication(b"12345678").encode() + router_solicitation(
        SOLICITATION_SOURCE if origin.port % 2 else link_local(origin, cone=True)
    )


class _Teredo(RuleBasedStateMachine):
    """What holds for a client as for a relay. `machine` is made by the subclass."""

    max_peers: ClassVar[int] = 64
    machine: Client | Relay

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.counters: Counter[str] = Counter()
        self.from_host: set[bytes] = set()
        self.nonces: dict[bytes, set[bytes]] = defaultdict(set)
        self.proved: dict[bytes, set[Endpoint]] = defaultdict(set)
        self.indirect: dict[bytes, list[float]] = defaultdict(list)
        self.solicitation: Send | None = None

    def address(self) -> bytes:
        """Where packets to the machine's host go."""
        raise NotImplementedError

    def settle(self) -> int:
        """Look at what was sent; the bytes of it that are not the host's own packets."""
        size = 0
        done = outcome(self.machine)
        for event in done.events:
            if event.name == "peer trusted":
                self.indirect[packed(event.facts["peer"])].clear()
        for sent in done.sent:
            assert sent.to not in FORBIDDEN
            if sent.data in self.from_host:
                continue
            size += len(sent.data)
            packet = decode(sent.data)
            teredo_peer = parse(packet.destination)
            if packet.icmp_type == ROUTER_SOLICITATION:
                self.solicitation = sent
            elif packet.icmp_type == ECHO_REQUEST:
                self.nonces[packet.destination].add(sent.data[48:])
            elif packet.next_header == NO_NEXT_HEADER and teredo_peer and sent.to == Endpoint(teredo_peer.server, PORT):
                self.note_bubble(packet.destination)
        return size

    def note_bubble(self, peer: bytes) -> None:
        times = self.indirect[peer]
        assert not times or self.now >= times[-1] + 2.0, "two bubbles within 2 seconds"
        times.append(self.now)

    def receive(self, data: bytes, source: Endpoint) -> None:
        try:
            packet = decode(data)
        except MalformedError:
            pass
        else:
            if echo_reply_data(packet) in self.nonces[packet.source]:
                self.proved[packet.source].add(source)
        self.machine.datagram(data, source, self.now)
        assert self.settle() <= 2 * len(data), "an amplifier"

    @rule(kind=kinds, source=addresses, destination=own_or_other, at=endpoints, origin=endpoints, mutation=mutations())
    def datagram(
        self,
        kind: str,
        source: bytes,
        destination: bytes,
        at: Endpoint,
        origin: Endpoint,
        mutation: tuple[str, float, bytes],
    ) -> None:
        self.receive(mutate(build(kind, source, destination or self.address(), origin), mutation), at)

    @rule(peer=st.sampled_from(TEREDO_PEERS), empty=st.booleans())
    def honest_peer(self, peer: bytes, empty: bool) -> None:
        teredo_peer = parse(peer)
        assert teredo_peer is not None
        self.receive(build("bubble" if empty else "data", peer, self.address(), MAPPED), teredo_peer.mapped)

    @rule(data=st.binary(max_size=120), at=endpoints)
    def noise(self, data: bytes, at: Endpoint) -> None:
        self.receive(data, at)

    @rule(destination=addresses, source=own_or_other, body=st.binary(max_size=30))
    def packet(self, destination: bytes, source: bytes, body: bytes) -> None:
        ipv6 = payload(source or self.host_address(), destination, body)
        self.from_host.add(ipv6)
        self.machine.packet(ipv6, self.now)
        self.settle()

    def host_address(self) -> bytes:
        return self.address()

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.5, 2.0, 2.0, 3.9, 8.0, 29.0, 31.0, 299.0]))
    def time_passes(self, seconds: float) -> None:
        end = self.now + seconds
        while self.machine.next_timer is not None and self.machine.next_timer <= end:
            self.now = max(self.now, self.machine.next_timer)
            self.machine.tick(self.now)
            self.settle()
            assert self.machine.next_timer is None or self.machine.next_timer > self.now, "a tight loop"
        self.now = end

    @rule()
    def forget(self) -> None:
        self.machine.forget_peers(self.now)
        self.settle()
        self.indirect.clear()

    @invariant()
    def peers_are_bounded_and_at_mappings_that_were_proved(self) -> None:
        rows = self.machine.peer_table(self.now)
        assert len(rows) <= self.max_peers
        for row in rows:
            address = packed(row["address"])
            embedded = parse(address)
            if row["mapping"] is not None:
                allowed = self.proved[address] if embedded is None else {embedded.mapped}
                assert row["mapping"] in map(str, allowed)
            assert not row["queued"] or self.machine.next_timer is not None

    @invariant()
    def counters_only_grow(self) -> None:
        assert self.machine.counters >= self.counters
        self.counters = self.machine.counters.copy()


class ClientMachine(_Teredo):
    machine: Client

    @initialize(qualified=st.booleans())
    def begin(self, qualified: bool) -> None:
        if qualified:
            self.machine, _ = qualified_client(max_peers=self.max_peers)
        else:
            self.machine = new_client(max_peers=self.max_peers)
            self.machine.start(0.0)
        self.settle()

    def address(self) -> bytes:
        return bytes(16) if self.machine.address is None else self.machine.address.packed

    def note_bubble(self, peer: bytes) -> None:
        super().note_bubble(peer)
        times = self.indirect[peer]
        assert len(times) <= 4 or times[-1] >= times[-5] + 300.0, "a fifth bubble within 300 seconds"

    @rule(origin=endpoints, at=endpoints, honest=st.booleans(), mutation=mutations())
    def advertisement(self, origin: Endpoint, at: Endpoint, honest: bool, mutation: tuple[str, float, bytes]) -> None:
        if self.solicitation is not None:
            before = self.machine.address
            data = mutate(advertise(self.solicitation.data, MAPPED if honest else origin), mutation)
            self.receive(data, self.solicitation.to if honest else at)
            if self.machine.address != before:
                self.indirect.clear()

    @rule(peer=st.sampled_from(NATIVE), at=endpoints, right=st.booleans())
    def test_answer(self, peer: bytes, at: Endpoint, right: bool) -> None:
        nonces = sorted(self.nonces[peer])
        data = nonces[-1] if nonces and right else b"a guess of mine!"
        self.receive(echo_reply(decode(echo_request(self.address(), peer, data)), peer), at)

    @rule(what=st.sampled_from(["refresh", "stop", "start", "gain", "lose"]))
    def command(self, what: str) -> None:
        match what:
            case "refresh":
                self.machine.refresh(self.now)
            case "stop":
                self.machine.stop(self.now)
            case "start":
                self.machine.start(self.now)
            case _:
                self.machine.native_ipv6(what == "gain", self.now)
        self.settle()
        if self.machine.address is None:
            self.indirect.clear()

    @invariant()
    def an_address_is_had_when_qualified_and_only_then(self) -> None:
        assert (self.machine.address is not None) == (self.machine.state is State.QUALIFIED)
        if self.machine.address is not None:
            assert self.machine.address.mapped not in FORBIDDEN
            assert self.machine.address.flags & ~0x3CFF == 0

    @invariant()
    def an_idle_client_always_has_something_to_wait_for(self) -> None:
        resting = self.machine.state in (State.INITIAL, State.DORMANT)
        assert (self.machine.next_timer is None) == resting


class SmallClientMachine(ClientMachine):
    """The same with a list of peers that is always full, so that the bubbles of forgotten peers do not count."""

    max_peers = 2

    def note_bubble(self, peer: bytes) -> None:
        """A peer that had to make room has lost its count."""


class RelayMachine(_Teredo):
    machine: Relay

    @initialize(direct=st.booleans())
    def begin(self, direct: bool) -> None:
        self.machine = Relay(RelayConfig(RELAY_ADDRESS, max_peers=self.max_peers, direct_bubbles=direct), Random(1))
        self.machine.start(0.0)
        self.settle()

    def address(self) -> bytes:
        return HOST


for machine in (ClientMachine, SmallClientMachine, RelayMachine):
    machine.TestCase.settings = SETTINGS

TestClient = ClientMachine.TestCase
TestSmallClient = SmallClientMachine.TestCase
TestRelay = RelayMachine.TestCase


@settings(max_examples=600, deadline=None)
@given(
    kind=kinds,
    source=st.sampled_from([*ADDRESSES, teredo(MAPPED)]),
    destination=st.sampled_from([*ADDRESSES, teredo(MAPPED), teredo(PRIMARY), teredo(SECONDARY)]),
    at=endpoints,
    origin=endpoints,
    mutation=mutations(),
    on_secondary=st.booleans(),
    relay=st.booleans(),
    secure=st.booleans(),
)
def test_a_server_answers_one_datagram_with_one_at_most_no_larger_than_twice_its_size(
    kind: str,
    source: bytes,
    destination: bytes,
    at: Endpoint,
    origin: Endpoint,
    mutation: tuple[str, float, bytes],
    on_secondary: bool,
    relay: bool,
    secure: bool,
) -> None:
    server: Server = new_server(
        relay=RelayConfig(RELAY_ADDRESS) if relay else None, secrets={b"me": b"between us"} if secure else {}
    )
    data = mutate(build(kind, source, destination, origin), mutation)
    server.datagram(data, at, 1.0, on_secondary=on_secondary)
    done = outcome(server)
    assert len(done.sent) + len(done.delivered) <= 1
    assert server.next_timer is None
    for sent in done.sent:
        assert sent.to not in FORBIDDEN
        assert sent.to.host not in (PRIMARY.host, SECONDARY.host) or sent.to == at, "only an answer goes to oneself"
        assert len(sent.data) <= 2 * len(data)
    for ipv6 in done.delivered:
        assert decode(ipv6).destination[:4] != PEER[:4]


@given(st.binary(max_size=200), endpoints, st.booleans())
def test_a_server_survives_noise(data: bytes, at: Endpoint, on_secondary: bool) -> None:
    server = new_server(relay=RelayConfig(RELAY_ADDRESS))
    server.datagram(data, at, 1.0, on_secondary=on_secondary)
    server.packet(data, 1.0)
    assert len(outcome(server).sent) <= 1


def test_a_solicitation_without_nonce_costs_the_server_little_more_than_twice_its_size() -> None:
    server = new_server()
    solicitation = router_solicitation(SOLICITATION_SOURCE)
    server.datagram(solicitation, MAPPED, 1.0)
    (sent,) = outcome(server).sent
    assert len(sent.data) == 104
    assert len(solicitation) == 48, "the advertisement is a constant: nothing that is sent makes it larger"


@given(st.sampled_from([1, 2, 3, 4, 127, 130, 137, 255]), st.binary(max_size=60))
def test_any_icmpv6_of_a_peer_is_survived(kind: int, body: bytes) -> None:
    client, own = qualified_client()
    client.datagram(icmpv6(PEER, own, kind, 0, body), PEER_ENDPOINT, 1.0)
    client.datagram(icmpv6(HOST, own, kind, 0, body), RELAY_ENDPOINT, 1.0)
    client.packet(icmpv6(own, HOST, kind, 0, body), 1.0)
    client.packet(icmpv6(own, TEREDO_PEERS[1], kind, 0, body), 1.0)
    for now in range(2, 20):
        client.tick(float(now))
    assert all(sent.to not in FORBIDDEN for sent in outcome(client).sent)

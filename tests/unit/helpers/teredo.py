"""Builds what Teredo machines get in tests, and sorts what they ask for."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from lab.teredo.address import PORT, PREFIX, Endpoint, TeredoAddress, host_bytes, link_local, packed
from lab.teredo.client import Client, ClientConfig, State
from lab.teredo.machine import Action, Configure, Deliver, Event, Send
from lab.teredo.packet import (
    ROUTER_ADVERTISEMENT,
    Authentication,
    bubble,
    decode,
    icmpv6,
    ipv6_header,
    origin_indication,
)
from lab.teredo.relay import Relay, RelayConfig
from lab.teredo.server import Server, ServerConfig
from lab.teredo.solicitation import SOLICITATION_SOURCE

PRIMARY = Endpoint("203.0.113.1", PORT)
SECONDARY = Endpoint("203.0.113.2", PORT)
OTHER_SERVER = Endpoint("203.0.113.66", PORT)
MAPPED = Endpoint("192.0.2.9", 40009)
"""Where the client under test is seen."""

ELSEWHERE = Endpoint("192.0.2.77", 41077)
RELAY_ENDPOINT = Endpoint("198.51.100.5", 3545)
HOST = packed("2001:db8::80")
"""A native IPv6 host."""

RELAY_ADDRESS = "2001:db8::5"
SERVER_LINK_LOCAL = link_local(PRIMARY, cone=True)

FORBIDDEN_HOSTS = (
    "0.1.2.3",
    "10.1.2.3",
    "127.0.0.1",
    "169.254.1.1",
    "172.16.0.1",
    "172.31.255.254",
    "192.168.1.1",
    "192.88.99.1",
    "224.0.0.253",
    "239.255.255.255",
    "255.255.255.255",
)
"""One of each range that RFC 4380 section 5.2.4 excludes."""


def teredo(mapped: Endpoint, server: str = PRIMARY.host, flags: int = 0x2C41) -> bytes:
    """The address of a Teredo client."""
    return TeredoAddress(server, flags, mapped).packed


PEER_ENDPOINT = Endpoint("198.51.100.20", 42020)
PEER = teredo(PEER_ENDPOINT, OTHER_SERVER.host)
"""A Teredo peer of another server."""


@dataclass
class Outcome:
    """What a machine asked for, sorted."""

    sent: list[Send]
    delivered: list[bytes]
    configured: list[bytes | None]
    events: list[Event]

    @property
    def only_sent(self) -> Send:
        """The datagram that was sent, which must be one."""
        (one,) = self.sent
        return one

    @property
    def drops(self) -> list[str]:
        return [event.facts["why"] for event in self.events if event.name == "dropped"]

    @property
    def quiet(self) -> bool:
        """Nothing was sent, delivered or configured."""
        return not (self.sent or self.delivered or self.configured)

    def event(self, name: str) -> dict[str, Any]:
        """The facts of the only event of this name."""
        (facts,) = [event.facts for event in self.events if event.name == name]
        return facts


class HasActions(Protocol):
    def actions(self) -> list[Action]: ...


def outcome(machine: HasActions) -> Outcome:
    """Take out what a machine asks for."""
    actions = machine.actions()
    return Outcome(
        [action for action in actions if isinstance(action, Send)],
        [action.ipv6 for action in actions if isinstance(action, Deliver)],
        [action.address for action in actions if isinstance(action, Configure)],
        [action for action in actions if isinstance(action, Event)],
    )


def payload(source: bytes, destination: bytes, data: bytes = b"a datagram", next_header: int = 17) -> bytes:
    """An IPv6 packet with some payload."""
    return ipv6_header(source, destination, next_header, len(data), 64) + data


def prefix_option(server: str = PRIMARY.host, *, prefix: bytes = PREFIX, length: int = 64) -> bytes:
    """A Prefix Information option (RFC 4861 section 4.6.2)."""
    head = struct.pack("!BBBBIII", 3, 4, length, 0x40, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return head + prefix + host_bytes(server) + bytes(8)


def mtu_option(mtu: int) -> bytes:
    return struct.pack("!BBHI", 5, 1, 0, mtu)


def advertise(
    solicitation: bytes,
    origin: Endpoint | None = MAPPED,
    *,
    options: bytes | None = None,
    source: bytes = SERVER_LINK_LOCAL,
    destination: bytes = SOLICITATION_SOURCE,
    hop_limit: int = 255,
    code: int = 0,
    nonce: bytes | None = None,
    confirmation: int = 0,
    authenticated: bool = True,
) -> bytes:
    """The answer to a router solicitation, by default a good one of PRIMARY; the arguments spoil it."""
    body = bytes(12) + (prefix_option() if options is None else options)
    ipv6 = icmpv6(source, destination, ROUTER_ADVERTISEMENT, code, body, hop_limit=hop_limit)
    asked = decode(solicitation).authentication
    assert asked is not None
    header = Authentication(asked.nonce if nonce is None else nonce, asked.client_id, confirmation=confirmation)
    return (header.encode() if authenticated else b"") + (b"" if origin is None else origin_indication(origin)) + ipv6


def new_client(seed: int = 1, **config: Any) -> Client:
    """A client of PRIMARY that has not been started; without the extensions of RFC 6081, unless they are given."""
    config.setdefault("extensions", frozenset())
    return Client(ClientConfig(PRIMARY.host, SECONDARY.host, **config), Random(seed))


def qualify(client: Client, now: float = 0.0, mapped: Endpoint = MAPPED) -> None:
    """Take a client through both phases of qualification."""
    client.start(now)
    for server in (PRIMARY, SECONDARY):
        (solicitation,) = outcome(client).sent
        assert solicitation.to == server
        client.datagram(advertise(solicitation.data, mapped), server, now)
    assert client.state == "qualified"
    outcome(client)


def qualified_client(now: float = 0.0, **config: Any) -> tuple[Client, bytes]:
    """A qualified client, and its address."""
    client = new_client(**config)
    qualify(client, now)
    assert client.address is not None
    return client, client.address.packed


def indirect_bubble(source: bytes, destination: bytes, origin: Endpoint) -> bytes:
    """A bubble as the client's server forwards it."""
    return origin_indication(origin) + bubble(source, destination)


def befriend(client: Client, own: bytes, now: float, peer: bytes = PEER, at: Endpoint = PEER_ENDPOINT) -> None:
    """Have a Teredo peer be trusted, as its direct bubble brings about."""
    client.datagram(bubble(peer, own), at, now)
    outcome(client)


def state_of(client: Client) -> State:
    """The state of a client (asked for anew, which a type checker does not expect of an attribute)."""
    return client.state


def silent(server: Server, data: bytes, source: Endpoint) -> bool:
    """Whether a server does nothing about a datagram, on either of its addresses."""
    for on_secondary in (False, True):
        server.datagram(data, source, 1.0, on_secondary=on_secondary)
    return outcome(server).quiet


def new_relay(seed: int = 1, **config: Any) -> Relay:
    """A relay as RFC 4380 has it, unless `nonces` are asked for."""
    config.setdefault("nonces", False)
    return Relay(RelayConfig(RELAY_ADDRESS, **config), Random(seed))


def new_server(seed: int = 1, **config: Any) -> Server:
    return Server(ServerConfig(PRIMARY.host, SECONDARY.host, **config), Random(seed))


def peer_row(machine: Client | Relay, address: bytes, now: float) -> dict[str, Any] | None:
    """What a machine's peer table tells of an address, or None."""
    rows = [row for row in machine.peer_table(now) if packed(row["address"]) == address]
    return rows[0] if rows else None

"""A client of RFC 6081 that has qualified behind some NAT, and the short words for what happens to it in tests."""

from __future__ import annotations

from collections.abc import Collection
from random import Random
from typing import Any

from lab.teredo.address import Endpoint
from lab.teredo.client import Client, ClientConfig, State
from lab.teredo.extensions import ALL, Extension
from lab.teredo.machine import Action, MapPort, Send
from lab.teredo.packet import ROUTER_SOLICITATION, bubble, decode, origin_indication
from lab.teredo.peers import Peer
from lab.teredo.trailers import Trailers, parse_trailers
from tests.unit.helpers.teredo import (
    MAPPED,
    OTHER_SERVER,
    PEER,
    PEER_ENDPOINT,
    PRIMARY,
    SECONDARY,
    advertise,
    outcome,
    payload,
)

LOCAL = Endpoint("192.168.1.2", MAPPED.port)
"""The client's own end, with the port that its server sees: a NAT that preserves ports."""

OTHER_LOCAL = Endpoint("192.168.1.2", 50123)
AGAIN = Endpoint(MAPPED.host, 41234)
"""Where the secondary server sees a client behind a symmetric NAT."""

NONCE = b"\x11\x22\x33\x44"
PEER_PORT = Endpoint(PEER_ENDPOINT.host, 55555)
"""A port that the peer announces."""


def client_behind(
    *,
    symmetric: bool,
    local: Endpoint = LOCAL,
    extensions: Collection[Extension] = ALL,
    upnp: Endpoint | bool = False,
    mapped: Endpoint = MAPPED,
    again: Endpoint = AGAIN,
    **config: Any,
) -> Client:
    """A client that has qualified, with its NAT's answers to UPnP and to both servers."""
    client = Client(ClientConfig(PRIMARY.host, SECONDARY.host, extensions=frozenset(extensions), **config), Random(7))
    client.nat.local = local
    client.start(0.0)
    if any(isinstance(action, MapPort) for action in client.actions()):
        opened = Endpoint(mapped.host, local.port) if upnp is True else upnp or None
        client.port_mapped(opened, 0.0)
        solicitation = next(action for action in client.actions() if isinstance(action, Send))
    else:
        client.stop(0.0)
        client.start(0.0)
        solicitation = next(action for action in client.actions() if isinstance(action, Send))
    client.datagram(advertise(solicitation.data, mapped), PRIMARY, 0.0)
    (solicitation,) = outcome(client).sent
    client.datagram(advertise(solicitation.data, again if symmetric else mapped), SECONDARY, 0.0)
    assert client.state is State.QUALIFIED
    client.actions()
    return client


def own(client: Client) -> bytes:
    assert client.address is not None
    return client.address.packed


def peer_of(client: Client, address: bytes = PEER) -> Peer:
    (peer,) = (peer for peer in client._peers if peer.address == address)
    return peer


def call(client: Client, now: float, trailers: bytes = b"", caller: bytes = PEER) -> list[Send]:
    """An indirect bubble of a peer arrives; what the client sends for it."""
    client.datagram(origin_indication(PEER_ENDPOINT) + bubble(caller, own(client)) + trailers, PRIMARY, now)
    return sent(client.actions())


def direct(client: Client, now: float, source: Endpoint, trailers: bytes = b"", port: int = 0) -> list[Send]:
    """A direct bubble of the peer arrives; what the client sends for it."""
    client.datagram(bubble(PEER, own(client)) + trailers, source, now, port)
    return sent(client.actions())


def wants(client: Client, now: float) -> list[Send]:
    """The host has a packet for the peer; what the client sends for it."""
    client.packet(payload(own(client), PEER), now)
    return sent(client.actions())


def tick(client: Client, now: float) -> list[Send]:
    client.tick(now)
    return sent(client.actions())


def sent(actions: list[Action]) -> list[Send]:
    return [action for action in actions if isinstance(action, Send)]


def trailers_of(send: Send) -> Trailers:
    return parse_trailers(decode(send.data).trailers)


def nonce_in(sends: list[Send]) -> bytes:
    """The nonce of the only indirect bubble among these."""
    (nonce,) = (trailers_of(send).nonce for send in sends if send.to == OTHER_SERVER)
    return nonce


def solicitations(sends: list[Send]) -> list[Send]:
    return [send for send in sends if decode(send.data).icmp_type == ROUTER_SOLICITATION]

"""The Teredo relay (RFC 4380 section 5.4): between native IPv6 hosts and Teredo clients.

The same machine serves a single dual-stack host (a host-specific relay, RFC 4380 section 8.2) when it is told so. It
takes from RFC 6081 what lets clients behind symmetric NATs reach native hosts, which that RFC does not promise: its
bubbles carry nonces, and a client that returns one is where its answer comes from.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Network
from random import Random
from typing import Any, Final

from lab.teredo.address import PORT, Endpoint, Forbidden, is_global, is_teredo, packed, parse, text
from lab.teredo.machine import Configure
from lab.teredo.packet import MTU, Packet, bubble
from lab.teredo.peers import Peer
from lab.teredo.trailers import NO_TRAILERS, Trailers, fresh_nonce, nonce_trailer, parse_trailers
from lab.teredo.tunnel import MAX_PEERS, Tunnel, is_whole_ipv6

NOT_NATIVE: Final = ("2001::/32", "::/127", "fe80::/10", "ff00::/8")
"""Whom no relay serves: Teredo clients, and what is no unicast address of more than link scope."""


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """What a relay is told. Raises ValueError for an impossible value.

    `address` is a native IPv6 address of the node, the source of its bubbles. `serves` are the prefixes that it
    forwards to; empty means every global address outside 2001::/32. `host_specific` limits both ways to `address`.
    `direct_bubbles` also sends bubbles straight to the client, as a relay behind a NAT must (section 5.4.1). `nonces`
    lets clients behind symmetric NATs in (RFC 6081 section 5.2).
    """

    address: str
    serves: tuple[str, ...] = ()
    host_specific: bool = False
    direct_bubbles: bool = False
    nonces: bool = True
    max_peers: int = MAX_PEERS

    def __post_init__(self) -> None:
        own = packed(self.address)
        if is_teredo(own) or not is_global(own):
            raise ValueError(f"relay address {self.address} is not a native global IPv6 address")
        for prefix in self.serves:
            ipaddress.IPv6Network(prefix)


class Relay(Tunnel):
    """The state machine. Drive it with `start`, `datagram`, `packet`, `tick`, `stop`; take `actions` out."""

    def __init__(self, config: RelayConfig, rng: Random, forbidden: Forbidden | None = None) -> None:
        super().__init__(rng, forbidden or Forbidden(), config.max_peers)
        self.config = config
        self._own = packed(config.address)
        networks = map(ipaddress.IPv6Network, config.serves)
        self._serves = [(int(network.network_address), int(network.netmask)) for network in networks]
        self._prefixes = _prefixes(config)

    def start(self, now: float) -> None:
        """A relay needs no qualification (RFC 4380 section 5.4)."""
        self._actions.append(Configure(None, MTU))
        self._report("state", state="running", reason=None, address=None)

    def stop(self, now: float) -> None:
        """Forget all peers."""
        self._timers.clear()
        self.forget_peers(now)

    def knows(self, address: bytes) -> bool:
        """Whether this client is in the list of peers: whether it may send through this relay."""
        return self._peers.get(address) is not None

    # From the IPv6 side to clients (section 5.4.1)

    def packet(self, ipv6: bytes, now: float) -> None:
        """An IPv6 packet for 2001::/32 has been routed to the relay."""
        if not is_whole_ipv6(ipv6):
            self._drop("not an IPv6 packet from the host")
            return
        destination = ipv6[24:40]
        teredo = parse(destination)
        if teredo is None:
            self._drop("destination is not Teredo")
        elif teredo.mapped in self._forbidden or Endpoint(teredo.server, PORT) in self._forbidden:
            self._drop("forbidden IPv4 destination", destination=text(destination))
        elif not self.inside(ipv6[8:24]):
            self._drop("source is not served", source=text(ipv6[8:24]))
        else:
            peer = self._peer(destination, now)
            if peer.usable(now):
                self._transmit(peer, ipv6, now)
            else:
                self._queue(peer, ipv6, now)

    def _attempt(self, peer: Peer, now: float) -> None:
        teredo = parse(peer.address)
        assert teredo is not None
        self.counters["bubbles sent"] += 1
        if self.config.direct_bubbles:
            self._send(bubble(self._own, peer.address), teredo.mapped)
        if self.config.nonces:
            peer.nonce_sent = fresh_nonce(self._rng)
        self._send(bubble(self._own, peer.address) + nonce_trailer(peer.nonce_sent), Endpoint(teredo.server, PORT))

    def _error_source(self) -> bytes:
        return self._own

    def _given_up(self, peer: Peer) -> None:
        self._peers.remove(peer)

    # From clients to the IPv6 side (section 5.4.2)

    def datagram(self, data: bytes, source: Endpoint, now: float) -> None:
        """A UDP payload has arrived on the service port."""
        packet = self._decode(data)
        if packet is None:
            return
        trailers = parse_trailers(packet.trailers) if packet.trailers else NO_TRAILERS
        if trailers.discard:
            self._drop("unknown trailer", source=str(source))
            return
        peer = self._peers.get(packet.source)
        if not self._is_at(packet, trailers, peer, source):
            self._drop("source does not match its mapping", source=str(source))
            return
        if peer is None:
            self._drop("unknown client", source=text(packet.source))
            return
        self._trust(peer, source, now)
        if packet.is_bubble:
            self.counters["direct bubbles received"] += 1
        elif self.inside(packet.destination):
            self._deliver(packet.ipv6)
        else:
            self._drop("destination is not served", destination=text(packet.destination))

    def _is_at(self, packet: Packet, trailers: Trailers, peer: Peer | None, source: Endpoint) -> bool:
        """Whether a packet's sender is where it comes from: its address, our nonce or our trust says so."""
        teredo = parse(packet.source)
        if teredo is None or source in self._forbidden:
            return False
        if teredo.mapped == source:
            return True
        if peer is None or not peer.nonce_sent:
            return False
        if packet.is_bubble and trailers.nonce == peer.nonce_sent:
            return True
        return peer.trusted and peer.mapping == source

    def inside(self, address: bytes) -> bool:
        """Whether this relay forwards to such an address: a host that it serves."""
        if self.config.host_specific:
            return address == self._own
        if is_teredo(address) or not is_global(address):
            return False
        value = int.from_bytes(address, "big")
        return not self._serves or any(value & mask == network for network, mask in self._serves)

    def prefixes(self) -> Mapping[IPv6Network, bool]:
        return self._prefixes

    def snapshot(self, now: float) -> dict[str, Any]:
        """The relay's state as JSON-able facts; times in seconds."""
        return {
            "type": "host-specific relay" if self.config.host_specific else "relay",
            "state": "running",
            "error": None,
            "address": self.config.address,
            "serves": list(self.config.serves),
            "mtu": MTU,
            "peers": self.peer_table(now),
            "counters": dict(sorted(self.counters.items())),
        }


def _prefixes(config: RelayConfig) -> Mapping[IPv6Network, bool]:
    """What `Relay.prefixes` says: made once, as it is asked for whenever something comes."""
    if config.host_specific:
        return {IPv6Network(config.address): True}
    outside = [IPv6Network(prefix) for prefix in NOT_NATIVE]
    served = map(IPv6Network, config.serves or ("::/0",))
    within = {network: True for network in served if not any(network.subnet_of(each) for each in outside)}
    return within | dict.fromkeys(outside, False)

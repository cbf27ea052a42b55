"""Local client discovery: Teredo clients of one link find each other without their NAT (RFC 4380 section 5.2.8).

Each sends discovery bubbles to a multicast group of the link. They tell where a client is, and prove nothing: a local
peer is trusted once it has sent to us directly from there, in answer to a bubble of ours or to call us.
"""

from __future__ import annotations

from collections.abc import Hashable
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from lab.teredo.address import ALL_NODES, PORT, UNIVERSAL_GROUP, Endpoint, TeredoAddress, parse, text
from lab.teredo.machine import JoinGroup, LeaveGroup, SendToGroup
from lab.teredo.packet import Packet, bubble
from lab.teredo.peering import Peering
from lab.teredo.peers import Peer
from lab.teredo.trailers import Discovery, Trailers

DISCOVERY_INTERVAL: Final = (200.0, 300.0)


class LocalDiscovery(Peering):
    """What a client does about its local peers. `subnet` is the one that the service port's address lies in."""

    subnet: IPv4Network | None = None
    _joined = False

    # Discovery bubbles

    def _begin_discovery(self, now: float) -> None:
        """We have an address, or another one: let the link know it."""
        if not self._joined:
            self._joined = True
            self._actions.append(JoinGroup())
        self._announce(now)

    def _end_discovery(self) -> None:
        if self._joined:
            self._joined = False
            self._timers.cancel("discovery")
            self._actions.append(LeaveGroup())

    def _announce(self, now: float) -> None:
        self.counters["discovery bubbles sent"] += 1
        self._actions.append(SendToGroup(bubble(self._own, ALL_NODES, hop_limit=1)))
        self._timers.set("discovery", now + self._rng.uniform(*DISCOVERY_INTERVAL))

    def discovered(self, data: bytes, source: Endpoint, now: float) -> None:
        """A UDP payload has come to the Teredo IPv4 Discovery Address (section 5.2.3, case 4)."""
        packet = self._decode(data)
        if packet is None or (self._own and packet.source == self._own):  # a host hears its own multicasts
            return
        fault = self._discovery_fault(packet, source)
        if fault is not None:
            self._drop(f"discovery bubble: {fault}", source=str(source))
            return
        self.counters["discovery bubbles received"] += 1
        known = self._peers.get(packet.source)
        peer = known or self._peer(packet.source, now)
        if known is None:
            peer.last_received = now
            self._report("local peer", peer=text(peer.address), local=str(source))
        peer.local, peer.discovered = source, now
        if peer.answers.take(now):
            self._send_local(peer, source, now)

    def _discovery_fault(self, packet: Packet, source: Endpoint) -> str | None:
        """What is wrong with what came to the group; None for a discovery bubble that is to be accepted."""
        if not self._joined:
            return "not qualified"
        if not packet.is_bubble or packet.destination != ALL_NODES:
            return "not one"
        teredo, own = parse(packet.source), parse(self._own)
        assert own is not None
        if teredo is None or not self._is_well_formed(teredo):
            return "not a well-formed Teredo address"
        if self.subnet is None or IPv4Address(source.host) not in self.subnet or self._forbidden.even_nearby(source):
            return "not from the local subnet"
        if teredo.mapped.host != own.mapped.host:
            return "from behind another NAT"  # the RFC leaves this to us: nobody on the link takes a far peer's place
        return None

    def _is_well_formed(self, teredo: TeredoAddress) -> bool:
        endpoints = teredo.mapped, Endpoint(teredo.server, PORT)
        return not teredo.flags & UNIVERSAL_GROUP and not any(endpoint in self._forbidden for endpoint in endpoints)

    # Local peers

    def _send_local(self, peer: Peer, to: Endpoint, now: float) -> None:
        """Send a unicast bubble, with no nonce: that is for who got it through the server."""
        self.counters["local bubbles sent"] += 1
        peer.last_sent = now
        self._send(bubble(self._own, peer.address), to)

    def _attempt(self, peer: Peer, now: float) -> None:
        """Call a local peer on the link (section 5.2.4, case 3); if it does not answer, in every other way too."""
        local = peer.nearby(now)
        if local is not None:
            self._send_local(peer, local, now)
            self._announce(now)  # it may not have heard of us yet
        if local is None or peer.attempts > 1:
            super()._attempt(peer, now)

    def _bubble_received(self, packet: Packet, trailers: Trailers, source: Endpoint, port: int, now: float) -> None:
        peer = self._peers.get(packet.source)
        if peer is None or peer.nearby(now) != source:
            super()._bubble_received(packet, trailers, source, port, now)
            return
        self._trust_local(peer, source, now)
        if trailers.discovery is Discovery.SOLICITATION:
            self._advertise(peer, now)

    def _trust_local(self, peer: Peer, source: Endpoint, now: float) -> None:
        """A local peer has sent to us directly (section 5.2.3, case 5): what was for the way through NATs may end."""
        self._end_echo_test(peer)
        self._close_port(peer)
        peer.direct_on_random = False
        self._trust(peer, source, now)

    def _trusted(self, peer: Peer) -> None:
        if peer.mapping != peer.local:
            super()._trusted(peer)

    def _may_go(self, peer: Peer, *, waited: bool) -> bool:
        """Who sends to us on the link has heard our discovery bubble, and will trust us there."""
        return (peer.trusted and peer.mapping == peer.local) or super()._may_go(peer, waited=waited)

    def _timer(self, key: Hashable, now: float) -> None:
        if key == "discovery":
            self._announce(now)
        else:
            super()._timer(key, now)

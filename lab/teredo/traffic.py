"""The traffic of a qualified Teredo client: what it takes from peers, what it sends to them (RFC 4380 section 5.2).

Teredo peers are reached with bubbles (`lab.teredo.peering`), native hosts through relays: those are found by the direct
IPv6 connectivity test, an echo request through the client's own server whose answer comes by way of the relay.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Network
from typing import Final

from lab.teredo.address import PORT, Endpoint, is_global, is_link_local, is_teredo, link_local, parse, text
from lab.teredo.discovery import LocalDiscovery
from lab.teredo.packet import NO_ROUTE, Packet, echo_reply_data, echo_request
from lab.teredo.peers import Peer
from lab.teredo.trailers import Trailers
from lab.teredo.tunnel import is_whole_ipv6

NONCE_BYTES: Final = 16


class Traffic(LocalDiscovery):
    """What a client does with packets while it has an address, which is `_own`."""

    @property
    def _router(self) -> bytes:
        """Whom errors to the host come from: the server, as the host knows it."""
        return link_local(self._servers[0], cone=True)

    # Receiving (section 5.2.3)

    def _from_server(self, packet: Packet, trailers: Trailers, source: Endpoint, now: float) -> None:
        """Indirect bubbles are answered directly; anything else with an origin starts the connectivity test."""
        if packet.origin is None:  # the server is a relay too (section 5.4.3)
            self._from_peer(packet, trailers, source, 0, now)
        elif packet.is_bubble:
            self.counters["indirect bubbles received"] += 1
            if parse(packet.source) is not None:
                self._indirect_received(packet, trailers, packet.origin, now)
            elif is_global(packet.source) or is_link_local(packet.source):
                self._from_relay(packet, trailers, packet.origin, now)
            else:
                self._drop("source is not unicast")
        elif is_global(packet.source) and not is_teredo(packet.source):
            self._test(packet, packet.origin, now)
        else:
            self._drop("not a bubble from the server")

    def _from_relay(self, packet: Packet, trailers: Trailers, origin: Endpoint, now: float) -> None:
        """An indirect bubble of a relay: our answer, with its nonce, opens our NAT and tells it our mapping."""
        peer = self._peer(packet.source, now)
        if not self._may_answer(peer, now):
            return
        if self._nonces:
            peer.nonce_received = trailers.nonce
        self._answer(peer, origin, now)

    def _from_peer(self, packet: Packet, trailers: Trailers, source: Endpoint, port: int, now: float) -> None:
        """A packet that did not come through the server; `port` is the random port that it came in on, or 0."""
        if not is_global(packet.source):
            self._drop("source is not global", source=str(source))
            return
        teredo = parse(packet.source)
        if packet.is_bubble and teredo is not None:
            self._bubble_received(packet, trailers, source, port, now)
            return
        peer = self._peers.get(packet.source)
        if peer is not None:
            if peer.nonce is not None and source not in self._forbidden and echo_reply_data(packet) == peer.nonce:
                self._trust(peer, source, now)
                return
            if peer.trusted and (peer.mapping == source or source in peer.proven):
                # It has taken another port, or answered at last.
                if peer.mapping != source or peer.address in self._timers:
                    peer.vouched = True
                    self._trust(peer, source, now)
                peer.last_received = now
                self._peers.note(peer)
                if not packet.is_bubble:
                    self._deliver(packet.ipv6)
                return
        if teredo is None:
            self._test(packet, source, now)
        elif teredo.mapped == source and source not in self._forbidden:
            peer = self._peer(packet.source, now)
            peer.direct_on_random = port != 0 and port == peer.local_port
            self._trust(peer, source, now)
            self._deliver(packet.ipv6)
        elif peer is not None and peer.nearby(now) == source:
            self._trust_local(peer, source, now)
            self._deliver(packet.ipv6)
        else:
            self._drop("source does not match its mapping", source=str(source), peer=text(packet.source))

    def _test(self, packet: Packet, source: Endpoint, now: float) -> None:
        """A native host we do not know: hold its packet until an echo through our server has proven the path."""
        peer = self._peer(packet.source, now)
        if source in self._forbidden:
            self._drop("endpoint is not global", source=str(source))
        elif packet.is_bubble:
            self._drop("bubble of a native host", source=str(source))
        elif not peer.hold_inbound(source, packet.ipv6):
            self._drop("queue full", peer=text(packet.source))
        else:
            self._reach(peer, now)

    # Sending (section 5.2.4)

    def inside(self, address: bytes) -> bool:
        return address == self._own

    def prefixes(self) -> Mapping[IPv6Network, bool]:
        return {IPv6Network(self._own): True} if self._own else {}

    def _outward(self, ipv6: bytes, now: float) -> None:
        """A packet of the host, which has our address as its source."""
        destination = ipv6[24:40]
        peer = self._peers.get(destination)
        if peer is not None and peer.usable(now) and not peer.outbound:
            self._transmit(peer, ipv6, now)
        elif not is_global(destination):
            self._drop("destination is not global")
        elif self._may_reach(destination):
            self._queue(peer or self._peer(destination, now), ipv6, now)
        else:
            self._drop("forbidden IPv4 destination", destination=text(destination))

    def packet(self, ipv6: bytes, now: float) -> None:
        """The host sends an IPv6 packet through the Teredo interface."""
        if not is_whole_ipv6(ipv6):
            self._drop("not an IPv6 packet from the host")
        elif not self._own:
            self._refuse(self._router, ipv6, NO_ROUTE)
        elif ipv6[8:24] != self._own:
            self._drop("foreign source address from the host")
        else:
            self._outward(ipv6, now)

    def _may_reach(self, destination: bytes) -> bool:
        teredo = parse(destination)
        return teredo is None or (
            teredo.mapped not in self._forbidden and Endpoint(teredo.server, PORT) not in self._forbidden
        )

    def _attempt(self, peer: Peer, now: float) -> None:
        if is_teredo(peer.address):
            super()._attempt(peer, now)
            return
        if peer.nonce is None:  # direct IPv6 connectivity test, section 5.2.9
            peer.nonce = self._rng.randbytes(NONCE_BYTES)
        self.counters["connectivity tests"] += 1
        self._send(echo_request(self._own, peer.address, peer.nonce), self._servers[0])

    def _error_source(self) -> bytes:
        return self._router

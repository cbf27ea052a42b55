"""What a Teredo client makes of its peers' bubbles: whom it answers how, and whom it trusts where (RFC 6081).

A peer answers an indirect bubble directly, and by an indirect bubble of its own. Whoever gets a direct bubble from the
mapping in its sender's address, or with the nonce that it sent in an indirect one, trusts the sender at the mapping
that it sees.
"""

from __future__ import annotations

from lab.teredo.address import Endpoint, TeredoAddress, parse, text
from lab.teredo.bubbles import Bubbles
from lab.teredo.extensions import Extension
from lab.teredo.packet import Packet
from lab.teredo.peers import PEER_VALIDITY, Peer
from lab.teredo.trailers import Discovery, Trailers


class Peering(Bubbles):
    """What a client does about its Teredo peers."""

    # Receiving bubbles

    def _indirect_received(self, packet: Packet, trailers: Trailers, origin: Endpoint, now: float) -> None:
        """An indirect bubble of a Teredo peer: answer it directly, and if need be by an indirect one (section 6.1)."""
        teredo = parse(packet.source)
        assert teredo is not None
        if self._has(Extension.HAIRPINNING) and trailers.malformed_addresses:
            self._drop("malformed alternate addresses", peer=text(packet.source))
            return
        peer = self._peer(packet.source, now)
        if not self._may_answer(peer, now):
            return
        if not self._nonces:  # as RFC 4380 has it
            self._answer(peer, origin, now)
            return
        if peer.trusted and not peer.usable(now):
            self._forget_trust(peer)
        peer.nonce_received, peer.called_back = trailers.nonce, True
        self._heed_random_port(peer, trailers.random_port, now)
        if self._has(Extension.HAIRPINNING):
            peer.alternates = trailers.alternates
        if teredo.mapped in self._forbidden:
            self._drop("peer's mapping is not global", peer=text(packet.source))
            return
        if peer.usable(now):
            peer.last_sent = now
            ready = self._may_go(peer, waited=False)
            ask = not ready and self._has(Extension.LOAD_REDUCTION)
            self._direct_to_trusted(peer, Discovery.SOLICITATION if ask else None)
            if ready:
                self._release(peer, now)
        else:
            self._answer_stranger(peer, teredo, now)

    def _may_answer(self, peer: Peer, now: float) -> bool:
        """Whether another of a peer's indirect bubbles may be answered; it is counted."""
        if peer.answers.take(now):
            self.counters["bubbles answered"] += 1
            return True
        self._drop("too many bubbles", peer=text(peer.address))
        return False

    def _answer_stranger(self, peer: Peer, teredo: TeredoAddress, now: float) -> None:
        if self._preserved:
            self._open_port(peer, now)
        calling = peer.address in self._timers
        peer.last_sent = now
        self._knock(peer)
        if peer.local_port and not peer.peer_random_port:  # or our NAT would have no mapping for what we announce
            self._direct(peer, teredo.mapped, peer.local_port)
        for alternate in peer.alternates:
            if not self._forbidden.even_nearby(alternate) and alternate not in (teredo.mapped, self.nat.local):
                self._direct(peer, alternate)
        if peer.peer_random_port and not peer.local_port:
            self._direct(peer, self._announced(peer, teredo))
        # Last, or what it brings about could be here before our NAT is open for it.
        if not calling and self._has(Extension.SYMMETRIC) and peer.callbacks.take(now):
            self._ask_for_answer(peer, now)

    def _answer(self, peer: Peer, origin: Endpoint, now: float) -> None:
        """Answer an indirect bubble to where the server saw it come from: that opens our NAT for the sender."""
        if origin in self._forbidden:
            self._drop("origin is not global", origin=str(origin))
        else:
            peer.last_sent = now
            self._direct(peer, origin)

    def _heed_random_port(self, peer: Peer, announced: int, now: float) -> None:
        """What a peer has announced in an indirect bubble (section 5.4.4.4)."""
        if not announced or not self._has(Extension.PORT_PRESERVING) or announced == peer.peer_random_port:
            return
        if not peer.peer_random_port:
            peer.peer_random_port = announced
        elif now - max(peer.last_data, peer.last_received) > PEER_VALIDITY:
            peer.peer_random_port = announced
            if self.nat.port_preserving:
                self._close_port(peer)

    def _bubble_received(self, packet: Packet, trailers: Trailers, source: Endpoint, port: int, now: float) -> None:
        """A direct bubble of a Teredo peer: accepted from the mapping in its address, or with our nonce."""
        teredo = parse(packet.source)
        assert teredo is not None
        matches = teredo.mapped == source and source not in self._forbidden
        peer = self._peers.get(packet.source)
        if not matches and self._has(Extension.UPNP):
            peer = peer or self._peer(packet.source, now)
            peer.symmetric = True
        authentic = peer is not None and bool(peer.nonce_sent) and trailers.nonce == peer.nonce_sent
        if not matches and not (authentic and not self._forbidden.even_nearby(source)):
            self._drop("source does not match its mapping", source=str(source), peer=text(packet.source))
            return
        peer = peer or self._peer(packet.source, now)
        if authentic:
            peer.prove(source)
        self.counters["direct bubbles received"] += 1
        if self._accepted(peer, source, port, now) and trailers.discovery is Discovery.SOLICITATION:
            self._advertise(peer, now)
        if trailers.discovery is Discovery.ADVERTISEMENT:
            peer.vouched = True
            if peer.usable(now):
                self._release(peer, now)

    def _accepted(self, peer: Peer, source: Endpoint, port: int, now: float) -> bool:
        """Trust the peer of a good direct bubble at its source. Returns False if it has to be reached anew."""
        if self._has(Extension.PORT_PRESERVING) and (self.nat.port_preserving or self._sequential):
            return self._accepted_on(peer, source, port, now)
        self._trust(peer, source, now)
        return True

    def _accepted_on(self, peer: Peer, source: Endpoint, port: int, now: float) -> bool:
        """The same, heeding the port that it came in on (section 5.4.4.5)."""
        if port and port != peer.local_port:
            self._drop("not this peer's port", peer=text(peer.address))
            return False
        moved = peer.trusted and peer.mapping != source
        if moved and (port or (peer.direct_on_primary and not peer.usable(now))):
            self._forget_trust(peer)  # the peer's NAT has given it another port
            self._ask_for_answer(peer, now)
            return False
        believed_elsewhere = not port and peer.local_port != 0  # it may have seen us there last
        if port:
            peer.direct_on_random = True
            # Section 6.4, step 7; and without it data would mean nothing yet.
            if not peer.usable(now) and (self._sequential or peer.outbound):
                self._direct(peer, source, port)
        else:
            peer.direct_on_primary, peer.direct_on_random = True, False
            self._end_echo_test(peer)
            self._close_port(peer)
        self._trust(peer, source, now)
        if believed_elsewhere:
            self._direct_to_trusted(peer)
        return True

    def _advertise(self, peer: Peer, now: float) -> None:
        """Answer a solicitation (section 5.7.4.2)."""
        if peer.answers.take(now):
            self._direct_to_trusted(peer, Discovery.ADVERTISEMENT)
        else:
            self._drop("too many bubbles", peer=text(peer.address))

    # Trust

    def _trusted(self, peer: Peer) -> None:
        teredo = parse(peer.address)
        if peer.direct_on_random:
            peer.send_from = peer.local_port
        if teredo is None or not self._opened_by_upnp:
            return
        assert peer.mapping is not None
        if peer.symmetric and peer.mapping not in self._forbidden:  # one nearby is where it is
            peer.send_to = teredo.mapped

    def _may_go(self, peer: Peer, *, waited: bool) -> bool:
        """Data are of use when the peer trusts us too, or they are lost and nobody is told."""
        teredo = parse(peer.address)
        if teredo is None or not self._nonces or peer.vouched:
            return True
        assert peer.mapping is not None
        if self._opened_by_upnp and peer.mapping not in self._forbidden:
            # We hear from peers that may never hear from us: those go on calling back.
            return waited and peer.attempts > 1 and not peer.called_back
        if not self.nat.symmetric and peer.mapping.host == teredo.mapped.host:  # it sees us where our address says
            return True
        return waited or bool(peer.nonce_received)  # it has got its nonce back

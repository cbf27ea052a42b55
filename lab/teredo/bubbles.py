"""How a Teredo client calls its Teredo peers: bubbles, random ports and echo tests (RFC 6081 sections 5.2 to 5.7).

A caller sends a direct bubble to the mapping in the peer's address, and an indirect one through the peer's server. What
else it does depends on its own NAT. `lab.teredo.peering` says what becomes of the bubbles that come in.
"""

from __future__ import annotations

from collections.abc import Hashable, Set
from dataclasses import dataclass
from random import Random
from typing import Final

from lab.teredo.address import PORT, Endpoint, Forbidden, TeredoAddress, is_teredo, parse
from lab.teredo.extensions import Extension
from lab.teredo.machine import Close, Open
from lab.teredo.packet import Packet, advertisement, bubble
from lab.teredo.peers import EchoTest, Peer
from lab.teredo.solicitation import Solicitation
from lab.teredo.trailers import (
    Discovery,
    alternate_address_trailer,
    discovery_trailer,
    fresh_nonce,
    nonce_trailer,
    random_port_trailer,
)
from lab.teredo.tunnel import Tunnel

RANDOM_PORTS: Final = range(49152, 61000)
"""Where random ports are drawn from: dynamic ones (RFC 6335), below those that NATs give to whom they preserve none."""

MAX_RANDOM_PORTS: Final = 256
"""Random ports that are open at a time; peers beyond them must do without."""

REMEMBERED_PORTS: Final = 2048
"""Random ports that are not drawn again: our NAT may still have mappings for them, and then it would not keep them."""

REFRESH_PEERS: Final = 30.0
REFRESHES: Final = 20
"""Every 30 s, up to 20 times, mappings of random ports are kept alive (RFC 6081 section 5.4.2.1)."""

SOLICITATION_SPACING: Final = 2.0
SOLICITATIONS: Final = 3
"""Solicitations of a peer that has been silent, before it is treated as a new one (RFC 6081 section 5.7.2)."""

ECHO_TESTS: Final = 2

_FIRST_PORT, _LAST_PORT = 1024, 65535
_NEAR: Final = 1024
"""Ports that a sequential NAT may give away between the two solicitations of an echo test; else it is no such NAT."""


@dataclass(slots=True)
class NatFacts:
    """What a client knows of its own NAT (RFC 6081 sections 5.3.1 and 5.4.1).

    `local` is the local end of the service port. `upnp_mapped` is what UPnP opened, as long as it is another endpoint
    than the one that the server sees, which means that there is another NAT behind the first.
    """

    local: Endpoint | None = None
    symmetric: bool | None = None
    port_preserving: bool = False
    upnp: bool = False
    upnp_mapped: Endpoint | None = None


def predicted_port(lower: int, upper: int) -> int:
    """The external port between those of two packets of one port (RFC 6081 section 5.5.4.4, whose formula has a typo).

    Where the NAT has begun anew at its first port between the two, so does this.
    """
    count = _LAST_PORT - _FIRST_PORT + 1
    forward = (upper - lower) % count
    if upper < lower and forward <= _NEAR:
        return _FIRST_PORT + (lower - _FIRST_PORT + forward // 2) % count
    return (lower + upper) // 2


class Bubbles(Tunnel):
    """What a client sends to call its Teredo peers. The client says when it has an address, and what its NAT is."""

    def __init__(
        self,
        rng: Random,
        forbidden: Forbidden,
        max_peers: int,
        extensions: Set[Extension],
        servers: tuple[Endpoint, Endpoint],
        solicitation: Solicitation,
    ) -> None:
        super().__init__(rng, forbidden, max_peers)
        self.nat = NatFacts()
        self._extensions = extensions
        self._servers = servers
        self._solicitation = solicitation
        self._own = b""
        self._ports: dict[int, Peer] = {}
        self._drawn: dict[int, None] = {}

    # What the extensions come to, with this NAT

    def _has(self, extension: Extension) -> bool:
        return extension in self._extensions

    @property
    def _nonces(self) -> bool:
        return self._has(Extension.SYMMETRIC) or self._has(Extension.HAIRPINNING)

    @property
    def _preserved(self) -> bool:
        """Behind a symmetric NAT that preserves ports."""
        return bool(self.nat.symmetric) and self.nat.port_preserving and self._has(Extension.PORT_PRESERVING)

    @property
    def _sequential(self) -> bool:
        """Behind a symmetric NAT that does not preserve ports, and therefore may count them (section 5.5.4.1)."""
        return bool(self.nat.symmetric) and not self.nat.port_preserving and self._has(Extension.SEQUENTIAL)

    @property
    def _opened_by_upnp(self) -> bool:
        """Behind one symmetric NAT, which lets anybody in to the mapping in our address (section 5.3.4.2)."""
        return bool(self.nat.symmetric) and self.nat.upnp and self.nat.upnp_mapped is None and self._has(Extension.UPNP)

    # Sending bubbles

    def _attempt(self, peer: Peer, now: float) -> None:
        self.counters["bubbles sent"] += 1
        peer.called_back = False
        if self._preserved:
            self._open_port(peer, now)
        self._knock(peer)
        self._ask_for_answer(peer, now)

    def _try(self, peer: Peer, now: float) -> None:
        self._peers.note(peer)
        if peer.trusted and not peer.usable(now) and is_teredo(peer.address):
            if self._has(Extension.LOAD_REDUCTION):
                self.counters["peers solicited"] += 1
                peer.solicitations += 1
                self._direct_to_trusted(peer, Discovery.SOLICITATION)
                if peer.solicitations < SOLICITATIONS:
                    self._timers.set(peer.address, now + SOLICITATION_SPACING)
                    return
            in_use = peer.in_use
            self._forget_trust(peer)
            if in_use:
                self._peers.use(peer)
        super()._try(peer, now)

    def _direct(self, peer: Peer, to: Endpoint, port: int = 0, discovery: Discovery | None = None) -> None:
        """Send a direct bubble, with the nonce of the peer's last indirect one (section 5.2.4.2)."""
        trailers = nonce_trailer(peer.nonce_received)
        if port:
            trailers += random_port_trailer(peer.random_port)
        if discovery is not None:
            trailers += discovery_trailer(discovery)
        self._send(bubble(self._own, peer.address) + trailers, to, port=port)

    def _direct_to_trusted(self, peer: Peer, discovery: Discovery | None = None) -> None:
        """Send a direct bubble the way that data go."""
        assert peer.send_to is not None
        self._direct(peer, peer.send_to, peer.send_from, discovery)

    def _knock(self, peer: Peer) -> None:
        """Direct bubbles to where the peer may be: its address says so, and its announced port (section 5.4.4.3)."""
        teredo = parse(peer.address)
        assert teredo is not None
        self._direct(peer, teredo.mapped)
        if peer.peer_random_port and peer.local_port:
            self._direct(peer, self._announced(peer, teredo), peer.local_port)

    def _announced(self, peer: Peer, teredo: TeredoAddress) -> Endpoint:
        return Endpoint(teredo.mapped.host, peer.peer_random_port or teredo.mapped.port)

    def _ask_for_answer(self, peer: Peer, now: float) -> None:
        """See to it that an indirect bubble is sent, if need be after an echo test (section 5.5.4.1)."""
        if self._sequential and not peer.usable(now) and not peer.random_port:
            if ("echo", peer.address) in self._timers:
                return
            if self._open_port(peer, now):
                peer.echo_test = EchoTest()
                self._test_echo(peer, now)
                return
        self._indirect(peer, now)

    def _indirect(self, peer: Peer, now: float) -> None:
        teredo = parse(peer.address)
        assert teredo is not None
        trailers = b""
        if self._nonces:
            peer.nonce_sent = fresh_nonce(self._rng)
            trailers += nonce_trailer(peer.nonce_sent)
        if self._preserved or self._sequential:
            trailers += random_port_trailer(peer.random_port)
        if self._has(Extension.HAIRPINNING) and self.nat.local is not None and not peer.usable(now):
            mapped = (self.nat.upnp_mapped,) if self.nat.upnp_mapped is not None else ()
            trailers += alternate_address_trailer((self.nat.local, *mapped))
        self._send(bubble(self._own, peer.address) + trailers, Endpoint(teredo.server, PORT))

    def _forget_trust(self, peer: Peer) -> None:
        self._end_echo_test(peer)
        self._close_port(peer)
        self._peers.distrust(peer)

    def _given_up(self, peer: Peer) -> None:
        self._forget_trust(peer)  # the entry stays: it remembers how many bubbles were sent

    def _abandon(self, peer: Peer) -> None:
        self._end_echo_test(peer)
        self._close_port(peer)
        super()._abandon(peer)

    # Random ports (sections 5.4 and 5.5)

    def _open_port(self, peer: Peer, now: float) -> bool:
        """See to it that a random port is open for a peer. Returns whether that is so."""
        if peer.local_port:
            return True
        if len(self._ports) >= MAX_RANDOM_PORTS:
            self.counters["random ports exhausted"] += 1
            return False
        own = 0 if self.nat.local is None else self.nat.local.port
        while peer.local_port in (0, own) or peer.local_port in self._drawn:
            peer.local_port = self._rng.choice(RANDOM_PORTS)
        self._drawn[peer.local_port] = None
        if len(self._drawn) > REMEMBERED_PORTS:
            del self._drawn[next(port for port in self._drawn if port not in self._ports)]
        if self._preserved:
            peer.random_port = peer.local_port
        self._ports[peer.local_port] = peer
        self._actions.append(Open(peer.local_port))
        if "peers" not in self._timers:
            self._timers.set("peers", now + REFRESH_PEERS)
        return True

    def _close_port(self, peer: Peer) -> None:
        if peer.local_port:
            del self._ports[peer.local_port]
            self._actions.append(Close(peer.local_port))
            peer.local_port = peer.random_port = peer.send_from = 0
            self._peers.note(peer)

    def port_refused(self, port: int, now: float) -> None:
        """A random port that was to be opened could not be had: go on without."""
        peer = self._ports.get(port)
        if peer is None:
            return
        self.counters["random ports refused"] += 1
        testing = self._end_echo_test(peer)
        self._close_port(peer)
        if testing:
            self._indirect(peer, now)

    def _refresh_peers(self, now: float) -> None:
        """Keep the mappings of random ports alive while there are no data (section 5.4.2.1)."""
        for peer in list(self._ports.values()):
            if not peer.trusted and now - peer.last_sent >= REFRESH_PEERS and peer.address not in self._timers:
                self._forget_trust(peer)  # it has called once, and never got through
                continue
            if ("echo", peer.address) not in self._timers:
                peer.echo_test = None
            if now - peer.last_data < REFRESH_PEERS:
                peer.refreshes = 0
            elif peer.direct_on_random and peer.send_to is not None and peer.refreshes < REFRESHES:
                peer.refreshes += 1
                self._direct_to_trusted(peer)
        if self._ports:
            self._timers.set("peers", now + REFRESH_PEERS)

    # Echo tests (section 5.5.4)

    def _test_echo(self, peer: Peer, now: float) -> None:
        """See which ports our NAT gives to solicitations before and behind a bubble to the peer."""
        teredo, test = parse(peer.address), peer.echo_test
        assert teredo is not None
        assert test is not None
        self.counters["echo tests"] += 1
        first, to_primary = self._solicitation.single()
        second, to_secondary = self._solicitation.single()
        test.nonces = first, second
        test.tries += 1
        self._send(to_primary, self._servers[0], port=peer.local_port)
        self._direct(peer, self._announced(peer, teredo), peer.local_port)
        self._send(to_secondary, self._servers[1], port=peer.local_port)
        self._timers.set(("echo", peer.address), now + test.tries)

    def _echo_received(self, packet: Packet, source: Endpoint, port: int, now: float) -> None:
        """A router advertisement on a random port."""
        peer = self._ports.get(port)
        test = None if peer is None else peer.echo_test
        if peer is None or test is None or source not in self._servers:
            self._drop("advertisement: not asked for", source=str(source))
            return
        index = self._servers.index(source)
        fault = self._solicitation.fault(packet, test.nonces[index], advertisement(packet))
        if fault is not None:
            self._drop(f"advertisement: {fault}", source=str(source))
            return
        assert packet.origin is not None
        if index == 0:
            test.lower = test.lower or packet.origin.port
        else:
            test.upper = test.upper or packet.origin.port
        if test.lower and test.upper and self._end_echo_test(peer):
            peer.random_port = predicted_port(test.lower, test.upper)
            self._indirect(peer, now)

    def _end_echo_test(self, peer: Peer) -> bool:
        """Let there be no echo test for a peer. Returns whether one was under way."""
        peer.echo_test = None
        key = "echo", peer.address
        if key not in self._timers:
            return False
        self._timers.cancel(key)
        return True

    # Time

    def _timer(self, key: Hashable, now: float) -> None:
        match key:
            case "peers":
                self._refresh_peers(now)
            case ("echo", bytes(address)):
                peer = self._peers.get(address)
                if peer is None or peer.echo_test is None:
                    return
                if peer.echo_test.tries < ECHO_TESTS:
                    self._test_echo(peer, now)
                else:
                    self._indirect(peer, now)
            case _:
                super()._timer(key, now)

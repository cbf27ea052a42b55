"""The list of recent peers of a client or relay (RFC 4380 sections 5.2 and 5.4), with its limits.

A peer is looked up by its IPv6 address (16 bytes). The list is bounded: those with which nothing has gone for 30 s make
room first, then strangers, to whom no packet of the host has gone, the longest unused of them before the others. Trust
alone would not do to tell them apart, since a spoofed UDP source earns it: a flood of invented peers must not push out
working ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from lab.teredo.address import Endpoint

PEER_VALIDITY: Final = 30.0
"""Seconds since the last reception for which a trusted peer may be sent to (RFC 4380 section 5.2.4)."""

BUBBLE_SPACING: Final = 2.0
BUBBLE_LIMIT: Final = 4
BUBBLE_WINDOW: Final = 300.0
"""At most 4 bubbles in 300 s without a direct response, 2 s apart (RFC 4380 section 5.2.6)."""

ANSWER_LIMIT: Final = 4
ANSWER_WINDOW: Final = 8.0
"""Answers to a peer's bubbles have a bucket of their own, or a client would be a reflector."""

PROVEN: Final = 4
"""Mappings of one peer that are known to be its: it may send from several ports while it looks for the right one."""

LOCAL_VALIDITY: Final = 600.0
"""Seconds since its last discovery bubble for which a peer counts as a local one (RFC 4380 section 5.2.4, case 3)."""

QUEUE_PACKETS: Final = 32
QUEUE_BYTES: Final = 65536


class Window:
    """A sliding window: at most `limit` events in `span` seconds."""

    __slots__ = ("_limit", "_span", "_times")

    def __init__(self, limit: int, span: float) -> None:
        self._limit, self._span = limit, span
        self._times: list[float] = []

    def opens_at(self, now: float) -> float:
        """The first moment, not before `now`, at which another event is allowed."""
        if len(self._times) < self._limit:
            return now
        return max(now, self._times[0] + self._span)

    def take(self, now: float) -> bool:
        """Count an event if the window allows one now."""
        if self.opens_at(now) > now:
            return False
        self._times.append(now)
        del self._times[: -self._limit]
        return True

    def clear(self) -> None:
        self._times.clear()

    def __len__(self) -> int:
        return len(self._times)


@dataclass(slots=True)
class EchoTest:
    """What a client behind a sequential NAT has found out for one peer (RFC 6081 section 5.5.1).

    `lower` and `upper` are the external ports that the primary and the secondary server saw, 0 before they answered.
    """

    nonces: tuple[bytes, bytes] = (b"", b"")
    lower: int = 0
    upper: int = 0
    tries: int = 0


@dataclass(slots=True)
class Peer:
    """One entry: what is known of a peer, the packets that wait for it, and what may still be sent to it.

    A new entry looks as if it had last been heard and addressed 30 s ago (RFC 4380 section 5.2.6). `inbound` holds
    packets *from* a native host that wait for the direct connectivity test, each with the endpoint it came from.
    `mapping` is where its packets come from, among those `proven` by a nonce of ours if there are several; `send_to` is
    where ours go, from the random port `send_from` or, if that is 0, from the service port.

    `local` is where its last discovery bubble came from, at the time `discovered`.

    The rest is RFC 6081's. `local_port` is the random port that is open for this peer, `random_port` the external one
    that it is predicted to have, `peer_random_port` the one that the peer has announced; 0 for none. A peer that is
    `vouched` for has shown that it trusts us; it has `called_back` if its own indirect bubble came since our last one.
    """

    address: bytes
    mapping: Endpoint | None = None
    send_to: Endpoint | None = None
    send_from: int = 0
    trusted: bool = False
    nonce: bytes | None = None
    last_received: float = float("-inf")
    last_sent: float = float("-inf")
    attempts: int = 0
    bubbles: Window = field(default_factory=lambda: Window(BUBBLE_LIMIT, BUBBLE_WINDOW))
    answers: Window = field(default_factory=lambda: Window(ANSWER_LIMIT, ANSWER_WINDOW))
    outbound: list[bytes] = field(default_factory=list)
    inbound: list[tuple[Endpoint, bytes]] = field(default_factory=list)
    outbound_bytes: int = 0
    inbound_bytes: int = 0
    in_use: bool = False
    local: Endpoint | None = None
    discovered: float = float("-inf")
    proven: tuple[Endpoint, ...] = ()
    nonce_sent: bytes = b""
    nonce_received: bytes = b""
    symmetric: bool = False
    local_port: int = 0
    random_port: int = 0
    peer_random_port: int = 0
    direct_on_primary: bool = False
    direct_on_random: bool = False
    last_data: float = float("-inf")
    refreshes: int = 0
    echo_test: EchoTest | None = None
    alternates: tuple[Endpoint, ...] = ()
    solicitations: int = 0
    vouched: bool = False
    called_back: bool = False
    callbacks: Window = field(default_factory=lambda: Window(BUBBLE_LIMIT, BUBBLE_WINDOW))

    @classmethod
    def new(cls, address: bytes, now: float) -> Peer:
        return cls(address, last_received=now - PEER_VALIDITY, last_sent=now - PEER_VALIDITY)

    def usable(self, now: float) -> bool:
        """Trusted, and heard from in the last 30 s: packets may go straight to its mapping."""
        return self.trusted and now - self.last_received < PEER_VALIDITY

    def nearby(self, now: float) -> Endpoint | None:
        """The local address and port of a local peer, else None."""
        return self.local if now - self.discovered < LOCAL_VALIDITY else None

    def hold_outbound(self, ipv6: bytes) -> bool:
        """Queue a packet for the peer. False, and nothing is kept, when the queue is full."""
        if len(self.outbound) >= QUEUE_PACKETS or self.outbound_bytes + len(ipv6) > QUEUE_BYTES:
            return False
        self.outbound.append(ipv6)
        self.outbound_bytes += len(ipv6)
        return True

    def hold_inbound(self, source: Endpoint, ipv6: bytes) -> bool:
        """Queue a packet from the peer until it is trusted. False when that queue is full."""
        if len(self.inbound) >= QUEUE_PACKETS or self.inbound_bytes + len(ipv6) > QUEUE_BYTES:
            return False
        self.inbound.append((source, ipv6))
        self.inbound_bytes += len(ipv6)
        return True

    def prove(self, mapping: Endpoint) -> None:
        """A nonce of ours has come back from this mapping."""
        if mapping not in self.proven:
            self.proven = (*self.proven[-PROVEN + 1 :], mapping)

    def release(self) -> tuple[list[bytes], list[tuple[Endpoint, bytes]]]:
        """Take out all waiting packets in their order: those for the peer, those from it."""
        outbound, inbound = self.outbound, self.inbound
        self.outbound, self.inbound = [], []
        self.outbound_bytes = self.inbound_bytes = 0
        return outbound, inbound


class PeerList:
    """Peers by IPv6 address, at most `limit` of them.

    `changed` collects the addresses whose trust has changed, if there is somebody who wants to know.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError("a peer list holds at least one peer")
        self._limit = limit
        self.changed: set[bytes] | None = None
        self._strangers: OrderedDict[bytes, Peer] = OrderedDict()
        self._in_use: OrderedDict[bytes, Peer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._strangers) + len(self._in_use)

    def __iter__(self) -> Iterator[Peer]:
        yield from self._in_use.values()
        yield from self._strangers.values()

    def get(self, address: bytes) -> Peer | None:
        """The entry of an address, now the most recently used one of its sort."""
        for entries in (self._in_use, self._strangers):
            peer = entries.get(address)
            if peer is not None:
                entries.move_to_end(address)
                return peer
        return None

    def obtain(self, address: bytes, now: float) -> tuple[Peer, Peer | None]:
        """The entry of an address, made if there is none, and the entry that had to make room for it."""
        peer = self.get(address)
        if peer is not None:
            return peer, None
        evicted = None
        if len(self) >= self._limit:
            evicted = self._make_room(now)
            self.note(evicted)
        peer = self._strangers[address] = Peer.new(address, now)
        return peer, evicted

    def _make_room(self, now: float) -> Peer:
        """Take out who is missed least: a peer in use with which nothing has gone for so long that trust has lapsed.

        If there is none, a stranger; but strangers alone would have only each other's places once the rest is taken.
        """
        longest = next(iter(self._in_use.values()), None)
        if longest is not None and now - max(longest.last_received, longest.last_sent) >= PEER_VALIDITY:
            return self._in_use.popitem(last=False)[1]
        return (self._strangers or self._in_use).popitem(last=False)[1]

    def note(self, peer: Peer) -> None:
        """Note that what may go to this peer, or come from it, may have changed."""
        if self.changed is not None:
            self.changed.add(peer.address)

    def use(self, peer: Peer) -> None:
        """Note that a packet of the host goes to this peer: it is a stranger no more."""
        if self._strangers.pop(peer.address, None) is not None:
            peer.in_use = True
            self._in_use[peer.address] = peer

    def trust(self, peer: Peer, mapping: Endpoint, now: float) -> None:
        """Mark a peer as trusted at a mapping: it has answered directly, so its bubble count starts anew."""
        peer.trusted, peer.mapping, peer.nonce = True, mapping, None
        peer.send_to, peer.send_from = mapping, 0
        peer.last_received, peer.solicitations = now, 0
        peer.bubbles.clear()
        peer.callbacks.clear()
        self.note(peer)

    def distrust(self, peer: Peer) -> None:
        """Withdraw the trust in a peer that no longer answers: it is a stranger again."""
        peer.trusted, peer.mapping, peer.send_to, peer.in_use = False, None, None, False
        peer.direct_on_primary = peer.direct_on_random = False
        peer.nonce_received, peer.peer_random_port = b"", 0
        peer.refreshes = peer.solicitations = 0
        peer.vouched, peer.proven = False, ()
        self.note(peer)
        if self._in_use.pop(peer.address, None) is not None:
            self._strangers[peer.address] = peer

    def remove(self, peer: Peer) -> None:
        self.note(peer)
        self._in_use.pop(peer.address, None)
        self._strangers.pop(peer.address, None)

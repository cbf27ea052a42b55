"""What a client and a relay share: peers, the packets that wait for them, and the attempts to reach them.

An attempt is whatever the sender does to make a peer answer directly: bubbles for a Teredo peer, an echo request for a
native host. It is repeated after 2 s, three times at most, and then the peer is given up (RFC 4380 sections 5.2.4 and
5.4.1).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Set
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from random import Random
from typing import Any, Final

from lab.teredo.address import Endpoint, Forbidden, is_teredo, text
from lab.teredo.machine import Machine
from lab.teredo.packet import ADDRESS_UNREACHABLE, HEADER
from lab.teredo.peers import BUBBLE_SPACING, Peer, PeerList

ATTEMPT_TIMEOUT: Final = 2.0
ATTEMPTS: Final = 4
"""One attempt and up to three repeats (RFC 4380 section 5.2.4)."""

MAX_PEERS: Final = 8192


@dataclass(frozen=True, slots=True)
class Way:
    """How data go to a trusted peer and come from it.

    They go to `send_to`, from the local port `send_from` (0: the service port), and come from `mapping`. The peer was
    last heard at the time `heard`, which makes it no other way.
    """

    mapping: Endpoint
    send_to: Endpoint
    send_from: int
    heard: float = field(default=float("-inf"), compare=False)


class Tunnel(Machine):
    """A machine that sends IPv6 packets to peers over UDP. Subclasses say what an attempt is."""

    def __init__(self, rng: Random, forbidden: Forbidden, max_peers: int = MAX_PEERS) -> None:
        super().__init__()
        self._rng = rng
        self._forbidden = forbidden
        self._peers = PeerList(max_peers)

    def forget_peers(self, now: float, keep: Set[bytes] = frozenset()) -> None:
        """Forget every peer, but for the addresses in `keep`, and what waits for it, as after a change of address."""
        for peer in list(self._peers):
            if peer.address not in keep:
                self._peers.remove(peer)
                self._abandon(peer)

    def peer_table(self, now: float) -> list[dict[str, Any]]:
        """One row a peer: address, mapping, trusted, seconds since the last packet in each direction."""
        return [
            {
                "address": text(peer.address),
                "mapping": None if peer.mapping is None else str(peer.mapping),
                "trusted": peer.usable(now),
                "received_ago": round(now - peer.last_received, 3),
                "sent_ago": round(now - peer.last_sent, 3),
                "bubbles": len(peer.bubbles),
                "queued": len(peer.outbound),
            }
            for peer in self._peers
        ]

    # Data that go by themselves: whoever carries them needs the machine only to know whom it trusts where

    def way(self, address: bytes, now: float) -> Way | None:
        """How plain data (`lab.teredo.packet.is_plain`) go to a peer and come from it for the next moment, without the
        machine; None if each packet has to be shown to it. It holds until `changed_ways` names the peer, or it has
        been silent for 30 s (RFC 4380 section 5.2.4)."""
        peer = self._peers.get(address)
        if peer is None or not peer.usable(now) or peer.outbound or peer.inbound or address in self._timers:
            return None
        if peer.mapping is None or peer.send_to is None or peer.nonce is not None:
            return None
        return Way(peer.mapping, peer.send_to, peer.send_from, peer.last_received)

    def changed_ways(self) -> set[bytes]:
        """Take out the addresses of peers whose way may have changed since the last call, or whom the machine has
        heard; the first call begins it."""
        taken, self._peers.changed = self._peers.changed, set()
        return taken or set()

    def inside(self, address: bytes) -> bool:
        """Whether an IPv6 address is on this side of the tunnel: data of such ones are sent, and delivered to them."""
        raise NotImplementedError

    def prefixes(self) -> Mapping[IPv6Network, bool]:
        """The same as prefixes: the longest that an address lies in says whether it is inside."""
        raise NotImplementedError

    def carried(
        self,
        address: bytes,
        *,
        sent: int = 0,
        sent_at: float = float("-inf"),
        received: int = 0,
        received_at: float = float("-inf"),
    ) -> None:
        """So many packets have gone to a peer and come from it without the machine, the last of them at these times."""
        self.counters["sent"] += sent
        self.counters["delivered"] += received
        peer = self._peers.get(address)
        if peer is None:
            return
        if sent:
            if not peer.in_use:
                self._peers.use(peer)
            peer.last_sent, peer.last_data = max(peer.last_sent, sent_at), max(peer.last_data, sent_at)
        if received:
            peer.last_received = max(peer.last_received, received_at)
            self._peers.note(peer)

    # What subclasses add

    def _attempt(self, peer: Peer, now: float) -> None:
        """Send what makes the peer answer."""
        raise NotImplementedError

    def _error_source(self) -> bytes:
        """The IPv6 address that ICMPv6 errors to the host come from."""
        raise NotImplementedError

    def _given_up(self, peer: Peer) -> None:
        """The peer did not answer; its queue is already gone."""
        raise NotImplementedError

    def _trusted(self, peer: Peer) -> None:
        """The peer has just been trusted, or once more."""

    def _may_go(self, peer: Peer, *, waited: bool) -> bool:
        """Whether packets may go to a trusted peer; `waited`: after another 2 s of waiting for it."""
        return True

    # What they share

    def _peer(self, address: bytes, now: float) -> Peer:
        peer, evicted = self._peers.obtain(address, now)
        if evicted is not None:
            self.counters["evicted peers"] += 1
            self._abandon(evicted)
        return peer

    def _abandon(self, peer: Peer) -> None:
        self._timers.cancel(peer.address)
        self._peers.note(peer)
        outbound, _ = peer.release()
        for ipv6 in outbound:
            self._refuse(self._error_source(), ipv6, ADDRESS_UNREACHABLE)

    def _transmit(self, peer: Peer, ipv6: bytes, now: float) -> None:
        assert peer.send_to is not None
        if not peer.in_use:
            self._peers.use(peer)
        peer.last_sent = peer.last_data = now
        self.counters["sent"] += 1
        self._send(ipv6, peer.send_to, port=peer.send_from)

    def _queue(self, peer: Peer, ipv6: bytes, now: float) -> None:
        """Hold a packet until the peer answers, and see to it that an attempt is under way."""
        if not peer.hold_outbound(ipv6):
            self._drop("queue full", peer=text(peer.address))
        self._peers.note(peer)
        self._reach(peer, now)

    def _reach(self, peer: Peer, now: float) -> None:
        """Begin to reach a peer unless that is under way already."""
        if peer.address not in self._timers:
            peer.attempts = 0
            self._try(peer, now)

    def _try(self, peer: Peer, now: float) -> None:
        self._peers.note(peer)
        if is_teredo(peer.address):
            allowed = max(peer.last_sent + BUBBLE_SPACING, peer.bubbles.opens_at(now))
            if allowed > now + BUBBLE_SPACING:  # four bubbles in 300 s went unanswered
                self._give_up(peer, "bubble limit")
                return
            if allowed > now:
                self._timers.set(peer.address, allowed)
                return
            peer.bubbles.take(now)
        peer.attempts += 1
        peer.last_sent = now
        self._attempt(peer, now)
        self._timers.set(peer.address, now + ATTEMPT_TIMEOUT)

    def _timer(self, key: Hashable, now: float) -> None:
        peer = self._peers.get(key) if isinstance(key, bytes) else None
        if peer is None:
            return
        if peer.usable(now) and self._may_go(peer, waited=True):
            self._release(peer, now)
        elif peer.attempts >= ATTEMPTS:
            self._give_up(peer, "no answer")
        else:
            self._try(peer, now)

    def _give_up(self, peer: Peer, why: str) -> None:
        self.counters["peers given up"] += 1
        self._report("peer given up", peer=text(peer.address), why=why)
        self._abandon(peer)
        peer.attempts, peer.nonce = 0, None
        self._given_up(peer)

    def _trust(self, peer: Peer, mapping: Endpoint, now: float) -> None:
        """The peer has answered from `mapping`: packets may go there, and what waited for that goes."""
        if peer.usable(now) and peer.mapping == mapping:
            if peer.address not in self._timers:  # nearly every packet: nothing waits, nothing changes
                peer.last_received = now
                self._peers.note(peer)
                return
        else:
            self._report("peer trusted", peer=text(peer.address), mapping=str(mapping))
        self._peers.trust(peer, mapping, now)
        self._trusted(peer)
        if self._may_go(peer, waited=False):
            self._release(peer, now)

    def _release(self, peer: Peer, now: float) -> None:
        """Send and deliver what waited until the peer was trusted, in order."""
        self._timers.cancel(peer.address)
        self._peers.note(peer)
        outbound, inbound = peer.release()
        for ipv6 in outbound:
            self._transmit(peer, ipv6, now)
        for source, ipv6 in inbound:
            if source == peer.mapping:
                self._deliver(ipv6)
            else:
                self._drop("queued from another endpoint", source=str(source))


def is_whole_ipv6(ipv6: bytes | memoryview) -> bool:
    """Whether a packet from the host is one IPv6 packet of the length that its header says."""
    return len(ipv6) >= HEADER and ipv6[0] >> 4 == 6 and len(ipv6) == HEADER + (ipv6[4] << 8 | ipv6[5])

"""What the client, the server and the relay have in common: they take (now, event) and leave actions.

A machine never waits and never looks at a clock. Whoever drives it feeds datagrams, packets and the passing of time,
and takes the actions out again: h11's idea, applied to Teredo.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from lab.teredo.address import Endpoint
from lab.teredo.packet import MAX_DATAGRAM, MalformedError, Packet, decode, unreachable


@dataclass(frozen=True, slots=True)
class Send:
    """Send this UDP payload to an IPv4 endpoint.

    From the service port, or from a server's one at its `secondary` address, or from a random `port` that is open.
    """

    data: bytes
    to: Endpoint
    secondary: bool = False
    port: int = 0


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand this IPv6 packet to the host's IPv6 stack."""

    ipv6: bytes


@dataclass(frozen=True, slots=True)
class Configure:
    """The Teredo interface has this address now (16 bytes), or none."""

    address: bytes | None
    mtu: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth a log line or a reaction: a name and facts about it."""

    name: str
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Open:
    """Listen on this local UDP port as well. If that fails, the machine is to be told with `port_refused`."""

    port: int


@dataclass(frozen=True, slots=True)
class Close:
    """Listen on this port no longer."""

    port: int


@dataclass(frozen=True, slots=True)
class MapPort:
    """Have the NAT open the service port by UPnP (RFC 6081 section 5.3.3); the answer goes to `port_mapped`."""


@dataclass(frozen=True, slots=True)
class UnmapPort:
    """Have the NAT close what it opened (RFC 6081 section 5.3.5.1)."""


@dataclass(frozen=True, slots=True)
class JoinGroup:
    """Hand what is sent to port 3544 of the Teredo IPv4 Discovery Address to `discovered` (RFC 4380 section 5.2.8)."""


@dataclass(frozen=True, slots=True)
class LeaveGroup:
    """Listen to that address no longer."""


@dataclass(frozen=True, slots=True)
class SendToGroup:
    """Send this UDP payload there from the service port, with TTL 1."""

    data: bytes


Action = Send | Deliver | Configure | Event | Open | Close | MapPort | UnmapPort | JoinGroup | LeaveGroup | SendToGroup


class Timers:
    """Deadlines by key; setting a key again moves it. Cancelled entries stay in the heap until they surface."""

    def __init__(self) -> None:
        self._deadlines: dict[Hashable, float] = {}
        self._heap: list[tuple[float, int, Hashable]] = []
        self._serial = 0

    def set(self, key: Hashable, at: float) -> None:
        self._deadlines[key] = at
        self._serial += 1
        heapq.heappush(self._heap, (at, self._serial, key))

    def cancel(self, key: Hashable) -> None:
        self._deadlines.pop(key, None)

    def clear(self) -> None:
        self._deadlines.clear()
        self._heap.clear()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._deadlines

    @property
    def next(self) -> float | None:
        """The earliest deadline, or None."""
        while self._heap:
            at, _, key = self._heap[0]
            if self._deadlines.get(key) == at:
                return at
            heapq.heappop(self._heap)
        return None

    def due(self, now: float) -> Hashable | None:
        """Take out one key whose deadline has passed, or None."""
        at = self.next
        if at is None or at > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._deadlines[key]
        return key


class Machine:
    """Base of the three state machines: collected actions, timers and counters.

    `counters` counts by name whatever was dropped, sent or refused, so that silence can be explained.
    """

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._timers = Timers()
        self._actions: list[Action] = []

    @property
    def next_timer(self) -> float | None:
        """When `tick` wants to be called, or None."""
        return self._timers.next

    def actions(self) -> list[Action]:
        """Take out what has to be done since the last call, in order."""
        taken, self._actions = self._actions, []
        return taken

    def start(self, now: float) -> None:
        """Begin to work."""
        raise NotImplementedError

    def stop(self, now: float) -> None:
        """End all work."""
        raise NotImplementedError

    def datagram(self, data: bytes, source: Endpoint, now: float) -> None:
        """A UDP payload has arrived on the service port."""
        raise NotImplementedError

    def packet(self, ipv6: bytes, now: float) -> None:
        """The host's IPv6 stack sends a packet through the Teredo interface."""
        raise NotImplementedError

    def snapshot(self, now: float) -> dict[str, Any]:
        """The machine's state as JSON-able facts."""
        raise NotImplementedError

    def tick(self, now: float) -> None:
        """Let every deadline up to `now` pass."""
        while (key := self._timers.due(now)) is not None:
            self._timer(key, now)

    def _timer(self, key: Hashable, now: float) -> None:
        raise NotImplementedError

    def _decode(self, data: bytes) -> Packet | None:
        if len(data) > MAX_DATAGRAM:
            self._drop("oversized")
            return None
        try:
            return decode(data)
        except MalformedError as error:
            self._drop("malformed", reason=str(error))
            return None

    def _send(self, data: bytes, to: Endpoint, *, secondary: bool = False, port: int = 0) -> None:
        self._actions.append(Send(data, to, secondary, port))

    def _deliver(self, ipv6: bytes) -> None:
        self.counters["delivered"] += 1
        self._actions.append(Deliver(ipv6))

    def _report(self, name: str, **facts: object) -> None:
        self._actions.append(Event(name, facts))

    def _drop(self, why: str, **facts: object) -> None:
        self.counters[f"dropped: {why}"] += 1
        self._actions.append(Event("dropped", {"why": why, **facts}))

    def _refuse(self, source: bytes, ipv6: bytes, code: int) -> None:
        """Tell the sender of an outgoing packet that it cannot be delivered."""
        self.counters["unreachable"] += 1
        answer = unreachable(source, ipv6, code)
        if answer is not None:
            self._actions.append(Deliver(answer))

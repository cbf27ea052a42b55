"""IPv6 hosts of the simulation: a stack that answers echo requests, and pings that know what became of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from lab.simulation.network import Clock, Internet6, Receive6
from lab.teredo.address import is_teredo, packed
from lab.teredo.packet import (
    DESTINATION_UNREACHABLE,
    ECHO_REQUEST,
    HEADER,
    MalformedError,
    decode,
    echo_reply,
    echo_reply_data,
    echo_request,
    icmpv6_is_sound,
)

_QUOTED_DATA = 2 * (HEADER + 8)
"""Where the data of an echo request lies in an ICMPv6 error that quotes the request."""


@dataclass(slots=True)
class Ping:
    """An echo request and what became of it: when it was answered, or when it was said to be undeliverable."""

    sent: float
    answered: float | None = None
    unreachable: float | None = None

    @property
    def reached(self) -> bool:
        return self.answered is not None

    @property
    def done(self) -> bool:
        return self.answered is not None or self.unreachable is not None

    @property
    def seconds(self) -> float | None:
        """From the request to its answer."""
        return None if self.answered is None else self.answered - self.sent


class Host:
    """A small IPv6 stack: it answers echo requests, pings others and keeps whatever else it gets in `inbox`."""

    def __init__(self, clock: Clock, send: Callable[[bytes], None], address: bytes | None = None) -> None:
        self.address = address
        self.inbox: list[bytes] = []
        self.send = send
        self._clock = clock
        self._pings: dict[bytes, Ping] = {}
        self._serial = count(1)

    @property
    def host(self) -> Host:
        """Itself, so that a host may stand wherever a node with a host may."""
        return self

    def ping(self, destination: bytes) -> Ping:
        """Send an echo request; its outcome will be noted in what this returns."""
        ping = Ping(self._clock.now)
        if self.address is None:
            ping.unreachable = ping.sent
        else:
            data = next(self._serial).to_bytes(8, "big")
            self._pings[data] = ping
            self.send(echo_request(self.address, destination, data))
        return ping

    def receive(self, ipv6: bytes) -> None:
        """A packet has arrived."""
        try:
            packet = decode(ipv6)
        except MalformedError:
            return
        if packet.icmp_type == ECHO_REQUEST and packet.destination == self.address:
            if icmpv6_is_sound(packet):
                self.send(echo_reply(packet, self.address))
        elif (ping := self._pings.pop(echo_reply_data(packet) or b"", None)) is not None:
            ping.answered = self._clock.now
        elif (
            packet.icmp_type == DESTINATION_UNREACHABLE
            and (ping := self._pings.pop(ipv6[_QUOTED_DATA:], None)) is not None
        ):
            ping.unreachable = self._clock.now
        else:
            self.inbox.append(ipv6)


class NativeHost(Host):
    """A host with native IPv6. `relay` takes its packets for 2001::/32, if it is not the common relay that does."""

    def __init__(self, clock: Clock, internet6: Internet6, address: str) -> None:
        self.native = packed(address)
        super().__init__(clock, self._route, self.native)
        self.relay: Receive6 | None = None
        self._internet6 = internet6
        internet6.attach(self.native, self.receive)

    def _route(self, ipv6: bytes) -> None:
        if self.relay is not None and is_teredo(ipv6[24:40]):
            self.relay(ipv6)
        else:
            self._internet6.send(ipv6)

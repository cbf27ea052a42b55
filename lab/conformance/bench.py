"""What a conformance check has at hand: ends of its own on the lab's Internet, and the program that it examines.

An end is a UDP socket at a public address behind no NAT, which may claim to be any Teredo node at that endpoint.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from lab.places import Places
from lab.teredo.address import PORT, Endpoint, TeredoAddress, packed, random_flags
from lab.teredo.packet import MalformedError, Packet, decode
from lab.teredo.trailers import Trailers, parse_trailers
from lab.topology.addressing import VANTAGE
from lab.topology.rules import INTERNET

PATIENCE: Final = 1.5
"""Seconds to wait for an answer that is due at once."""

QUIET: Final = 0.5
"""Seconds without an answer that count as silence."""


class UnmetError(Exception):
    """What the program did, or did not do, though it should."""


@dataclass(frozen=True, slots=True)
class Received:
    """A datagram as an end got it."""

    data: bytes
    source: Endpoint
    packet: Packet
    trailers: Trailers


class End:
    """One UDP socket, and the Teredo address that belongs to it, with a server."""

    def __init__(self, udp: socket.socket, server: str, rng: Random) -> None:
        self._udp = udp
        self.endpoint = Endpoint(*udp.getsockname())
        self.address = TeredoAddress(server, random_flags(rng), self.endpoint).packed
        self.rng = rng

    def send(self, data: bytes, to: Endpoint) -> None:
        self._udp.sendto(data, to)

    def receive(self, wanted: Callable[[Received], bool] = lambda _: True, within: float = PATIENCE) -> Received | None:
        """The next datagram of a sort, or None if none comes in time; others are let go."""
        deadline = time.monotonic() + within
        while (left := deadline - time.monotonic()) > 0:
            self._udp.settimeout(left)
            try:
                data, source = self._udp.recvfrom(65535)
                packet = decode(data)
            except TimeoutError:
                return None
            except MalformedError:
                continue
            received = Received(data, Endpoint(*source), packet, parse_trailers(packet.trailers))
            if wanted(received):
                return received
        return None

    def get(self, what: str, wanted: Callable[[Received], bool] = lambda _: True, within: float = PATIENCE) -> Received:
        """The same for what has to come. Raises UnmetError."""
        received = self.receive(wanted, within)
        if received is None:
            raise UnmetError(f"no {what} within {within:g} s")
        return received

    def silence(self, what: str, wanted: Callable[[Received], bool] = lambda _: True) -> None:
        """Nothing of a sort may come. Raises UnmetError."""
        received = self.receive(wanted, QUIET)
        if received is not None:
            raise UnmetError(f"{what} came from {received.source}")


def direct_bubble(received: Received) -> bool:
    """Whether it is a bubble that came without a server."""
    return received.packet.is_bubble and received.source.port != PORT


def indirect_bubble(received: Received) -> bool:
    """Whether it is a bubble that a server has forwarded."""
    return received.packet.is_bubble and received.source.port == PORT


class Bench:
    """The lab around the program: one server, one relay, a native host, and a client behind a cone NAT."""

    def __init__(self, status: dict[str, Any], places: Places) -> None:
        nodes = {node["name"]: node for node in status["nodes"]}
        self._places = places
        self.primary, self.secondary = (Endpoint(host, PORT) for host in nodes["server"]["ipv4"][:2])
        self.relay_host: str = nodes["relay"]["ipv4"][0]
        self.web = packed(nodes["web"]["ipv6"][0])
        address = nodes["client"]["teredo_address"]
        self.client = b"" if address is None else packed(address)
        self.client_state: str = nodes["client"]["state"]
        self.rng = Random()  # noqa: S311 - ports and nonces of a test

    @contextmanager
    def end(self, port: int = 0, server: str | None = None) -> Iterator[End]:
        """An end at the lab's core; its address names the lab's server, or another."""
        with self._places.open(INTERNET, socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind((str(VANTAGE[1]), port))
            yield End(udp, server or self.primary.host, self.rng)

    @contextmanager
    def native(self) -> Iterator[socket.socket]:
        """A raw socket of the native host that sends whole IPv6 packets, and reads ICMPv6."""
        with self._places.open("web", socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
            raw.settimeout(PATIENCE)
            yield raw

"""Single probes between two nodes: ICMPv6 echo, UDP echo, and TCP with 1 MiB verified by SHA-256.

All of them run in one process: a socket belongs to the network in which it was opened, so the prober has each opened in
its node and then drives them all from one loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import socket
import statistics
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, cast

from lab.places import Places

PORT: Final = 4380
"""UDP and TCP port of the responders."""

TCP_BYTES: Final = 1 << 20
TIMEOUT: Final = 12.0
"""Longer than a Teredo node takes to give a peer up: four attempts of 2 s (RFC 4380 section 5.2.4)."""

_RESEND = 1.0
_RTT_SAMPLES = 3
_IPV6_RECVERR = 25
_ICMP6_FILTER = 1
_ECHO_REPLY = 129

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter, float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a probe found; times in milliseconds. `reason` says why not, or what was verified."""

    reachable: bool
    first_packet_ms: float | None = None
    rtt_ms: float | None = None
    reason: str | None = None


def _failure(error: BaseException | None) -> Outcome:
    """An outcome from a socket's error: what the kernel was told by ICMPv6, or that nothing came."""
    if isinstance(error, OSError) and error.strerror:
        return Outcome(False, reason=error.strerror.lower())
    return Outcome(False, reason=f"no answer within {TIMEOUT:.0f} s")


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _socket(places: Places, node: str, kind: int, protocol: int = 0) -> socket.socket:
    opened = places.open(node, socket.AF_INET6, kind, protocol)
    opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
    return opened


async def _first_answer(
    probe: socket.socket, request: Callable[[int], bytes], matches: Callable[[bytes], bool]
) -> float:
    """Send until an answer matches; seconds from the first transmission. Raises OSError or TimeoutError."""
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    deadline = loop.time() + TIMEOUT
    attempt = 0
    while True:
        probe.send(request(attempt))
        attempt += 1
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout_at(min(deadline, loop.time() + _RESEND)):
                while not matches(await loop.sock_recv(probe, 65536)):
                    pass
                return time.monotonic() - began
        if loop.time() >= deadline:
            raise TimeoutError


async def _echoes(probe: socket.socket, request: Callable[[int], bytes], matches: Callable[[bytes], bool]) -> Outcome:
    try:
        first = await _first_answer(probe, request, matches)
        samples = [await _first_answer(probe, request, matches) for _ in range(_RTT_SAMPLES)]
    except (OSError, TimeoutError) as error:
        return _failure(error)
    return Outcome(True, _ms(first), _ms(statistics.median(samples)))


async def icmp6(places: Places, source: str, destination: str) -> Outcome:
    """ICMPv6 echo from a node to an address."""
    token = os.urandom(16)
    try:
        probe = _socket(places, source, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        probe.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _only(_ECHO_REPLY))
        probe.connect((destination, 0))
    except OSError as error:
        return _failure(error)
    with probe:
        identifier = random.getrandbits(16)
        return await _echoes(
            probe,
            lambda attempt: struct.pack("!BBHHH", 128, 0, 0, identifier, attempt) + token,
            lambda answer: answer[8:] == token,
        )


def _only(kind: int) -> bytes:
    """An ICMP6_FILTER that blocks every type but one."""
    blocked = (1 << 256) - 1 ^ 1 << kind
    return struct.pack("=8I", *(blocked >> 32 * word & 0xFFFFFFFF for word in range(8)))


async def udp(places: Places, source: str, destination: str) -> Outcome:
    """UDP echo: 512 random bytes must come back as they were."""
    payload = os.urandom(512)
    try:
        probe = _socket(places, source, socket.SOCK_DGRAM)
        probe.connect((destination, PORT))
    except OSError as error:
        return _failure(error)
    with probe:
        return await _echoes(probe, lambda _: payload, lambda answer: answer == payload)


async def tcp(places: Places, source: str, destination: str) -> Outcome:
    """Send 1 MiB over TCP; the other side must answer with its SHA-256."""
    payload = random.Random(destination).randbytes(TCP_BYTES)  # noqa: S311
    try:
        async with (
            asyncio.timeout(TIMEOUT),
            _connection(places, source, destination, PORT) as (reader, writer, connected),
        ):
            writer.write(payload)
            writer.write_eof()
            await writer.drain()
            digest = await reader.read()
    except (OSError, TimeoutError) as error:
        return _failure(error)
    if digest != hashlib.sha256(payload).digest():
        return Outcome(False, reason="SHA-256 of 1 MiB differs")
    return Outcome(True, connected, connected, "1 MiB, SHA-256 verified")


async def http(places: Places, source: str, destination: str) -> Outcome:
    """Fetch the page of a web host and verify it against the SHA-256 that the host announces and that we know."""
    from lab.programs.web import page  # noqa: PLC0415 - only nodes with a web host need it

    try:
        async with (
            asyncio.timeout(TIMEOUT),
            _connection(places, source, destination, 80) as (reader, writer, connected),
        ):
            writer.write(f"GET / HTTP/1.1\r\nHost: [{destination}]\r\nConnection: close\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.read()
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        return _failure(error)
    digest = hashlib.sha256(body).hexdigest()
    if not head.startswith(b"HTTP/1.1 200 ") or digest.encode() not in head or body != page():
        return Outcome(False, reason="the page fetched over HTTP is not the one served")
    return Outcome(True, connected, connected, f"HTTP page of {len(body)} bytes, SHA-256 verified")


@contextlib.asynccontextmanager
async def _connection(places: Places, source: str, destination: str, port: int) -> AsyncIterator[_Connection]:
    """A TCP connection from a node: (reader, writer, milliseconds until it stood)."""
    probe = _socket(places, source, socket.SOCK_STREAM)
    began = time.monotonic()
    try:
        await asyncio.get_running_loop().sock_connect(probe, (destination, port))
        connected = _ms(time.monotonic() - began)
        reader, writer = await asyncio.open_connection(sock=probe, limit=TCP_BYTES * 2)
    except BaseException:
        probe.close()
        raise
    try:
        yield reader, writer, connected
    finally:
        writer.close()


class _UdpEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(data, addr)


async def _tcp_digest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        writer.write(hashlib.sha256(await reader.read()).digest())
        await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def responders(places: Places, nodes: list[str]) -> AsyncIterator[None]:
    """Have these nodes answer UDP and TCP probes for a while."""
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        for node in nodes:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                listener = places.open(node, socket.AF_INET6, kind)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("::", PORT))
                if kind == socket.SOCK_DGRAM:
                    transport, _ = await loop.create_datagram_endpoint(_UdpEcho, sock=listener)
                    stack.callback(transport.close)
                else:
                    server = await asyncio.start_server(_tcp_digest, sock=listener, limit=TCP_BYTES * 2)
                    stack.callback(server.close)
        yield

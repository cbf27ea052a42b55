"""Measures what a NAT does to UDP, from packets alone (RFC 5780, and what that leaves out).

Every measurement takes fresh ports at both ends: an endpoint that was let in once makes any NAT look more open.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from lab.nat.bench import ATTEMPTS, LOSSY_ROUNDS, RESEND, Bench, SilenceError, StunSocket
from lab.nat.kinds import Collision, Filtering, Mapping, Pooling, PortChoice
from lab.nat.observation import Observation
from lab.teredo.address import Endpoint

_SMALL_STEP: Final = 256
_PORTS_EACH: Final = 4
_DISCARD: Final = 9
_NAT_PMP: Final = 5351
_ICMP_ATTEMPTS: Final = 2
_ICMP_INTERVAL: Final = 1.1
"""Seconds after which Linux sends one host another ICMP error even if it has had many."""


@dataclass(frozen=True, slots=True)
class _Ports:
    choice: PortChoice
    delta: int | None
    by_host: dict[str, set[str]]
    last: Endpoint

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(sorted(set().union(*self.by_host.values())))

    @property
    def pooling(self) -> Pooling | None:
        if len(self.addresses) < 2:
            return None
        return Pooling.ARBITRARY if any(len(seen) > 1 for seen in self.by_host.values()) else Pooling.PAIRED


async def observe(bench: Bench, *, thorough: bool) -> Observation:
    """Measure a NAT. `thorough` looks at every host inside, at ICMP errors and UPnP as well. Raises SilenceError."""
    with bench.open():
        server = bench.outer(0)
        try:
            await bench.mapped(bench.inner(), server)
        except SilenceError:
            return Observation(udp=False)
        mapping = await _mapping(bench, bench.inner())
        filtering = await _filtering(bench, bench.inner())
        ports = await _ports(bench, server, every_host=thorough)
        collision = None
        hosts: tuple[tuple[str, Mapping, Filtering], ...] = ()
        if thorough and len(bench.inside) > 1:
            if ports.choice is PortChoice.PRESERVING:
                collision = await _collision(bench)
            hosts = await _each_host(bench, one_port=collision is not Collision.OVERLOAD)
        return Observation(
            mapping=mapping,
            filtering=filtering,
            ports=ports.choice,
            delta=ports.delta,
            addresses=ports.addresses,
            pooling=ports.pooling,
            hairpin=await _hairpin(bench, server, mapping, filtering, ports),
            collision=collision,
            icmp_errors=await _icmp_errors(bench, server) if thorough else None,
            upnp=await _nat_pmp(bench) if thorough else None,
            hosts=hosts,
        )


async def _mapping(bench: Bench, source: StunSocket) -> Mapping:
    """RFC 5780 section 4.3, towards four endpoints that have never been spoken to."""
    first, second = bench.outer(0), bench.outer(0)
    seen = [await bench.mapped(source, server) for server in (first, second, bench.outer(1), bench.outer(1))]
    if len(set(seen)) == 1:
        return Mapping.EIM
    return Mapping.ADM if seen[0] == seen[1] and seen[2] == seen[3] else Mapping.APDM


async def _filtering(bench: Bench, source: StunSocket) -> Filtering:
    """RFC 5780 section 4.4: who gets in besides the one that was spoken to; strangers first."""
    server = bench.outer(0)
    mapped = await bench.mapped(source, server)
    for stranger, filtering in ((bench.outer(1), Filtering.EIF), (bench.outer(0), Filtering.ADF)):
        if await bench.arrives(stranger, source, mapped):
            return filtering
    return Filtering.APDF


async def _ports(bench: Bench, server: StunSocket, *, every_host: bool) -> _Ports:
    """How external ports of one new mapping after another are chosen, several for each external address."""
    hosts = range(len(bench.inside) if every_host else 1)
    each = _PORTS_EACH
    kept: list[bool] = []
    by_address: dict[str, list[int]] = {}
    by_host: dict[str, set[str]] = {}
    mapped = Endpoint("", 0)
    while True:
        while len(kept) < each * max(len(by_address), len(hosts)):
            host = len(kept) % len(hosts)
            source = bench.inner(host)
            mapped = await bench.mapped(source, server)
            kept.append(mapped.port == source.endpoint.port)
            by_address.setdefault(mapped.host, []).append(mapped.port)
            by_host.setdefault(bench.inside[host][0], set()).add(mapped.host)
        steps = [after - before for ports in by_address.values() for before, after in pairwise(ports)]
        small = [step for step in steps if 0 < step <= _SMALL_STEP]
        if 2 * sum(kept) >= len(kept):  # others may be taken: each measurement leaves mappings behind for minutes
            return _Ports(PortChoice.PRESERVING, None, by_host, mapped)
        if len(small) < max(2, len(steps) - len(by_address)):  # each may have come to its end once, and begun anew
            return _Ports(PortChoice.RANDOM, None, by_host, mapped)
        if each > _PORTS_EACH:
            return _Ports(PortChoice.SEQUENTIAL, min(small), by_host, mapped)
        each *= 2  # a few random ports may go up in small steps by chance


async def _collision(bench: Bench) -> Collision:
    """What two hosts get that want the same port, and speak to different servers."""
    first, second, *_ = bench.inner_all()
    seen = [await bench.mapped(first, bench.outer(0)), await bench.mapped(second, bench.outer(1))]
    return Collision.OVERLOAD if seen[0] == seen[1] else Collision.ANOTHER


async def _each_host(bench: Bench, *, one_port: bool) -> tuple[tuple[str, Mapping, Filtering], ...]:
    """Mapping and filtering of every host inside, all of them with the same two ports if wanted."""
    hosts = range(len(bench.inside))
    pairs = [bench.inner_all() if one_port else [bench.inner(host) for host in hosts] for _ in range(2)]
    return tuple(
        [
            (name, await _mapping(bench, for_mapping), await _filtering(bench, for_filtering))
            for (name, _), for_mapping, for_filtering in zip(bench.inside, *pairs, strict=True)
        ]
    )


async def _hairpin(
    bench: Bench, server: StunSocket, mapping: Mapping, filtering: Filtering, ports: _Ports
) -> bool | None:
    """Whether two sockets inside meet at their external endpoints (RFC 5780 section 4.5, with the filter opened first).

    Behind a NAT that makes a new mapping for the meeting and filters, they must foresee its ports. Where these are
    random, nobody can: None.
    """
    witness = bench.inner()
    if mapping is Mapping.EIM or filtering is Filtering.EIF:
        one, other = bench.inner(0), bench.inner(len(bench.inside) - 1)
        ends = await bench.mapped(one, server), await bench.mapped(other, server)
    else:
        foreseen = await _foreseen(bench, server, ports)
        if foreseen is None:
            return None
        one, other, ends = foreseen
    for attempt in range(LOSSY_ROUNDS):
        if attempt >= bench.rounds:
            break
        one.indicate(ends[1])
        other.indicate(ends[0])
        await bench.settle(witness, server)
        if one.heard or other.heard:
            return True
    return False


async def _foreseen(
    bench: Bench, server: StunSocket, ports: _Ports
) -> tuple[StunSocket, StunSocket, tuple[Endpoint, Endpoint]] | None:
    """Two fresh sockets of one host, and the external endpoints that they will have when they speak to each other."""
    if ports.choice is PortChoice.RANDOM or ports.pooling is Pooling.ARBITRARY:
        return None
    one, other = bench.inner(), bench.inner()
    last = await bench.mapped(bench.inner(), server)
    if ports.choice is PortChoice.PRESERVING:
        return one, other, (Endpoint(last.host, one.endpoint.port), Endpoint(last.host, other.endpoint.port))
    step = ports.delta or 1
    return one, other, (Endpoint(last.host, last.port + step), Endpoint(last.host, last.port + 2 * step))


async def _icmp_errors(bench: Bench, server: StunSocket) -> bool:
    """Whether a socket inside is told that nobody listens at a port outside."""
    loop = asyncio.get_running_loop()
    source, witness = bench.inner(), bench.inner()
    loop.remove_reader(source.udp)
    source.udp.connect((bench.vantage[0], _DISCARD))
    for attempt in range(LOSSY_ROUNDS):
        if attempt >= (LOSSY_ROUNDS if bench.lossy else _ICMP_ATTEMPTS):
            break
        if attempt:
            await asyncio.sleep(_ICMP_INTERVAL)
        with contextlib.suppress(ConnectionRefusedError):
            source.udp.send(bytes(20))
            await bench.settle(witness, server)
            if source.udp.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                continue
        return True
    return False


async def _nat_pmp(bench: Bench) -> bool:
    """Whether the NAT opens ports on request: it answers who it is outside (RFC 6886 section 3.2)."""
    loop = asyncio.get_running_loop()
    source = bench.inner()
    loop.remove_reader(source.udp)
    source.udp.connect((bench.gateway, _NAT_PMP))
    for _ in range(ATTEMPTS):
        try:
            source.udp.send(b"\0\0")
            async with asyncio.timeout(RESEND):
                answer = await loop.sock_recv(source.udp, 64)
        except ConnectionRefusedError:
            return False
        except TimeoutError:
            continue
        return len(answer) == 12 and struct.unpack_from("!BBH", answer) == (0, 128, 0)
    return False

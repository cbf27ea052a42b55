"""The kernel leaves floods of UDP to userspace, which takes many datagrams at a time; and what would overtake them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from random import Random
from types import SimpleNamespace

import pytest

from lab.datapath.kernel import Entry
from lab.teredo.address import packed
from lab.teredo.packet import bubble
from lab.teredo.relay import Relay, RelayConfig
from lab.teredo.tun import Tun
from tests.e2e.labs import until
from tests.e2e.wires import (
    CLIENT,
    HOST,
    PEER,
    RELAY,
    RELAY_ADDRESS,
    Ground,
    datagram,
    ground,
    icmp,
    ipv6,
    kernel_path,
    tcp,
    udp,
)

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for the kernel data path")]

PAUSE = 0.05
LATER = 100.0
"""Seconds: nothing of a test takes so long."""


@pytest.fixture(scope="module")
def here() -> Iterator[Ground]:
    with ground() as made:
        yield made


class Trusting(SimpleNamespace):
    """A relay's kernel path, with one trusted peer; `entry` is what the program knows of it, `now` in nanoseconds."""

    entry: Entry
    now: int
    wires: Ground
    tun: Tun
    service: socket.socket

    def out(self, protocol: int, payload: bytes) -> bool:
        """Whether the kernel carries what the host sends."""
        self.wires.six.send(ipv6(HOST, CLIENT, protocol, payload))
        return self._carried(self.wires.four.socket, lambda: os.read(self.tun.fd, 2000), payload)

    def back(self, protocol: int, payload: bytes) -> bool:
        """Whether it carries what the client sends."""
        self.wires.four.send(datagram(ipv6(CLIENT, HOST, protocol, payload), PEER, RELAY))
        return self._carried(self.wires.six.socket, lambda: self.service.recv(2000), payload)

    @staticmethod
    def _carried(wire: socket.socket, userspace: Callable[[], bytes], payload: bytes) -> bool:
        def kernel() -> bytes:
            return wire.recv(2000, socket.MSG_DONTWAIT)

        found: list[bool] = []

        def seen() -> bool:
            for carried, read in ((True, kernel), (False, userspace)):
                with contextlib.suppress(BlockingIOError):
                    while not found:
                        if read().endswith(payload):
                            found.append(carried)
            return bool(found)

        until(seen)
        return found[0]


@contextlib.contextmanager
def trusting(here: Ground) -> Iterator[Trusting]:
    """To be entered in the relay's namespace, in an event loop."""
    now = asyncio.get_running_loop().time()
    relay = Relay(RelayConfig(RELAY_ADDRESS), Random(1))
    with kernel_path(relay, now) as (path, tun, service):
        relay.packet(ipv6(HOST, CLIENT, 17, udp(HOST, CLIENT, b"first")), now)
        relay.datagram(bubble(CLIENT, packed(RELAY_ADDRESS)), PEER, now)
        path.follow(now)
        assert path._program is not None
        entry = path._program._entries[path._program._slots[CLIENT].number]
        yield Trusting(entry=entry, now=round(now * 1e9), wires=here, tun=tun, service=service)


def test_what_comes_fast_is_left_until_there_is_a_pause(here: Ground) -> None:
    async def main() -> None:
        with trusting(here) as relay:
            entry = relay.entry
            assert relay.out(17, udp(HOST, CLIENT, b"a single one"))
            entry.due = relay.now + round(LATER * 1e9)  # as if very many had gone
            assert not relay.out(17, udp(HOST, CLIENT, b"of a flood"))
            left = entry.left_out
            assert left > relay.now
            assert entry.due < relay.now + round(LATER * 1e9), "a flood is not remembered for ever"
            assert relay.out(6, tcp(HOST, CLIENT, b"a stream's"))
            assert relay.out(58, icmp(HOST, CLIENT, 128, b"\0\1\0\1an echo's"))
            entry.due, entry.left_out = 0, relay.now + round(LATER * 1e9)
            assert not relay.out(17, udp(HOST, CLIENT, b"soon after the last that was left"))
            assert left < entry.left_out < relay.now + round(LATER * 1e9), "this is the last now"
            entry.left_out = relay.now - round(PAUSE * 1e9)
            assert relay.out(17, udp(HOST, CLIENT, b"after a pause"))

    with here.names.inside("relay"):
        asyncio.run(main())


def test_what_would_overtake_a_peers_flood_is_left(here: Ground) -> None:
    async def main() -> None:
        with trusting(here) as relay:
            entry = relay.entry
            assert relay.back(17, udp(CLIENT, HOST, b"a single one"))
            entry.left_in = relay.now + round(LATER * 1e9)
            assert not relay.back(17, udp(CLIENT, HOST, b"soon after many"))
            assert relay.now < entry.left_in < relay.now + round(LATER * 1e9), "this is the last now"
            assert relay.back(6, tcp(CLIENT, HOST, b"a stream's"))
            entry.left_in = relay.now - round(PAUSE * 1e9)
            assert relay.back(17, udp(CLIENT, HOST, b"after a pause"))

    with here.names.inside("relay"):
        asyncio.run(main())

"""Has the kernel carry the data of a client or relay: tells `teredo.bpf.c` of the ways there are, and the machine of
what has gone.

The program in the kernel knows for each peer what `Tunnel.way` says, and when it was last heard. Whatever is not plain
data between trusted peers it leaves to the machine, which alone decides whom to trust.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import secrets
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Network
from pathlib import Path as FilePath
from typing import Any, Final

from lab.datapath import bpf
from lab.datapath.choice import DataPath
from lab.datapath.routes import Path, Routes
from lab.teredo.address import host_bytes, packed
from lab.teredo.peers import PEER_VALIDITY
from lab.teredo.relay import Relay
from lab.teredo.tunnel import Tunnel, Way

OBJECT: Final = FilePath(__file__).with_name("teredo.bpf.o")
SLOTS: Final = 8192
CLIENT_SLOTS: Final = 512
"""Peers that the kernel knows at most: a slot takes 200 bytes of its memory, and a lab may have a thousand clients."""

DESERVING: Final = 64
WITHIN: Final = 1.0
"""So many packets in so many seconds make it worth while to load the program, if that is left to us."""

_WILDCARD = "0.0.0.0"  # noqa: S104 - an address, not a socket


class Settings(ctypes.Structure):
    """What the program has to know of this one: `struct settings`."""

    _fields_ = (("interface", ctypes.c_uint32), ("port", ctypes.c_uint16), ("ttl", ctypes.c_uint8))


class Entry(ctypes.Structure):
    """What the program knows of a peer: `struct entry`. Addresses and ports as they are on the wire; times in ns."""

    _fields_ = (
        ("peer", ctypes.c_uint8 * 16),
        ("host", ctypes.c_uint8 * 4),
        ("source", ctypes.c_uint8 * 4),
        ("gateway", ctypes.c_uint8 * 4),
        ("mapping", ctypes.c_uint8 * 4),
        ("port", ctypes.c_uint16),
        ("source_port", ctypes.c_uint16),
        ("mapping_port", ctypes.c_uint16),
        ("id", ctypes.c_uint16),
        ("interface", ctypes.c_uint32),
        ("mtu", ctypes.c_uint32),
        ("wire", ctypes.c_uint32),
        ("uncut", ctypes.c_uint32),
        ("heard", ctypes.c_uint64),
        ("spoken", ctypes.c_uint64),
        ("received", ctypes.c_uint64),
        ("sent", ctypes.c_uint64),
        ("left", ctypes.c_uint64),
        ("left_out", ctypes.c_uint64),
        ("left_in", ctypes.c_uint64),
        ("due", ctypes.c_uint64),
    )


@dataclass(slots=True)
class _Slot:
    """A peer that the program knows, and what the machine has been told of it."""

    address: bytes
    number: int
    sent: int = 0
    received: int = 0


Notify = Callable[[str, dict[str, Any]], None]


class KernelPath:
    """Carries the data of one machine in the kernel, where that is wanted and works.

    `sync` belongs before whatever the machine is told, `follow` after it and before anything that it asks for is done.
    """

    def __init__(self, machine: Tunnel, interface: str, udp: socket.socket, choice: DataPath, notify: Notify) -> None:
        self._machine, self._interface, self._udp, self._notify = machine, interface, udp, notify
        self._program: _Program | None = None
        self._choice, self._waiting = choice, choice is DataPath.AUTO
        self._begun, self._before = float("-inf"), 0
        self.reason = "few data so far" if self._waiting else "asked for"

    @property
    def facts(self) -> dict[str, Any]:
        """Which data path is in use, and why; and how many packets the kernel has carried."""
        return {
            "datapath": DataPath.USERSPACE if self._program is None else DataPath.KERNEL,
            "datapath_reason": self.reason,
            "kernel_carried": 0 if self._program is None else self._program.carried,
        }

    def start(self, now: float) -> None:
        """Begin at once if that is asked for."""
        if self._choice is DataPath.KERNEL:
            self._load(now, self.reason)

    def _load(self, now: float, why: str) -> None:
        """Have the kernel carry data from now on; if it cannot, say why, once."""
        self._waiting = False
        try:
            self._program = _Program(self._machine, self._interface, self._udp)
            self.reason = why
        except (bpf.BpfError, OSError) as error:
            self.reason = f"the kernel does not do it: {error}"
        self._notify("data path", self.facts)
        if self._program is not None:
            self._program.begin(now)

    def sync(self) -> None:
        """Tell the machine what has gone without it."""
        if self._program is not None:
            self._program.sync()

    def follow(self, now: float) -> None:
        """Tell the program in the kernel what has changed."""
        if self._program is not None:
            self._program.follow(now)
        elif self._waiting:
            carried = self._machine.counters["sent"] + self._machine.counters["delivered"]
            if now - self._begun > WITHIN:
                self._begun, self._before = now, carried
            elif carried - self._before >= DESERVING:
                self._load(now, "there are data")

    def close(self) -> None:
        if self._program is not None:
            self._program.close()
            self._program = None


class _Program:
    """The program in the kernel, loaded and attached. Raises BpfError or OSError."""

    def __init__(self, machine: Tunnel, interface: str, udp: socket.socket) -> None:
        self._machine = machine
        self.carried = 0
        host, port = udp.getsockname()
        self._source = None if host == _WILDCARD else host
        self._port = socket.htons(port)
        self._ways: dict[bytes, Way] = {}
        self._slots: dict[bytes, _Slot] = {}
        self._by_number: dict[int, _Slot] = {}
        slots = SLOTS if isinstance(machine, Relay) else CLIENT_SLOTS
        self._free = deque(range(slots))
        self._made_room = float("-inf")
        self._paths: dict[str, Path | None] = {}
        self._inside: Mapping[IPv6Network, bool] = {}
        self._links: dict[int, int] = {}
        with contextlib.ExitStack() as stack:
            self._loaded = bpf.Loaded(bpf.parse(OBJECT.read_bytes()), {"entries": slots, "slots": slots})
            stack.callback(self._loaded.close)
            maps = self._loaded.maps
            self._entries = (Entry * slots).from_buffer(maps["entries"].memory())
            self._moved = maps["moved"].memory()
            tun = socket.if_nametoindex(interface)
            settings = Settings.from_buffer(maps["settings"].memory())
            settings.port, settings.ttl = self._port, udp.getsockopt(socket.IPPROTO_IP, socket.IP_TTL)
            settings.interface = tun
            self._routes = Routes()
            stack.callback(self._routes.close)
            self._tun_link = self._loaded.attach("tcx/egress", tun)
            stack.callback(os.close, self._tun_link)
            loop = asyncio.get_running_loop()
            loop.add_reader(self._routes.news, self._network_changed)
            stack.callback(loop.remove_reader, self._routes.news)
            self._undo = stack.pop_all()

    def begin(self, now: float) -> None:
        """Take over what the machine's peers are now."""
        self._machine.changed_ways()
        self._renew_inside()
        for row in self._machine.peer_table(now):
            self._renew(packed(row["address"]), now)

    def close(self) -> None:
        for address in list(self._slots):
            self._withdraw(address)
        for link in self._links.values():
            os.close(link)
        self._undo.close()

    def sync(self) -> None:
        moved = self._moved[:]
        number = moved.find(b"\1")
        while number >= 0:
            self._moved[number] = 0  # before the counters are read: what comes later sets it again
            if number in self._by_number:
                self._tell(self._by_number[number])
            number = moved.find(b"\1", number + 1)

    def _tell(self, slot: _Slot) -> None:
        entry = self._entries[slot.number]
        sent, received = entry.sent, entry.received
        if (sent, received) != (slot.sent, slot.received):
            self._machine.carried(
                slot.address,
                sent=sent - slot.sent,
                sent_at=entry.spoken / 1e9 if sent > slot.sent else float("-inf"),
                received=received - slot.received,
                received_at=entry.heard / 1e9 if received > slot.received else float("-inf"),
            )
            self.carried += sent - slot.sent + received - slot.received
            slot.sent, slot.received = sent, received

    def follow(self, now: float) -> None:
        for address in self._machine.changed_ways():
            self._renew(address, now)
        self._renew_inside()

    def _renew(self, address: bytes, now: float) -> None:
        way, known = self._machine.way(address, now), self._ways.get(address)
        if way is not None and way == known:
            if address in self._slots:  # what goes through userspace keeps the peer trusted as well
                entry = self._entries[self._slots[address].number]
                entry.heard = max(entry.heard, round(way.heard * 1e9))
            else:  # there may be room now
                self._install(address, way, now)
            return
        self._withdraw(address)
        self._ways.pop(address, None)
        if way is not None:
            self._ways[address] = way
            self._install(address, way, now)

    def _renew_inside(self) -> None:
        inside = self._machine.prefixes()
        if inside != self._inside:
            prefixes = self._loaded.maps["inside"]
            for network in self._inside.keys() - inside.keys():
                del prefixes[_prefix(network)]
            for network, within in inside.items():
                prefixes[_prefix(network)] = bytes((within,))
            self._inside = inside

    def _install(self, address: bytes, way: Way, now: float) -> None:
        """Have the program carry what goes to a peer and comes from it, if it goes over a link that it can use."""
        path = self._path(way.send_to.host)
        if not self._free:
            self._make_room(now)
        if path is None or not self._free or not self._attach(path.interface):
            return
        slot = _Slot(address, self._free.popleft())
        self._entries[slot.number] = Entry(
            (ctypes.c_uint8 * 16)(*address),
            *((ctypes.c_uint8 * 4)(*host_bytes(host)) for host in (way.send_to.host, path.source, path.gateway)),
            (ctypes.c_uint8 * 4)(*host_bytes(way.mapping.host)),
            socket.htons(way.send_to.port),
            socket.htons(way.send_from) if way.send_from else self._port,
            socket.htons(way.mapping.port),
            secrets.randbits(16),
            path.interface,
            path.mtu,
            path.wire,
            0,
            round(way.heard * 1e9),
        )
        self._slots[address] = self._by_number[slot.number] = slot
        self._loaded.maps["slots"][address] = struct.pack("=I", slot.number)

    def _make_room(self, now: float) -> None:
        """Withdraw peers that have fallen silent, unless that was tried just now; who is heard again comes back."""
        if now - self._made_room >= WITHIN:
            self._made_room = now
            for address, slot in list(self._slots.items()):
                if now - self._entries[slot.number].heard / 1e9 >= PEER_VALIDITY:
                    self._withdraw(address)

    def _withdraw(self, address: bytes) -> None:
        slot = self._slots.pop(address, None)
        if slot is not None:
            del self._loaded.maps["slots"][address]
            self._tell(slot)
            del self._by_number[slot.number]
            self._free.append(slot.number)  # and it is the last to be used again: the program may just have found it

    def _path(self, host: str) -> Path | None:
        if host not in self._paths:
            self._paths[host] = self._routes.path(host, self._source)
        return self._paths[host]

    def _attach(self, interface: int) -> bool:
        if interface not in self._links:
            with contextlib.suppress(bpf.BpfError):
                self._links[interface] = self._loaded.attach("tcx/ingress", interface)
        return interface in self._links

    def _network_changed(self) -> None:
        """A link, an address or a route has changed: peers may be reached differently, or by userspace alone."""
        self._routes.drain()
        before, self._paths = self._paths, {}
        for address, way in self._ways.items():
            host = way.send_to.host
            if self._path(host) != before.get(host):
                self._withdraw(address)
                self._install(address, way, asyncio.get_running_loop().time())
        used = {path.interface for path in self._paths.values() if path is not None}
        for interface in self._links.keys() - used:
            os.close(self._links.pop(interface))


def _prefix(network: IPv6Network) -> bytes:
    """A key of the map `inside`."""
    return network.prefixlen.to_bytes(4, sys.byteorder) + network.network_address.packed

"""rtnetlink(7): links, addresses, routes, rules and neighbours of the present network namespace, many in one message.

A lab needs few of its requests, but some ten thousand of them: a library's general machinery would take most of the
time that a lab of a thousand nodes takes to come up.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network
from typing import Final, NamedTuple, Self

_REQUEST, _ACK, _DUMP, _REPLACE, _EXCLUSIVE, _CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400
_CAPPED, _WITH_ATTRIBUTES = 0x100, 0x200
"""Of an answer: it holds only the header of what was asked; there is more to say."""
_ERROR, _DONE = 2, 3
_LINK, _ADDRESS, _ROUTE, _NEIGHBOUR, _RULE = 16, 20, 24, 28, 32
"""Kinds of things, each the number of "make it"; "remove it" and "get it" are the next two."""

_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_HEADER: Final = struct.Struct("=IHHII")
_CHUNK: Final = 1 << 15
_RECEIVE: Final = 1 << 18

_LINK_BODY: Final = struct.Struct("=BxHiII")
_ADDRESS_BODY: Final = struct.Struct("=BBBBI")
_ROUTE_BODY: Final = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR_BODY: Final = struct.Struct("=BxxxiHBB")

_UP: Final = 1
_NO_ARP: Final = 0x80
_PERMANENT: Final = 0x80
_NO_DAD: Final = 0x02
_ANYBODY: Final = 0
_STATIC: Final = 4
_TO_TABLE: Final = 1
_SCOPE_LINK: Final = 253
_SCOPE_ANY: Final = 255
_BY_TABLE_ATTRIBUTE: Final = 0
_TYPES: Final = {"unicast": 1, "blackhole": 6, "unreachable": 7}


IPV6_ROUTES: Final = 1 << 10
"""The multicast group that is told of changes of IPv6 routes (RTMGRP_IPV6_ROUTE)."""

IPV4_WAYS: Final = 1 << 0 | 1 << 4 | 1 << 6 | 1 << 7
"""The groups that are told of what changes ways to IPv4 hosts: links, addresses, routes and rules."""

ETHERNET: Final = 1
"""The kind of a link (ARPHRD_ETHER)."""


class Request(NamedTuple):
    """Something to be done; `what` names it in errors."""

    what: str
    kind: int
    flags: int
    body: bytes


class Way(NamedTuple):
    """How packets to an IPv4 host leave: by which interface, from which address, and over which next host."""

    interface: int
    source: str
    gateway: str


class Link(NamedTuple):
    """A network interface."""

    name: str
    kind: int
    mtu: int
    up: bool


class Found(NamedTuple):
    """Something that a dump has found: the fixed part of its message, and its attributes by number."""

    body: bytes
    attributes: dict[int, bytes]


class Rtnetlink:
    """A connection with the kernel, for the namespace in which it was opened."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def do(self, *requests: Request) -> None:
        """Have all of this done, in this order. Raises OSError for the first that fails; the others are tried too."""
        chunk: list[Request] = []
        size = 0
        for request in requests:
            if size + len(request.body) > _CHUNK:
                self._do(chunk)
                chunk, size = [], 0
            chunk.append(request)
            size += len(request.body)
        if chunk:
            self._do(chunk)

    def _do(self, requests: list[Request]) -> None:
        first = self._sequence + 1
        last = self._sequence = self._sequence + len(requests)
        self._socket.send(
            b"".join(
                # The kernel tells of all failures, and of success where it is asked to.
                _HEADER.pack(
                    _HEADER.size + len(body), kind, _REQUEST | flags | (_ACK if number == last else 0), number, 0
                )
                + body
                for number, (_, kind, flags, body) in enumerate(requests, first)
            )
        )
        failure: OSError | None = None
        number = 0
        while number != last:
            for kind, flags, number, body in self._receive():
                code = -struct.unpack_from("=i", body)[0]
                if kind == _ERROR and code and failure is None:
                    failure = OSError(code, f"{requests[number - first].what}: {_why(code, flags, body)}")
        if failure is not None:
            raise failure

    def addresses(self, family: int, index: int | None = None) -> Iterator[tuple[str, int]]:
        """All addresses of a family, or those of an interface, each with the length of its prefix."""
        for body, attributes in self._dump(_ADDRESS, _ADDRESS_BODY.pack(family, 0, 0, 0, 0)):
            if 1 in attributes and index in (None, _ADDRESS_BODY.unpack(body)[4]):
                yield socket.inet_ntop(family, attributes[1]), body[1]

    def default_routes(self, family: int) -> Iterator[tuple[int, str | None]]:
        """For each default route of a family the interface that it leads out of, and the gateway, if there is one."""
        for body, attributes in self._dump(_ROUTE, _ROUTE_BODY.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
            if body[1] == 0 and body[7] == _TYPES["unicast"] and 4 in attributes:
                via = attributes.get(5)
                yield struct.unpack("=I", attributes[4])[0], None if via is None else socket.inet_ntop(family, via)

    def way(self, host: str, source: str | None = None) -> Way | None:
        """How to reach an IPv4 host, from a given address or one that fits; None if it cannot be, or is this one."""
        asked = _attribute(1, socket.inet_aton(host))
        if source is not None:
            asked += _attribute(2, socket.inet_aton(source))
        found = self._get(
            _ROUTE, _ROUTE_BODY, _ROUTE_BODY.pack(socket.AF_INET, 32, 32 * (source is not None), *[0] * 6) + asked
        )
        if found is None or found.body[7] != _TYPES["unicast"] or 4 not in found.attributes or 18 in found.attributes:
            return None
        (interface,) = struct.unpack("=I", found.attributes[4])
        gateway, own = found.attributes.get(5), found.attributes.get(7)
        sender = source if own is None else socket.inet_ntoa(own)
        return (
            None if sender is None else Way(interface, sender, host if gateway is None else socket.inet_ntoa(gateway))
        )

    def link(self, index: int) -> Link | None:
        """The interface of this index, if there is one."""
        found = self._get(_LINK, _LINK_BODY, _LINK_BODY.pack(0, 0, index, 0, 0))
        if found is None:
            return None
        _, kind, _, flags, _ = _LINK_BODY.unpack(found.body)
        (mtu,) = struct.unpack("=I", found.attributes[4])
        return Link(found.attributes[3].rstrip(b"\0").decode(), kind, mtu, bool(flags & _UP))

    def _get(self, what: int, fixed: struct.Struct, body: bytes) -> Found | None:
        """The one thing that is asked for, or None where the kernel says that there is none."""
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), what + 2, _REQUEST, self._sequence, 0) + body)
        for kind, _, _, answer in self._receive():
            if kind == what:
                return Found(answer[: fixed.size], _attributes(answer[fixed.size :]))
        return None

    def _dump(self, what: int, body: bytes) -> list[Found]:
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), what + 2, _REQUEST | _DUMP, self._sequence, 0)
        self._socket.send(header + body)
        found: list[Found] = []
        while True:
            for kind, flags, _, answer in self._receive():
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    code = -struct.unpack_from("=i", answer)[0]
                    raise OSError(code, f"dump: {_why(code, flags, answer)}")
                found.append(Found(answer[: len(body)], _attributes(answer[len(body) :])))

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Kind, flags, number and content of the messages that come next."""
        data = self._socket.recv(_RECEIVE)
        while data:
            size, kind, flags, number, _ = _HEADER.unpack_from(data)
            yield kind, flags, number, data[_HEADER.size : size]
            data = data[size + -size % 4 :]


def _why(code: int, flags: int, body: bytes) -> str:
    """What an answer says of a failure; the kernel may have words for it."""
    if flags & _WITH_ATTRIBUTES and flags & _CAPPED:
        message = _attributes(body[4 + _HEADER.size :]).get(1, b"").rstrip(b"\0").decode(errors="replace")
        if message:
            return f"{os.strerror(code)} ({message})"
    return os.strerror(code)


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[4:size]
        data = data[size + -size % 4 :]
    return found


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _number(kind: int, value: int) -> bytes:
    return struct.pack("=HHI", 8, kind, value)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _mac(kind: int, value: str) -> bytes:
    return _attribute(kind, bytes.fromhex(value.replace(":", ""))) if value else b""


def _ends(name: str, mac: str) -> bytes:
    return _text(3, name) + _mac(1, mac)


def _new_link(what: str, name: str, attributes: bytes, master: int | None = None) -> Request:
    """With a bridge's index it is a port of it, and up."""
    up = 0 if master is None else _UP
    port = b"" if master is None else _number(10, master)
    body = _LINK_BODY.pack(0, 0, 0, up, up) + _ends(name, "") + attributes + port
    return Request(f"{what} {name}", _LINK, _CREATE | _EXCLUSIVE, body)


def bridge(name: str) -> Request:
    """Make a bridge."""
    return _new_link("bridge", name, _attribute(18, _text(1, "bridge")))


def veth(name: str, peer: str, peer_namespace: int, *, peer_mac: str = "", master: int | None = None) -> Request:
    """Make a link into the namespace of this descriptor. With a bridge's index our end is a port of it, and up."""
    there = _LINK_BODY.pack(0, 0, 0, 0, 0) + _ends(peer, peer_mac) + _number(28, peer_namespace)
    info = _attribute(18, _text(1, "veth") + _attribute(2, _attribute(1, there)))
    return _new_link("link", name, info, master)


def vxlan(name: str, number: int, remote: str, *, port: int, over: int, mtu: int, master: int | None = None) -> Request:
    """Make an end of a VXLAN (RFC 7348) to one other host, over an interface. With a bridge's index it is a port of it,
    and up."""
    ends = _number(1, number) + _attribute(2, socket.inet_aton(remote)) + _number(3, over)
    info = _attribute(18, _text(1, "vxlan") + _attribute(2, ends + _attribute(15, struct.pack("!H", port))))
    return _new_link("link", name, _number(4, mtu) + info, master)


def set_up(index: int, *, mtu: int | None = None, mac: str = "", arp: bool = True) -> Request:
    """Have an interface up, with this MTU and MAC address if they are given; perhaps one that answers no ARP."""
    flags = _UP if arp else _UP | _NO_ARP
    body = _LINK_BODY.pack(0, 0, index, flags, flags) + _mac(1, mac)
    return Request(f"interface {index}", _LINK, 0, body if mtu is None else body + _number(4, mtu))


def no_link_local(index: int) -> Request:
    """Keep an interface that is not up yet from having IPv6 addresses of its own; no sysctl, since containers may not
    write these."""
    mode = _attribute(26, _attribute(socket.AF_INET6, _attribute(8, b"\1")))
    return Request(f"interface {index}", _LINK, 0, _LINK_BODY.pack(0, 0, index, 0, 0) + mode)


def address(index: int, text: str, *, present: bool = True) -> Request:
    """Give an interface an address, or take it away; it is written with the length of its prefix.

    Without duplicate address detection, an IPv6 address can be bound to at once. `accept_dad` at 0 does not see to
    that: then the kernel finds out later, when it comes to it, that there is nothing to wait for.
    """
    parsed = ip_interface(text)
    family, bits = (socket.AF_INET, 0) if parsed.version == 4 else (socket.AF_INET6, _NO_DAD)
    packed = parsed.ip.packed
    body = _ADDRESS_BODY.pack(family, parsed.network.prefixlen, bits, 0, index) + _attribute(2, packed)
    flags = _CREATE | _EXCLUSIVE if present else 0
    return Request(f"address {text}", _ADDRESS + (not present), flags, body + _attribute(1, packed))


def neighbour(index: int, text: str, mac: str, *, present: bool = True) -> Request:
    """Have an address known on an interface for good, whatever was known of it before, or forgotten."""
    parsed = ip_address(text)
    family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
    body = _NEIGHBOUR_BODY.pack(family, index, _PERMANENT, 0, 0) + _attribute(1, parsed.packed) + _mac(2, mac)
    return Request(f"neighbour {text}", _NEIGHBOUR + (not present), _CREATE | _REPLACE if present else 0, body)


def route(
    destination: str,
    index: int | None = None,
    *,
    via: str | None = None,
    kind: str = "unicast",
    table: int = 254,
    metric: int | None = None,
    source: str | None = None,
    present: bool = True,
) -> Request:
    """Have a route, in place of any to the same destination, or none, whoever has made it.

    `kind` is unicast, blackhole or unreachable; `source` the address that a host prefers on it.
    """
    network = ip_network(destination)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    on_link = via is None and kind == "unicast" and network.version == 4
    made_by, scope = (_STATIC, _SCOPE_LINK if on_link else 0) if present else (_ANYBODY, _SCOPE_ANY)
    body = _ROUTE_BODY.pack(
        family, network.prefixlen, 0, 0, _BY_TABLE_ATTRIBUTE, made_by, scope, _TYPES[kind], 0
    ) + _number(15, table)
    if network.prefixlen:
        body += _attribute(1, network.network_address.packed)
    if index is not None:
        body += _number(4, index)
    if via is not None:
        body += _attribute(5, ip_address(via).packed)
    if metric is not None:
        body += _number(6, metric)
    if source is not None:
        body += _attribute(7, ip_address(source).packed)
    flags = _CREATE | _REPLACE if present else 0
    return Request(f"route {destination}", _ROUTE + (not present), flags, body)


def source_rule(source: str, table: int) -> Request:
    """Have IPv6 packets from a prefix look in a table before the main one."""
    network = ip_network(source)
    header = _ROUTE_BODY.pack(socket.AF_INET6, 0, network.prefixlen, 0, _BY_TABLE_ATTRIBUTE, 0, 0, _TO_TABLE, 0)
    body = header + _attribute(2, network.network_address.packed) + _number(15, table)
    return Request(f"rule from {source}", _RULE, _CREATE | _EXCLUSIVE, body)

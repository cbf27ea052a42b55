"""Many datagrams with one system call: recvmmsg(2) and sendmmsg(2) on buffers that are made once."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
from typing import Final

from lab.teredo.address import Endpoint, host_text
from lab.teredo.packet import MAX_DATAGRAM

UDP_SEGMENT: Final = 103
"""The socket option, or control message, that has the kernel cut what it is given into datagrams: udp(7)."""

SEGMENTS: Final = 64
"""Datagrams that the kernel takes at once with it (UDP_MAX_SEGMENTS before Linux 6.9)."""

_MSG_DONTWAIT: Final = int(socket.MSG_DONTWAIT)


class Name(ctypes.Structure):
    """struct sockaddr_in; port and address in network order."""

    _fields_ = (
        ("family", ctypes.c_uint16),
        ("port", ctypes.c_uint8 * 2),
        ("host", ctypes.c_uint8 * 4),
        ("zero", ctypes.c_uint8 * 8),
    )


class Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_size_t), ("length", ctypes.c_size_t))


class Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class Message(ctypes.Structure):
    """struct mmsghdr."""

    _anonymous_ = ("header",)
    _fields_ = (("header", Header), ("length", ctypes.c_uint32))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_libc.sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)


class Incoming:
    """Room for a batch of datagrams over IPv4. `heads`, `names` and `messages` are what came last.

    The first `head` bytes of each datagram lie beside those of the others; what goes beyond lies apart.
    """

    def __init__(self, size: int, head: int) -> None:
        self.size = size
        self._head = head
        rest = MAX_DATAGRAM + 1 - head
        self.heads = ((ctypes.c_uint8 * head) * size)()
        self.names = (Name * size)()
        self.messages = (Message * size)()
        # Pages of a mapping take no memory until something is written to them, and little is ever written here.
        self._rests = ((ctypes.c_uint8 * rest) * size).from_buffer(mmap.mmap(-1, rest * size))
        self._vectors = ((Vector * 2) * size)()
        for message, name, vectors, first, second in zip(
            self.messages, self.names, self._vectors, self.heads, self._rests, strict=True
        ):
            vectors[0] = Vector(ctypes.addressof(first), head)
            vectors[1] = Vector(ctypes.addressof(second), rest)
            message.name, message.name_length = ctypes.addressof(name), ctypes.sizeof(Name)
            message.vectors, message.vector_count = ctypes.addressof(vectors), 2

    def receive(self, udp: socket.socket) -> int:
        """Take what waits in a socket, as much as there is room for; how many. Raises OSError, never waits."""
        count: int = _libc.recvmmsg(udp.fileno(), ctypes.addressof(self.messages), self.size, _MSG_DONTWAIT, None)
        if count >= 0:
            return count
        number = ctypes.get_errno()
        if number == errno.EAGAIN:
            return 0
        raise OSError(number, os.strerror(number))

    def datagram(self, slot: int) -> tuple[bytes, Endpoint]:
        """A datagram of the batch, and where it comes from."""
        length, name = self.messages[slot].length, self.names[slot]
        data = bytes(self.heads[slot])[:length]
        if length > self._head:
            data += ctypes.string_at(ctypes.addressof(self._rests[slot]), length - self._head)
        return data, Endpoint(host_text(bytes(name.host)), int.from_bytes(name.port, "big"))


class Outgoing:
    """What is to be sent: `names` and `vectors` say for each datagram where to, and where its bytes are."""

    def __init__(self, size: int) -> None:
        self.names = (Name * size)()
        self.vectors = (Vector * size)()
        self.messages = (Message * size)()
        for message, name, vector in zip(self.messages, self.names, self.vectors, strict=True):
            name.family = socket.AF_INET
            message.name, message.name_length = ctypes.addressof(name), ctypes.sizeof(Name)
            message.vectors, message.vector_count = ctypes.addressof(vector), 1

    def send(self, udp: socket.socket, start: int, end: int) -> int:
        """Send the datagrams from `start` up to `end`; how many the kernel refused. Never waits."""
        refused = 0
        while start < end:
            first = ctypes.addressof(self.messages) + start * ctypes.sizeof(Message)
            count = _libc.sendmmsg(udp.fileno(), first, end - start, _MSG_DONTWAIT)
            if count < 0:  # the first one alone; the others may do better
                refused += 1
                count = 1
            start += count
        return refused

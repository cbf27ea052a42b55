"""Many datagrams with one system call, on sockets of the loopback interface."""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.teredo.address import Endpoint, host_bytes
from lab.teredo.mmsg import Incoming, Outgoing, Vector

HEAD = 64


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets that do not wait."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
            each.setblocking(False)
        yield one, other


def fill(outgoing: Outgoing, datagrams: list[tuple[bytes, Endpoint]]) -> list[ctypes.Array[ctypes.c_char]]:
    """Say what is to be sent; the buffers have to live until it is."""
    buffers = [ctypes.create_string_buffer(data, len(data) or 1) for data, _ in datagrams]
    for number, ((data, to), buffer) in enumerate(zip(datagrams, buffers, strict=True)):
        ctypes.memmove(outgoing.names[number].port, to.port.to_bytes(2, "big"), 2)
        ctypes.memmove(outgoing.names[number].host, host_bytes(to.host), 4)
        outgoing.vectors[number] = Vector(ctypes.addressof(buffer), len(data))
    return buffers


@pytest.mark.parametrize("size", [0, 1, HEAD - 1, HEAD, HEAD + 1, 1500, 65507])
def test_datagrams_of_every_size_come_whole_and_with_their_source(size: int) -> None:
    incoming = Incoming(4, HEAD)
    with pair() as (sender, receiver):
        expected = [(bytes((n,)) * size, Endpoint(*sender.getsockname())) for n in range(2)]
        for data, _ in expected:
            sender.sendto(data, receiver.getsockname())
        assert incoming.receive(receiver) == 2
        assert [incoming.datagram(slot) for slot in range(2)] == expected


def test_a_short_datagram_is_not_longer_for_one_that_was_there_before() -> None:
    incoming = Incoming(1, HEAD)
    with pair() as (sender, receiver):
        for data in (b"x" * 2000, b"short"):
            sender.sendto(data, receiver.getsockname())
            assert incoming.receive(receiver) == 1
            assert incoming.datagram(0)[0] == data


def test_no_more_is_taken_than_there_is_room_for_and_nothing_is_waited_for() -> None:
    incoming = Incoming(3, HEAD)
    with pair() as (sender, receiver):
        assert incoming.receive(receiver) == 0
        for number in range(5):
            sender.sendto(bytes((number,)), receiver.getsockname())
        taken = []
        while count := incoming.receive(receiver):
            taken.append([incoming.datagram(slot)[0][0] for slot in range(count)])
        assert taken == [[0, 1, 2], [3, 4]]


def test_an_error_of_the_socket_is_raised() -> None:
    with pair() as (sender, receiver):
        to = receiver.getsockname()
        receiver.close()
        sender.connect(to)
        sender.send(b"to nobody")
        with pytest.raises(ConnectionRefusedError):
            Incoming(1, HEAD).receive(sender)


def test_what_the_kernel_refuses_holds_up_nothing_else() -> None:
    outgoing = Outgoing(5)
    with pair() as (sender, receiver):
        good, bad = Endpoint(*receiver.getsockname()), Endpoint("127.0.0.1", 0)
        buffers = fill(outgoing, [(b"0", bad), (b"1", good), (b"2", bad), (b"3", good), (b"4", good)])
        assert outgoing.send(sender, 0, 4) == 2
        del buffers
        assert [receiver.recv(9) for _ in range(2)] == [b"1", b"3"]
        with pytest.raises(BlockingIOError):
            receiver.recv(9)

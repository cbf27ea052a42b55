"""Data between two nodes of a lab, by sockets of the test's own."""

from __future__ import annotations

import hashlib
import itertools
import random
import socket
import threading

from tests.e2e.labs import RunningLab

_ports = itertools.count(20000)


def sockets(
    lab: RunningLab, source: str, destination: str, kind: socket.SocketKind
) -> tuple[socket.socket, socket.socket, tuple[str, int]]:
    """A socket in each of two nodes, the second bound, and its address; the first packet of the pair has gone."""
    assert lab.reaches(source, destination)
    there = lab.address(destination), next(_ports)
    with lab.enter(destination):
        receiver = socket.socket(socket.AF_INET6, kind)
    receiver.bind(there)
    with lab.enter(source):
        sender = socket.socket(socket.AF_INET6, kind)
    for each in (sender, receiver):
        each.settimeout(20)
    return sender, receiver, there


def transfer(lab: RunningLab, source: str, destination: str, size: int = 4 << 20) -> None:
    """A stream over TCP arrives as it was sent."""
    data = random.randbytes(size)
    sender, listener, there = sockets(lab, source, destination, socket.SOCK_STREAM)
    with sender, listener:
        listener.listen()
        sender.connect(there)
        accepted, _ = listener.accept()
        accepted.settimeout(20)

        def send() -> None:
            sender.sendall(data)
            sender.shutdown(socket.SHUT_WR)

        sending = threading.Thread(target=send)
        sending.start()
        got = hashlib.sha256()
        with accepted:
            while chunk := accepted.recv(1 << 20):
                got.update(chunk)
        sending.join()
    assert got.digest() == hashlib.sha256(data).digest()

"""Running labs for our own tests. What any test can do with one is in `lab.testing`; this is what needs namespaces."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.backends import linux
from lab.teredo.runner import ask
from lab.testing import running as anywhere
from lab.testing.running import COMMAND, Completed, command

__all__ = ["COMMAND", "SMALL", "Completed", "RunningLab", "arrives", "cli", "mapped", "running", "until"]

TIMEOUT = 120.0

SMALL = """
servers: {server: }
relays: {relay: }
hosts: {web: }
sites:
  home: {nat: cone, clients: {alice: }}
  away: {nat: port_restricted, clients: {carol: }}
"""
"""Two clients and a native host: enough for most tests."""


def cli(*arguments: str, check: bool = False, timeout: float = TIMEOUT, **options: Any) -> Completed:
    """Run `teredo-lab` with these arguments."""
    result = command(*arguments, timeout=timeout, **options)
    if check and result.returncode != 0:
        raise AssertionError(f"teredo-lab {' '.join(arguments)}: {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result


def until(condition: Callable[[], bool], timeout: float = 20.0, pause: float = 0.02) -> None:
    """Wait for something that has no event."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(pause)


def mapped(source: socket.socket, server: socket.socket) -> tuple[str, int]:
    """The endpoint that a server outside sees of a socket inside."""
    token = random.randbytes(16)
    source.sendto(token, server.getsockname())
    while True:
        data, seen = server.recvfrom(100)
        if data == token:
            return seen  # type: ignore[no-any-return]


def arrives(sender: socket.socket, receiver: socket.socket, to: tuple[str, int]) -> bool:
    """Whether a datagram comes through."""
    token = random.randbytes(16)
    sender.sendto(token, to)
    receiver.settimeout(0.3)
    with contextlib.suppress(TimeoutError):
        while True:
            if receiver.recv(100) == token:
                return True
    return False


class RunningLab(anywhere.RunningLab):
    """A lab of namespaces that is up."""

    @contextlib.contextmanager
    def enter(self, node: str) -> Iterator[None]:
        """Be in a node's network for a while: sockets opened meanwhile stay there. Needs root."""
        if os.geteuid() != 0:
            pytest.skip("needs root, to open sockets in nodes from here")
        status = self.status()
        fd = next(each["netns_fd"] for each in status["nodes"] if each["name"] == node)
        home = linux.current_netns()
        there = os.open(f"/proc/{status['supervisor']}/fd/{fd}", os.O_RDONLY)
        linux.setns(there, linux.NEWNET)
        try:
            yield
        finally:
            linux.setns(home, linux.NEWNET)
            os.close(there)
            os.close(home)

    def socket(self, node: str, port: int = 0, *, which: int = 0) -> socket.socket:
        """A UDP socket in a node, at one of its addresses; a read waits no longer than a second."""
        with self.enter(node):
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.settimeout(1)
        opened.bind((self.node(node)["ipv4"][which], port))
        return opened

    def nat(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        """Exit code and rows of `nat --json`."""
        result = cli("nat", "show", "--name", self.name, "--json", *arguments)
        assert result.returncode in (0, 1), result.stderr
        return result.returncode, json.loads(result.stdout)

    def python(self, node: str, program: str, *arguments: str) -> str:
        """Run a Python program in a node and return what it printed."""
        return self.exec(node, sys.executable, "-c", program, *arguments).stdout

    def teredo(self, name: str, command: str = "state") -> dict[str, Any]:
        """Ask a node's Teredo program of ours over its control socket."""
        return ask(self.lab.control(name), command)


@contextlib.contextmanager
def running(topology: str | Path, directory: Path, *, name: str | None = None) -> Iterator[RunningLab]:
    """A lab from a topology, a file or its text, up for as long as the context lasts; its logs stay in `directory`."""
    with anywhere.running(topology, directory, name=name) as lab:
        try:
            yield RunningLab(lab.name, directory)
        finally:
            lab.keep()

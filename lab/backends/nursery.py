"""A small process from which the programs of a lab are forked: it holds what they need, and nothing else.

The supervisor would be the wrong parent for a thousand of them: forking copies the page tables of all that it has
imported and planned, and each page that it writes to afterwards. The nursery is its child, in the same namespaces, and
the programs' parent; it forks, and tells what ends. All of them tell the supervisor what happens by one socket, in
messages of one JSON object each.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final, NoReturn

from lab import programs
from lab.backends import linux
from lab.backends.processes import be
from lab.programs.process import Order, run

MESSAGE: Final = 1 << 16
"""Bytes of the longest message."""

_PRELOADED: Final = ("teredo-client", "web")


def start() -> tuple[int, socket.socket]:
    """Start the nursery; returns its process id, and the socket over which it and its programs are heard."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        there.set_inheritable(True)
        # The child shall find this very package, wherever it is.
        script = f"import sys; sys.path[:] = {sys.path!r}; from lab.backends.nursery import main; main()"
        pid = os.posix_spawn(
            sys.executable, (sys.executable, "-c", script, str(there.fileno())), os.environ, setsigmask=()
        )
    here.setblocking(False)
    return pid, here


def ask_to_start(channel: socket.socket, number: int, order: Order, network: int) -> None:
    """Have a program started, which will be known by this number, in the network namespace of a descriptor."""
    socket.send_fds(channel, [json.dumps({"start": number, "order": asdict(order)}).encode()], [network])


def ask_to_stop(channel: socket.socket, number: int) -> None:
    """Have a program stopped."""
    channel.send(json.dumps({"stop": number}).encode())


def main() -> NoReturn:
    """Be the nursery until the supervisor has gone."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.setblocking(True)
    channel.set_inheritable(False)
    linux.set_process_name("nursery")
    for kind in _PRELOADED:
        programs.program(kind)
    asyncio.run(asyncio.sleep(0))  # what it sets up at its first use, all share
    gc.collect()
    gc.freeze()
    gc.disable()
    _Nursery(channel).serve()
    os._exit(0)


class _Nursery:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._children: dict[int, int] = {}

    def serve(self) -> None:
        """Fork and stop programs as asked, and tell of their ends."""
        woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        while True:
            ready = select.select([self._channel.fileno(), woken], [], [])[0]
            if woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(woken, 4096)
                for pid, status in _ended():
                    self._tell({"number": self._children.pop(pid), "status": status})
            if self._channel.fileno() in ready:
                message, fds, _, _ = socket.recv_fds(self._channel, MESSAGE, 1)
                if not message:
                    return
                request = json.loads(message)
                if "stop" in request:
                    self._stop(request["stop"])
                else:
                    self._start(request["start"], Order(**request["order"]), fds[0])

    def _tell(self, message: dict[str, Any]) -> None:
        self._channel.send(json.dumps(message).encode())

    def _stop(self, number: int) -> None:
        for pid, known in self._children.items():
            if known == number:
                os.kill(pid, signal.SIGTERM)

    def _start(self, number: int, order: Order, network: int) -> None:
        with contextlib.suppress(ImportError):  # the program will say so itself
            programs.program(order.kind)

        def program() -> None:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            linux.end_with_parent()
            gc.enable()
            linux.setns(network, linux.NEWNET)
            os.close(network)
            run(order, lambda event: self._tell({"number": number, "event": event}))

        pid = os.fork()
        if pid == 0:
            be(program)
        os.close(network)
        self._children[pid] = number


def _ended() -> Iterator[tuple[int, int]]:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found

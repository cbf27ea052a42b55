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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Final, NoReturn

from lab import programs
from lab.backends import linux
from lab.backends.processes import be
from lab.programs.process import Order, run
from lab.programs.sharing import Lodger, run_all

MOST: Final = 64
"""Programs of one process."""

MESSAGE: Final = 1 << 17
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


def ask_to_start(channel: socket.socket, orders: Mapping[int, Order], networks: Sequence[int]) -> None:
    """Have programs started in one process, each in the network namespace of a descriptor; they go by these numbers."""
    message = {"start": [[number, asdict(order)] for number, order in orders.items()]}
    socket.send_fds(channel, [json.dumps(message).encode()], networks)


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
        self._children: dict[int, list[int]] = {}
        self._shared: dict[int, int] = {}
        """Of processes with several programs, where to write the number of one that shall end."""

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
                    if pid in self._shared:
                        os.close(self._shared.pop(pid))
                    for number in self._children.pop(pid):
                        self._tell({"number": number, "status": status})
            if self._channel.fileno() in ready:
                message, fds, _, _ = socket.recv_fds(self._channel, MESSAGE, MOST)
                if not message:
                    return
                request = json.loads(message)
                if "stop" in request:
                    self._stop(request["stop"])
                else:
                    self._start({number: Order(**order) for number, order in request["start"]}, fds)

    def _tell(self, message: dict[str, Any]) -> None:
        self._channel.send(json.dumps(message).encode())

    def _stop(self, number: int) -> None:
        for pid, numbers in self._children.items():
            if number not in numbers:
                continue
            if pid in self._shared:
                with contextlib.suppress(BrokenPipeError):  # it has just ended
                    os.write(self._shared[pid], b"%d\n" % number)
            else:
                os.kill(pid, signal.SIGTERM)

    def _start(self, orders: dict[int, Order], networks: list[int]) -> None:
        for order in orders.values():
            with contextlib.suppress(ImportError):  # the program will say so itself
                programs.program(order.kind)

        ending, end = os.pipe()

        def process() -> None:
            os.close(end)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            linux.end_with_parent()
            gc.enable()
            if len(orders) == 1:
                ((number, order),) = orders.items()
                linux.setns(networks[0], linux.NEWNET)
                os.close(networks[0])
                os.close(ending)
                run(order, partial(self._heard, number))
            else:
                run_all(
                    [
                        Lodger(number, order, network, partial(self._heard, number), partial(self._left, number))
                        for (number, order), network in zip(orders.items(), networks, strict=True)
                    ],
                    ending,
                )

        pid = os.fork()
        if pid == 0:
            be(process)
        for descriptor in (*networks, ending):
            os.close(descriptor)
        self._children[pid] = list(orders)
        if len(orders) > 1:
            self._shared[pid] = end
        else:
            os.close(end)

    def _heard(self, number: int, event: dict[str, Any]) -> None:
        self._tell({"number": number, "event": event})

    def _left(self, number: int, code: int) -> None:
        """A program has ended, and others of its process have not."""
        self._tell({"number": number, "status": code << 8})


def _ended() -> Iterator[tuple[int, int]]:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found

"""Forked processes of a supervisor, and the pipes over which they report."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from typing import NoReturn

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}

_children: set[int] = set()
"""Forked here and not yet known to have ended. Only these are waited for: others wait for their own."""


def fork(main: Callable[[int], None]) -> tuple[int, int]:
    """Run `main` in a child with the writing end of a pipe; returns the child's process id and the reading end.

    Forking is far cheaper than starting an interpreter, since all that programs need is imported already. The child
    ends with exit code 0 when `main` returns, and 1 with a traceback on standard error when it raises.
    """
    reading, writing = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    pid = os.fork()
    if pid == 0:

        def child() -> None:
            os.close(reading)
            _leave_loop()
            main(writing)

        be(child)
    _children.add(pid)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    os.close(writing)
    return pid, reading


def be(main: Callable[[], None]) -> NoReturn:
    """In a freshly forked child: do this, and end."""
    status = 1
    try:
        main()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended() -> list[tuple[int, int]]:
    """The forked children that have ended since the last call, each with its wait status."""
    found = [(pid, status) for pid, status in (os.waitpid(child, os.WNOHANG) for child in _children) if pid]
    _children.difference_update(pid for pid, _ in found)
    return found


def _leave_loop() -> None:
    """In a freshly forked child: forget the parent's event loop and its signal handling.

    Nothing of the parent's may be collected here: a transport that closes would take its file out of the epoll set that
    both share.
    """
    gc.freeze()
    _children.clear()
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    asyncio.set_event_loop(None)


@contextlib.asynccontextmanager
async def lines(fd: int) -> AsyncIterator[asyncio.StreamReader]:
    """A pipe as a stream of lines."""
    reader = asyncio.StreamReader(limit=1 << 22)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
    )
    try:
        yield reader
    finally:
        transport.close()

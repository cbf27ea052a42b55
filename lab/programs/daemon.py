"""Programs that are not ours: daemons in the foreground, found, started, watched and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import Coroutine, Sequence
from typing import Any

from lab.teredo.runner import stop_on_signals

_STOP_TIMEOUT = 3.0


def find(name: str) -> str | None:
    """The path of a daemon's program, or None."""
    return shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin:/usr/bin")


async def run(command: Sequence[str], watch: Coroutine[Any, Any, None]) -> None:
    """Run a daemon until SIGTERM, while `watch` tells of its state. Raises RuntimeError when it ends by itself."""
    stop = stop_on_signals()
    watcher = asyncio.create_task(watch)
    daemon = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
    ended = asyncio.create_task(daemon.wait())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({ended, stopped, watcher}, return_when=asyncio.FIRST_COMPLETED)
    if watcher.done():
        watcher.result()  # it never ends but by an error, which shall be seen
    watcher.cancel()
    if not ended.done():
        daemon.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(ended), _STOP_TIMEOUT)
        if not ended.done():
            daemon.kill()
            await ended
    elif not stop.is_set():
        raise RuntimeError(f"{command[0]} ended by itself with exit code {daemon.returncode}")

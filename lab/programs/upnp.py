"""miniupnpd as a program of a NAT's node: inside hosts open ports with UPnP IGD, NAT-PMP and PCP."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import subprocess
from ipaddress import IPv4Address
from typing import Any

from lab.nat.upnp import CLEAR, configuration
from lab.programs import daemon
from lab.programs.base import Context
from lab.teredo.upnp import find_gateway

_NAME = "miniupnpd"
_POLL = 0.02
_WAIT = 1.0


def problem() -> str | None:
    """Why miniupnpd cannot run here, or None."""
    if daemon.find(_NAME) is None:
        return f"{_NAME} not found: install Debian's package miniupnpd-nftables"
    return None


def upnp(options: dict[str, Any], context: Context) -> None:
    """Open ports on request until SIGTERM; none stays open then."""
    config = context.directory / f"{_NAME}.conf"
    config.write_text(configuration(context.node, IPv4Address(options["external"])))
    command = daemon.find(_NAME)
    assert command is not None
    pid_file = context.directory / f"{_NAME}.pid"
    arguments = (command, "-d", "-f", str(config), "-P", str(pid_file))
    with (context.directory / f"{_NAME}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a daemon that a change of the NAT has ended may still hold its port
        try:
            asyncio.run(daemon.run(arguments, _watch(options["inside"], context)))
        finally:
            # It fails where the NAT's rules have gone already, and the openings with them.
            subprocess.run(("nft", "-f", "-"), input=CLEAR, text=True, capture_output=True, check=False)


async def _watch(inside: str, context: Context) -> None:
    """Tell when the daemon answers: it takes UPnP's connections before it hears who searches for it."""
    while not await _answers(inside):
        await asyncio.sleep(_POLL)
    context.notify("state", {"state": "running", "reason": None})
    await asyncio.Event().wait()


async def _answers(inside: str) -> bool:
    with contextlib.suppress(OSError):
        return await find_gateway(inside, _WAIT, inside) is not None
    return False

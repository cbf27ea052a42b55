"""Debian's Miredo as programs of a node: the real daemons, configured for the lab, watched through the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import pwd
import socket
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.rtnl import RTMGRP_IPV6_IFADDR, RTMGRP_LINK

from lab.backends import linux
from lab.programs import daemon
from lab.programs.base import Context
from lab.teredo.address import PORT, is_teredo, packed

_USER = "miredo"
_IFF_UP = 1


def problem() -> str | None:
    """Why Miredo cannot run here, or None. It wants its own user besides root, which one mapped user cannot give."""
    missing = [name for name in ("miredo", "miredo-server") if daemon.find(name) is None]
    if missing:
        return f"{' and '.join(missing)} not found: install Debian's packages miredo and miredo-server"
    try:
        user = pwd.getpwnam(_USER).pw_uid
    except KeyError:
        return f"there is no user {_USER!r}, which Debian's package makes"
    if linux.is_mapped(user):
        return None
    return f"Miredo gives up root for the user {_USER!r}, and an ordinary user's lab has only one user: run as root"


def client(options: dict[str, Any], context: Context) -> None:
    """A Miredo client; its state is what the kernel says of its interface."""
    settings = {
        "InterfaceName": options["tun"],
        "ServerAddress": options["server"],
        "ServerAddress2": options["secondary"],
        "BindAddress": options["bind"],
        "BindPort": options["port"],
    }
    asyncio.run(_daemon("miredo", settings, _watch_interface(options["tun"], is_client=True, context=context), context))


def relay(options: dict[str, Any], context: Context) -> None:
    """A Miredo relay: it routes 2001::/32 to its interface itself."""
    settings = {
        "RelayType": "relay",
        "InterfaceName": options["tun"],
        "BindAddress": options["bind"],
        "BindPort": options["port"],
    }
    asyncio.run(
        _daemon("miredo", settings, _watch_interface(options["tun"], is_client=False, context=context), context)
    )


def server(options: dict[str, Any], context: Context) -> None:
    """A Miredo server."""
    settings = {"ServerBindAddress": options["primary"], "ServerBindAddress2": options["secondary"]}
    asyncio.run(_daemon("miredo-server", settings, _watch_port(PORT, context), context))


async def _daemon(name: str, settings: dict[str, Any], watch: Coroutine[Any, Any, None], context: Context) -> None:
    config = context.directory / f"{name}.conf"
    config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    command = daemon.find(name)
    assert command is not None
    await daemon.run((command, "-f", "-c", str(config), "-p", str(context.directory / f"{name}.pid")), watch)


@contextlib.contextmanager
def _interface_changes() -> Iterator[asyncio.Event]:
    """An event that is set at each change of a link or an IPv6 address of this node."""
    changed = asyncio.Event()
    changed.set()
    watch = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    watch.bind((0, RTMGRP_IPV6_IFADDR | RTMGRP_LINK))

    def drain() -> None:
        with contextlib.suppress(BlockingIOError):
            while watch.recv(65536):
                changed.set()

    loop = asyncio.get_running_loop()
    loop.add_reader(watch, drain)
    try:
        yield changed
    finally:
        loop.remove_reader(watch)
        watch.close()


async def _watch_interface(interface: str, *, is_client: bool, context: Context) -> None:
    """Tell the state that the interface shows: a client is qualified when it has a Teredo address."""
    told: tuple[str, str | None] | None = None
    with _interface_changes() as changed:
        while True:
            await changed.wait()
            changed.clear()
            up, address = await _look(interface)
            ready = "qualified" if is_client and address else "running" if up and not is_client else "starting"
            if (ready, address) != told:
                told = ready, address
                context.notify("state", {"state": ready, "reason": None, "address": address if is_client else None})


async def _watch_port(port: int, context: Context) -> None:
    """Tell when the server has bound its port; it makes no interface, and the kernel has no event for a socket."""
    while f":{port:04X} " not in Path("/proc/net/udp").read_text():
        await asyncio.sleep(0.02)
    context.notify("state", {"state": "running", "reason": None})
    await asyncio.Event().wait()


async def _look(interface: str) -> tuple[bool, str | None]:
    """Whether the interface is up, and the Teredo address that it has."""
    async with AsyncIPRoute() as ip:
        indexes = await ip.link_lookup(ifname=interface)
        if not indexes:
            return False, None
        links = await ip.link("get", index=indexes[0])
        up = any(link["flags"] & _IFF_UP for link in links)
        async for row in await ip.addr("dump", family=socket.AF_INET6, index=indexes[0]):
            address = row.get("IFA_ADDRESS")
            if address is not None and is_teredo(packed(address)):
                return up, str(address)
        return up, None

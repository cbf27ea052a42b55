"""Our own Teredo as programs of a node."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

from lab.datapath.choice import VARIABLE, DataPath
from lab.logs import QUIET, log_event
from lab.programs.base import Context
from lab.teredo.client import ClientConfig
from lab.teredo.client_runner import run_client
from lab.teredo.extensions import Extension
from lab.teredo.relay import RelayConfig
from lab.teredo.runner import Place, stop_on_signals
from lab.teredo.server import ServerConfig
from lab.teredo.server_runner import run_server
from lab.teredo.tunnel_runner import run_relay


def _notify(context: Context) -> Callable[[str, dict[str, Any]], None]:
    def notify(name: str, facts: dict[str, Any]) -> None:
        log_event(name, facts)
        if name not in QUIET:
            context.notify(name, facts)

    return notify


def _run(main: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    async def until_stopped() -> None:
        await main(stop_on_signals())

    asyncio.run(until_stopped())


def _place(options: dict[str, Any], context: Context) -> Place:
    where = {key: options[key] for key in ("bind", "port") if key in options}
    datapath = DataPath(options.get("datapath") or os.environ.get(VARIABLE, DataPath.AUTO))
    return Place(options["tun"], context.control, memory=context.directory / "upnp-port", datapath=datapath, **where)


def client(options: dict[str, Any], context: Context) -> None:
    """A Teredo client (RFC 4380 section 5.2)."""
    _run(lambda stop: run_client_until(options, context, stop))


async def run_client_until(options: dict[str, Any], context: Context, stop: asyncio.Event) -> None:
    """The same, until `stop`."""
    config = ClientConfig(
        options["server"],
        options["secondary"],
        refresh_interval=options["refresh_interval"],
        client_id=(options.get("client_id") or "").encode(),
        secret=None if options.get("secret") is None else options["secret"].encode(),
        extensions=frozenset(map(Extension, options["extensions"])),
        determine_interval=options["determine_interval"],
        local_discovery=options["local_discovery"],
    )
    await run_client(config, _place(options, context), _notify(context), stop)


def server(options: dict[str, Any], context: Context) -> None:
    """A Teredo server (RFC 4380 section 5.3)."""
    relaying = options.get("relay")
    config = ServerConfig(
        options["primary"],
        options["secondary"],
        secrets={name.encode(): secret.encode() for name, secret in options["secrets"].items()},
        relay=None if relaying is None else RelayConfig(relaying["address"]),
    )
    _run(lambda stop: run_server(config, _place(options, context), _notify(context), stop))


def relay(options: dict[str, Any], context: Context) -> None:
    """A Teredo relay, of its site or of its own host alone (RFC 4380 section 5.4)."""
    config = RelayConfig(options["address"], host_specific=options["host_specific"])
    _run(lambda stop: run_relay(config, _place(options, context), _notify(context), stop))

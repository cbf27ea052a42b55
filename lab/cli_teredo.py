"""`teredo-lab teredo …`: our Teredo programs by themselves, for use on a real machine outside any lab."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lab.datapath.choice import VARIABLE, DataPath
from lab.logs import log_event
from lab.logs import set_up as set_up_logs
from lab.state import root
from lab.teredo.address import host_bytes, host_text
from lab.teredo.client import ClientConfig
from lab.teredo.extensions import ALL, Extension
from lab.teredo.interval import REFRESH_INTERVAL
from lab.teredo.relay import RelayConfig
from lab.teredo.runner import Notify, Place, ask, stop_on_signals
from lab.teredo.server import ServerConfig
from lab.teredo.server_runner import run_server
from lab.teredo.tun import TunError
from lab.teredo.tunnel import MAX_PEERS

app = typer.Typer(
    name="teredo",
    help="Run a Teredo client, server or relay by itself, or look at one that runs.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
_err = Console(stderr=True)

Main = Callable[[Place, Notify, asyncio.Event], Coroutine[Any, Any, None]]

Tun = Annotated[str, typer.Option(help="Name of the network interface to make.")]
Bind = Annotated[str, typer.Option(help="Local IPv4 address of the service port.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log every packet that is dropped, too.")]
Carrying = Annotated[
    DataPath,
    typer.Option(
        help="How data are carried: in the `kernel` (needs root), in `userspace`, or `auto`, what works.",
        envvar=VARIABLE,
    ),
]
Control = Annotated[Path | None, typer.Option(help="Control socket; `teredo state` asks there.", show_default=False)]


def _default_control(kind: str) -> Path:
    return root() / f"teredo-{kind}.sock"


def _run(kind: str, verbose: bool, place: Place, main: Main) -> None:
    """Run a program until SIGINT or SIGTERM; exit code 3 where the machine does not let it."""
    set_up_logs(level=logging.DEBUG if verbose else logging.INFO, program=kind)
    where = replace(place, control=place.control or _default_control(kind))
    assert where.control is not None
    where.control.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def until_stopped() -> None:
        await main(where, log_event, stop_on_signals())

    try:
        asyncio.run(until_stopped())
    except (TunError, OSError) as error:
        _fail(3, str(error))


def _fail(code: int, message: str) -> None:
    _err.print(f"teredo-lab: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(code)


def _resolve(host: str) -> str:
    """An IPv4 address from an address or a name."""
    try:
        return socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_DGRAM)[0][4][0]  # type: ignore[return-value]
    except OSError as error:
        _fail(2, f"cannot resolve {host!r}: {error.strerror}")
        raise AssertionError from error


def _next(host: str) -> str:
    return host_text((int.from_bytes(host_bytes(host), "big") + 1).to_bytes(4, "big"))


@app.command()
def client(
    server: Annotated[str, typer.Argument(help="The Teredo server: IPv4 address or name.")],
    secondary: Annotated[
        str | None, typer.Option(help="Its secondary IPv4 address; by convention the next one.", show_default=False)
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Service port; 0 picks one at random.")] = 0,
    bind: Bind = "0.0.0.0",  # noqa: S104 - the service port is meant to be reached
    refresh_interval: Annotated[
        float, typer.Option(min=1, max=3600, help="Refresh interval in seconds.")
    ] = REFRESH_INTERVAL,
    determine_interval: Annotated[
        bool, typer.Option("--determine-interval", help="Find out how long the refresh interval may be.")
    ] = False,
    local_discovery: Annotated[
        bool, typer.Option("--local-discovery", help="Discover other clients of the link, and be discovered.")
    ] = False,
    without: Annotated[
        list[Extension] | None,
        typer.Option(help="An extension of RFC 6081 to leave out; may be repeated.", show_default=False),
    ] = None,
    client_id: Annotated[str, typer.Option(help="Client identifier for secure qualification.")] = "",
    secret_file: Annotated[
        Path | None, typer.Option(help="File with the shared secret for secure qualification.", show_default=False)
    ] = None,
    datapath: Carrying = DataPath.AUTO,
    tun: Tun = "teredo",
    control: Control = None,
    verbose: Verbose = False,
) -> None:
    """Run a Teredo client (RFC 4380 section 5.2) until SIGINT or SIGTERM. Needs CAP_NET_ADMIN.

    Example: `teredo-lab teredo client 192.0.2.2`
    """
    from lab.teredo.client_runner import run_client  # noqa: PLC0415 - numpy is for those that carry data

    primary = _resolve(server)
    try:
        secret = None if secret_file is None else secret_file.read_bytes().strip()
        config = ClientConfig(
            primary,
            _resolve(secondary) if secondary else _next(primary),
            refresh_interval=refresh_interval,
            client_id=client_id.encode(),
            secret=secret,
            extensions=ALL - frozenset(without or ()),
            determine_interval=determine_interval,
            local_discovery=local_discovery,
        )
    except (ValueError, OSError) as error:
        _fail(2, str(error))
        return
    memory = root() / "teredo-client.upnp-port"
    place = Place(tun, control, bind, port, memory=memory, datapath=datapath)
    _run("client", verbose, place, partial(run_client, config))


@app.command()
def server(
    primary: Annotated[str, typer.Argument(help="Primary IPv4 address, a public one of this machine.")],
    secondary: Annotated[str, typer.Argument(help="Secondary IPv4 address of this machine.")],
    secrets: Annotated[
        Path | None,
        typer.Option(
            help="File with one `client-id secret` a line; then secure qualification is required.", show_default=False
        ),
    ] = None,
    tun: Tun = "teredo",
    control: Control = None,
    verbose: Verbose = False,
) -> None:
    """Run a Teredo server (RFC 4380 section 5.3) on port 3544 of two IPv4 addresses until SIGINT or SIGTERM.

    Example: `teredo-lab teredo server 192.0.2.2 192.0.2.3`
    """
    try:
        known: dict[bytes, bytes] = {}
        for number, line in enumerate(secrets.read_bytes().splitlines() if secrets else [], 1):
            name, _, secret = line.strip().partition(b" ")
            if not name or not secret:
                _fail(2, f"{secrets}:{number}: expected `client-id secret`")
            known[name] = secret.strip()
        config = ServerConfig(primary, secondary, secrets=known)
    except (ValueError, OSError) as error:
        _fail(2, str(error))
        return
    _run("server", verbose, Place(tun, control), partial(run_server, config))


@app.command()
def relay(
    address: Annotated[str, typer.Argument(help="A native IPv6 address of this machine.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Service port; 0 picks one at random.")] = 0,
    bind: Bind = "0.0.0.0",  # noqa: S104 - the service port is meant to be reached
    serves: Annotated[
        list[str] | None,
        typer.Option(help="Prefix that the relay serves; may be repeated. Default: all.", show_default=False),
    ] = None,
    host_specific: Annotated[bool, typer.Option("--host-specific", help="Relay for this host alone.")] = False,
    behind_nat: Annotated[bool, typer.Option("--behind-nat", help="Send direct bubbles as well.")] = False,
    max_peers: Annotated[
        int, typer.Option(min=1, help="Clients that the relay remembers; those beyond push each other out.")
    ] = MAX_PEERS,
    datapath: Carrying = DataPath.AUTO,
    tun: Tun = "teredo",
    control: Control = None,
    verbose: Verbose = False,
) -> None:
    """Run a Teredo relay (RFC 4380 section 5.4) until SIGINT or SIGTERM; it routes 2001::/32.

    A relay for others needs IPv6 forwarding: `sysctl net.ipv6.conf.all.forwarding=1`.

    Example: `teredo-lab teredo relay 2001:db8::1 --host-specific`
    """
    from lab.teredo.tunnel_runner import run_relay  # noqa: PLC0415 - numpy is for those that carry data

    try:
        config = RelayConfig(
            address,
            tuple(serves or ()),
            host_specific=host_specific,
            direct_bubbles=behind_nat,
            max_peers=max_peers,
        )
    except ValueError as error:
        _fail(2, str(error))
        return
    _run("relay", verbose, Place(tun, control, bind, port, datapath=datapath), partial(run_relay, config))


@app.command()
def state(
    control: Control = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Show the state of a program that runs by itself on this machine."""
    paths = [control] if control else [_default_control(kind) for kind in ("client", "server", "relay")]
    answers = []
    for path in paths:
        try:
            answers.append(ask(path, "state"))
        except OSError:
            continue
    if not answers:
        _fail(2, f"no Teredo program answers at {', '.join(map(str, paths))}; in a lab, use `teredo-lab status NODE`")
    if as_json:
        print(json.dumps(answers[0] if control else answers, indent=2))
        return
    console = Console()
    for answer in answers:
        print_state(answer, console)


_LABELS = {
    "type": "Type",
    "server": "Server",
    "secondary_server": "Secondary server",
    "refresh_interval": "Refresh interval",
    "next_refresh": "Next refresh in",
    "state": "State",
    "error": "Error",
    "nat": "NAT",
    "nat_behaviour": "NAT special behaviour",
    "address": "Teredo address",
    "local_mapping": "Local mapping",
    "external_mapping": "External NAT mapping",
    "interface": "Interface",
    "mtu": "MTU",
    "datapath": "Data path",
    "datapath_reason": "Data path because",
    "kernel_carried": "Packets by kernel",
    "secure": "Secure qualification",
}
_SECONDS = {"refresh_interval", "next_refresh"}


def print_state(facts: dict[str, Any], console: Console) -> None:
    """A program's state as `netsh interface teredo show state` words it, then its peers and counters."""
    for key, label in _LABELS.items():
        if key in facts:
            value = facts[key]
            text = "none" if value is None else f"{value} s" if key in _SECONDS else str(value)
            console.print(f"{label + ':':<24} {text}", highlight=False)
    if facts.get("peers"):
        table = Table("peer", "mapping", "trusted", "received", "sent", title="peers", title_justify="left")
        for peer in facts["peers"]:
            ago = [f"{peer[key]:.1f} s ago" for key in ("received_ago", "sent_ago")]
            table.add_row(peer["address"], peer["mapping"] or "", "yes" if peer["trusted"] else "no", *ago)
        console.print(table)
    if facts.get("counters"):
        console.print("counters", style="bold")
        for name, count in facts["counters"].items():
            console.print(f"  {count:>8} {name}", highlight=False)

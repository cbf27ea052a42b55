"""`teredo-lab web`: a running lab as a page."""

from __future__ import annotations

import secrets
import signal
import socket
from types import FrameType
from typing import Annotated

import typer

from lab.console import BAD_INPUT, Name, err, fail, out, the_lab

app = typer.Typer()


@app.command()
def web(
    name: Name = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The TCP port; 0 takes any that is free.")] = 8610,
    host: Annotated[
        str,
        typer.Option(help="The address to listen at; other machines reach only one that is not local."),
    ] = "127.0.0.1",
) -> None:
    """Show a running lab as a page: topology, states, mappings, packets; and act on it. Ctrl-C ends it.

    Who has the printed address may change the lab; without its token, one may look.

    Example: `teredo-lab web`
    """
    import uvicorn  # noqa: PLC0415 - slow to import

    from lab.web.app import app  # noqa: PLC0415

    lab = the_lab(name)
    lab.ask_once("links")  # leave here if it does not run
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        fail(BAD_INPUT, f"cannot listen at {host} port {port}: {error}; choose others with --host and --port")
    token = secrets.token_urlsafe(24)
    served, live = app(lab, host, token)

    class Server(uvicorn.Server):
        """Tells viewers to go as soon as it is asked to end: it waits for them. To ask twice changes nothing."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if not self.should_exit:
                live.close()
                super().handle_exit(sig, frame)

    shown = f"[{host}]" if ":" in host else host
    out.print(f"http://{shown}:{listening.getsockname()[1]}/#{token}", highlight=False, markup=False, soft_wrap=True)
    err.print(f"showing lab {lab.name}; Ctrl-C ends it", style="dim", highlight=False)
    config = uvicorn.Config(
        served, log_level="warning", access_log=False, ws="none", server_header=False, timeout_graceful_shutdown=2
    )
    server = Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)  # also when it does not serve yet, or no longer
    with listening:
        server.run(sockets=[listening])

"""Sends small datagrams over IPv6 at a rate, and counts those that arrive; each part is run in its node.

    python -m lab.bench.flood receive
    python -m lab.bench.flood send 2001:db8::1 --rate 50000
    python -m lab.bench.flood send 2001:db8::1 --rate 500000 --bulk

The receiver tells on standard output how many it has got since it told last, whenever a line comes in.
"""

from __future__ import annotations

import ctypes
import json
import select
import socket
import sys
import time
from typing import Annotated, Final

import typer

from lab.teredo.mmsg import SEGMENTS, UDP_SEGMENT, Incoming, Outgoing

PORT: Final = 4381
SIZE: Final = 64
"""Bytes of payload."""

_BURST: Final = 16
"""Datagrams that are sent without a look at the clock: fewer than any queue on the way holds."""

_BATCH: Final = 256
_SOCKET_BUFFER: Final = 32 << 20
_SO_RCVBUFFORCE: Final = 33

app = typer.Typer(pretty_exceptions_show_locals=False)


@app.command()
def send(
    address: Annotated[str, typer.Argument(help="The receiver's IPv6 address or name.")],
    rate: Annotated[float, typer.Option(min=0, help="Datagrams a second; 0 for as many as can be.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.1, help="For how long.")] = 1,
    bulk: Annotated[bool, typer.Option("--bulk", help=f"Give the kernel {SEGMENTS} at once, which cuts them.")] = False,
) -> None:
    """Send datagrams, and print how many, as JSON."""
    calls, each = (1, SEGMENTS) if bulk else (_BURST, 1)
    burst = Outgoing(calls)
    payload = (ctypes.c_uint8 * (each * SIZE))(*bytes(range(SIZE)) * each)
    for message, vector in zip(burst.messages, burst.vectors, strict=True):
        message.name, message.name_length = None, 0
        vector.base, vector.length = ctypes.addressof(payload), len(payload)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
        udp.connect((address, PORT))
        if bulk:
            udp.setsockopt(socket.SOL_UDP, UDP_SEGMENT, SIZE)
        began = now = time.monotonic()
        sent = refused = 0
        while now - began < seconds:
            refused += burst.send(udp, 0, calls) * each
            sent += calls * each
            if rate:
                due = began + sent / rate
                while (now := time.monotonic()) < due:
                    if due - now > 0.0002:
                        time.sleep((due - now) / 2)
            else:
                now = time.monotonic()
    print(json.dumps({"sent": sent - refused, "seconds": now - began}))


@app.command()
def receive() -> None:
    """Count datagrams, and print the count for each line that comes in."""
    batch = Incoming(_BATCH, SIZE)
    for message in batch.messages:  # who sent them is not wanted, and would need more room than it has
        message.name, message.name_length = None, 0
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _SOCKET_BUFFER)
        udp.setblocking(False)
        udp.bind(("::", PORT))
        count = 0
        while True:
            ready, _, _ = select.select((udp, sys.stdin), (), ())
            if udp in ready:
                count += batch.receive(udp)
            elif not sys.stdin.readline():
                return
            else:
                print(json.dumps({"received": count}), flush=True)
                count = 0


if __name__ == "__main__":
    app()

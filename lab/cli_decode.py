"""`teredo-lab decode`: what a Teredo address, a datagram or a recording says."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from lab.console import BAD_INPUT, Json, fail, out

app = typer.Typer()

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lab.seeing.fields import Field
    from lab.seeing.pcapng import Recording


@app.command()
def decode(
    what: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS|FILE|HEX", help="A Teredo address, a pcap or pcapng file, or a UDP payload in hexadecimal."
        ),
    ],
    number: Annotated[
        int | None, typer.Option("--packet", "-p", help="Of a file, this packet in full.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Explain a Teredo address or packet field by field, and where the RFCs say so.

    Examples: `teredo-lab decode 2001:0:c000:202:1c2a:63bf:39cd:9bfa`, `teredo-lab decode lab.pcapng --packet 12`
    """
    from lab.seeing import fields  # noqa: PLC0415 - only this command needs it

    if os.path.isfile(what):  # noqa: PTH113 - Path.is_file() raises for what is too long to be a name
        _file(Path(what), number, as_json=as_json)
        return
    if number is not None:
        fail(BAD_INPUT, f"--packet is of a file, and there is no file {what}")
    try:
        packed = ipaddress.IPv6Address(what).packed
    except ValueError:
        packed = None
    try:
        found = fields.address(packed) if packed is not None else fields.datagram(_bytes(what))
    except ValueError as error:
        fail(BAD_INPUT, error if packed is not None else f"{_short(what)}: no Teredo packet: {error}")
    kind = "address" if packed is not None else "datagram"
    if as_json:
        print(json.dumps({"kind": kind, "fields": [asdict(field) for field in found]}, indent=2))
    else:
        _print(
            str(ipaddress.IPv6Address(packed)) if packed is not None else f"UDP payload, {len(_bytes(what))} bytes",
            found,
        )


def _short(what: str) -> str:
    return what if len(what) <= 40 else f"{what[:40]}…"


def _bytes(what: str) -> bytes:
    digits = re.sub(r"^0x|[\s:]", "", what)
    if not re.fullmatch(r"([0-9a-fA-F]{2})+", digits):
        fail(BAD_INPUT, f"{_short(what)} is no IPv6 address, no file, and no bytes in hexadecimal")
    return bytes.fromhex(digits)


def _print(title: str, found: Iterable[Field], depth: int = 0) -> None:
    if not depth:
        out.print(title, style="bold", highlight=False, markup=False, soft_wrap=True)
    for field in found:
        name = f"{'  ' * (depth + 1)}{field.name}"
        line = Text(f"{name:<28}").append(f"{field.value:<20} ", "bold").append(field.meaning)
        line.append(f"{'  ' if field.meaning else ''}[{field.rfc}]" if field.rfc else "", "dim")
        line.rstrip()
        out.print(line, highlight=False, soft_wrap=True)
        _print("", field.fields, depth + 1)


def _file(path: Path, number: int | None, *, as_json: bool) -> None:
    from lab.seeing import lines, pcapng  # noqa: PLC0415

    try:
        recording = pcapng.read(path.read_bytes())
    except (OSError, pcapng.RecordingError) as error:
        fail(BAD_INPUT, f"{path}: {error}")
    if number is not None and not 1 <= number <= len(recording.packets):
        fail(BAD_INPUT, f"{path} has no packet {number}: it has {len(recording.packets)}")
    wanted = [number] if number else range(1, len(recording.packets) + 1)
    if as_json:
        print(json.dumps({"kind": "recording", "packets": [_facts(recording, each) for each in wanted]}, indent=2))
    elif number is not None:
        packet = recording.packets[number - 1]
        found = lines.told(recording.interfaces[packet.interface], packet)
        _print(f"packet {number}: {found.source} → {found.to}: {found.what}", found.fields)
    else:
        for each in wanted:
            packet = recording.packets[each - 1]
            told = lines.line(recording.interfaces[packet.interface], packet, recording.packets[0].at)
            out.print(f"{each:>5} {told}", highlight=False, markup=False, soft_wrap=True)


def _facts(recording: Recording, number: int) -> dict[str, Any]:
    """A packet of a file; `ms` is its time since the first one."""
    from lab.seeing import lines  # noqa: PLC0415

    packet = recording.packets[number - 1]
    interface = recording.interfaces[packet.interface]
    told = lines.told(interface, packet)
    return {
        "number": number,
        "ms": (packet.at - recording.packets[0].at) / 1e6,
        "interface": interface.name,
        "from": told.source,
        "to": told.to,
        "what": told.what,
        "comment": packet.comment,
        "fields": [asdict(field) for field in told.fields],
    }

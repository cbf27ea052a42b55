"""`teredo-lab story`: one conversation, packet by packet, as a person would tell it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lab.console import BAD_INPUT, FAILED, Json, Name, fail, out, the_lab, write

app = typer.Typer()

if TYPE_CHECKING:
    from lab.seeing.cast import Cast
    from lab.seeing.conversation import Story


@app.command()
def story(
    caller: Annotated[str, typer.Argument(metavar="A", help="Who wants to reach the other.")],
    callee: Annotated[str, typer.Argument(metavar="B", help="Who is to be reached.")],
    read: Annotated[
        Path | None,
        typer.Option(help="Tell it from this capture of a lab, in place of making it happen.", show_default=False),
    ] = None,
    svg: Annotated[Path | None, typer.Option(help="Also write a picture to this file.", show_default=False)] = None,
    mermaid: Annotated[
        Path | None, typer.Option(help="Also write a diagram of Mermaid to this file.", show_default=False)
    ] = None,
    name: Name = None,
    as_json: Json = False,
) -> None:
    """Have A send an ICMPv6 echo request to B over cold paths, and tell what happens, packet by packet.

    Each packet is named in the words of the RFCs, with what NATs make of it, and where and why it is dropped.
    Exit code 1: A does not reach B.

    Example: `teredo-lab story alice carol --svg story.svg`
    """
    told = _lived(caller, callee, name) if read is None else _read(read, caller, callee)
    from lab.seeing.diagram import mermaid as mermaid_text  # noqa: PLC0415
    from lab.seeing.svg import svg as svg_text  # noqa: PLC0415

    write(svg, lambda: svg_text(told))
    write(mermaid, lambda: mermaid_text(told))
    if as_json:
        print(json.dumps(asdict(told), indent=2))
    else:
        _print(told)
    if not told.reached:
        raise typer.Exit(FAILED)


def _ends(cast: Cast, *names: str) -> None:
    """Leave if these cannot have a conversation."""
    able = [name for name, actor in cast.actors.items() if actor.role in ("client", "host")]
    for name in names:
        if name not in able:
            fail(BAD_INPUT, f"{name} is no client or host here; these are: {', '.join(able) or 'none'}")
    if len(set(names)) == 1:
        fail(BAD_INPUT, f"a conversation needs two, and {names[0]} is one")


def _lived(caller: str, callee: str, name: str | None) -> Story:
    from lab.seeing.again import converse  # noqa: PLC0415 - slow to import
    from lab.seeing.live import cast_of  # noqa: PLC0415

    lab = the_lab(name)
    _ends(cast_of(lab), caller, callee)
    return next(converse(lab, [[(caller, callee)]]).stories())


def _read(file: Path, caller: str, callee: str) -> Story:
    from lab.seeing import pcapng  # noqa: PLC0415
    from lab.seeing.cast import heard  # noqa: PLC0415
    from lab.seeing.conversation import tell  # noqa: PLC0415

    try:
        recording = pcapng.read(file.read_bytes())
    except (OSError, pcapng.RecordingError) as error:
        fail(BAD_INPUT, f"{file}: {error}")
    cast, taps = heard(recording.interfaces)
    if not cast.actors:
        fail(BAD_INPUT, f"{file} does not say whose links it is of: it is no capture by `teredo-lab capture`")
    _ends(cast, caller, callee)
    return tell(cast, taps, recording.interfaces, recording.packets, (caller, callee))


def _print(told: Story) -> None:
    from lab.seeing.diagram import STYLES, rows  # noqa: PLC0415

    out.print(told.title, style="bold", highlight=False, markup=False)
    for text, style in rows(told, out.width) if told.steps else ():
        out.print(text, style=STYLES[style], highlight=False, markup=False, soft_wrap=True)
    colour = {True: "green", False: "red", None: "yellow"}[told.reached]
    out.print(told.outcome, style=colour, highlight=False, markup=False, soft_wrap=True)

"""`teredo-lab capture`: what passes the links of a running lab, as lines or as one pcapng."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from lab.console import BAD_INPUT, Name, err, fail, the_lab

app = typer.Typer()

if TYPE_CHECKING:
    from lab.seeing.cast import Cast
    from lab.seeing.live import Capture
    from lab.seeing.pcapng import Packet

_STANDARD_OUTPUT = Path("-")

_MUCH = 1 << 24
"""Bytes that take a second or more to be written."""

_NICE = 10
"""How far what is done with packets stands back behind what passes them; the thread that takes them in does not."""


@app.command()
def capture(
    link: Annotated[
        list[str] | None,
        typer.Option(
            help="This node's link to the next one upstream: `alice`, `home-nat`; `internet` for all that lead there."
            " May be repeated; without it, all links.",
            show_default=False,
        ),
    ] = None,
    pair: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="A B", help="All links that a conversation of these two may use.", show_default=False),
    ] = None,
    tunnel: Annotated[
        bool, typer.Option("--tunnel", help="Also what enters and leaves the tunnel at the nodes that are captured.")
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option("-w", "--write", metavar="FILE", help="Write pcapng: to a file, or `-`.", show_default=False),
    ] = None,
    count: Annotated[
        int | None, typer.Option("-c", "--count", min=1, help="End after so many packets.", show_default=False)
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.0, help="End after so many seconds.", show_default=False)
    ] = None,
    snaplen: Annotated[
        int | None,
        typer.Option(
            "-s",
            "--snaplen",
            min=0,
            metavar="BYTES",
            help="Keep so many bytes of each packet, 0 for all; without it, all of what a link takes in one, and the"
            " headers of longer ones, which kernels cut on their way (segmentation offload).",
            show_default=False,
        ),
    ] = None,
    name: Name = None,
) -> None:
    """Capture any links of a lab, all in one order, until Ctrl-C. Comments say what packets are, and who dropped them.

    Examples: `teredo-lab capture --pair alice bob`, `teredo-lab capture -w - | wireshark -k -i -`
    """
    from lab.seeing.live import Capture, cast_of, keeping  # noqa: PLC0415 - slow to import

    lab = the_lab(name)
    cast = cast_of(lab)
    taps = cast.taps(_links(cast, link or [], pair), tunnels=tunnel)
    with _written(file) as stream:
        patient = file not in (None, _STANDARD_OUTPUT) and count is None
        running = Capture(lab, taps, cast.interface, keeping(snaplen), patient=patient)
        os.nice(_NICE)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: _end(running))
        if seconds is not None:
            timer = threading.Timer(seconds, running.end)
            timer.daemon = True
            timer.start()
        err.print(f"capturing {len(running.taps)} links; Ctrl-C ends it", style="dim", highlight=False)
        batches = _first(count, _batches(running, cast, stream))
        try:
            if stream is None:
                _show(batches, running)
            else:
                _write(batches, running, lab.name, stream)
        except BrokenPipeError:  # Wireshark has been closed
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        finally:
            running.end()


def _end(running: Capture) -> None:
    """End it, and say so where that takes a while."""
    running.end()
    if running.waiting > _MUCH:
        err.print(f"writing {running.waiting >> 20} MB that have been seen …", style="dim", highlight=False)


def _links(cast: Cast, names: Sequence[str], pair: tuple[str, str] | None) -> Sequence[str]:
    """The links that are meant, or leave with what is wrong."""
    for name in (*names, *(pair or ())):
        if name not in cast.actors and name != "internet":
            fail(
                BAD_INPUT, f"there is no node {name!r} that has a link; these have: {', '.join(cast.actors)}, internet"
            )
    if pair is None:
        return cast.links_of(names or [*cast.actors])
    if "internet" in pair:
        fail(
            BAD_INPUT,
            "--pair is of two nodes that talk to each other; for all that crosses the Internet: --link internet",
        )
    return [*dict.fromkeys((*cast.links_between(*pair), *cast.links_of(names)))]


@contextlib.contextmanager
def _written(file: Path | None) -> Iterator[BinaryIO | None]:
    """Where pcapng goes to, or leave with what is wrong."""
    if file is None:
        yield None
    elif file == _STANDARD_OUTPUT:
        if sys.stdout.isatty():
            fail(BAD_INPUT, "pcapng is not for a terminal: `teredo-lab capture -w - | wireshark -k -i -`, or -w FILE")
        yield sys.stdout.buffer
    else:
        try:
            stream = file.open("wb")
        except OSError as error:
            fail(BAD_INPUT, f"cannot write {file}: {error.strerror}")
        with stream:
            yield stream


def _batches(running: Capture, cast: Cast, stream: BinaryIO | None) -> Iterator[list[Packet]]:
    """Packets with their comments, as these become known, until the end of the capture.

    Raises BrokenPipeError as soon as nobody reads the stream any more, also while no packets come.
    """
    from lab.seeing.notes import Notes  # noqa: PLC0415

    notes = Notes(cast, running.taps, running.interfaces)
    reader = select.poll()
    if stream is not None:
        reader.register(stream, 0)
    for passed in running.passed():
        if reader.poll(0):
            raise BrokenPipeError
        notes.take(passed.packets)
        for number, lost in passed.lost.items():
            err.print(f"{lost} packets of {running.taps[number].name} were too many", style="yellow", highlight=False)
        yield [*notes.ready(passed.now)]
    yield [*notes.ready()]


def _first(count: int | None, batches: Iterator[list[Packet]]) -> Iterator[list[Packet]]:
    """So many packets at most, and nothing that came with the last of them."""
    for batch in batches:
        yield batch[:count]
        if count is not None:
            count -= len(batch)
            if count <= 0:
                return


def _write(batches: Iterator[list[Packet]], running: Capture, lab: str, stream: BinaryIO) -> None:
    from lab.seeing import pcapng  # noqa: PLC0415

    stream.write(pcapng.begin(f"lab {lab}", running.interfaces))
    stream.flush()
    for batch in batches:
        stream.writelines(map(pcapng.packet, batch))
        stream.flush()


def _show(batches: Iterator[list[Packet]], running: Capture) -> None:
    from lab.seeing.lines import line  # noqa: PLC0415

    began = 0
    for packet in itertools.chain.from_iterable(batches):
        began = began or packet.at
        print(line(running.interfaces[packet.interface], packet, began), flush=True)

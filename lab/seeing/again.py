"""Tries pairs again that a check has found not to be as expected, and keeps what their links saw meanwhile.

A check that passes pays nothing for this. What fails only now and then may work the second time: the results say so.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from lab.seeing import pcapng
from lab.seeing.live import Capture, cast_of
from lab.seeing.notes import Notes
from lab.state import Lab

MOST: Final = 16
"""Pairs that are tried again at most: of a lab in which nothing works, these tell enough."""

Pair = tuple[str, str]


class Kept(NamedTuple):
    """The recording, and what the second attempt found: results as a check has them."""

    file: Path
    results: list[dict[str, Any]]


def conversation(
    lab: Lab, pairs: Sequence[Pair], probes: Collection[str]
) -> tuple[Capture, list[pcapng.Packet], list[dict[str, Any]]]:
    """Have pairs talk from cold paths: the capture of all their links, its packets with comments, and what came out.

    Raises StateError.
    """
    cast = cast_of(lab)
    links = dict.fromkeys(link for pair in pairs for link in cast.links_between(*pair))
    capture = Capture(lab, cast.taps(links), cast.interface)
    results: list[dict[str, Any]] = []
    try:
        for answer in lab.ask("check", pairs=pairs, probes=list(probes)):
            results += answer.get("results", ())
    finally:
        packets = capture.rest()
    notes = Notes(cast, capture.taps, capture.interfaces)
    notes.take(packets)
    return capture, [*notes.ready()], results


def keep(lab: Lab, failed: Sequence[dict[str, Any]]) -> Kept:
    """Try again what these results are of, and keep the recording beside the lab's logs. Raises StateError, OSError."""
    pairs = [*dict.fromkeys((each["source"], each["destination"]) for each in failed)][:MOST]
    probes = [probe for probe in ("icmp6", "udp", "tcp") if any(each["probe"] == probe for each in failed)]
    capture, packets, results = conversation(lab, pairs, probes)
    lab.directory.mkdir(parents=True, exist_ok=True)  # a lab in containers has its logs elsewhere
    file = lab.directory / f"failed-check-{time.strftime('%H%M%S')}.pcapng"
    file.write_bytes(pcapng.document(f"lab {lab.name}", capture.interfaces, packets))
    return Kept(file, results)

"""How many qualifications and bubbles a second a server manages, and what memory a million clients cost it.

Ours and Miredo's get the same load one after the other, from the node that all else is routed by, in a lab of the two.
A second of wall time is worth what the machine leaves of it; so the processor time of each answer is told as well.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from lab.bench.section import NAME, Aim, Figures, Section, command, timed
from lab.programs.miredo import problem
from lab.topology.rules import INTERNET

WINDOW: Final = 256
"""Datagrams under way; as many as fit into a socket's buffer as the kernel makes it, which is Miredo's."""

SECONDS: Final = 2.0
MILLION: Final = 1 << 20
_PORTS: Final = 8
"""With the generator's addresses they make it a million endpoints."""

_OURS: Final = "ours"
_THEIRS: Final = "theirs"
_TICK: Final = os.sysconf("SC_CLK_TCK")


def _topology(nodes: tuple[str, ...]) -> str:
    programs = {_OURS: "{}", _THEIRS: "{program: miredo}"}
    servers = ", ".join(f"{node}: {programs[node]}" for node in nodes)
    return f"servers: {{{servers}}}\nchecks: {{pairs: ring}}\n"


@contextmanager
def _lab(directory: Path, nodes: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """A lab of these servers, as its status has it."""
    topology = directory / "servers.yaml"
    topology.write_text(_topology(nodes))
    timed("up", str(topology), "--name", NAME, "--json")
    try:
        yield json.loads(timed("status", "--name", NAME, "--json")[1])
    finally:
        command("down", "--name", NAME)


def load(address: str, *options: str) -> dict[str, Any]:
    """What the load generator says of a server. Raises RuntimeError if it fails."""
    generator = (sys.executable, "-m", "lab.bench.load", address, *options)
    report: dict[str, Any] = json.loads(timed("exec", "--name", NAME, INTERNET, "--", *generator)[1])
    return report


def processes(status: dict[str, Any], node: str) -> list[Path]:
    """The processes in a node's network, as directories of /proc."""
    fd = next(each["netns_fd"] for each in status["nodes"] if each["name"] == node)
    wanted = Path(f"/proc/{status['supervisor']}/fd/{fd}").stat()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.path.samestat((process / "ns/net").stat(), wanted):
                found.append(process)
        except OSError:  # it has ended, or is nobody's
            continue
    return found


def processor_time(found: list[Path]) -> float:
    """Seconds that processes have had of the processors."""
    fields = [(process / "stat").read_text().rpartition(")")[2].split() for process in found]
    return sum(int(user) + int(system) for *_, user, system in (each[:13] for each in fields)) / _TICK


def memory(found: list[Path]) -> float:
    """What processes have written to, in MiB; of what they share, another's end or start would change their part."""
    rows = [row for each in found for row in (each / "smaps_rollup").read_text().splitlines()]
    return sum(int(row.split()[1]) for row in rows if row.startswith("Private_Dirty:")) / 1024


def _measured(directory: Path) -> Figures:
    nodes = (_OURS,) if problem() else (_OURS, _THEIRS)
    figures: Figures = {}
    with _lab(directory, nodes) as status:
        addresses = {each["name"]: each["ipv4"][0] for each in status["nodes"]}
        for what in ("qualifications", "bubbles"):
            rates, costs = {}, {}
            for node in nodes:
                load(addresses[node], "--what", what, "--seconds", "0.3")
                found = processes(status, node)
                before = processor_time(found)
                report = load(addresses[node], "--what", what, "--seconds", str(SECONDS), "--window", str(WINDOW))
                if not report["answered"]:
                    raise RuntimeError(f"{node} gave no right answer: {report}")
                costs[node] = (processor_time(found) - before) * 1e6 / report["answered"]
                rates[node] = report["per second"]
                figures |= {
                    f"count of {what} a second, {node}": report["per second"],
                    f"  {what}: processor microseconds for each, {node}": costs[node],
                    f"  {what}: lost of a hundred, {node}": 100 * report["lost"] / report["sent"],
                    f"  {what}: milliseconds until the answer, {node}": report["median ms"],
                    f"  {what}: processors that the generator took, {node}": report["share of a core"],
                }
            if _THEIRS in nodes:
                figures[f"ratio of {what} a second, ours to Miredo's"] = rates[_OURS] / rates[_THEIRS]
                figures[f"ratio of {what} a processor second, ours to Miredo's"] = costs[_THEIRS] / costs[_OURS]
        ours, found = addresses[_OURS], processes(status, _OURS)
        load(ours, "--count", "20000", "--window", "3", "--seconds", "60")  # what is kept for speed is full now
        before = memory(found)
        load(ours, "--count", str(MILLION), "--ports", str(_PORTS), "--seconds", "300")
        after = memory(found)
    return figures | {
        "MiB of our server's memory before a million clients": before,
        "MiB of our server's memory after a million clients": after,
        "  MiB more": after - before,
    }


_WITHOUT: Final = "" if problem() is None else f"; nothing of Miredo's: {problem()}"

_AIMS: Final = tuple(
    Aim(f"ratio of {what} a second, ours to Miredo's", at_least=1.0) for what in ("qualifications", "bubbles")
)

SECTIONS: Final = (Section("server", f"a server under load{_WITHOUT}", _measured, aims=_AIMS),)

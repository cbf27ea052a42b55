"""How long labs of namespaces take from nothing to up, to qualified, to checked.

Everything is measured from outside, through the command that users call; the inner times are the supervisor's own.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Final

from lab.bench.section import NAME, Aim, Figures, Section, command, timed
from lab.nat.kinds import KINDS

_MIXED: Final = ("cone", "addr_restricted", "port_restricted")


def generated(clients: int, per_site: int = 4) -> str:
    """A topology with so many clients behind NATs of mixed kinds; a ring of checks."""
    lines = ["servers: {server: }", "relays: {relay: }", "hosts: {web: }", "checks: {pairs: ring}", "sites:"]
    for site, first in enumerate(range(0, clients, per_site)):
        names = ", ".join(f"client{number}: " for number in range(first, min(first + per_site, clients)))
        lines.append(f"  site{site}: {{nat: {_MIXED[site % len(_MIXED)]}, clients: {{{names}}}}}")
    return "\n".join(lines) + "\n"


def every_kind(count: int) -> str:
    """A topology with so many NATs of all kinds, and a client behind each."""
    kinds = list(KINDS)
    lines = ["servers: {server: }", "checks: {pairs: ring}", "sites:"]
    lines += [f"  site{n}: {{nat: {kinds[n % len(kinds)]}, clients: {{client{n}: }}}}" for n in range(count)]
    return "\n".join(lines) + "\n"


def _whole(text: str, directory: Path) -> Figures:
    """A lab from nothing to checked and gone, in steps and in one go."""
    topology = directory / "lab.yaml"
    topology.write_text(text)
    command("down", "--name", NAME)
    took: Figures = {}
    took["up and qualified, as the user waits"], answer = timed("up", str(topology), "--name", NAME, "--json")
    took |= {f"  {step}, since its supervisor began": at for step, at in json.loads(answer)["timings"].items()}
    took["checks, as the user waits"], _ = timed("check", "--name", NAME, "--json")
    timed("down", "--name", NAME)
    took["up --check, as the user waits"], answer = timed("up", str(topology), "--name", NAME, "--check", "--json")
    took["down"], _ = timed("down", "--name", NAME)
    took["count of results"] = len(json.loads(answer)["results"])
    took["reference: teredo-lab --help"], _ = timed("--help")
    return took


def _measuring(directory: Path) -> Figures:
    """What measuring the NATs adds to `up`."""
    topology = directory / "kinds.yaml"
    topology.write_text(every_kind(20))
    took: Figures = {}
    for what, option in (("with", "--measure"), ("without", "--no-measure")):
        took[f"up {what} measuring the NATs"], _ = timed("up", str(topology), "--name", NAME, "--json", option)
        timed("down", "--name", NAME)
    with_, without = took.values()
    return took | {"measuring adds": with_ - without, "ratio": with_ / without}


def _matrix(_: Path) -> Figures:
    """RFC 6081 Figure 1 with all extensions, from nothing to the finished table, and in virtual time."""
    kernel, _out = timed("matrix", "--only", "all", "--json")
    virtual, _out = timed("matrix", "--only", "all", "--json", "--simulated")
    return {"matrix on the kernel": kernel, "matrix in virtual time": virtual}


_DEFAULT: Final = Path(__file__).parents[2] / "topologies" / "default.yaml"

SECTIONS: Final = (
    Section("default", "the default lab", lambda directory: _whole(_DEFAULT.read_text(), directory)),
    Section("large", "100 clients behind 25 NATs", partial(_whole, generated(100))),
    Section("nats", "20 NATs of all kinds", _measuring),
    Section("matrix", "RFC 6081 Figure 1, 162 sites", _matrix, aims=(Aim("matrix on the kernel", at_most=20.0),)),
)

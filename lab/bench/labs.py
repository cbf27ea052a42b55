"""How long labs of namespaces take from nothing to up, to qualified, to checked.

Everything is measured from outside, through the command that users call; the inner times are the supervisor's own.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Final

from lab.bench.memory import available, pss
from lab.bench.section import NAME, Aim, Figures, Ratio, Section, command, timed
from lab.nat.kinds import KINDS

_TOPOLOGIES: Final = Path(__file__).parents[2] / "topologies"
_LARGE: Final = (100, 300, 1000)
_NATS_OF_EACH_KIND: Final = 2
_TIME_EACH: Final = "milliseconds for each node"
_MEMORY_EACH: Final = "megabytes of processes (PSS) for each node"


def every_kind(each: int) -> str:
    """A topology with so many NATs of each kind, and a client behind each."""
    lines = ["servers: {server: }", "checks: {pairs: ring}", "sites:"]
    lines += [f"  site{n}: {{count: {each}, nat: {kind}, clients: {{client{n}: }}}}" for n, kind in enumerate(KINDS)]
    return "\n".join(lines) + "\n"


def _large(clients: int, _: Path) -> Figures:
    """A large lab from nothing to qualified and gone: by phase, for each node, and its memory."""
    command("down", "--name", NAME)
    before = available()
    took: Figures = {}
    whole, answer = timed("up", str(_TOPOLOGIES / "large" / f"clients-{clients}.yaml"), "--name", NAME, "--json")
    status = json.loads(answer)
    took["up and qualified, as the user waits"] = whole
    took |= _phases(status["timings"])
    took[_TIME_EACH] = whole / len(status["nodes"]) * 1000
    took["memory of its processes (PSS), GB"] = pss(status["supervisor"]) / 1e9
    took["memory that the machine has less, GB"] = (before - available()) / 1e9
    took[_MEMORY_EACH] = took["memory of its processes (PSS), GB"] * 1000 / len(status["nodes"])
    took["down"], _out = timed("down", "--name", NAME)
    return took


def _phases(timings: dict[str, float]) -> Figures:
    """How long each step took, from when each was done."""
    took: Figures = {}
    last = 0.0
    for step, at in sorted(timings.items(), key=lambda item: item[1]):
        took[f"  {step}"], last = at - last, at
    return took


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
    topology.write_text(every_kind(_NATS_OF_EACH_KIND))
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


_GROWTH: Final = tuple(Ratio(figure, f"clients-{min(_LARGE)}") for figure in (_TIME_EACH, _MEMORY_EACH))
_LARGEST: Final = (
    Aim("up and qualified, as the user waits", at_most=20.0),
    Aim("  wired", at_most=5.0),
    Aim("memory that the machine has less, GB", at_most=6.0),
    *(Aim(ratio.name, at_most=1.3) for ratio in _GROWTH),
)
DEFAULT: Final = _TOPOLOGIES / "default.yaml"

SECTIONS: Final = (
    Section("default", "the default lab", lambda directory: _whole(DEFAULT.read_text(), directory)),
    *(
        Section(
            f"clients-{clients}",
            f"{clients:,} clients behind {clients // 4} NATs",
            partial(_large, clients),
            aims=_LARGEST if clients == max(_LARGE) else (),
            ratios=_GROWTH if clients > min(_LARGE) else (),
        )
        for clients in _LARGE
    ),
    Section("nats", f"{_NATS_OF_EACH_KIND * len(KINDS)} NATs of all kinds", _measuring),
    Section("matrix", "RFC 6081 Figure 1, 162 sites", _matrix, aims=(Aim("matrix on the kernel", at_most=20.0),)),
)

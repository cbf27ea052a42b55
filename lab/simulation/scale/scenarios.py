"""What is tried with a million clients, and what of it is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from lab.simulation.scale.clients import Clients
from lab.simulation.scale.conditions import Conditions, Counts, Seen
from lab.simulation.scale.conversations import Conversations, Overheard, Talk
from lab.simulation.scale.costs import exchange, resumptions
from lab.simulation.scale.machines import Machines
from lab.simulation.scale.relay import Traffic, relay
from lab.simulation.scale.shown import Curve, Figure, Found, Panel, over_time
from lab.simulation.scale.talking_machines import TalkingMachines
from lab.teredo.extensions import ALL, Extension
from lab.teredo.tunnel import MAX_PEERS

Report = Callable[[str, float], None]
"""Takes what is being done, and the share of it that is done."""

STARTING: Final = 60.0
"""Seconds within which clients start, where that is not the point; soon after, refreshes are spread evenly."""

OUTAGES: Final = (60.0, 300.0)
BEFORE, AFTER, LONG_AFTER = 30, 90, 900
"""Seconds that are shown before and after what happens, and after what takes long to settle."""

PAUSES: Final = (10.0, 30.0, 60.0, 120.0, 300.0)
WATCHED: Final = 180.0
"""Mean pauses of conversations, and how long these are watched, in seconds."""

TOLD: Final = 60.0
"""The pause whose figures are told."""

ASKED: Final = 20.0
"""Mean seconds between two packets of native hosts to a client: rarely too long for a relay to trust it still."""

REQUESTS: Final = 15_000
POPULATIONS: Final = tuple(1024 << shift for shift in range(11))

_GLANCE: Final = 5
"""Seconds that are taken together where machines are counted."""

LEAST_SECONDS: Final = 3 * OUTAGES[-1]
"""Shorter runs would not see the end of the longest outage."""


@dataclass(frozen=True, slots=True)
class Size:
    """How many clients, for how many seconds, by which chance; and how many state machines beside them, if any."""

    clients: int
    seconds: float
    seed: int
    machines: int = 0


def start(size: Size, report: Report) -> Found:
    """All clients start at one moment: refreshes at a fixed interval come as a comb, randomised ones spread out."""
    runs = {
        "fixed interval": Conditions(size.seconds, spread=(1.0, 1.0)),
        "randomised interval": Conditions(size.seconds),
    }
    seen = {name: _seen(size, name, on, report) for name, on in runs.items()}
    first, last = 5, min(LONG_AFTER, int(size.seconds))  # not the start itself
    panels = [
        Panel(
            "seconds since the start",
            "solicitations a second",
            [over_time(name, seen[name].solicitations, first, last)],
        )
        for name in runs
    ]
    panels[1].curves.extend(_views(size, {"randomised interval": runs["randomised interval"]}, report, first, last)[0])
    costs = exchange()
    calm = seen["randomised interval"].solicitations
    mean = float(calm[2 * calm.size // 3 :].mean())
    figures = [
        Figure("solicitations to the server, and advertisements from it, once all is calm", mean, "packets/s"),
        Figure("… to the server", mean * costs.solicitation * 8e-6, "Mbit/s"),
        Figure("… from the server", mean * costs.advertisement * 8e-6, "Mbit/s"),
        Figure("busiest second, fixed interval", float(seen["fixed interval"].solicitations[first:].max()), "packets"),
        Figure("busiest second, randomised interval", float(calm[first:].max()), "packets"),
        Figure("randomised interval: within 10 % of the mean for good after", _calm_after(calm, mean), "s"),
    ]
    return Found("All start at once", figures, panels)


def nat_restart(size: Size, report: Report) -> Found:
    """All NATs of a carrier lose their mappings at one moment, and give other ones from then on."""
    on = Conditions(size.seconds, STARTING, nat_restart=int(size.seconds / 3) + 0.5)
    seen = _seen(size, "restart of all NATs", on, report)
    zero, costs = int(on.nat_restart), exchange()
    first, last = zero - BEFORE, zero + AFTER
    load, good = _views(size, {"clients": on}, report, first, last, zero)
    mean = float(seen.solicitations[first:zero].mean())
    peak = float(seen.solicitations[zero:last].max())
    return Found(
        "All NATs restart at once",
        [
            Figure("solicitations before", mean, "packets/s"),
            Figure("busiest second after", peak, "packets"),
            Figure("… to the server", peak * costs.solicitation * 8e-6, "Mbit/s"),
            Figure("clients with a new address after, median", float(np.median(seen.recovery)), "s"),
            Figure("… 99 % of them", float(np.quantile(seen.recovery, 0.99)), "s"),
            Figure("… the last", float(seen.recovery.max()), "s"),
        ],
        [
            Panel(
                "seconds since the restart",
                "solicitations a second",
                [over_time("clients", seen.solicitations, first, last, zero=zero), *load],
            ),
            Panel(
                "seconds since the restart",
                "% with an address that works",
                [over_time("clients", seen.good, first, last, zero=zero, scale=100 / size.clients), *good],
            ),
        ],
    )


def server_outage(size: Size, report: Report) -> Found:
    """The server answers nobody for a while. Clients give up, and try again less and less often."""
    down = float(int(size.seconds / 3))
    runs = {
        f"{outage:.0f} s without server": Conditions(size.seconds, STARTING, down=down, up=down + outage)
        for outage in OUTAGES
    }
    seen = {name: _seen(size, name, on, report) for name, on in runs.items()}
    zero = int(down)
    first, last = zero - BEFORE, min(zero + LONG_AFTER, int(size.seconds))
    load, good = _views(size, runs, report, first, last, zero)
    figures = []
    for (name, each), on in zip(seen.items(), runs.values(), strict=True):
        up = int(on.up)
        figures += [
            Figure(f"{name}: busiest second without it", float(each.solicitations[zero:up].max()), "packets"),
            Figure(f"{name}: busiest second once it is back", float(each.solicitations[up:].max()), "packets"),
            Figure(f"{name}: clients that it has answered after, median", float(np.median(each.recovery)), "s"),
            Figure(f"{name}: … the last", float(each.recovery.max()), "s"),
        ]
    axis, share = "seconds since the server went", 100 / size.clients
    loads = [over_time(name, each.solicitations, first, last, zero=zero) for name, each in seen.items()]
    goods = [over_time(name, each.good, first, last, zero=zero, scale=share) for name, each in seen.items()]
    return Found(
        "The server is gone for a while",
        figures,
        [Panel(axis, "solicitations a second", loads + load), Panel(axis, "% qualified", goods + good)],
    )


def load_reduction(size: Size, report: Report) -> Found:
    """Pairs of clients that talk with pauses, with and without Server Load Reduction (RFC 6081 section 5.7)."""
    ways = {
        f"{name}, {reduction} it": (kind, extensions)
        for kind, name in (("port_restricted", "port-restricted NATs"), ("cone", "cone NATs"))
        for reduction, extensions in (("without", ALL - {Extension.LOAD_REDUCTION}), ("with", ALL))
    }
    bubbles = Panel("mean pause, s", "bubbles a second", [], x_log=True)
    refreshes = Panel("mean pause, s", "solicitations a second", [], x_log=True)
    wait = Panel("mean pause, s", "mean wait for the first answer, s", [], x_log=True)
    figures = []

    def show(name: str, heard: list[Overheard], clients: int, *, dots: bool = False) -> None:
        x, rate = list(PAUSES), size.clients / clients / WATCHED
        bubbles.curves.append(Curve(name, x, [rate * each.forwarded for each in heard], dots))
        refreshes.curves.append(Curve(name, x, [rate * each.solicitations for each in heard], dots))
        wait.curves.append(Curve(name, x, [each.wait for each in heard], dots))

    for name, (kind, extensions) in ways.items():
        costs, heard, few = resumptions(kind, extensions), [], []
        for pause in PAUSES:
            rng, what = np.random.default_rng(size.seed), f"{name}, {pause:.0f} s"
            pairs = Conversations(Talk(size.clients // 2, pause, WATCHED), costs, rng)
            heard.append(pairs.run(partial(report, what)))
            if size.machines:
                talk = TalkingMachines(Talk(size.machines // 2, pause, WATCHED), kind, extensions, size.seed)
                few.append(talk.run(partial(report, f"{what}, machines")))
        show(name, heard, size.clients)
        if few:
            show(name, few, size.machines, dots=True)
        at = heard[PAUSES.index(TOLD)]
        figures += [
            Figure(f"pauses of {TOLD:.0f} s, {name}: solicitations", at.solicitations / WATCHED, "packets/s"),
            Figure("… bubbles, which the server forwards", at.forwarded / WATCHED, "packets/s"),
            Figure("… mean wait for the first answer", at.wait, "s"),
        ]
    return Found("Server Load Reduction, for pairs that talk with pauses", figures, [bubbles, refreshes, wait])


def relay_table(size: Size, report: Report) -> Found:
    """Native hosts talk to more and more clients by way of one relay, which knows so many at a time."""
    populations = sorted({each for each in POPULATIONS if each < size.clients} | {size.clients})
    carried = [
        relay(Traffic(clients, ASKED, REQUESTS), size.seed, partial(report, f"relay, {clients} clients"))
        for clients in populations
    ]
    figures = []
    for clients, each in zip(populations, carried, strict=True):
        if clients in (MAX_PEERS, 2 * MAX_PEERS, size.clients):
            share = 100 / REQUESTS
            figures += [
                Figure(f"{clients} clients: packets that reach them", share * each.reached, "%"),
                Figure("… clients that any reaches", 100 * each.served / each.asked, "%"),
                Figure("… bubbles through the server, for 100 packets", share * each.bubbles, ""),
            ]
    x = [float(each) for each in populations]
    curves = [
        Curve("reach the client", x, [100 * each.reached / REQUESTS for each in carried]),
        Curve("are refused", x, [100 * each.refused / REQUESTS for each in carried]),
        Curve("need a bubble through the server", x, [100 * each.bubbles / REQUESTS for each in carried]),
    ]
    panel = Panel("clients that native hosts talk to", "of 100 packets", curves, x_log=True)
    return Found(f"One relay, with {MAX_PEERS} clients in its table", figures, [panel])


SCENARIOS: Final[Mapping[str, Callable[[Size, Report], Found]]] = {
    "start": start,
    "nat-restart": nat_restart,
    "server-outage": server_outage,
    "load-reduction": load_reduction,
    "relay": relay_table,
}


def _seen(size: Size, what: str, on: Conditions, report: Report) -> Seen:
    return Clients(on, size.clients, np.random.default_rng(size.seed)).run(partial(report, what))


def _views(
    size: Size, runs: Mapping[str, Conditions], report: Report, first: int, last: int, zero: int = 0
) -> tuple[list[Curve], list[Curve]]:
    """What state machines do under these conditions, if any are wanted: the server's load, and % that are good."""
    loads, goods = [], []
    for name, on in runs.items() if size.machines else ():
        seen = Machines(on, size.machines, size.seed).run(partial(report, f"{name}, machines"))
        view = partial(over_time, name, first=first, last=last, zero=zero, every=_GLANCE)
        loads.append(view(seen.solicitations, scale=size.clients / size.machines))
        goods.append(view(seen.good, scale=100 / size.machines))
    return loads, goods


def _calm_after(load: Counts, mean: float) -> float:
    """The last second that is more than 10 % off the mean, and by more than few clients' chance would explain."""
    return float(np.flatnonzero(np.abs(load - mean) > max(0.1 * mean, 5 * mean**0.5))[-1] + 1)

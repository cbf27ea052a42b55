"""Proves who reaches whom in a running lab: every expected pair, cold, by ICMPv6, UDP and TCP.

A pair is probed in one direction only, until all paths have been made cold again; then the other directions follow. The
first probe of a pair (ICMPv6) meets the cold path and pays for opening it; UDP and TCP follow on the same path.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lab.check import probes
from lab.check.paths import Tap
from lab.check.recorder import Recorder
from lab.places import Places
from lab.plan import Expectation, Plan
from lab.state import Lab
from lab.teredo.address import Endpoint, is_teredo, packed, parse
from lab.teredo.runner import ask
from lab.topology.rules import INTERNET

PROBES: Final = ("icmp6", "udp", "tcp")
_PAIRS_AT_ONCE = 8
_WAITING_AT_ONCE = 256
"""A pair that is expected to fail moves little data and waits long: a peer is given up after 8 s."""

_NOTHING_EXPECTED: Final = "nothing is expected"

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class View:
    """A running lab as a check sees it: the plan, its nodes, and the answer of `status`."""

    plan: Plan
    places: Places
    status: dict[str, Any]
    lab: Lab


class _Check:
    def __init__(self, view: View, tell: Tell) -> None:
        self._view = view
        self._tell = tell
        self._nodes = {node["name"]: node for node in view.status["nodes"]}
        self._places = view.places
        self._relays = self._relay_hosts()
        self._miredo_sites = self._sites_of_miredo()
        self._kept = {
            address
            for node in view.plan.nodes
            if node.role == "server"
            or (node.role == "relay" and node.program == "miredo")
            or (node.role == "nat" and node.site in self._miredo_sites)
            for address in self._nodes[node.name]["ipv4"]
        }
        self.done = 0

    def _sites_of_miredo(self) -> set[str | None]:
        """Sites with a Miredo client, and those behind whose NATs they are."""
        plan = self._view.plan
        outer = {node.site: plan.node(node.nat.upstream).site for node in plan.nodes if node.nat is not None}
        sites: set[str | None] = set()
        for node in plan.nodes:
            site = node.site if node.role == "client" and node.program == "miredo" else None
            while site is not None:
                sites.add(site)
                site = outer[site]
        return sites

    def _relay_hosts(self) -> set[str]:
        """IPv4 addresses from which packets of native hosts come."""
        relays = {"relay", "server", "host"}
        return {ip for node in self._view.status["nodes"] if node["role"] in relays for ip in node["ipv4"]}

    def _address(self, name: str) -> str | None:
        node = self._nodes[name]
        if node["role"] == "client":
            address: str | None = node["teredo_address"]
            return address
        return node["ipv6"][0] if node["ipv6"] else None

    def cool(self) -> None:
        """Make every path cold: programs of ours forget their peers, NATs whom their inside has talked to.

        NATs keep what servers need to reach clients, and what Miredo, which cannot be told to forget, believes in:
        without it a Miredo that still trusts a path would send into a closed NAT for up to 30 s.
        """
        clients = [node for node in self._nodes.values() if node["role"] == "client" and node["program"] == "miredo"]
        kept_clients = [node["teredo_address"] for node in clients if node["teredo_address"]]
        for node in self._view.plan.nodes:
            if (node.program == "teredo-lab" and node.role != "server") or node.role == "host":
                control = self._view.lab.control(node.name)
                with contextlib.suppress(OSError):  # it is not running, and remembers nothing
                    ask(control, " ".join(["forget-peers", *kept_clients]))
            if node.nat is not None and node.firewall is not None and node.site not in self._miredo_sites:
                self._places.do(node.name, "forget", node=node, kept=sorted(self._kept))

    async def phase(self, expectations: list[Expectation], total: int, probes_: Sequence[str]) -> None:
        """Probe pairs side by side; no two of them share both ends."""
        tap = Tap(self._places, INTERNET)
        busy = _WAITING_AT_ONCE if set(probes_) == {"icmp6"} else _PAIRS_AT_ONCE
        moving, waiting = asyncio.Semaphore(busy), asyncio.Semaphore(_WAITING_AT_ONCE)
        ends = {name for pair in expectations for name in (pair.source, pair.destination)}
        alive = [name for name in ends if self._address(name) is not None]

        async def one(pair: Expectation) -> None:
            waits = pair.expected == "unreachable" and pair.because != _NOTHING_EXPECTED
            async with waiting if waits else moving:
                results = [self._result(pair, probe, await self._probe(pair, probe), tap) for probe in probes_]
            self.done += 1
            self._tell({"event": "pair", "done": self.done, "total": total, "results": results})

        with tap.listening():
            async with probes.responders(self._places, alive):
                await asyncio.gather(*(one(pair) for pair in expectations))

    async def _probe(self, pair: Expectation, probe: str) -> probes.Outcome:
        address = self._address(pair.destination)
        if address is None:
            return probes.Outcome(False, reason=self._without_address(pair.destination))
        if probe == "tcp" and self._nodes[pair.destination]["role"] == "host":
            probe = "http"
        function = {"icmp6": probes.icmp6, "udp": probes.udp, "tcp": probes.tcp, "http": probes.http}[probe]
        outcome = await function(self._places, pair.source, address)
        if not outcome.reachable and self._address(pair.source) is None:
            return probes.Outcome(False, reason=f"{outcome.reason}: {self._without_address(pair.source)}")
        return outcome

    def _without_address(self, name: str) -> str:
        node = self._nodes[name]
        why = f" ({node['reason']})" if node["reason"] else ""
        return f"{name} has no Teredo address: it is {node['state']}{why}"

    def _result(self, pair: Expectation, probe: str, outcome: probes.Outcome, tap: Tap) -> dict[str, Any]:
        observed = "reachable" if outcome.reachable else "unreachable"
        return {
            "source": pair.source,
            "destination": pair.destination,
            "probe": probe,
            "expected": pair.expected,
            "observed": observed,
            "ok": observed == pair.expected,
            "path": self._path(pair, probe, tap) if outcome.reachable else None,
            "first_packet_ms": outcome.first_packet_ms,
            "rtt_ms": outcome.rtt_ms,
            "reason": outcome.reason if outcome.reason or not outcome.reachable else None,
            "because": pair.because,
        }

    def _path(self, pair: Expectation, probe: str, tap: Tap) -> str | None:
        source, destination = self._address(pair.source), self._address(pair.destination)
        if source is None or destination is None:
            return None
        outer = tap.outer(source, destination, probe)
        if not outer:
            return "local" if is_teredo(packed(source)) and is_teredo(packed(destination)) else None
        teredo = parse(packed(destination))
        own = self._neighbours(teredo.mapped.host) if teredo else frozenset()
        kinds = {self._kind(endpoint, own) for endpoint in outer}
        if kinds == {"direct"} and not is_teredo(packed(source)):
            return "relay"  # what comes from a native host has passed a relay before it was tunnelled
        return " and ".join(sorted(kinds))

    def _neighbours(self, address: str) -> frozenset[str]:
        """All addresses of the NAT that has this one."""
        return frozenset(
            other
            for node in self._nodes.values()
            if node["role"] == "nat" and address in node["ipv4"]
            for other in (address, *node["ipv4"])
        )

    def _kind(self, endpoint: Endpoint, own: frozenset[str]) -> str:
        if endpoint.host in own:
            return "direct"
        return "relay" if endpoint.host in self._relays else str(endpoint)


def phases(expectations: list[Expectation], unforgetful: set[str]) -> tuple[list[Expectation], list[Expectation]]:
    """Split ordered pairs into two lists of which neither holds a pair and its reverse.

    `unforgetful` are nodes that send through Miredo. It cannot be told to forget, so pairs are probed from that end
    first, while the lab is new. In the other direction only our end is cold.
    """
    first: list[Expectation] = []
    second: list[Expectation] = []
    begun: set[tuple[str, str]] = set()
    for pair in sorted(expectations, key=lambda pair: pair.source not in unforgetful):
        if (pair.destination, pair.source) in begun:
            second.append(pair)
        else:
            first.append(pair)
            begun.add((pair.source, pair.destination))
    return first, second


def unforgetful(plan: Plan) -> set[str]:
    """Nodes whose packets are tunnelled by Miredo: its clients, and native hosts where a relay is Miredo."""
    miredo_relays = any(node.role == "relay" and node.program == "miredo" for node in plan.nodes)
    return {
        node.name
        for node in plan.nodes
        if (node.role == "client" and node.program == "miredo") or (node.role == "host" and miredo_relays)
    }


def cool(view: View) -> None:
    """Make every path of a lab cold, and no more."""
    _Check(view, lambda _: None).cool()


def run(view: View, request: dict[str, Any], tell: Tell) -> None:
    """Check the expected pairs of a lab; tell results as they come.

    A request may ask for pairs between some `nodes` only, or for other `pairs` of which nothing is expected, for some
    of the `probes` only, for no cooling of the paths (`cold`: they are, in a new lab), and for the packets that cross
    the Internet meanwhile (`record`).
    """
    wanted = set(request.get("nodes") or ())
    left_out = {node["name"]: node["reason"] for node in view.status["nodes"] if node["state"] == "left out"}
    asked = [
        Expectation(source=source, destination=destination, expected="unreachable", because=_NOTHING_EXPECTED)
        for source, destination in request.get("pairs", ())
    ]
    pairs = [
        pair
        for pair in asked or view.plan.expectations
        if not {pair.source, pair.destination} & left_out.keys()
        and (not wanted or {pair.source, pair.destination} <= wanted)
    ]
    tell({"event": "left out", "nodes": left_out})
    check = _Check(view, tell)
    for phase in phases(pairs, unforgetful(view.plan)):
        if phase:
            if not request.get("cold"):
                check.cool()
            asyncio.run(_recorded(check, view, phase, len(pairs), request, tell))


async def _recorded(
    check: _Check, view: View, phase: list[Expectation], total: int, request: dict[str, Any], tell: Tell
) -> None:
    probes_ = request.get("probes") or PROBES
    if not request.get("record"):
        await check.phase(phase, total, probes_)
        return
    recorder = Recorder(view.places, INTERNET)
    with recorder.listening():
        await check.phase(phase, total, probes_)
    for packet in recorder.packets:
        tell({"event": "packet", "packet": packet.told()})

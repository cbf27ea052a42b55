"""How fast data go between a client, a native host and another client: in the kernel, in userspace, by Miredo, plain.

All through the same hops, NATs and relay included, in one run. The reference is plain IPv6 with Teredo's MTU over the
same veths; its packets take the relay's node, too.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lab.backends.entering import entering
from lab.bench.section import Aim, Figures, Section, command
from lab.state import Lab

_SECONDS: Final = 2
_FLOOD: Final = (sys.executable, "-m", "lab.bench.flood")
_FLOODING: Final = 1.0
_UNDERWAY: Final = 0.1
"""Seconds in which a datagram arrives or is lost."""

_RATES: Final = (15_000, 20_000, 30_000, 40_000, 60_000, 80_000, 110_000, 150_000, 0)
"""Datagrams a second, from few to as many as can be sent: the more are sent, the fewer may arrive."""

_BULK_RATES: Final = (40_000, 80_000, 150_000, 250_000, 400_000, 600_000, 0)
"""The same for who gives the kernel many at once."""

_PINGS: Final = 400
_LOSSLESS: Final = 0.001

_TOPOLOGY: Final = """
servers: {{server: }}
relays: {{relay: {{program: {program}}}}}
hosts: {{web: }}
sites:
  home: {{clients: {{alice: {{program: {program}}}}}}}
  office: {{clients: {{bob: {{program: {program}}}}}}}
datapath: {datapath}
"""

_VARIANTS: Final = {
    "plain": ("teredo-lab", "userspace"),
    "kernel": ("teredo-lab", "kernel"),
    "userspace": ("teredo-lab", "userspace"),
    "Miredo": ("miredo", "auto"),
}
_NAMES: Final = {"alice": "fd00:a::2", "bob": "fd00:b::2"}

_MTU: Final = 1280
_END: Final = (
    "ip -6 addr add fd00:{site}::2/64 dev lan nodad; ip -6 route add default via fd00:{site}::1 mtu {mtu} advmss {mss}"
)
_NAT: Final = (
    "sysctl -q net.ipv6.conf.all.forwarding=1; ip -6 addr add fd00:{site}::1/64 dev lan nodad;"
    " ip -6 addr add fd00:{link}::2/64 dev wan nodad; ip -6 route add default via fd00:{link}::1;"
    " for link in lan wan; do ip -6 addr add fe80::2/64 dev $link nodad; done"
)
_CORE: Final = (
    "ip -6 addr add fe80::1/64 dev {nat} nodad; ip -6 addr add fd00:{link}::1/64 dev {nat} nodad;"
    " ip -6 route add fd00:{site}::/64 via fd00:{link}::2"
)
"""Without a link-local address, a node that forwards asks for no neighbour."""

_VIA_RELAY: Final = (
    "ip -6 rule add iif web to fd00::/16 table 77; ip -6 rule add iif home-nat to 2001:db8::/32 table 77;"
    " ip -6 route add default via {relay} table 77"
)
_PLAIN: Final = {
    "alice": _END.format(site="a", mtu=_MTU, mss=_MTU - 60),
    "bob": _END.format(site="b", mtu=_MTU, mss=_MTU - 60),
    "web": f"ip -6 route add fd00::/16 via {{core}} mtu {_MTU} advmss {_MTU - 60}",
    "home-nat": _NAT.format(site="a", link="1"),
    "office-nat": _NAT.format(site="b", link="2"),
    "internet": "; ".join(
        (
            _CORE.format(nat="home-nat", site="a", link="1"),
            _CORE.format(nat="office-nat", site="b", link="2"),
            _VIA_RELAY,
        )
    ),
}
"""What gives nodes IPv6 of their own, and has packets between clients and hosts pass the relay's node untunnelled."""


def iperf3_lacking() -> str | None:
    return None if shutil.which("iperf3") is not None else "it needs iperf3: install the package iperf3"


def _lacking() -> str | None:
    missing = None if shutil.which("miredo") is not None else "it needs Miredo beside: sudo make packages"
    return iperf3_lacking() or missing


class _Receiver:
    """Counts the datagrams that come to a node."""

    def __init__(self, running: Running, node: str) -> None:
        self.node = node
        self._process = subprocess.Popen(
            running.inside(node, *_FLOOD, "receive"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.count()

    def count(self) -> int:
        """How many since the last time, once those on their way have come."""
        total = 0
        while True:
            more = self._ask()
            total += more
            if not more:
                return total
            time.sleep(_UNDERWAY)

    def _ask(self) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(json.loads(self._process.stdout.readline())["received"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        if code := self._process.wait():
            raise RuntimeError(f"the receiver in {self.node} ended with {code}")


@dataclass(frozen=True)
class Running:
    """A lab that is up, whose nodes can be entered; `hosts` are names that stand for other addresses."""

    status: dict[str, Any]
    hosts: dict[str, str]

    def inside(self, node: str, *words: str) -> tuple[str, ...]:
        return (*entering(self.status, node), *words)

    def run(self, node: str, *words: str) -> str:
        """What a command in a node prints. Raises RuntimeError."""
        result = subprocess.run(self.inside(node, *words), capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: {result.stderr.strip()} {result.stdout.strip()[-500:]}")
        return result.stdout

    def iperf(self, client: str, server: str, *options: str) -> dict[str, Any]:
        """What iperf3 found between two nodes, by its own account of the end. Raises RuntimeError."""
        words = ("iperf3", "-6", "-J", "-c", self.hosts.get(server, server), "-t", str(_SECONDS), *options)
        for _ in range(20):  # a server that has just served somebody else may say that it is busy
            with contextlib.suppress(RuntimeError):
                end: dict[str, Any] = json.loads(self.run(client, *words))["end"]
                return end
            time.sleep(0.2)
        raise RuntimeError(f"iperf3 from {client} to {server} does not come about")

    def tcp(self, client: str, server: str, *options: str) -> float:
        """Mbit/s of one TCP stream, as received."""
        return float(self.iperf(client, server, "-O", "1", *options)["sum_received"]["bits_per_second"]) / 1e6

    def small(self, client: str, receiver: _Receiver, rate: float, *options: str) -> tuple[float, float]:
        """Datagrams of 64 bytes delivered in a second, and the share lost, if so many are sent; 0: all that can be."""
        target = self.hosts.get(receiver.node, receiver.node)
        receiver.count()
        words = (*_FLOOD, "send", target, "--rate", str(rate), "--seconds", str(_FLOODING), *options)
        sent = json.loads(self.run(client, *words))
        received = receiver.count()
        return received / sent["seconds"], max(0.0, 1 - received / sent["sent"])

    def round_trip(self, client: str, server: str) -> float:
        """The median of many pings, in microseconds."""
        target = self.hosts.get(server, server)
        text = self.run(client, "ping", "-6", "-n", "-i", "0.002", "-c", str(_PINGS), target)
        times = [float(each) for each in re.findall(r"time=([0-9.]+) ms", text)]
        return statistics.median(times) * 1000


@contextlib.contextmanager
def lab_of(variant: str, directory: Path) -> Iterator[Running]:
    """A lab of one variant, in which web and bob answer."""
    name = f"bench-{variant.lower()}"
    program, datapath = _VARIANTS[variant]
    file = directory / f"{name}.yaml"
    file.write_text(_TOPOLOGY.format(program=program, datapath=datapath))
    lab = Lab(name)
    lab.down()
    result = command("up", str(file), "--name", name, "--json")
    try:
        if result.returncode != 0:
            raise RuntimeError(f"{variant}: {result.stderr}{result.stdout[-500:]}")
        running = Running(lab.ask_once("status"), _NAMES if variant == "plain" else {})
        if variant == "plain":
            _untunnelled(running)
        with contextlib.ExitStack() as stack:
            for node in ("web", "bob"):
                server = subprocess.Popen(
                    running.inside(node, "iperf3", "-6", "-s"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                stack.callback(server.wait)
                stack.callback(server.terminate)
            for node in ("web", "bob"):  # the path is warm
                running.run("alice", "ping", "-6", "-c", "3", "-i", "0.2", running.hosts.get(node, node))
            yield running
    finally:
        lab.down()


def _untunnelled(running: Running) -> None:
    nodes = {node["name"]: node for node in running.status["nodes"]}
    relay = nodes["relay"]["ipv6"][0]
    core = nodes["web"]["ipv6"][0].rsplit("::", 1)[0] + "::1"
    for node, script in _PLAIN.items():
        running.run(node, "sh", "-ec", script.format(relay=relay, core=core))


_SMALL: Final = {
    "64-byte UDP delivered": (_RATES, ()),
    "64-byte UDP in bulk delivered": (_BULK_RATES, ("--bulk",)),
}
_TCP: Final = {"client to host": ("web", ()), "host to client": ("web", ("-R",)), "client to client": ("bob", ())}


def _once(directory: Path) -> Figures:
    """All variants, one after the other."""
    found: dict[str, Figures] = {}
    lossless = 0
    for variant in ("Miredo", "plain", "kernel", "userspace"):
        with lab_of(variant, directory) as running:
            one: Figures = {}
            for what, (server, options) in _TCP.items():
                one[f"TCP {what}, Mbit/s"] = running.tcp("alice", server, *options)
            receiver = _Receiver(running, "web")
            small = {
                what: {rate: running.small("alice", receiver, rate, *options) for rate in rates}
                for what, (rates, options) in _SMALL.items()
            }
            for what, tried in small.items():
                one[f"{what}, packets/s"] = max(delivered for delivered, _ in tried.values())
            tried = small["64-byte UDP delivered"]
            if variant == "Miredo":
                lossless = max(
                    (rate for rate, (_, lost) in tried.items() if rate and lost < _LOSSLESS), default=_RATES[0]
                )
                one["64-byte UDP without loss, packets/s"] = float(lossless)
            else:
                one["64-byte UDP at Miredo's lossless rate, % lost"] = tried[lossless][1] * 100
            receiver.close()
            one["round trip to the host, µs"] = running.round_trip("alice", "web")
            found[variant] = one
    figures = {f"{what}: {variant}": value for variant, one in found.items() for what, value in one.items()}
    return dict(sorted(figures.items())) | _compared(found)


def _compared(found: dict[str, Figures]) -> Figures:
    ratios: Figures = {}
    for what in (*(f"TCP {each}, Mbit/s" for each in _TCP), *(f"{each}, packets/s" for each in _SMALL)):
        label = what.split(",")[0]
        for ours in ("kernel", "userspace"):
            for reference in ("Miredo", "plain"):
                ratios[f"ratio, {label}: {ours} to {reference}"] = found[ours][what] / found[reference][what]
    for ours in ("kernel", "userspace", "Miredo"):
        trip = "round trip to the host, µs"
        ratios[f"added to the round trip, µs: {ours}"] = found[ours][trip] - found["plain"][trip]
    return ratios


def _aims() -> Iterator[Aim]:
    for what in (f"TCP {each}" for each in _TCP):
        yield Aim(f"ratio, {what}: kernel to Miredo", at_least=15.0)
        yield Aim(f"ratio, {what}: userspace to Miredo", at_least=3.0)
        yield Aim(f"ratio, {what}: kernel to plain", at_least=0.75)
    for what in _SMALL:
        yield Aim(f"ratio, {what}: kernel to Miredo", at_least=3.0)
        yield Aim(f"ratio, {what}: userspace to Miredo", at_least=1.5)
    for ours, most in (("kernel", 30.0), ("userspace", 300.0)):
        yield Aim(f"added to the round trip, µs: {ours}", at_most=most)
        yield Aim(f"64-byte UDP at Miredo's lossless rate, % lost: {ours}", at_most=100 * _LOSSLESS)


SECTIONS: Final = (
    Section(
        "datapath",
        "data between clients, through a relay and NATs",
        _once,
        _lacking,
        tuple(_aims()),
        note="Sender, hops and receiver share the machine's cores. A small datagram by itself costs the hops more than"
        " what carries it through the tunnel. Userspace takes many at a time, which share that cost: so more of them"
        " arrive than of plain IPv6's; and a kernel data path leaves floods to it. A sender in bulk gives the kernel"
        " 64 datagrams with one system call (UDP_SEGMENT), as QUIC does: they stay together wherever whoever handles"
        " them can have it so.",
    ),
)

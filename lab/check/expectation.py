"""What checks shall find between each two ends, as the kinds of NAT imply it, and why.

RFC 6081 Figure 1 says which pairs of NATs RFC 4380 alone connects; the other cells need extensions, which are off.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, permutations

from lab.nat.kinds import figure_kind
from lab.nat.matrix import FIGURE_1, Cell, cell
from lab.plan import Expectation, Verdict
from lab.topology.model import LOCAL, PlacedClient, Topology

_REFUSAL = "RFC 4380 alone refuses a symmetric NAT"


def expectations(topology: Topology) -> tuple[Expectation, ...]:
    """What each checked pair shall find: `checks.pairs` but for `checks.without`, and `checks.expect` over all that."""
    checks = topology.checks
    left_out = frozenset(checks.without)
    clients = {placed.name: placed for placed in topology.clients() if placed.name not in left_out}
    hosts = tuple(name for name in topology.hosts if name not in left_out)
    pairs = _ring(_interleaved(topology, clients), hosts) if checks.pairs == "ring" else _all(clients, hosts)
    verdicts: dict[tuple[str, str], tuple[Verdict, str]] = {}
    for pair in pairs:
        verdict = _verdict(topology, clients, *pair)
        if verdict is not None:
            verdicts[pair] = verdict
    for expect in checks.expect:
        verdicts[expect.source, expect.destination] = expect.verdict, expect.because
    return tuple(
        Expectation(source=source, destination=destination, expected=verdict, because=because)
        for (source, destination), (verdict, because) in verdicts.items()
    )


def _all(clients: Iterable[str], hosts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each two, in both directions; but hosts reach each other without Teredo."""
    native = frozenset(hosts)
    return (pair for pair in permutations((*clients, *hosts), 2) if not native.issuperset(pair))


def _interleaved(topology: Topology, clients: dict[str, PlacedClient]) -> tuple[str, ...]:
    """Clients in such an order that neighbours are behind different NATs: the first of each site, the second, …"""
    rank = {name: number for site in topology.sites.values() for number, name in enumerate(site.clients)}
    return tuple(sorted(clients, key=rank.__getitem__))


def _ring(clients: Sequence[str], hosts: Sequence[str]) -> Iterator[tuple[str, str]]:
    neighbours = zip(clients, (*clients[1:], clients[0]), strict=True) if len(clients) > 1 else ()
    native = (((client, host), (host, client)) for client in clients for host in hosts[:1])
    return chain(neighbours, *native)


def _verdict(
    topology: Topology, clients: dict[str, PlacedClient], source: str, destination: str
) -> tuple[Verdict, str] | None:
    """What a pair shall find, and why; None where nothing is promised either way."""
    if source in clients and destination in clients:
        return _between(topology, clients[source], clients[destination])
    client, host = (source, destination) if source in clients else (destination, source)
    return _native(topology, clients[client], host)


def _native(topology: Topology, placed: PlacedClient, host: str) -> tuple[Verdict, str]:
    """A client and a native host, either way."""
    refused = _refused(topology, placed)
    if refused is not None:
        return "unreachable", refused
    if _symmetric(topology, placed) and placed.client.program != "miredo":
        return "unreachable", f"{placed.name} gets no address: {_REFUSAL}"
    match topology.relay_of(topology.hosts[host]):
        case None:
            return "unreachable", f"no relay serves {host}"
        case relay if relay == LOCAL:
            return "reachable", f"{host} is its own relay"
        case relay:
            return "reachable", f"{relay} is the relay of {host}"


def _between(topology: Topology, caller: PlacedClient, callee: PlacedClient) -> tuple[Verdict, str] | None:
    """Two clients."""
    for placed in (caller, callee):
        refused = _refused(topology, placed)
        if refused is not None:
            return "unreachable", refused
    outermost = topology.chain(caller.site_name)[-1]
    if outermost == topology.chain(callee.site_name)[-1] and not topology.sites[outermost].behaviour.hairpin:
        return "unreachable", "same NAT without hairpinning"
    kinds = _figure_kind(topology, caller), _figure_kind(topology, callee)
    figure = f"RFC 6081 Figure 1: {kinds[0]} → {kinds[1]}"
    needed = cell(*kinds)
    if needed is Cell.YES:
        return "reachable", f"{figure} needs RFC 4380 alone"
    if all(placed.client.program == "miredo" for placed in (caller, callee) if _symmetric(topology, placed)):
        # Miredo never tests for a symmetric NAT: it gets an address, which some peers can use and others cannot.
        return None
    promise = "promises nothing" if needed is Cell.NO else f"needs {needed}"
    return "unreachable", f"{figure} {promise}; {_REFUSAL}"


def _figure_kind(topology: Topology, placed: PlacedClient) -> str:
    """The column of the figure for all NATs between a client and the Internet: of the one that allows least."""
    order = list(FIGURE_1)
    return max(
        (figure_kind(topology.sites[name].behaviour) for name in topology.chain(placed.site_name)), key=order.index
    )


def _symmetric(topology: Topology, placed: PlacedClient) -> bool:
    return any(topology.sites[name].behaviour.symmetric for name in topology.chain(placed.site_name))


def _refused(topology: Topology, placed: PlacedClient) -> str | None:
    """Why a client gets no address however its NAT maps: no UDP, or secure qualification (RFC 4380 section 5.2.2)."""
    for name in topology.chain(placed.site_name):
        if not topology.sites[name].behaviour.udp:
            return f"{placed.name} gets no address: the NAT of {name} lets no UDP through"
    client = placed.client
    server = topology.server_of(client)
    secrets = topology.servers[server].secrets
    if not secrets or (client.client_id is not None and secrets[client.client_id] == client.secret):
        return None
    return f"{placed.name} gets no address: it does not have the secret that {server} asks for"

"""What checks shall find between each two ends, as the kinds of NAT imply it, and why.

RFC 6081 Figure 1 says which pairs of NATs connect, and which extensions both clients need for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, permutations

from lab.nat.kinds import KINDS, PortChoice, figure_kind
from lab.nat.matrix import BEYOND, FIGURE_1, OPEN, SUBSETS, Cell, cell
from lab.plan import Expectation, Verdict
from lab.teredo.extensions import ALL, Extension
from lab.topology.model import LOCAL, PlacedClient, Topology
from lab.topology.pairs import pairs as matrix_pairs

_REFUSAL = "RFC 4380 alone refuses a symmetric NAT"


def expectations(topology: Topology) -> tuple[Expectation, ...]:
    """What each checked pair shall find: `checks.pairs` but for `checks.without`, and `checks.expect` over all that."""
    checks = topology.checks
    left_out = frozenset(checks.without)
    clients = {placed.name: placed for placed in topology.clients() if placed.name not in left_out}
    hosts = tuple(name for name in topology.hosts if name not in left_out)
    match checks.pairs:
        case "ring":
            pairs = _ring(_interleaved(topology, clients), hosts)
        case "matrix":
            pairs = ((pair.caller, pair.callee) for pair in matrix_pairs(topology))
        case "all":
            pairs = _all(clients, hosts)
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


def _native(topology: Topology, placed: PlacedClient, host: str) -> tuple[Verdict, str] | None:
    """A client and a native host, either way."""
    refused = _refused(topology, placed)
    if refused is not None:
        return "unreachable", refused
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
    if outermost == topology.chain(callee.site_name)[-1]:
        nearby = _nearby(topology, caller, callee)
        if nearby is not None:
            return "reachable", nearby
        if caller.site_name == callee.site_name and caller.client.local_discovery and callee.client.local_discovery:
            return None  # it depends on whether they have met yet, which takes up to 300 s
        if not topology.sites[outermost].behaviour.hairpin:
            return "unreachable", "same NAT without hairpinning"
    return _by_figure(topology, caller, callee)


def _by_figure(topology: Topology, caller: PlacedClient, callee: PlacedClient) -> tuple[Verdict, str] | None:
    kinds = _figure_kind(topology, caller), _figure_kind(topology, callee)
    needed = cell(*kinds)
    figure = f"RFC 6081 Figure 1: {kinds[0]} → {kinds[1]}"
    if needed is Cell.YES:
        return "reachable", f"{figure} needs RFC 4380 alone"
    if "miredo" in (caller.client.program, callee.client.program):
        # Miredo never tests for a symmetric NAT: it gets an address, which some peers can use and others cannot.
        return None
    both = _extensions(caller) & _extensions(callee)
    exact = _is_exact(topology, caller) and _is_exact(topology, callee)
    if needed is not Cell.NO:
        missing = sorted(SUBSETS[needed] - both)
        if missing:
            return "unreachable", f"{figure} needs {needed}, and not both have {' and '.join(missing)}"
        foreseen = needed is Cell.SNS_SS
        crowded = foreseen and any(_counts_for_others(topology, placed) for placed in (caller, callee))
        return ("reachable", f"{figure} needs {needed}") if needed is Cell.SNS or (exact and not crowded) else None
    if both != ALL or not exact or kinds in OPEN:
        return None
    if kinds in BEYOND:
        return "reachable", f"{figure} promises nothing, but {BEYOND[kinds]}"
    return "unreachable", f"{figure} promises nothing"


def _nearby(topology: Topology, caller: PlacedClient, callee: PlacedClient) -> str | None:
    """Why two clients behind one outermost NAT reach each other without it (RFC 6081 section 3.5), if they do."""
    if Extension.HAIRPINNING not in _extensions(caller) & _extensions(callee):
        return None
    chains = topology.chain(caller.site_name), topology.chain(callee.site_name)
    for chain_, site_name in ((chains[0], callee.site_name), (chains[1], caller.site_name)):
        if site_name in chain_:
            return f"hairpinning (RFC 6081 section 3.5): a local address in the LAN of {site_name}"
    shared = next(name for name in chains[0] if name in chains[1])
    for chain_ in chains:
        inner = chain_[: chain_.index(shared)]
        if len(inner) == 1 and topology.sites[inner[0]].behaviour.upnp:
            return f"hairpinning (RFC 6081 section 3.5): a port that the NAT of {inner[0]} has opened"
    return None


def _extensions(placed: PlacedClient) -> frozenset[Extension]:
    """The extensions of RFC 6081 that a client has."""
    if placed.client.program == "miredo":
        return frozenset()
    return ALL if placed.client.extensions is None else frozenset(placed.client.extensions)


def _counts_for_others(topology: Topology, placed: PlacedClient) -> bool:
    """Whether a sequential NAT has others inside, whose flows may take the port that was foreseen (section 3.4)."""
    site = topology.sites[placed.site_name]
    return site.behaviour.ports is PortChoice.SEQUENTIAL and len(site.clients) > 1


def _is_exact(topology: Topology, placed: PlacedClient) -> bool:
    """Whether the figure's kind is all that there is to say of the NATs of a client."""
    (name, *others) = topology.chain(placed.site_name)
    behaviour = topology.sites[name].behaviour
    kind = KINDS[figure_kind(behaviour)]
    told_apart = ("mapping", "filtering", "ports", "pooling", "upnp")
    return not others and all(getattr(behaviour, option) == getattr(kind, option) for option in told_apart)


def _figure_kind(topology: Topology, placed: PlacedClient) -> str:
    """The column of the figure for all NATs between a client and the Internet: of the one that allows least."""
    order = list(FIGURE_1)
    return max(
        (figure_kind(topology.sites[name].behaviour) for name in topology.chain(placed.site_name)), key=order.index
    )


def _symmetric(topology: Topology, placed: PlacedClient) -> bool:
    return any(topology.sites[name].behaviour.symmetric for name in topology.chain(placed.site_name))


def _refused(topology: Topology, placed: PlacedClient) -> str | None:
    """Why a client gets no address: no UDP, a symmetric NAT, or secure qualification (RFC 4380 section 5.2.2)."""
    for name in topology.chain(placed.site_name):
        if not topology.sites[name].behaviour.udp:
            return f"{placed.name} gets no address: the NAT of {name} lets no UDP through"
    client = placed.client
    if client.program != "miredo" and _symmetric(topology, placed) and Extension.SYMMETRIC not in _extensions(placed):
        return f"{placed.name} gets no address: {_REFUSAL}"
    server = topology.server_of(client)
    secrets = topology.servers[server].secrets
    if not secrets or (client.client_id is not None and secrets[client.client_id] == client.secret):
        return None
    return f"{placed.name} gets no address: it does not have the secret that {server} asks for"

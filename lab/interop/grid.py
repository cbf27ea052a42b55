"""The interoperability grid: each client, server and relay, ours or Miredo, behind each kind of NAT of RFC 4380."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import product
from typing import Final, Literal, NamedTuple

from lab.topology.model import Topology

Maker = Literal["ours", "miredo"]

_PROGRAMS: Final[dict[Maker, str]] = {"ours": "teredo-lab", "miredo": "miredo"}

NATS: Final = ("cone", "addr_restricted", "port_restricted", "port_symmetric")
"""The four kinds of RFC 4380 section 3.1, by their names in a topology."""

SYMMETRIC: Final = "port_symmetric"
"""Behind this one RFC 4380 gives a client no address (section 5.2.1); it takes RFC 6081."""


class Makers(NamedTuple):
    """Whose client, server and relay they are."""

    client: Maker
    server: Maker
    relay: Maker

    def with_ours(self, parts: Collection[str]) -> Makers:
        """The same with these parts ours."""
        client, server, relay = ("ours" if part in parts else self[at] for at, part in enumerate(self._fields))
        return Makers(client, server, relay)


COMBINATIONS: Final = tuple(Makers(*makers) for makers in product(_PROGRAMS, repeat=3))


class Cell(NamedTuple):
    """One client behind a NAT of its own, and a native host behind the relay; `outward` is when the client begins."""

    makers: Makers
    nat: str
    outward: bool

    @property
    def client(self) -> str:
        """The name of the client, and of its site."""
        initials = "".join(maker[0] for maker in self.makers)
        return f"{self.nat.replace('_', '-')}-{initials}-{'out' if self.outward else 'in'}"

    @property
    def host(self) -> str:
        """The native host that the relay serves."""
        return f"web-{self.makers.relay}"

    @property
    def ends(self) -> tuple[str, str]:
        """Who begins, and who answers."""
        return (self.client, self.host) if self.outward else (self.host, self.client)


def cells(nats: Iterable[str] = NATS) -> Iterator[Cell]:
    """All cells with these NATs."""
    for makers, nat, outward in product(COMBINATIONS, nats, (True, False)):
        yield Cell(makers, nat, outward)


def topology(nats: Iterable[str] = NATS) -> Topology:
    """A lab with all of the cells. Each has a client and a NAT of its own, so that every path in it is cold."""
    return Topology.model_validate(
        {
            "name": "interop",
            "description": "Clients, servers and relays of ours and of Miredo, each with each",
            "servers": {f"server-{maker}": {"program": program} for maker, program in _PROGRAMS.items()},
            "relays": {f"relay-{maker}": {"program": program} for maker, program in _PROGRAMS.items()},
            "hosts": {f"web-{maker}": {"relay": f"relay-{maker}"} for maker in _PROGRAMS},
            "sites": {
                cell.client: {
                    "nat": cell.nat,
                    "clients": {
                        cell.client: {
                            "program": _PROGRAMS[cell.makers.client],
                            "server": f"server-{cell.makers.server}",
                        }
                    },
                }
                for cell in cells(nats)
            },
        }
    )

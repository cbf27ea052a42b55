"""The topology: what a person means by a lab. Servers, relays, native IPv6 hosts, and sites of a NAT and its clients.

Everything has a default. The descriptions of the options are written to follow "it takes", because the loader's error
messages say that; the JSON Schema shows them in editors. What must hold between parts is in `lab.topology.rules`.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from lab.nat.kinds import KINDS
from lab.plan import Verdict

LOCAL: Final = "local"
"""In place of a relay's name: the host runs a relay for itself alone, a "local relay" (RFC 4380 section 3.4)."""

RELAY_PORT: Final = 3545

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
ClientId = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,255}$")]
Secret = Annotated[str, StringConstraints(min_length=1)]
TeredoProgram = Annotated[
    Literal["teredo-lab", "miredo"], Field(description="the program that speaks Teredo here: teredo-lab or miredo")
]


class Options(BaseModel):
    """Options of one thing. An option that is written without a value has its default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _no_value_is_default(cls, value: object) -> object:
        if value is None:
            return {}
        if not isinstance(value, dict):
            return value
        known = cls.fields()
        return {key: item for key, item in value.items() if item is not None or key not in known}

    @classmethod
    def fields(cls) -> dict[str, str]:
        """The options as they are written in YAML, each with its description."""
        return {field.alias or name: field.description or "" for name, field in cls.model_fields.items()}


class Server(Options):
    """A Teredo server (RFC 4380 section 5.3)."""

    program: TeredoProgram = "teredo-lab"
    ipv4: tuple[IPv4Address, IPv4Address] | None = Field(
        default=None, description="a list of two public IPv4 addresses: primary and secondary"
    )
    secrets: dict[ClientId, Secret] = Field(
        default={},
        description="client ids, each with its shared secret; if there are any, secure qualification is required",
    )
    relay: bool = Field(default=False, description="true or false: whether the server is a relay as well")


class Relay(Options):
    """A Teredo relay (RFC 4380 section 5.4)."""

    program: TeredoProgram = "teredo-lab"
    ipv4: IPv4Address | None = Field(default=None, description="a public IPv4 address")
    port: int = Field(default=RELAY_PORT, ge=1024, le=65535, description="the relay's UDP port, 1024 to 65535")


class Host(Options):
    """A native IPv6 host that serves a web page."""

    relay: Name | None = Field(
        default=None, description="the name of the relay that serves this host, or 'local' for one of its own"
    )


class Client(Options):
    """A Teredo client behind the NAT of its site (RFC 4380 section 5.2)."""

    program: TeredoProgram = "teredo-lab"
    server: Name | None = Field(default=None, description="the name of a server; the first one by default")
    ipv4: IPv4Address | None = Field(default=None, description="an IPv4 address in the site's LAN")
    port: int | None = Field(default=None, ge=1024, le=65535, description="the client's service port, 1024 to 65535")
    refresh_interval: int = Field(
        default=30, ge=1, le=3600, description="seconds between refreshes of the NAT's mapping, 1 to 3600"
    )
    client_id: ClientId | None = Field(
        default=None, description="the client's id for secure qualification, 1 to 255 printable ASCII characters"
    )
    secret: Secret | None = Field(default=None, description="the secret that the client shares with its server")


class Site(Options):
    """A NAT and the clients behind it."""

    nat: str = Field(
        default="port_restricted",
        description=f"a kind of NAT: {', '.join(KINDS)}",
        json_schema_extra={"enum": list(KINDS)},
    )
    udp_timeout: int = Field(
        default=120, ge=1, le=3600, description="seconds that an idle UDP mapping lives, 1 to 3600"
    )
    external: tuple[IPv4Address] | None = Field(
        default=None, description="a list of one public IPv4 address, the NAT's external one"
    )
    lan: IPv4Network | None = Field(
        default=None, description="the prefix of the site's LAN, for example 192.168.1.0/24"
    )
    clients: dict[Name, Client] = Field(default={}, description="client names, each with its options")


class Expect(Options):
    """What a check of one pair shall find, in place of what the NAT kinds imply."""

    source: Name = Field(alias="from", description="the name of a client or host, which starts the conversation")
    destination: Name = Field(alias="to", description="the name of a client or host, which answers")
    verdict: Verdict = Field(alias="is", description="reachable or unreachable")
    because: str = Field(default="the topology says so", description="the reason, as text")


class Checks(Options):
    """Which pairs are checked, and what is expected of them."""

    pairs: Literal["all", "ring"] = Field(
        default="all",
        description="all, or ring: each client to the next one, each client and the first host to each other",
    )
    expect: tuple[Expect, ...] = Field(default=(), description="a list of {from: …, to: …, is: …, because: …}")
    without: tuple[Name, ...] = Field(default=(), description="a list of clients and hosts to leave out")


class PlacedClient(NamedTuple):
    """A client with its place."""

    name: str
    client: Client
    site_name: str
    site: Site


class Topology(Options):
    """A whole lab."""

    name: Name = Field(
        default="lab",
        description="the lab's name, which is the file's by default: a lower-case letter, then up to 30 lower-case "
        "letters, digits or hyphens",
    )
    description: str = Field(default="", description="what the lab is for, as text")
    servers: dict[Name, Server] = Field(min_length=1, description="server names, each with its options, at least one")
    relays: dict[Name, Relay] = Field(default={}, description="relay names, each with its options")
    hosts: dict[Name, Host] = Field(default={}, description="names of native IPv6 hosts, each with its options")
    sites: dict[Name, Site] = Field(default={}, description="site names, each with its options")
    checks: Checks = Field(default=Checks(), description="which pairs are checked: pairs, expect and without")

    def clients(self) -> Iterator[PlacedClient]:
        """All clients, site by site."""
        for site_name, site in self.sites.items():
            for name, client in site.clients.items():
                yield PlacedClient(name, client, site_name, site)

    @property
    def relaying(self) -> tuple[str, ...]:
        """The nodes that relay for hosts, relays before servers; the first one serves who names none."""
        return (*self.relays, *(name for name, server in self.servers.items() if server.relay))

    def relay_of(self, host: Host) -> str | None:
        """The name of the relay that serves a host, `LOCAL`, or None when the lab has no relay."""
        return host.relay or next(iter(self.relaying), None)

    def server_of(self, client: Client) -> str:
        """The name of a client's server."""
        return client.server or next(iter(self.servers))


def nat_node(site_name: str) -> str:
    """The name of the node that is a site's NAT."""
    return f"{site_name}-nat"

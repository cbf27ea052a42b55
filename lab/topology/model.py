"""The topology: what a person means by a lab. Servers, relays, native IPv6 hosts, and sites of a NAT and its clients.

Everything has a default. The descriptions of the options are written to follow "it takes", because the loader's error
messages say that; the JSON Schema shows them in editors. What must hold between parts is in `lab.topology.rules`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from lab import link
from lab.datapath.choice import DataPath
from lab.nat.kinds import NAMES, Collision, Engine, Filtering, Mapping, NatBehaviour, Pooling, PortChoice
from lab.plan import LinkQuality, Verdict
from lab.teredo.extensions import Extension

LOCAL: Final = "local"
"""In place of a relay's name: the host runs a relay for itself alone, a "local relay" (RFC 4380 section 3.4)."""

RELAY_PORT: Final = 3545
REFRESH_INTERVAL: Final = 30

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
ShortName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,11}$")]
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

    def but(self, **changes: object) -> Self:
        """The same but for these options; unlike `model_copy` it keeps nothing that was worked out before."""
        return type(self).model_validate({name: getattr(self, name) for name in type(self).model_fields} | changes)

    @classmethod
    def fields(cls) -> dict[str, str]:
        """The options as they are written in YAML, each with its description."""
        return {field.alias or name: field.description or "" for name, field in cls.model_fields.items()}


Percentage = Annotated[float, BeforeValidator(link.percentage, str | float), Field(ge=0, le=100)]
Milliseconds = Annotated[float, BeforeValidator(link.milliseconds, str | float), Field(ge=0, le=10_000)]
Rate = Annotated[int, BeforeValidator(link.rate, str | int), Field(ge=0, le=100 * 10**9)]


class Link(Options):
    """How good a node's link to the next one upstream is, in both directions."""

    loss: Percentage = Field(default=0, description="the percentage of packets that get lost, 0 to 100")
    rate: Rate = Field(
        default=0, description="bits a second, such as 512kbit, 10mbit or 1gbit, from 1kbit on; 0 for no limit"
    )
    delay: Milliseconds = Field(default=0, description="a time such as 50ms or 1s, up to 10s; it needs netem")
    jitter: Milliseconds = Field(
        default=0, description="the time by which the delay varies, such as 5ms; it needs netem"
    )
    reorder: Percentage = Field(
        default=0, description="the percentage of packets that overtake others, 0 to 100; it needs netem"
    )
    down: bool = Field(default=False, description="true or false: whether the link is cut")

    @property
    def quality(self) -> LinkQuality:
        """The same for a plan."""
        return LinkQuality.model_validate(self.model_dump())


_LINK: Final = Field(default=Link(), description="how good the link is: loss, rate, delay, jitter, reorder, down")


_DATAPATH: Final = Field(
    default=None,
    description="auto, kernel or userspace: how data are carried; auto, or what the topology says, by default",
)


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
    link: Link = _LINK


class Relay(Options):
    """A Teredo relay (RFC 4380 section 5.4)."""

    program: TeredoProgram = "teredo-lab"
    ipv4: IPv4Address | None = Field(default=None, description="a public IPv4 address")
    port: int = Field(default=RELAY_PORT, ge=1024, le=65535, description="the relay's UDP port, 1024 to 65535")
    datapath: DataPath | None = _DATAPATH
    link: Link = _LINK


class Host(Options):
    """A native IPv6 host that serves a web page."""

    relay: Name | None = Field(
        default=None, description="the name of the relay that serves this host, or 'local' for one of its own"
    )
    ipv4: IPv4Address | None = Field(default=None, description="a public IPv4 address, for a relay of its own")
    link: Link = _LINK


class Client(Options):
    """A Teredo client behind the NAT of its site (RFC 4380 section 5.2)."""

    program: TeredoProgram = "teredo-lab"
    server: Name | None = Field(default=None, description="the name of a server; the first one by default")
    ipv4: IPv4Address | None = Field(default=None, description="an IPv4 address in the site's LAN")
    port: int | None = Field(default=None, ge=1024, le=65535, description="the client's service port, 1024 to 65535")
    refresh_interval: int | None = Field(
        default=None,
        ge=1,
        le=3600,
        description=f"seconds between refreshes of the NAT's mapping, 1 to 3600; {REFRESH_INTERVAL} by default",
    )
    determine_interval: bool = Field(
        default=False,
        description="true or false: whether the client finds out how long its refresh interval may be",
    )
    local_discovery: bool = Field(
        default=False, description="true or false: whether the client and others of its LAN discover each other"
    )
    extensions: tuple[Extension, ...] | None = Field(
        default=None,
        description=f"a list of the extensions of RFC 6081 that the client has: {', '.join(Extension)}; all by default",
    )
    client_id: ClientId | None = Field(
        default=None, description="the client's id for secure qualification, 1 to 255 printable ASCII characters"
    )
    secret: Secret | None = Field(default=None, description="the secret that the client shares with its server")
    count: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="how many clients like this there are, 1 to 1000; where there are several, they are numbered",
    )
    datapath: DataPath | None = _DATAPATH
    link: Link = _LINK


class Nat(Options):
    """What a NAT does: a kind by its name, or the point of RFC 4787's space itself, or a kind with changes.

    What is not said is the kind's, and without a kind that of a port-restricted NAT. ``cone`` means ``{kind: cone}``.
    """

    kind: str | None = Field(
        default=None, description=f"a kind of NAT: {', '.join(NAMES)}", json_schema_extra={"enum": list(NAMES)}
    )
    mapping: Mapping | None = Field(
        default=None,
        description="EIM, ADM or APDM: for which remote endpoints a mapping is kept (RFC 4787)",
    )
    filtering: Filtering | None = Field(
        default=None, description="EIF, ADF or APDF: from which remote endpoints packets come in (RFC 4787)"
    )
    ports: PortChoice | None = Field(
        default=None, description="preserving, random or sequential: how external ports are chosen"
    )
    delta: int | None = Field(
        default=None, ge=1, le=16, description="what is added to the last external port, for sequential ports, 1 to 16"
    )
    collision: Collision | None = Field(
        default=None,
        description="another or overload: whether a second host that wants a port gets another or shares it",
    )
    hairpin: bool | None = Field(
        default=None, description="true or false: whether inside hosts reach each other by external addresses"
    )
    addresses: int | None = Field(
        default=None, ge=1, le=16, description="the number of the NAT's external addresses, 1 to 16"
    )
    pooling: Pooling | None = Field(
        default=None, description="paired or arbitrary: whether an inside host keeps to one of the external addresses"
    )
    udp_timeout: int | None = Field(
        default=None, ge=1, le=3600, description="seconds that an idle UDP mapping lives, 1 to 3600"
    )
    udp_timeout_new: int | None = Field(
        default=None, ge=1, le=3600, description="seconds that an idle mapping lives before its first answer, 1 to 3600"
    )
    inbound_refresh: bool | None = Field(
        default=None, description="true or false: whether packets from outside prolong a mapping as well"
    )
    icmp_errors: bool | None = Field(
        default=None,
        description="true or false: whether ICMP errors about mapped packets are let through, translated",
    )
    upnp: bool | None = Field(
        default=None, description="true or false: whether inside hosts may open ports by UPnP, NAT-PMP and PCP"
    )
    udp: bool | None = Field(default=None, description="true or false: whether UDP passes at all")
    engine: Engine | None = Field(
        default=None, description="iptables or nftables; by default iptables where it can do all of this exactly"
    )

    @model_validator(mode="before")
    @classmethod
    def _name_is_kind(cls, value: object) -> object:
        return {"kind": value} if isinstance(value, str) else value

    @cached_property
    def behaviour(self) -> NatBehaviour:
        """The point that is meant. Raises KeyError for an unknown kind."""
        base = NAMES[self.kind] if self.kind is not None else NatBehaviour()
        given = self.model_dump(exclude={"kind", "engine"}, exclude_none=True)
        if "udp_timeout" in given:
            given = {"udp_timeout_new": None} | given
        if given.get("ports", PortChoice.PRESERVING) is not PortChoice.PRESERVING:
            given = {"collision": Collision.ANOTHER} | given  # no other ports collide
        return dataclasses.replace(base, **given)

    @property
    def name(self) -> str:
        """The kind, or what a NAT without one is called. Raises KeyError for an unknown kind."""
        return self.kind or self.behaviour.point


class Site(Options):
    """A NAT and the clients behind it."""

    nat: Nat = Field(
        default=Nat(kind="port_restricted"),
        description=f"a kind of NAT ({', '.join(NAMES)}), or a mapping of what it does",
    )
    behind: Name | None = Field(
        default=None, description="the name of the site in whose LAN this one's NAT is; the Internet by default"
    )
    external: tuple[IPv4Address, ...] | None = Field(
        default=None, min_length=1, max_length=16, description="a list of the NAT's external IPv4 addresses"
    )
    lan: IPv4Network | None = Field(
        default=None, description="the prefix of the site's LAN, for example 192.168.1.0/24"
    )
    link: Link = Field(
        default=Link(), description="how good the NAT's own link is: loss, rate, delay, jitter, reorder, down"
    )
    clients: dict[Name, Client] = Field(default={}, description="client names, each with its options")
    count: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="how many sites like this there are, 1 to 1000; where there are several, they and their clients are"
        " numbered",
    )

    @cached_property
    def behaviour(self) -> NatBehaviour:
        """What the NAT does, with as many addresses as `external` has. Raises KeyError for an unknown kind."""
        behaviour = self.nat.behaviour
        if self.external is None or self.nat.addresses is not None:
            return behaviour
        return dataclasses.replace(behaviour, addresses=len(self.external))


class Expect(Options):
    """What a check of one pair shall find, in place of what the NAT kinds imply."""

    source: Name = Field(alias="from", description="the name of a client or host, which starts the conversation")
    destination: Name = Field(alias="to", description="the name of a client or host, which answers")
    verdict: Verdict = Field(alias="is", description="reachable or unreachable")
    because: str = Field(default="the topology says so", description="the reason, as text")


class Checks(Options):
    """Which pairs are checked, and what is expected of them."""

    pairs: Literal["all", "ring", "matrix"] = Field(
        default="all",
        description="all, or ring: each client to the next one, each client and the first host to each other; or"
        " matrix: each caller of the matrix to its callee",
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
    datapath: DataPath = Field(
        default=DataPath.AUTO,
        description="auto, kernel or userspace: how clients and relays of ours carry data, unless they say otherwise",
    )
    servers: dict[Name, Server] = Field(min_length=1, description="server names, each with its options, at least one")
    relays: dict[Name, Relay] = Field(default={}, description="relay names, each with its options")
    hosts: dict[Name, Host] = Field(default={}, description="names of native IPv6 hosts, each with its options")
    sites: dict[Name, Site] = Field(default={}, description="site names, each with its options")
    matrix: dict[ShortName, Nat] = Field(
        default={},
        description="names of NATs of up to 12 characters, each with a kind or what it does: for each two of them, in"
        " both orders, there are two sites of one client each, ROW-COLUMN-a and ROW-COLUMN-b",
    )
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

    def links(self) -> Iterator[tuple[tuple[str, ...], str, Link]]:
        """The path, the node and the link of everything that has one."""
        for group in ("servers", "relays", "hosts"):
            for name, options in getattr(self, group).items():
                yield (group, name), name, options.link
        for name, site in self.sites.items():
            yield ("sites", name), nat_node(name), site.link
        for placed in self.clients():
            yield ("sites", placed.site_name, "clients", placed.name), placed.name, placed.client.link

    def chain(self, site_name: str) -> tuple[str, ...]:
        """The sites whose NATs a packet to the Internet passes, from this one outward."""
        chain: list[str] = []
        name: str | None = site_name
        while name is not None and name not in chain:
            chain.append(name)
            name = self.sites[name].behind
        return tuple(chain)

    def nested(self, site_name: str) -> tuple[str, ...]:
        """The sites whose NATs are in a site's LAN."""
        return self._nested.get(site_name, ())

    @cached_property
    def _nested(self) -> dict[str, tuple[str, ...]]:
        nested: dict[str, tuple[str, ...]] = {}
        for name, site in self.sites.items():
            if site.behind is not None:
                nested[site.behind] = (*nested.get(site.behind, ()), name)
        return nested

    def server_of(self, client: Client) -> str:
        """The name of a client's server."""
        return client.server or next(iter(self.servers))


def nat_node(site_name: str) -> str:
    """The name of the node that is a site's NAT."""
    return f"{site_name}-nat"

"""NAT behaviour as an nftables ruleset: text for `nft -f`. Every point of RFC 4787's space, for any inside hosts.

The maps are the NAT's memory, and the truth: `owner` says whose an external endpoint is, `mapped` which one an inside
endpoint has (for a remote one, as far as the mapping tells these apart), `permitted` whom the filtering lets in. Chains
behind SNAT write them from what conntrack has done, so collisions are learned as they happened. Conntrack only carries
the translation from packet to packet: its entries are short-lived, and a new one finds the mapping in the maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from random import Random
from typing import Final

from lab.nat.kinds import Collision, Engine, Filtering, Mapping, NatBehaviour, Pooling, PortChoice
from lab.nat.setup import FIRST_PORT, LAST_PORT, POOL, NatSetup, UnsupportedError
from lab.plan import Firewall, udp_timeouts

TABLE: Final = "nat_lab"

PORTS: Final = 2048
"""External ports of one address that a NAT draws from before it begins anew."""

ALL_PORTS: Final = 4096
"""As many at most of all its addresses; twice as many are too long a message to the kernel for an ordinary user, whose
buffer has 208 KiB."""

FLOW_TIMEOUT: Final = 2
"""Seconds that conntrack keeps a flow by itself; so much longer than its mapping it may live."""

_NOWHERE: Final = "192.0.0.8"
"""The dummy address (RFC 7600): where a hairpinned packet to a port without owner goes, for all but the last step."""

_DIRECTIONS: Final = ("original", "reply")


def objection(behaviour: NatBehaviour, _hosts: int) -> str | None:
    """Why nftables cannot do this exactly; None if it can."""
    if behaviour.collision is Collision.OVERLOAD and behaviour.udp:
        return "its maps give each external port one owner, so there is no overloading"
    return None


def firewall(nat: NatSetup) -> Firewall:
    """The rules of a NAT. Raises UnsupportedError for a behaviour that they cannot produce exactly."""
    why = objection(nat.behaviour, len(nat.hosts))
    if why is not None:
        raise UnsupportedError(f"nftables cannot do {nat.behaviour.point} exactly: {why}")
    timeouts = [min(FLOW_TIMEOUT, timeout) for timeout in nat.behaviour.timeouts]
    ruleset = _Ruleset(nat)
    return Firewall(engine=Engine.NFTABLES, nftables=ruleset.text(), sysctls=udp_timeouts(*timeouts))


@dataclass(frozen=True, slots=True)
class _Flow:
    """How a rule names the parts of a packet's mapping: expressions for each endpoint's address and port."""

    inside: tuple[str, str]
    remote: tuple[str, str]
    outside: tuple[str, str]


def _leaving(direction: str) -> _Flow:
    """A packet on its way out, or hairpinned, behind SNAT."""
    tuple_ = f"ct {direction}"
    return _Flow(
        inside=(f"{tuple_} ip saddr", f"{tuple_} proto-src"),
        remote=(f"{tuple_} ip daddr", f"{tuple_} proto-dst"),
        outside=("ip saddr", "udp sport"),
    )


def _entering(direction: str) -> _Flow:
    """A packet on its way in, behind DNAT and, if it was hairpinned, SNAT."""
    tuple_ = f"ct {direction}"
    return _Flow(
        inside=("ip daddr", "udp dport"),
        remote=("ip saddr", "udp sport"),
        outside=(f"{tuple_} ip daddr", f"{tuple_} proto-dst"),
    )


_FIRST: Final = _Flow(
    inside=("ip saddr", "udp sport"),
    remote=("ct original ip daddr", "ct original proto-dst"),
    outside=("", "udp sport"),
)
"""The first packet of a flow, where SNAT decides; outside, it would like to keep its port."""


@dataclass(frozen=True, slots=True)
class _Ruleset:
    nat: NatSetup

    def text(self) -> str:
        """The whole table, which replaces the one before."""
        lines = [f"table ip {TABLE}", f"delete table ip {TABLE}", f"table ip {TABLE} {{"]
        lines += [f"  {line}" for line in self._memory()]
        for name, rules in self._chains():
            lines += [f"  chain {name} {{", *(f"    {rule}" for rule in rules), "  }"]
        return "\n".join([*lines, "}", ""])

    @property
    def _behaviour(self) -> NatBehaviour:
        return self.nat.behaviour

    @property
    def _preserving(self) -> bool:
        return self._behaviour.ports is PortChoice.PRESERVING

    @property
    def _ages(self) -> bool:
        """Whether answered mappings live for another time than new ones."""
        return self._behaviour.timeouts[0] != self._behaviour.timeouts[1]

    @property
    def _external(self) -> str:
        return f"{{ {', '.join(map(str, self.nat.external))} }}"

    # What is remembered

    def _key(self, flow: _Flow) -> tuple[str, ...]:
        """What a mapping is for: an inside endpoint, and of the remote one what the mapping heeds."""
        heeded = {Mapping.EIM: 0, Mapping.ADM: 1, Mapping.APDM: 2}[self._behaviour.mapping]
        return (*flow.inside, *flow.remote[:heeded])

    def _permission(self, flow: _Flow) -> tuple[str, ...]:
        """What lets a packet in: an external endpoint, and of the remote one what the filtering heeds."""
        heeded = {Filtering.EIF: 0, Filtering.ADF: 1, Filtering.APDF: 2}[self._behaviour.filtering]
        return (*flow.outside, *flow.remote[:heeded])

    @property
    def _admitting(self) -> str:
        """What is asked whether a packet may enter."""
        return "owner" if self._behaviour.filtering is Filtering.EIF else "permitted"

    def _memory(self) -> Iterator[str]:
        endpoint = ("ipv4_addr", "inet_service")
        types = _Flow(endpoint, endpoint, endpoint)
        mapping, permission = _join(self._key(types)), _join(self._permission(types))
        # No size: the kernel makes room as needed, up to 65,535. Told that number, it makes it at once: 1 MB a map.
        flags = f"flags dynamic,timeout; timeout {self._behaviour.udp_timeout}s;"
        yield f"map owner {{ type {_join(endpoint)} : {_join(endpoint)}; {flags} }}"
        yield f"map mapped {{ type {mapping} : {_join(endpoint)}; {flags} }}"
        if self._admitting == "permitted":
            yield f"set permitted {{ type {permission}; {flags} }}"
        if self._ages:
            yield f"set answered {{ type {_join(endpoint)}; {flags} }}"
        if self._preserving:
            for index in range(len(self.nat.external)):
                yield f"set kept{index} {{ type {mapping} . inet_service; {flags} }}"
                yield f"set taken{index} {{ type inet_service; {flags} }}"

    def _remember(self, flow: _Flow, timeout: int) -> Iterator[str]:
        """Rules that note or prolong all that there is to know of a packet's mapping."""
        life = f"timeout {timeout}s" if self._ages else ""
        udp = "meta l4proto udp"
        yield f"{udp} {_update('owner', flow.outside, life, flow.inside)}"
        yield f"{udp} {_update('mapped', self._key(flow), life, flow.outside)}"
        if self._admitting == "permitted":
            yield f"{udp} {_update('permitted', self._permission(flow), life)}"
        if self._preserving:
            for index, address in enumerate(self.nat.external):
                here = f"{udp} {flow.outside[0]} {address}"
                yield f"{here} {_update(f'kept{index}', (*self._key(flow), flow.outside[1]), life)}"
                yield f"{here} {_update(f'taken{index}', flow.outside[1:], life)}"

    # What is done

    def _chains(self) -> Iterator[tuple[str, Sequence[str]]]:
        behaviour = self._behaviour
        yield "entrance", list(self._entrance())
        yield "input", ["type filter hook input priority filter;", *_STRANGERS]
        if not behaviour.icmp_errors:
            drop = "meta l4proto icmp ct state related drop"
            yield "errors", ["type filter hook forward priority filter;", drop]
        if not behaviour.udp:
            yield (
                "source",
                ["type nat hook postrouting priority srcnat;", f"oifname wan snat to {self.nat.external[0]}"],
            )
            return
        new, established = behaviour.timeouts
        for direction in _DIRECTIONS:
            yield f"{direction}_left", list(self._remember(_leaving(direction), new))
            if self._ages:
                flow = _leaving(direction)
                again = f"meta l4proto udp {_update('answered', flow.outside, f'timeout {established}s')}"
                yield f"{direction}_left_answered", [*self._remember(flow, established), again]
            yield f"{direction}_entered", list(self._entered(_entering(direction), established))
        yield "remember", list(self._on_leaving())
        yield "filtering", list(self._on_entering())
        yield "destination", list(self._destination())
        for index, address in enumerate(self.nat.external):
            yield f"draw{index}", list(self._draw(index, address))
        yield "outward", list(self._outward())
        yield "source", list(self._source())

    def _entrance(self) -> Iterator[str]:
        yield "type filter hook prerouting priority raw;"
        if not self._behaviour.udp:
            yield "meta l4proto udp drop"
        elif not self._behaviour.hairpin:
            yield f"iifname lan ip daddr {self._external} meta l4proto udp drop"

    def _destination(self) -> Iterator[str]:
        yield "type nat hook prerouting priority dstnat;"
        # The mark tells our own openings from UPnP's, whose packets do not come here.
        mark = "ct mark set 1 " if self._behaviour.upnp else ""
        yield f"iifname wan meta l4proto udp {mark}dnat to ip daddr . udp dport map @owner"
        if self._behaviour.hairpin:
            here = f"iifname lan ip daddr {self._external} meta l4proto udp"
            yield f"{here} {mark}dnat to ip daddr . udp dport map @owner"
            yield f"{here} dnat to {_NOWHERE}"

    def _source(self) -> Iterator[str]:
        yield "type nat hook postrouting priority srcnat;"
        yield "iifname lan oifname wan jump outward"
        if self._behaviour.hairpin:
            yield f"iifname lan oifname lan ct original ip daddr {self._external} jump outward"

    def _outward(self) -> Iterator[str]:
        if self._preserving:  # without naming the port, or an old entry of conntrack's could stand in the way
            for index, address in enumerate(self.nat.external):
                key = _join((*self._key(_FIRST), _FIRST.outside[1]))
                yield f"meta l4proto udp {key} @kept{index} snat to {address}"
        yield f"meta l4proto udp snat to {_join(self._key(_FIRST))} map @mapped"
        addresses = range(len(self.nat.external))
        if len(addresses) > 1 and self._behaviour.pooling is Pooling.PAIRED:
            paired = ((str(host), f"goto draw{number % len(addresses)}") for number, host in enumerate(self.nat.hosts))
            yield f"meta l4proto udp ip saddr vmap {_map(paired)}"
        elif len(addresses) > 1:
            any_of = ((str(index), f"goto draw{index}") for index in addresses)
            yield f"meta l4proto udp numgen inc mod {len(addresses)} vmap {_map(any_of)}"
        yield "meta l4proto udp goto draw0"
        yield f"snat to {self.nat.external[0]}"

    def _draw(self, index: int, address: IPv4Address) -> Iterator[str]:
        """A port of one external address for a new mapping."""
        if self._preserving:
            yield f"udp sport >= {FIRST_PORT} udp sport < {POOL[0]} udp sport != @taken{index} snat to {address}"
        numbered = ((str(number), str(port)) for number, port in enumerate(self._ports(index)))
        yield f"meta l4proto udp snat to {address} : numgen inc mod {self._count} map {_map(numbered)}"

    @property
    def _count(self) -> int:
        return min(PORTS, ALL_PORTS // len(self.nat.external))

    def _ports(self, index: int) -> Sequence[int]:
        if self._behaviour.ports is PortChoice.SEQUENTIAL:
            return self.nat.sequence(self._count)
        pool = POOL if self._preserving else range(FIRST_PORT, LAST_PORT + 1)
        return Random(f"{self.nat.seed}/{index}").sample(pool, self._count)  # noqa: S311 - not a secret

    def _on_leaving(self) -> Iterator[str]:
        yield "type filter hook postrouting priority 150;"
        # Two hosts may have drawn one port in the same instant: the second one's packet is lost, the next draws anew.
        new = f"iifname lan ip saddr {self._external} meta l4proto udp ct state new ct direction original"
        yield f"{new} {_join(self._key(_leaving('original')))} != @mapped ip saddr . udp sport @owner drop"
        for direction in _DIRECTIONS:
            packet = f"iifname lan ip saddr {self._external} meta l4proto udp ct direction {direction}"
            if self._ages:
                yield f"{packet} ip saddr . udp sport @answered jump {direction}_left_answered"
                yield f"{packet} ip saddr . udp sport != @answered jump {direction}_left"
            else:
                yield f"{packet} jump {direction}_left"

    def _on_entering(self) -> Iterator[str]:
        yield "type filter hook postrouting priority 160;"
        if self._behaviour.upnp:
            yield "iifname { wan, lan } oifname lan ct direction original ct status dnat ct mark 0 accept"
        for direction in _DIRECTIONS:
            packet = f"iifname {{ wan, lan }} oifname lan meta l4proto udp ct direction {direction}"
            yield f"{packet} jump {direction}_entered"
        if self._behaviour.hairpin:
            to_nobody = f"ct direction original ct original ip daddr {self._external}"
            yield f"iifname lan oifname wan {to_nobody} meta l4proto udp drop"

    def _entered(self, flow: _Flow, timeout: int) -> Iterator[str]:
        """What becomes of a packet from outside: it is dropped, or let in and perhaps noted."""
        yield f"meta l4proto udp {_join(self._permission(flow))} != @{self._admitting} drop"
        if self._ages:
            yield f"meta l4proto udp {_update('answered', flow.outside, f'timeout {timeout}s')}"
        if self._behaviour.inbound_refresh:
            yield from self._remember(flow, timeout)


_STRANGERS: Final = ("iifname wan ct state established,related accept", "iifname wan meta l4proto udp drop")
"""Strangers' packets die unconfirmed, or their conntrack entries would take ports."""


def _join(parts: Iterable[str]) -> str:
    return " . ".join(parts)


def _map(pairs: Iterable[tuple[str, str]]) -> str:
    return "{ " + ", ".join(f"{key} : {value}" for key, value in pairs) + " }"


def _update(name: str, key: Iterable[str], life: str, data: Iterable[str] = ()) -> str:
    value = _join(data)
    return f"update @{name} {{ {_join(key)}{' ' if life else ''}{life}{f' : {value}' if value else ''} }}"

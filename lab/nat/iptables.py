"""NAT behaviour as iptables rules and ipsets: text that `ipset restore` and `iptables-restore` load.

Conntrack alone is an endpoint-independent, port-restricted NAT only while local ports do not collide, and only until a
stranger's packet claims a port. So the sets say who owns an external port: the first inside host that uses a local port
gets the same port outside, later ones get a port of a pool (RFC 4787 section 4.2.2, no port overloading).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from lab.nat.kinds import Filtering, Mapping, NatBehaviour, PortChoice
from lab.plan import Firewall

POOL: Final = "61440-65535"
"""External ports of inside hosts whose local port was taken; above what Linux uses as local ports by itself."""

_CHAINS: Final = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}


class UnsupportedError(ValueError):
    """iptables cannot do what is asked of it; the message says what."""


@dataclass(slots=True)
class _Rules:
    """Sets and rules as they are collected. `chains` are a table's own, besides those that it has."""

    timeout: int
    sets: list[str] = field(default_factory=list)
    chains: dict[str, list[str]] = field(default_factory=lambda: {table: [] for table in _CHAINS})
    rules: dict[str, list[str]] = field(default_factory=lambda: {table: [] for table in _CHAINS})

    def ports(self, name: str) -> None:
        """A set of ports whose elements live as long as a mapping does."""
        self.sets.append(f"create {name} bitmap:port range 1024-65535 timeout {self.timeout}")

    def endpoints(self, name: str) -> None:
        """A set of addresses with ports whose elements live as long as a mapping does."""
        self.sets.append(f"create {name} hash:ip,port timeout {self.timeout}")

    def chain(self, table: str, name: str) -> None:
        self.chains[table].append(name)

    def add(self, table: str, *rules: str) -> None:
        self.rules[table] += rules

    def firewall(self) -> Firewall:
        lines: list[str] = []
        for table, rules in self.rules.items():
            if rules:
                lines += [f"*{table}", *(f":{name} ACCEPT [0:0]" for name in _CHAINS[table])]
                lines += [*(f":{name} - [0:0]" for name in self.chains[table])]
                lines += [*(f"-A {rule}" for rule in rules), "COMMIT"]
        return Firewall(engine="iptables", ipset=_text(self.sets), iptables=_text(lines))


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def firewall(
    behaviour: NatBehaviour, external: IPv4Address, hosts: Sequence[IPv4Address], udp_timeout: int
) -> Firewall:
    """The rules of a NAT between its interfaces `wan`, with the address `external`, and `lan`, with the inside `hosts`.

    A mapping lives for `udp_timeout` seconds without traffic. Raises UnsupportedError for a behaviour that these rules
    cannot produce exactly.
    """
    if behaviour.hairpin:
        raise UnsupportedError("iptables rules here do not hairpin")
    rules = _Rules(udp_timeout)
    _guard(rules, external)
    match behaviour:
        case NatBehaviour(Mapping.EIM, filtering, PortChoice.PRESERVING):
            _own_ports(rules, external)
            if filtering is not Filtering.APDF:
                for host in hosts:
                    _let_in(rules, external, host, filtering)
        case NatBehaviour(Mapping.APDM, Filtering.APDF, PortChoice.RANDOM):
            _map_at_random(rules, external)
        case NatBehaviour(mapping, filtering, ports):
            raise UnsupportedError(f"no iptables rules for {mapping} with {filtering} and {ports} ports")
    return rules.firewall()


def _guard(rules: _Rules, external: IPv4Address) -> None:
    """Strangers' packets die unconfirmed, or their conntrack entries would take ports; no hairpinning."""
    rules.add("raw", f"PREROUTING -i lan -d {external} -p udp -j DROP")
    rules.add(
        "filter",
        "INPUT -i wan -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "INPUT -i wan -p udp -j DROP",
    )


def _own_ports(rules: _Rules, external: IPv4Address) -> None:
    """EIM: `used` are external ports in use, `own` the inside endpoints that have theirs; mark 1: it goes to the pool.

    The sets are refreshed in mangle because the nat table sees only the first packet of a flow.
    """
    rules.ports("used")
    rules.endpoints("own")
    rules.chain("mangle", "CLAIM")
    rules.add(
        "mangle",
        "FORWARD -i lan -p udp -j CLAIM",
        "CLAIM -m set ! --match-set used src -j SET --add-set own src,src --exist",
        "CLAIM -m set --match-set own src,src -j SET --add-set own src,src --exist",
        "CLAIM -m set --match-set own src,src -j SET --add-set used src --exist",
        "CLAIM -m set ! --match-set own src,src -j MARK --set-mark 1",
        "FORWARD -i wan -o lan -p udp -m set --match-set own dst,dst -j SET --add-set own dst,dst --exist",
        "FORWARD -i wan -o lan -p udp -m set --match-set own dst,dst -j SET --add-set used dst --exist",
    )
    rules.chain("nat", "OUT")
    rules.add(
        "nat",
        "POSTROUTING -o wan -j OUT",
        f"OUT -p udp -m mark --mark 1 -j SNAT --to-source {external}:{POOL}",
        f"OUT -j SNAT --to-source {external}",
    )


def _let_in(rules: _Rules, external: IPv4Address, host: IPv4Address, filtering: Filtering) -> None:
    """EIF and ADF: let in to `host` what conntrack does not know, to any port it owns or only from whom it sent to."""
    own, seen = f"own_{host}", f"seen_{host}"
    owner = f"CLAIM -s {host} -m mark ! --mark 1 -j SET --add-set"
    rules.ports(own)
    rules.add(
        "mangle",
        f"{owner} {own} src --exist",
        f"FORWARD -i wan -o lan -d {host} -p udp -m set --match-set {own} dst -j SET --add-set {own} dst --exist",
    )
    admitted = f"{own} dst"
    if filtering is Filtering.ADF:
        rules.endpoints(seen)
        rules.add("mangle", f"{owner} {seen} dst,src --exist")
        admitted = f"{seen} src,dst"
    rules.add(
        "nat", f"PREROUTING -i wan -d {external} -p udp -m set --match-set {admitted} -j DNAT --to-destination {host}"
    )


def _map_at_random(rules: _Rules, external: IPv4Address) -> None:
    """APDM: conntrack takes a fresh random port for each flow, and admits that flow's answers only."""
    rules.add(
        "nat",
        f"POSTROUTING -o wan -p udp -j SNAT --to-source {external}:1024-65535 --random-fully",
        f"POSTROUTING -o wan -j SNAT --to-source {external}",
    )

"""NAT behaviour as iptables rules and ipsets: text that `ipset restore` and `iptables-restore` load.

Conntrack alone is an endpoint-independent, port-restricted NAT only while local ports do not collide, and only until a
stranger's packet claims a port. So the sets say who owns an external port: the first inside host that uses a local port
gets the same port outside, later ones get a port of a pool (RFC 4787 section 4.2.2, no port overloading).

Conntrack keeps a flow when packets come in, so these NATs have inbound refresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from lab.nat.kinds import Collision, Engine, Filtering, Mapping, NatBehaviour, Pooling, PortChoice
from lab.nat.setup import POOL, NatSetup, UnsupportedError
from lab.plan import Firewall, udp_timeouts

SEQUENCE: Final = 512
"""Sequential ports before they begin anew; more than the flows of one lifetime, or a flow might meet another's port.

Twice as many rules are too long a message to the kernel for an ordinary user, whose buffer has 208 KiB.
"""

_POOL: Final = f"{POOL[0]}-{POOL[-1]}"

_CHAINS: Final = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}


def objection(behaviour: NatBehaviour, hosts: int) -> str | None:
    """Why iptables cannot do this exactly for so many inside hosts; None if it can."""
    if not behaviour.udp:
        return None
    mapping, filtering, ports = behaviour.mapping, behaviour.filtering, behaviour.ports
    if behaviour.hairpin:
        return "it would let hairpinned packets pass unfiltered"
    if mapping is Mapping.ADM:
        return "conntrack maps for all remote endpoints alike or for each by itself, not by address (ADM)"
    if mapping is Mapping.APDM and filtering is not Filtering.APDF:
        return f"conntrack filters a symmetric NAT's flows by address and port, not by {filtering}"
    overloads = behaviour.collision is Collision.OVERLOAD and ports is PortChoice.PRESERVING
    if overloads and behaviour.point != "EIM+APDF":
        return f"who shares a port cannot be told apart by {behaviour.point}"
    if mapping is Mapping.EIM and ports is not PortChoice.PRESERVING:
        return f"conntrack would draw a {ports} port for each flow, not one for each inside endpoint (EIM)"
    if mapping is Mapping.EIM and filtering is not Filtering.APDF and hosts > 1:
        return f"of inside hosts with one local port only the first would get {filtering}, since DNAT finds no other"
    if behaviour.addresses > 1 and (ports is not PortChoice.RANDOM or behaviour.pooling is not Pooling.ARBITRARY):
        return "its sets know the ports of one external address only"
    if not behaviour.inbound_refresh:
        return "packets from outside always prolong a flow of conntrack's"
    if behaviour.timeouts[0] != behaviour.timeouts[1] and _has_sets(behaviour):
        return "its sets have one timeout for new and for established mappings"
    return None


def _has_sets(behaviour: NatBehaviour) -> bool:
    return behaviour.ports is PortChoice.PRESERVING and behaviour.collision is not Collision.OVERLOAD


def firewall(nat: NatSetup) -> Firewall:
    """The rules of a NAT. Raises UnsupportedError for a behaviour that these rules cannot produce exactly."""
    behaviour = nat.behaviour
    why = objection(behaviour, len(nat.hosts))
    if why is not None:
        raise UnsupportedError(f"iptables cannot do {behaviour.point} exactly: {why}")
    rules = _Rules(behaviour)
    _guard(rules, nat)
    match behaviour.mapping, behaviour.ports:
        case Mapping.EIM, _ if behaviour.collision is Collision.OVERLOAD:
            pass  # conntrack as it is: whoever wants a port that is taken shares it, as long as their peers differ
        case Mapping.EIM, _:
            _own_ports(rules, nat)
            if behaviour.filtering is not Filtering.APDF:
                _let_in(rules, nat)
        case _, PortChoice.PRESERVING:
            _preserve_first(rules, nat)
        case _, PortChoice.SEQUENTIAL:
            _count(rules, nat)
        case _:
            _map_at_random(rules, nat)
    rules.add("nat", f"POSTROUTING -o wan -j SNAT --to-source {nat.external[0]}")
    return rules.firewall()


@dataclass(slots=True)
class _Rules:
    """Sets and rules as they are collected. `chains` are a table's own, besides those that it has."""

    behaviour: NatBehaviour
    sets: list[str] = field(default_factory=list)
    chains: dict[str, list[str]] = field(default_factory=lambda: {table: [] for table in _CHAINS})
    rules: dict[str, list[str]] = field(default_factory=lambda: {table: [] for table in _CHAINS})

    def ports(self, name: str) -> None:
        """A set of ports whose elements live as long as a mapping does."""
        self.sets.append(f"create {name} bitmap:port range 1024-65535 timeout {self.behaviour.udp_timeout}")

    def endpoints(self, name: str) -> None:
        """A set of addresses with ports whose elements live as long as a mapping does."""
        self.sets.append(f"create {name} hash:ip,port timeout {self.behaviour.udp_timeout}")

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
        return Firewall(
            engine=Engine.IPTABLES,
            ipset=_text(self.sets),
            iptables=_text(lines),
            sysctls=udp_timeouts(*self.behaviour.timeouts),
        )


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _guard(rules: _Rules, nat: NatSetup) -> None:
    """Strangers' packets die unconfirmed, or their conntrack entries would take ports; no hairpinning."""
    if not nat.behaviour.udp:
        rules.add("raw", "PREROUTING -p udp -j DROP")
    rules.add("raw", *(f"PREROUTING -i lan -d {address} -p udp -j DROP" for address in nat.external))
    rules.add(
        "filter",
        "INPUT -i wan -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "INPUT -i wan -p udp -j DROP",
    )
    if not nat.behaviour.icmp_errors:
        rules.add("filter", "FORWARD -p icmp -m conntrack --ctstate RELATED -j DROP")


def _own_ports(rules: _Rules, nat: NatSetup) -> None:
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
    rules.add("nat", f"POSTROUTING -o wan -p udp -m mark --mark 1 -j SNAT --to-source {nat.external[0]}:{_POOL}")


def _let_in(rules: _Rules, nat: NatSetup) -> None:
    """EIF and ADF: let in to the inside host what conntrack does not know, from anybody or from whom it sent to."""
    admitted = "used dst"
    if nat.behaviour.filtering is Filtering.ADF:
        rules.endpoints("seen")
        rules.add(
            "mangle",
            "CLAIM -j SET --add-set seen dst,src --exist",
            "FORWARD -i wan -o lan -p udp -m set --match-set seen src,dst -j SET --add-set seen src,dst --exist",
        )
        admitted = "seen src,dst"
    rules.add(
        "nat",
        *(
            f"PREROUTING -i wan -d {nat.external[0]} -p udp -m set --match-set {admitted}"
            f" -j DNAT --to-destination {host}"
            for host in nat.hosts
        ),
    )


def _preserve_first(rules: _Rules, nat: NatSetup) -> None:
    """APDM: the first flow of a local port keeps it, as long as no other has it; the others get ports of the pool."""
    rules.ports("used")
    rules.add(
        "mangle",
        "FORWARD -i lan -o wan -p udp -m conntrack --ctstate ESTABLISHED -m set --match-set used src"
        " -j SET --add-set used src --exist",
        "FORWARD -i wan -o lan -p udp -m set --match-set used dst -j SET --add-set used dst --exist",
    )
    rules.chain("nat", "FRESH")
    rules.add(
        "nat",
        "POSTROUTING -o wan -p udp -m set ! --match-set used src -j FRESH",
        f"POSTROUTING -o wan -p udp -j SNAT --to-source {nat.external[0]}:{_POOL} --random-fully",
        "FRESH -j SET --add-set used src --exist",
        f"FRESH -j SNAT --to-source {nat.external[0]}",
    )


def _count(rules: _Rules, nat: NatSetup) -> None:
    """APDM: each new flow gets the next port."""
    rules.chain("nat", "NEXT")
    rules.add("nat", "POSTROUTING -o wan -p udp -j NEXT")
    for index, port in enumerate(nat.sequence(SEQUENCE)):
        rules.add("nat", f"NEXT -p udp{_turn(index, SEQUENCE)} -j SNAT --to-source {nat.external[0]}:{port}")


def _map_at_random(rules: _Rules, nat: NatSetup) -> None:
    """APDM: conntrack takes a fresh random port for each flow, of the external addresses in turn."""
    for index, address in enumerate(nat.external):
        turn = _turn(index, len(nat.external))
        rules.add("nat", f"POSTROUTING -o wan -p udp{turn} -j SNAT --to-source {address}:1024-65535 --random-fully")


def _turn(index: int, count: int) -> str:
    """A match that lets every flow of `count` pass, given that those before it have taken theirs."""
    return f" -m statistic --mode nth --every {count - index} --packet 0" if index < count - 1 else ""

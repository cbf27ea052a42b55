"""The Teredo client (RFC 4380 section 5.2, RFC 5991): qualification, data path, bubbles, maintenance.

    initial -> starting (primary server) -> starting (secondary server) -> qualified
                        |                            |                      |   ^
                        +---- no answer, or the mappings differ ----+       +---+ refresh; a new mapping,
                                                                    v              a new address
                                                                off-line -> (later) starting

`dormant` is where a client rests while the node has IPv6 connectivity of its own (RFC 4380 section 5.5).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any, Final

from lab.teredo.address import (
    PORT,
    Endpoint,
    Forbidden,
    TeredoAddress,
    is_global,
    is_global_unicast,
    is_link_local,
    is_teredo,
    link_local,
    parse,
    random_flags,
    text,
)
from lab.teredo.machine import Configure
from lab.teredo.packet import (
    MAX_DATAGRAM,
    MTU,
    NO_ROUTE,
    ROUTER_ADVERTISEMENT,
    ROUTER_SOLICITATION,
    Packet,
    bubble,
    echo_reply_data,
    echo_request,
)
from lab.teredo.peers import Peer
from lab.teredo.solicitation import SOLICITATION_TIMEOUT, Solicitation
from lab.teredo.tunnel import MAX_PEERS, Tunnel, is_whole_ipv6

REFRESH_INTERVAL: Final = 30.0
REFRESH_RANDOM: Final = (0.75, 1.0)
"""The randomized refresh interval is 75 to 100 % of the refresh interval (RFC 4380 section 5.2)."""

RESTART_DELAY: Final = 30.0
RESTART_DELAY_MAX: Final = 300.0

NONCE_BYTES: Final = 16


class State(StrEnum):
    INITIAL = "initial"
    PRIMARY = "starting (primary server)"
    SECONDARY = "starting (secondary server)"
    QUALIFIED = "qualified"
    OFFLINE = "off-line"
    DORMANT = "dormant"


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What a client is told: the server's two IPv4 addresses, and secrets where the server asks for them.

    Raises ValueError for an impossible value. `refresh_interval` is in seconds.
    """

    server: str
    secondary: str
    refresh_interval: float = REFRESH_INTERVAL
    client_id: bytes = b""
    secret: bytes | None = None
    max_peers: int = MAX_PEERS

    def __post_init__(self) -> None:
        for host in (self.server, self.secondary):
            if not is_global_unicast(host):
                raise ValueError(f"server address {host} is not a global unicast IPv4 address")
        if self.server == self.secondary:
            raise ValueError("primary and secondary server address must differ")
        if not self.refresh_interval > 0:
            raise ValueError("refresh interval must be positive")
        if len(self.client_id) > 255:
            raise ValueError("client identifier is longer than 255 bytes")
        if self.client_id and self.secret is None:
            raise ValueError("a client identifier needs a secret")


class Client(Tunnel):
    """The state machine. Drive it with `start`, `datagram`, `packet`, `tick`, `stop`; take `actions` out."""

    def __init__(self, config: ClientConfig, rng: Random, forbidden: Forbidden | None = None) -> None:
        super().__init__(rng, forbidden or Forbidden(), config.max_peers)
        self.config = config
        self.state = State.INITIAL
        self.reason: str | None = None
        self.address: TeredoAddress | None = None
        self.mtu = MTU
        self.symmetric: bool | None = None
        self._own = b""
        self._mapped: Endpoint | None = None
        self._candidate: Endpoint | None = None
        self._solicitation = Solicitation(config.server, config.client_id, config.secret, rng, self._forbidden)
        self._last_server = float("-inf")
        self._interval = config.refresh_interval
        self._restart_delay = RESTART_DELAY
        self._servers = (Endpoint(config.server, PORT), Endpoint(config.secondary, PORT))
        self._router = link_local(self._servers[0], cone=True)

    # Driving it

    def start(self, now: float) -> None:
        """Begin qualification (RFC 4380 section 5.2.1, with the first phase skipped as RFC 5991 section 3.2 says)."""
        if self.state in (State.INITIAL, State.OFFLINE):
            self._begin(State.PRIMARY, now)

    def stop(self, now: float) -> None:
        """Give the address up and fall silent."""
        self._timers.clear()
        self._solicitation.end()
        self._restart_delay = RESTART_DELAY
        self.forget_peers(now)
        self._retire()
        self._enter(State.INITIAL, None)

    def native_ipv6(self, present: bool, now: float) -> None:
        """The node has gained or lost IPv6 connectivity other than Teredo's (RFC 4380 section 5.5)."""
        if present and self.state is not State.DORMANT:
            self.stop(now)
            self._enter(State.DORMANT, "the node has IPv6 connectivity of its own")
        elif not present and self.state is State.DORMANT:
            self._begin(State.PRIMARY, now)

    def refresh(self, now: float) -> None:
        """Solicit the server now rather than when the refresh is due (RFC 6081 section 5.1.1 allows it)."""
        if self.state is State.QUALIFIED and "solicit" not in self._timers:
            self._ask(self._servers[0], now)

    # Qualification and maintenance

    def _enter(self, state: State, reason: str | None) -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self._report("state", state=str(state), reason=reason, address=self.address and str(self.address))

    def _begin(self, state: State, now: float) -> None:
        self._enter(state, None)
        self._timers.cancel("restart")
        self._ask(self._servers[0] if state is State.PRIMARY else self._servers[1], now)

    def _ask(self, server: Endpoint, now: float) -> None:
        self._solicitation.begin(server)
        self._solicit(now)

    def _solicit(self, now: float) -> None:
        """Send the next solicitation, or give the server up."""
        server, data = self._solicitation.asked, self._solicitation.datagram()
        assert server is not None
        if data is None:
            refused = self._solicitation.refused
            answer = "no answer" if refused is None else f"no valid answer ({refused})"
            self._go_offline(f"{answer} from server {server.host}", now)
        else:
            self.counters["solicitations"] += 1
            self._send(data, server)
            self._timers.set("solicit", now + SOLICITATION_TIMEOUT)

    def _timer(self, key: Hashable, now: float) -> None:
        if key == "solicit":
            self._solicit(now)
        elif key == "refresh":
            due = self._last_server + self._interval
            if due > now:
                self._timers.set("refresh", due)
            else:
                self._ask(self._servers[0], now)
        elif key == "restart":
            self._begin(State.PRIMARY, now)
        else:
            super()._timer(key, now)

    def _go_offline(self, reason: str, now: float) -> None:
        for key in ("solicit", "refresh"):
            self._timers.cancel(key)
        self._solicitation.end()
        self.forget_peers(now)
        self._retire()
        self._enter(State.OFFLINE, reason)
        self._timers.set("restart", now + self._restart_delay)
        self._restart_delay = min(2 * self._restart_delay, RESTART_DELAY_MAX)

    def _advertised(self, packet: Packet, source: Endpoint, now: float) -> None:
        """A router advertisement: judge it, then do what the state asks for."""
        answer = self._solicitation.answer(packet, source)
        if answer is None:
            self._drop(f"advertisement: {self._solicitation.refused}", source=str(source))
            return
        mapped, facts = answer
        self._last_server = now
        self._solicitation.end()
        self._timers.cancel("solicit")
        if self.state is State.PRIMARY:
            self._candidate = mapped
            self.mtu = facts.mtu if facts.mtu is not None and MTU <= facts.mtu <= MAX_DATAGRAM else MTU
            self._begin(State.SECONDARY, now)
        elif self.state is State.SECONDARY:
            self.symmetric = mapped != self._candidate
            if self.symmetric:
                self._go_offline(
                    f"symmetric NAT: mapped to {self._candidate} for the primary server"
                    f" and to {mapped} for the secondary",
                    now,
                )
            else:
                self._qualify(mapped, now)
        else:
            self._qualify(mapped, now)

    def _qualify(self, mapped: Endpoint, now: float) -> None:
        """The mapping is known and good: have the address that carries it, and refresh it in time."""
        low, high = REFRESH_RANDOM
        self._interval = self.config.refresh_interval * self._rng.uniform(low, high)
        self._timers.set("refresh", now + self._interval)
        self._restart_delay = RESTART_DELAY
        if self.address is None or self.address.mapped != mapped:
            old, self._mapped = self.address, mapped
            self.forget_peers(now)
            self.address = TeredoAddress(self.config.server, random_flags(self._rng), mapped)
            self._own = self.address.packed
            self._actions.append(Configure(self._own, self.mtu))
            if old is not None:
                self._report("mapping changed", old=str(old), new=str(self.address), mapped=str(mapped))
        else:
            self._report("mapping verified", mapped=str(mapped), next_refresh=round(self._interval, 3))
        self._enter(State.QUALIFIED, None)

    def _retire(self) -> None:
        self._mapped = None
        if self.address is not None:
            self.address, self._own = None, b""
            self._actions.append(Configure(None, self.mtu))

    # Receiving (RFC 4380 section 5.2.3)

    def datagram(self, data: bytes, source: Endpoint, now: float) -> None:
        """A UDP payload has arrived on the service port."""
        packet = self._decode(data)
        if packet is None:
            return
        if packet.icmp_type in (ROUTER_ADVERTISEMENT, ROUTER_SOLICITATION):
            if packet.icmp_type == ROUTER_ADVERTISEMENT:
                self._advertised(packet, source, now)
            else:
                self._drop("solicitation", source=str(source))
        elif self.state is not State.QUALIFIED:
            self._drop("not qualified", source=str(source))
        elif packet.destination != self._own:
            self._drop("not our address", source=str(source), destination=text(packet.destination))
        elif packet.source == self._own:
            self._drop("our own address as source", source=str(source))
        elif source in self._servers:
            self._last_server = now
            self._from_server(packet, source, now)
        else:
            self._from_peer(packet, source, now)

    def _from_server(self, packet: Packet, source: Endpoint, now: float) -> None:
        """Indirect bubbles are answered directly; anything else with an origin starts the connectivity test."""
        if packet.origin is None:  # the server is a relay too (RFC 4380 section 5.4.3)
            self._from_peer(packet, source, now)
        elif packet.is_bubble:
            self.counters["indirect bubbles received"] += 1
            if is_global(packet.source) or is_link_local(packet.source):
                self._answer(packet.source, packet.origin, now)
            else:
                self._drop("source is not unicast")
        elif is_global(packet.source) and not is_teredo(packet.source):
            self._test(packet, packet.origin, now)
        else:
            self._drop("not a bubble from the server")

    def _answer(self, to: bytes, origin: Endpoint, now: float) -> None:
        """Answer an indirect bubble: a direct bubble to where it came from opens our NAT for the peer."""
        peer = self._peer(to, now)
        if origin in self._forbidden:
            self._drop("origin is not global", origin=str(origin))
        elif not peer.answers.take(now):
            self._drop("too many bubbles", peer=text(to))
        else:
            self.counters["bubbles answered"] += 1
            peer.last_sent = now
            self._send(bubble(self._own, to), origin)

    def _from_peer(self, packet: Packet, source: Endpoint, now: float) -> None:
        if not is_global(packet.source):
            self._drop("source is not global", source=str(source))
            return
        peer = self._peers.get(packet.source)
        if peer is not None:
            if peer.nonce is not None and source not in self._forbidden and echo_reply_data(packet) == peer.nonce:
                self._trust(peer, source, now)
                return
            if peer.trusted and peer.mapping == source:
                if peer.address in self._timers:  # it had become too old to send to, and has now answered
                    self._trust(peer, source, now)
                peer.last_received = now
                self._accept(packet)
                return
        teredo = parse(packet.source)
        if teredo is None:
            self._test(packet, source, now)
        elif teredo.mapped == source and source not in self._forbidden:
            self._trust(self._peer(packet.source, now), source, now)
            self._accept(packet)
        else:
            self._drop("source does not match its mapping", source=str(source), peer=text(packet.source))

    def _accept(self, packet: Packet) -> None:
        if packet.is_bubble:
            self.counters["direct bubbles received"] += 1
        else:
            self._deliver(packet.ipv6)

    def _test(self, packet: Packet, source: Endpoint, now: float) -> None:
        """A native host we do not know: hold its packet until an echo through our server has proven the path."""
        peer = self._peer(packet.source, now)
        if source in self._forbidden:
            self._drop("endpoint is not global", source=str(source))
        elif packet.is_bubble:
            self._drop("bubble of a native host", source=str(source))
        elif not peer.hold_inbound(source, packet.ipv6):
            self._drop("queue full", peer=text(packet.source))
        else:
            self._reach(peer, now)

    # Sending (RFC 4380 section 5.2.4)

    def packet(self, ipv6: bytes, now: float) -> None:
        """The host sends an IPv6 packet through the Teredo interface."""
        if not is_whole_ipv6(ipv6):
            self._drop("not an IPv6 packet from the host")
            return
        destination = ipv6[24:40]
        if self.state is not State.QUALIFIED:
            self._refuse(self._router, ipv6, NO_ROUTE)
            return
        if ipv6[8:24] != self._own:
            self._drop("foreign source address from the host")
            return
        peer = self._peers.get(destination)
        if peer is not None and peer.usable(now):
            assert peer.mapping is not None
            self._transmit(peer, ipv6, peer.mapping, now)
        elif not is_global(destination):
            self._drop("destination is not global")
        elif self._may_reach(destination):
            self._queue(peer or self._peer(destination, now), ipv6, now)
        else:
            self._drop("forbidden IPv4 destination", destination=text(destination))

    def _may_reach(self, destination: bytes) -> bool:
        teredo = parse(destination)
        return teredo is None or (
            teredo.mapped not in self._forbidden and Endpoint(teredo.server, PORT) not in self._forbidden
        )

    def _attempt(self, peer: Peer, now: float) -> None:
        teredo = parse(peer.address)
        if teredo is None:  # direct IPv6 connectivity test, RFC 4380 section 5.2.9
            if peer.nonce is None:
                peer.nonce = self._rng.randbytes(NONCE_BYTES)
            self.counters["connectivity tests"] += 1
            self._send(echo_request(self._own, peer.address, peer.nonce), self._servers[0])
        else:
            self.counters["bubbles sent"] += 1
            self._send(bubble(self._own, peer.address), teredo.mapped)
            self._send(bubble(self._own, peer.address), Endpoint(teredo.server, PORT))

    def _error_source(self) -> bytes:
        return self._router

    def _given_up(self, peer: Peer) -> None:
        self._peers.distrust(peer)  # the entry stays: it remembers how many bubbles were sent

    # Telling

    def snapshot(self, now: float) -> dict[str, Any]:
        """The client's state as JSON-able facts; times in seconds."""
        nat = {None: "unknown", True: "symmetric", False: "cone or restricted"}[self.symmetric]
        return {
            "type": "client",
            "state": str(self.state),
            "error": self.reason,
            "server": self.config.server,
            "secondary_server": self.config.secondary,
            "refresh_interval": self.config.refresh_interval,
            "randomized_refresh_interval": round(self._interval, 3),
            "next_refresh": None if self._last_server < 0 else round(self._last_server + self._interval - now, 3),
            "nat": nat,
            "external_mapping": self._mapped and str(self._mapped),
            "address": self.address and str(self.address),
            "mtu": self.mtu,
            "secure": self.config.secret is not None,
            "peers": self.peer_table(now),
            "counters": dict(sorted(self.counters.items())),
        }

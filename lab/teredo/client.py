"""The Teredo client (RFC 4380 section 5.2, RFC 5991, RFC 6081): its qualification and maintenance.

    initial -> starting (UPnP) -> starting (primary server) -> starting (secondary server) -> qualified
                                           |                            |                      |   ^
                                           +---- no answer; without Symmetric NAT Support,     +---+ refresh; a new
                                                 or the mappings differ -+                           mapping, a new
                                                                         v                           address
                                                                off-line -> (later) starting

`dormant` is where a client rests while the node has IPv6 connectivity of its own (RFC 4380 section 5.5).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from random import Random
from typing import Any, Final

from lab.teredo.address import PORT, Endpoint, Forbidden, TeredoAddress, is_global_unicast, random_flags, text
from lab.teredo.bubbles import NatFacts
from lab.teredo.extensions import ALL, Extension, lacking
from lab.teredo.interval import REFRESH_INTERVAL, IntervalDetermination
from lab.teredo.machine import Configure, MapPort, UnmapPort
from lab.teredo.packet import MAX_DATAGRAM, MTU, ROUTER_ADVERTISEMENT, ROUTER_SOLICITATION, Packet
from lab.teredo.solicitation import SOLICITATION_TIMEOUT, Solicitation
from lab.teredo.traffic import Traffic
from lab.teredo.trailers import NO_TRAILERS, parse_trailers
from lab.teredo.tunnel import MAX_PEERS

REFRESH_RANDOM: Final = (0.75, 1.0)
"""The randomized refresh interval is 75 to 100 % of the refresh interval (RFC 4380 section 5.2)."""

RESTART_DELAY: Final = 30.0
RESTART_DELAY_MAX: Final = 300.0

UPNP_TIMEOUT: Final = 20.0
"""Seconds to wait for what UPnP has to say; whoever asks gives up earlier."""


class State(StrEnum):
    INITIAL = "initial"
    UPNP = "starting (UPnP)"
    PRIMARY = "starting (primary server)"
    SECONDARY = "starting (secondary server)"
    QUALIFIED = "qualified"
    OFFLINE = "off-line"
    DORMANT = "dormant"


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What a client is told: the server's two IPv4 addresses, and secrets where the server asks for them.

    Raises ValueError for an impossible value. `refresh_interval` is in seconds; with `determine_interval` the client
    finds out how long it may be. `local_discovery` is off unless asked for: who trusts neighbours less than a detour
    does without (RFC 4380 section 7.3.4).
    """

    server: str
    secondary: str
    refresh_interval: float = REFRESH_INTERVAL
    client_id: bytes = b""
    secret: bytes | None = None
    max_peers: int = MAX_PEERS
    extensions: frozenset[Extension] = ALL
    determine_interval: bool = False
    local_discovery: bool = False

    def __post_init__(self) -> None:
        for host in (self.server, self.secondary):
            if not is_global_unicast(host):
                raise ValueError(f"server address {host} is not a global unicast IPv4 address")
        if self.server == self.secondary:
            raise ValueError("primary and secondary server address must differ")
        if not self.refresh_interval > 0:
            raise ValueError("refresh interval must be positive")
        if self.determine_interval and self.refresh_interval != REFRESH_INTERVAL:
            raise ValueError("the refresh interval is either configured or determined")
        if len(self.client_id) > 255:
            raise ValueError("client identifier is longer than 255 bytes")
        if self.client_id and self.secret is None:
            raise ValueError("a client identifier needs a secret")
        fault = lacking(self.extensions)
        if fault is not None:
            raise ValueError(f"the extension {fault[0]} needs {fault[1]}")


class Client(Traffic):
    """The state machine. Drive it with `start`, `datagram`, `packet`, `tick`, `stop`; take `actions` out.

    Tell it its end of the service port, `nat.local`, before it starts; without it there is neither UPnP nor are ports
    known to be preserved. Tell it the `subnet` of that, or nobody is discovered in it.
    """

    def __init__(self, config: ClientConfig, rng: Random, forbidden: Forbidden | None = None) -> None:
        forbidden = forbidden or Forbidden()
        servers = Endpoint(config.server, PORT), Endpoint(config.secondary, PORT)
        asking = partial(Solicitation, config.server, config.client_id, config.secret, rng, forbidden)
        super().__init__(rng, forbidden, config.max_peers, config.extensions, servers, asking())
        self.config = config
        self.state = State.INITIAL
        self.reason: str | None = None
        self.address: TeredoAddress | None = None
        self.mtu = MTU
        self._mapped: Endpoint | None = None
        self._candidate: Endpoint | None = None
        self._last_server = float("-inf")
        self._interval = config.refresh_interval
        self._restart_delay = RESTART_DELAY
        self._determination = IntervalDetermination(
            config.refresh_interval,
            wanted=config.determine_interval,
            symmetric=self._has(Extension.SYMMETRIC),
            servers=servers,
            solicitation=asking(),
            rng=rng,
        )

    # Driving it

    def start(self, now: float) -> None:
        """Begin qualification (RFC 4380 section 5.2.1, with the first phase skipped as RFC 5991 section 3.2 says)."""
        if self.state in (State.INITIAL, State.OFFLINE):
            self._prepare(now)

    def stop(self, now: float) -> None:
        """Give the address up and fall silent."""
        self._timers.clear()
        self._solicitation.end()
        self._restart_delay = RESTART_DELAY
        self.forget_peers(now)
        self._retire(now)
        if self.nat.upnp:
            self._actions.append(UnmapPort())
        self.nat = NatFacts(self.nat.local)
        self._enter(State.INITIAL, None)

    def native_ipv6(self, present: bool, now: float) -> None:
        """The node has gained or lost IPv6 connectivity other than Teredo's (RFC 4380 section 5.5)."""
        if present and self.state is not State.DORMANT:
            self.stop(now)
            self._enter(State.DORMANT, "the node has IPv6 connectivity of its own")
        elif not present and self.state is State.DORMANT:
            self._prepare(now)

    def refresh(self, now: float) -> None:
        """Solicit the server now rather than when the refresh is due (RFC 6081 section 5.1.1 allows it)."""
        if self.state is State.QUALIFIED and "solicit" not in self._timers:
            self._ask(self._servers[0], now)

    # Qualification and maintenance

    def _enter(self, state: State, reason: str | None) -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self._report("state", state=str(state), reason=reason, address=self.address and str(self.address))

    def _prepare(self, now: float) -> None:
        """Have the NAT open the service port before the server sees it (RFC 6081 sections 5.3.3 and 5.6.3)."""
        local = self.nat.local
        self.nat = NatFacts(local)
        wanted = self._has(Extension.UPNP) or self._has(Extension.HAIRPINNING)
        if wanted and local is not None and local in self._forbidden:  # with an address of its own there is no NAT
            self._enter(State.UPNP, None)
            self._timers.set("upnp", now + UPNP_TIMEOUT)
            self._actions.append(MapPort())
        else:
            self._begin(State.PRIMARY, now)

    def port_mapped(self, external: Endpoint | None, now: float) -> None:
        """The answer to `MapPort`: the endpoint that the NAT has opened, or None."""
        if self.state is State.UPNP:
            self.nat.upnp, self.nat.upnp_mapped = external is not None, external
            self._timers.cancel("upnp")
            self._begin(State.PRIMARY, now)
        elif external is not None:
            self._actions.append(UnmapPort())  # it comes too late

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
            self._prepare(now)
        elif key == "upnp":
            self._begin(State.PRIMARY, now)
        elif key == "interval":
            self._determine(self._determination.tick, now)
        else:
            super()._timer(key, now)

    def _determine(self, step: Callable[[float], None], now: float) -> None:
        """Let the interval determination take a step, and do what it asks for."""
        step(now)
        self._actions += self._determination.actions()
        at = self._determination.next_timer
        if at is None:
            self._timers.cancel("interval")
        else:
            self._timers.set("interval", at)

    def port_refused(self, port: int, now: float) -> None:
        """A port that was to be opened could not be had: go on without."""
        if port == self._determination.port:
            self._determine(self._determination.refused, now)
        else:
            super().port_refused(port, now)

    def _go_offline(self, reason: str, now: float) -> None:
        for key in ("solicit", "refresh"):
            self._timers.cancel(key)
        self._solicitation.end()
        self.forget_peers(now)
        self._retire(now)
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
        if source == self._servers[0]:
            self.nat.port_preserving = self.nat.local is not None and mapped.port == self.nat.local.port
        if self.state is State.PRIMARY:
            self._candidate = mapped
            self.mtu = facts.mtu if facts.mtu is not None and MTU <= facts.mtu <= MAX_DATAGRAM else MTU
            self._begin(State.SECONDARY, now)
        elif source == self._servers[1]:
            self._compare(mapped, now)
        else:
            changed = self.address is not None and self.address.mapped != mapped
            self._qualify(mapped, now)
            if changed and self._has(Extension.SYMMETRIC):  # it may be another NAT now
                self._candidate = mapped
                self._ask(self._servers[1], now)

    def _compare(self, mapped: Endpoint, now: float) -> None:
        """The secondary server has answered as well: where it sees us tells a symmetric NAT from others."""
        assert self._candidate is not None
        self.nat.symmetric = mapped != self._candidate
        if self.nat.symmetric and not self._has(Extension.SYMMETRIC):
            self._go_offline(
                f"symmetric NAT: mapped to {self._candidate} for the primary server and to {mapped} for the secondary",
                now,
            )
            return
        if self.nat.upnp_mapped == self._candidate:  # a single NAT (RFC 6081 section 5.3.3)
            self.nat.upnp_mapped = None
        self._qualify(self._candidate, now)

    def _qualify(self, mapped: Endpoint, now: float) -> None:
        """The mapping is known and good: have the address that carries it, and refresh it in time."""
        low, high = REFRESH_RANDOM
        self._interval = self._determination.seconds * self._rng.uniform(low, high)
        self._timers.set("refresh", now + self._interval)
        self._restart_delay = RESTART_DELAY
        if self.address is None or self.address.mapped != mapped:
            old, self._mapped = self.address, mapped
            self.forget_peers(now)
            self.address = TeredoAddress(self.config.server, random_flags(self._rng), mapped)
            self._own = self.address.packed
            self._actions.append(Configure(self._own, self.mtu))
            port = 0 if self.nat.local is None else self.nat.local.port
            self._determine(partial(self._determination.begin, self._own, port), now)
            if self.config.local_discovery:
                self._begin_discovery(now)
            if old is not None:
                self._report("mapping changed", old=str(old), new=str(self.address), mapped=str(mapped))
        else:
            self._report("mapping verified", mapped=str(mapped), next_refresh=round(self._interval, 3))
        self._enter(State.QUALIFIED, None)

    def _retire(self, now: float) -> None:
        self._mapped = None
        self._end_discovery()
        self._determine(self._determination.stop, now)
        if self.address is not None:
            self.address, self._own = None, b""
            self._actions.append(Configure(None, self.mtu))

    # Receiving (RFC 4380 section 5.2.3)

    def datagram(self, data: bytes, source: Endpoint, now: float, port: int = 0) -> None:
        """A UDP payload has arrived: on the service port, or on another one that is open, `port`."""
        if port and port == self._determination.port:
            self._determine(partial(self._determination.datagram, data, source), now)
            return
        packet = self._decode(data)
        if packet is None:
            return
        if packet.icmp_type in (ROUTER_ADVERTISEMENT, ROUTER_SOLICITATION):
            if packet.icmp_type == ROUTER_SOLICITATION:
                self._drop("solicitation", source=str(source))
            elif port:
                self._echo_received(packet, source, port, now)
            else:
                self._advertised(packet, source, now)
            return
        trailers = parse_trailers(packet.trailers) if packet.trailers else NO_TRAILERS
        if trailers.discard:
            self._drop("unknown trailer", source=str(source))
        elif self.state is not State.QUALIFIED:
            self._drop("not qualified", source=str(source))
        elif packet.destination != self._own:
            self._drop("not our address", source=str(source), destination=text(packet.destination))
        elif packet.source == self._own:
            self._drop("our own address as source", source=str(source))
        elif source not in self._servers:
            self._from_peer(packet, trailers, source, port, now)
        elif port:
            self._drop("from the server on a random port", source=str(source))
        else:
            self._last_server = now
            self._from_server(packet, trailers, source, now)

    # Telling

    def snapshot(self, now: float) -> dict[str, Any]:
        """The client's state as JSON-able facts; times in seconds."""
        nat = {None: "unknown", True: "symmetric", False: "cone or restricted"}[self.nat.symmetric]
        return {
            "type": "client",
            "state": str(self.state),
            "error": self.reason,
            "server": self.config.server,
            "secondary_server": self.config.secondary,
            "refresh_interval": self._determination.seconds,
            "randomized_refresh_interval": round(self._interval, 3),
            "next_refresh": None if self._last_server < 0 else round(self._last_server + self._interval - now, 3),
            "nat": nat,
            "nat_behaviour": f"UPnP: {_yes(self.nat.upnp)}, port-preserving: {_yes(self.nat.port_preserving)}",
            "upnp_mapping": self.nat.upnp_mapped and str(self.nat.upnp_mapped),
            "extensions": sorted(self.config.extensions),
            "external_mapping": self._mapped and str(self._mapped),
            "address": self.address and str(self.address),
            "local_discovery": self.config.local_discovery,
            "mtu": self.mtu,
            "secure": self.config.secret is not None,
            "peers": self.peer_table(now),
            "counters": dict(sorted((self.counters + self._determination.counters).items())),
        }


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"

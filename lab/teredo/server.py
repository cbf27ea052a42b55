"""The Teredo server (RFC 4380 section 5.3): stateless, with two IPv4 addresses.

It answers router solicitations with what it saw of the client's mapping, and forwards bubbles and ICMPv6. Nothing of a
client is remembered, so its memory does not grow with their number. A server may be a relay as well (section 5.4.3).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from lab.teredo import auth
from lab.teredo.address import (
    PORT,
    PREFIX,
    Endpoint,
    Forbidden,
    cone_bit,
    host_bytes,
    is_global,
    is_global_unicast,
    is_teredo,
    link_local,
    parse,
    text,
)
from lab.teredo.machine import Configure, Machine
from lab.teredo.packet import (
    ECHO_REQUEST,
    MTU,
    Authentication,
    Packet,
    echo_reply,
    icmpv6_is_sound,
    is_router_solicitation,
    origin_indication,
    router_advertisement,
)
from lab.teredo.relay import Relay, RelayConfig
from lab.teredo.trailers import parse_trailers


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What a server is told. Raises ValueError for an impossible value.

    `secrets` maps client identifiers to shared secrets; when there is one, secure qualification is required of all.
    `retired` are identifiers whose key is no longer valid: they are answered with a non-zero confirmation byte.
    `relay` makes the server a relay too. `nonces` lets clients of other servers behind symmetric NATs call its own
    (RFC 6081 section 5.2).
    """

    primary: str
    secondary: str
    secrets: Mapping[bytes, bytes] = field(default_factory=dict)
    retired: frozenset[bytes] = frozenset()
    relay: RelayConfig | None = None
    nonces: bool = True

    def __post_init__(self) -> None:
        for host in (self.primary, self.secondary):
            if not is_global_unicast(host):
                raise ValueError(f"server address {host} is not a global unicast IPv4 address")
        if self.primary == self.secondary:
            raise ValueError("primary and secondary server address must differ")


class Server(Machine):
    """The state machine. Drive it with `start`, `datagram`, `packet`, `tick`, `stop`; take `actions` out."""

    def __init__(self, config: ServerConfig, rng: Random, forbidden: Forbidden | None = None) -> None:
        super().__init__()
        self.config = config
        self.forbidden = forbidden or Forbidden()
        self._own = (Endpoint(config.primary, PORT), Endpoint(config.secondary, PORT))
        self._server = host_bytes(config.primary)
        self.router = link_local(self._own[0], cone=True)
        self._relay = None if config.relay is None else Relay(config.relay, rng, forbidden)

    def start(self, now: float) -> None:
        """Nothing to prepare: a server is ready at once."""
        self._actions.append(Configure(None, MTU))
        self._report("state", state="running", reason=None, address=None)

    def stop(self, now: float) -> None:
        """Nothing to clear up, but for the relay."""
        if self._relay is not None:
            self._relay.stop(now)
            self._take_over(self._relay)

    @property
    def next_timer(self) -> float | None:
        return None if self._relay is None else self._relay.next_timer

    def tick(self, now: float) -> None:
        if self._relay is not None:
            self._relay.tick(now)
            self._take_over(self._relay)

    def _timer(self, key: Hashable, now: float) -> None:
        raise AssertionError("a server sets no timers")

    def _take_over(self, relay: Relay) -> None:
        self._actions.extend(relay.actions())

    def packet(self, ipv6: bytes, now: float) -> None:
        """An IPv6 packet for 2001::/32 has been routed here: only a server that is a relay too has a use for it."""
        if self._relay is None:
            self._drop("not a relay")
        else:
            self._relay.packet(ipv6, now)
            self._take_over(self._relay)

    def datagram(self, data: bytes, source: Endpoint, now: float, *, on_secondary: bool = False) -> None:
        """A UDP payload has arrived on port 3544 of the primary or the secondary address (section 5.3.1)."""
        packet = self._decode(data)
        if packet is None:
            return
        if source in self.forbidden:
            self._drop("source is not global", source=str(source))
        elif is_router_solicitation(packet):
            self._solicited(packet, source, on_secondary=on_secondary)
        elif self._relay is not None and self._relay.knows(packet.source) and self._is_for_the_relay(packet):
            self._relay.datagram(data, source, now)
            self._take_over(self._relay)
        elif not (packet.is_bubble or packet.icmp_type is not None):
            self._drop("neither bubble nor ICMPv6", source=str(source))
        elif not self._acceptable(packet, source):
            self._drop("source not acceptable", source=str(source), ipv6=text(packet.source))
        else:
            self._forward(packet, source)

    def _is_for_the_relay(self, packet: Packet) -> bool:
        return not is_teredo(packet.destination) and packet.destination != self.router

    def _acceptable(self, packet: Packet, source: Endpoint) -> bool:
        """Rules 5 and 6: a client at its own mapping, or anybody else towards a client of ours.

        A client behind a symmetric NAT has its mapping towards its own server only. RFC 6081 has it call the clients of
        other servers too (section 6.1), so its bubbles to clients of ours pass, which the nonce tells from forged ones.
        """
        to_ours = packet.destination[:8] == PREFIX + self._server
        teredo = parse(packet.source)
        if teredo is None or teredo.mapped == source:
            return teredo is not None or to_ours
        return self.config.nonces and to_ours and packet.is_bubble and bool(parse_trailers(packet.trailers).nonce)

    def _forward(self, packet: Packet, source: Endpoint) -> None:
        if packet.destination == self.router:
            self._to_ourselves(packet, source)
            return
        teredo = parse(packet.destination)
        if not is_global(packet.destination):
            self._drop("destination is not global", destination=text(packet.destination))
        elif teredo is None:
            self.counters["forwarded to the IPv6 Internet"] += 1
            self._deliver(packet.ipv6)
        elif teredo.mapped in self.forbidden or teredo.mapped.host in (self.config.primary, self.config.secondary):
            # our own addresses too: a packet to them would come back and be forwarded for ever
            self._drop("forbidden IPv4 destination", destination=text(packet.destination))
        else:
            self.counters["forwarded to clients"] += 1
            ours = teredo.server == self.config.primary
            head = origin_indication(source) if ours else b""
            self._send(head + packet.ipv6 + packet.trailers, teredo.mapped)

    def _to_ourselves(self, packet: Packet, source: Endpoint) -> None:
        if packet.icmp_type == ECHO_REQUEST and icmpv6_is_sound(packet):
            self.counters["echo requests answered"] += 1
            self._send(echo_reply(packet, self.router), source)
        else:
            self._drop("to ourselves", source=str(source))

    def _solicited(self, packet: Packet, source: Endpoint, *, on_secondary: bool) -> None:
        """A router solicitation: tell the client where we see it (section 5.3.2)."""
        request, origin = packet.authentication, origin_indication(source)
        ipv6 = router_advertisement(self.router, packet.source, self.config.primary)
        header = b""
        if request is not None:
            secret = self.config.secrets.get(request.client_id)
            if self.config.secrets and (secret is None or not auth.verify(secret, packet)):
                self._drop("authentication failed", source=str(source), client_id=request.client_id.hex())
                return
            retired = request.client_id in self.config.retired
            answer = Authentication(request.nonce, request.client_id, confirmation=int(retired))
            if secret is not None:
                answer = auth.seal(secret, answer, origin, ipv6)
            header = answer.encode()
        elif self.config.secrets:
            self._drop("authentication missing", source=str(source))
            return
        self.counters["advertisements"] += 1
        # The cone bit asks for an answer from the other address, to see whether the NAT lets it in (RFC 5991 3.2).
        self._send(header + origin + ipv6, source, secondary=on_secondary != cone_bit(packet.source))

    def snapshot(self, now: float) -> dict[str, Any]:
        """The server's state as JSON-able facts."""
        facts: dict[str, Any] = {
            "type": "server" if self._relay is None else "server and relay",
            "state": "running",
            "error": None,
            "server": self.config.primary,
            "secondary_server": self.config.secondary,
            "secure": bool(self.config.secrets),
            "mtu": MTU,
            "counters": dict(sorted(self.counters.items())),
        }
        if self._relay is not None:
            facts["relay"] = self._relay.snapshot(now)
        return facts

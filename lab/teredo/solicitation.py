"""Asking a server for a router advertisement, and judging what comes back (RFC 4380 sections 5.2.1 and 5.2.2).

Qualification and maintenance differ in what they make of the answer, not in how it is asked for.
"""

from __future__ import annotations

from random import Random
from typing import Final

from lab.teredo import auth
from lab.teredo.address import PREFIX, Endpoint, Forbidden, host_bytes, link_local
from lab.teredo.packet import Advertisement, Authentication, Packet, advertisement, router_solicitation

SOLICITATION_TIMEOUT: Final = 4.0
SOLICITATIONS: Final = 3
"""T and N of RFC 4380 section 5.2.1, read as three transmissions (RFC 4861 MAX_RTR_SOLICITATIONS)."""

SOLICITATION_SOURCE: Final = link_local(Endpoint("0.0.0.0", 0), cone=False)  # noqa: S104 - an address, not a socket
"""Link-local source of solicitations, cone bit clear (RFC 5991 section 3.2); it discloses no private address."""


class Solicitation:
    """One request at a time: whom it asks, how often it was sent, and why an answer to it was refused.

    `server` is the primary IPv4 address, which the advertised prefix must carry whichever address answers.
    """

    def __init__(self, server: str, client_id: bytes, secret: bytes | None, rng: Random, forbidden: Forbidden) -> None:
        self.asked: Endpoint | None = None
        self.refused: str | None = None
        self._sent = 0
        self._nonce = b""
        self._prefix = PREFIX + host_bytes(server)
        self._client_id = client_id
        self._secret = secret
        self._rng = rng
        self._forbidden = forbidden

    def begin(self, server: Endpoint) -> None:
        """Ask this server from now on."""
        self.asked, self.refused, self._sent = server, None, 0

    def end(self) -> None:
        """Ask nobody any more; what still comes is refused."""
        self.asked = None

    def datagram(self) -> bytes | None:
        """The next solicitation's UDP payload, with a nonce of its own; None when enough have been sent."""
        if self._sent == SOLICITATIONS:
            return None
        self._sent += 1
        self._nonce, datagram = self.single()
        return datagram

    def single(self) -> tuple[bytes, bytes]:
        """A solicitation by itself, whose answer `fault` judges: its nonce, and its UDP payload."""
        nonce = self._rng.randbytes(8)
        ipv6 = router_solicitation(SOLICITATION_SOURCE)
        header = Authentication(nonce, self._client_id)
        if self._secret is not None:
            header = auth.seal(self._secret, header, b"", ipv6)
        return nonce, header.encode() + ipv6

    def answer(self, packet: Packet, source: Endpoint) -> tuple[Endpoint, Advertisement] | None:
        """The mapped endpoint and the advertisement in an answer; None, with `refused` saying why, if it is not one."""
        facts = advertisement(packet)
        self.refused = self._fault(packet, source, facts)
        if self.refused is not None:
            return None
        assert packet.origin is not None
        assert facts is not None
        return packet.origin, facts

    def _fault(self, packet: Packet, source: Endpoint, facts: Advertisement | None) -> str | None:
        if self.asked is None:
            return "not asked for"
        if source != self.asked:
            return "not from the server asked"
        return self.fault(packet, self._nonce, facts)

    def fault(self, packet: Packet, nonce: bytes, facts: Advertisement | None) -> str | None:
        """What is wrong with the answer to a solicitation that had this nonce; None if it is good."""
        header = packet.authentication
        if header is None or header.nonce != nonce:
            return "wrong nonce"
        if self._secret is not None and (header.client_id != self._client_id or not auth.verify(self._secret, packet)):
            return "wrong authentication value"
        if header.confirmation:
            return "the server asks for a new key"
        if packet.origin is None:
            return "no origin indication"
        if packet.origin in self._forbidden:
            return "mapped address is not global"
        if packet.destination != SOLICITATION_SOURCE:
            return "not to our link-local address"
        if facts is None:
            return "invalid"
        if facts.prefix != self._prefix:
            return "prefix is not the server's"
        return None

"""By which path packets went, as seen on the wire: a tap on the lab's Internet that reads tunnelled probes.

It attaches to all links of one node and sees each outer packet arrive. A filter in the kernel passes on only small
probe packets: inner ICMPv6 echo, UDP, and TCP with SYN.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from lab.check.wire import Wire
from lab.places import Places
from lab.teredo.address import PORT, Endpoint, host_text, packed

_IP, _UDP, _IPV6 = 0, 20, 28  # offsets in an outer packet without IP options
_INNER_SOURCE, _INNER_DESTINATION = _IPV6 + 8, _IPV6 + 24
_SNAP = _IPV6 + 40 + 20

PROBES: Final = {"icmp6": 58, "udp": 17, "tcp": 6}

# The last two lines accept and reject.
_FILTER = (
    (0x30, 0, 0, _IP + 9),  # outer protocol
    (0x15, 0, 10, 17),
    (0x30, 0, 0, _IPV6),  # version of the payload
    (0x54, 0, 0, 0xF0),
    (0x15, 0, 7, 0x60),
    (0x30, 0, 0, _IPV6 + 6),  # inner next header
    (0x15, 4, 0, 58),
    (0x15, 3, 0, 17),
    (0x15, 0, 3, 6),
    (0x30, 0, 0, _IPV6 + 40 + 13),  # inner TCP flags
    (0x45, 0, 1, 0x02),
    (0x06, 0, 0, _SNAP),
    (0x06, 0, 0, 0),
)


class Tap(Wire):
    """Outer destinations by inner source, destination and protocol, since the tap was opened."""

    def __init__(self, places: Places, node: str) -> None:
        super().__init__(places, node, _FILTER, size=_SNAP, buffer=1 << 22)
        self._seen: dict[tuple[bytes, bytes, int], set[Endpoint]] = defaultdict(set)

    def _arrived(self, data: bytes, ancillary: Sequence[bytes]) -> None:
        if len(data) >= _IPV6 + 40:
            flow = data[_INNER_SOURCE : _IPV6 + 24], data[_INNER_DESTINATION : _IPV6 + 40], data[_IPV6 + 6]
            to = Endpoint(host_text(data[16:20]), int.from_bytes(data[_UDP + 2 : _UDP + 4], "big"))
            self._seen[flow].add(to)

    def outer(self, source: str, destination: str, probe: str) -> set[Endpoint]:
        """Where tunnelled packets of a probe between two IPv6 addresses were sent to, servers left out."""
        self.read()
        seen = self._seen.get((packed(source), packed(destination), PROBES[probe]), set())
        return {endpoint for endpoint in seen if endpoint.port != PORT}

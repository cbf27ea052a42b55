"""Records what passes interfaces of the node that it runs in, as pcap on standard output, until standard input ends.

tcpdump cannot: where it runs as root it wants to become somebody else, which a container may not.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
from typing import Final

from lab.backends import linux

_ETH_P_ALL: Final = 3
_BUFFER: Final = 1 << 24
_LONGEST: Final = 1 << 16

_LINUX_SLL2: Final = 276
"""The kind of link that says of each packet which interface it passed, and in which direction."""

_HEAD: Final = struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, _LONGEST, _LINUX_SLL2)
"""Of a pcap file with nanoseconds."""


def _opened(interface: str, expression: str) -> socket.socket:
    """A socket that hears what passes an interface, or `any`, and matches tcpdump's expression."""
    compiled = subprocess.run(("tcpdump", "-ddd", "-y", "RAW", expression), capture_output=True, text=True, check=False)
    if compiled.returncode != 0:
        raise ValueError(compiled.stderr.strip())
    lines = [tuple(map(int, line.split())) for line in compiled.stdout.splitlines()[1:]]
    heard = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
    if interface != "any":
        heard.bind((interface, _ETH_P_ALL))
    heard.setsockopt(socket.SOL_SOCKET, linux.SO_TIMESTAMPNS, 1)
    heard.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    linux.attach_filter(heard, lines)
    return heard


def _record(data: bytes, ancillary: bytes, address: tuple[str, int, int, int, bytes]) -> bytes:
    seconds, nanoseconds = struct.unpack("@ll", ancillary)
    interface, protocol, direction, hardware, source = address
    link = struct.pack(
        "!HHIHBB8s", protocol, 0, socket.if_nametoindex(interface), hardware, direction, len(source), source
    )
    return struct.pack("=IIII", seconds, nanoseconds, len(link) + len(data), len(link) + len(data)) + link + data


def main() -> int:
    """Arguments: an interface, and an expression. Exit code 2: one of them makes no sense; the message says which."""
    try:
        heard = _opened(sys.argv[1], sys.argv[2])
    except (OSError, ValueError) as error:
        print(f"cannot record {' '.join(sys.argv[1:])}: {error}", file=sys.stderr)
        return 2
    os.write(1, _HEAD)
    print("recording", file=sys.stderr, flush=True)
    ended = False
    while not ended or select.select([heard], [], [], 0)[0]:  # what had come in before the end is part of it
        ready, _, _ = select.select([heard.fileno()] if ended else [heard.fileno(), 0], [], [])
        if heard.fileno() in ready:
            data, ancillary, _, address = heard.recvmsg(_LONGEST, 64)
            os.write(1, _record(data, ancillary[0][2], address))
        ended = ended or (0 in ready and not os.read(0, 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

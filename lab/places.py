"""The nodes of a running lab as whoever examines or changes it sees them: places to open sockets and to work in."""

from __future__ import annotations

import socket
from typing import Any, Protocol

from lab.plan import NodePlan


class Places(Protocol):
    """All nodes of one lab, by name. Its backend says how they are reached."""

    def open(self, node: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of a node's network, for this process to use; it does not wait. Raises OSError."""

    def do(self, node: str, work: str, /, **arguments: Any) -> Any:  # noqa: ANN401 - each work has its own
        """Have a function of `lab.work` done in a node, and return what it returns. Raises NodeError."""

    def wait(self, node: str) -> None:
        """Return when one that was made anew is there again, with its network. Raises NodeError."""

    def guest(self, nat: NodePlan) -> str:
        """The place of a host in the LAN of a NAT that has no client; it has the address `nat.nat.guest`."""

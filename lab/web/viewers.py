"""What the page's viewers have still to be told: of each topic the latest, and packets on their way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

_PACKETS: Final = 64
"""Ways of packets that wait for a viewer; one who is slower misses the older ones."""


class Viewer:
    """Somebody who watches; `nodes` are those of which all is told."""

    def __init__(self, nodes: frozenset[str], *, packets: bool) -> None:
        self.nodes = nodes
        self.packets = packets
        self._pending: dict[str, Any] = {}
        self._moves: deque[dict[str, Any]] = deque(maxlen=_PACKETS)
        self._wake = asyncio.Event()
        self.closed = False

    def tell(self, topic: str, value: object) -> None:
        node = topic.removeprefix("node ")
        if node == topic or node in self.nodes:
            self._pending[topic] = value
            self._wake.set()

    def move(self, moves: Iterable[dict[str, Any]]) -> None:
        if self.packets:
            self._moves.extend(moves)
            self._wake.set()

    def close(self) -> None:
        self.closed = True
        self._wake.set()

    async def news(self, patience: float) -> list[tuple[str, Any]]:
        """Wait for news, so many seconds at most, and take them."""
        try:
            async with asyncio.timeout(patience):
                await self._wake.wait()
        except TimeoutError:
            return []
        self._wake.clear()
        news = [*self._pending.items()]
        self._pending = {}
        if self._moves:
            news.append(("packets", [*self._moves]))
            self._moves.clear()
        return news


class Viewers:
    """All who watch, and what the latest is that they were told."""

    def __init__(self) -> None:
        self._latest: dict[str, Any] = {}
        self._all: set[Viewer] = set()
        self._closed = False

    def add(self, viewer: Viewer) -> None:
        """Begin with all that there is."""
        self._all.add(viewer)
        for topic, value in self._latest.items():
            viewer.tell(topic, value)
        if self._closed:
            viewer.close()

    def remove(self, viewer: Viewer) -> None:
        self._all.discard(viewer)

    def tell(self, topic: str, value: object) -> None:
        """Tell all, if it is news."""
        if topic in self._latest and self._latest[topic] == value:
            return
        self._latest[topic] = value
        for viewer in self._all:
            viewer.tell(topic, value)

    def latest(self, topic: str) -> Any:  # noqa: ANN401 - each topic has its own
        """What was told last; None if nothing was."""
        return self._latest.get(topic)

    def move(self, moves: list[dict[str, Any]]) -> None:
        for viewer in self._all:
            viewer.move(moves)

    @property
    def nodes(self) -> frozenset[str]:
        """The nodes of which anybody wants to know all."""
        return frozenset().union(*(viewer.nodes for viewer in self._all))

    @property
    def present(self) -> bool:
        return bool(self._all)

    @property
    def want_packets(self) -> bool:
        return any(viewer.packets for viewer in self._all)

    def close(self) -> None:
        """End all, also those who come later."""
        self._closed = True
        for viewer in self._all:
            viewer.close()

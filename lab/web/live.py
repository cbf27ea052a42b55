"""Follows a running lab for all who watch its page: its status, what nodes remember, and packets on their way."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final, TypeVar

from lab.plan import Plan
from lab.seeing.cast import Cast
from lab.seeing.live import Capture, cast_of
from lab.state import Lab, StateError
from lab.web.matrix import matrix
from lab.web.moving import FILTER, Moving
from lab.web.picture import picture
from lab.web.viewers import Viewer, Viewers

PERIOD: Final = 1.0
"""Seconds between two looks at what nodes remember, and at links."""

_AGAIN: Final = 1.0
"""Seconds until a lab that is gone is looked for again."""

_FOLLOWED: Final = 20_000
"""Packets after which following begins anew, since each that was followed is remembered."""

LINKS: Final = 200
"""Links that are watched at most."""

GONE: Final = (StateError, OSError, ValueError)
"""What asking a lab raises that does not run, or ends while it answers."""

_T = TypeVar("_T")


class Live:
    """Of one lab. Its threads end with the process: they wait for the lab most of the time."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.viewers = Viewers()
        self._roles: dict[str, str] = {}
        self._known_check = 0
        self._one_act = asyncio.Lock()
        self._closing = asyncio.Event()
        self._capturing = False
        self._recast = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._poll: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._watch, daemon=True).start()
        self._poll = self._loop.create_task(self._look())

    def close(self) -> None:
        """End all viewers, and the wait for acts; may be called from anywhere."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        self._closing.set()
        self.viewers.close()

    async def stop(self) -> None:
        """What threads wait for, they wait for in vain: they end with the process."""
        if self._poll is not None:
            self._poll.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poll

    def _soon(self, call: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody watches
            self._loop.call_soon_threadsafe(call, *arguments)

    # In threads

    def _watch(self) -> None:
        """Tell each status, and whether there is a lab at all."""
        while True:
            try:
                drawing = picture(Plan.model_validate(self.lab.ask_once("plan")["plan"]))
                self._soon(self._began, drawing)
                for status in self.lab.ask("watch"):
                    self._soon(self._status, status)
                why = f"lab {self.lab.name!r} has ended"
            except GONE as error:
                why = str(error)
            self._soon(self.viewers.tell, "gone", why)
            time.sleep(_AGAIN)

    def _follow(self) -> None:
        """Tell of packets as long as somebody wants that."""
        try:
            cast = cast_of(self.lab)
            taps = cast.taps([*cast.actors][:LINKS])
            self._tell_packets(Capture(self.lab, taps, cast.interface, FILTER), cast)
        except GONE:
            time.sleep(_AGAIN)  # the page says so
        finally:
            self._soon(self._captured)

    def _tell_packets(self, capture: Capture, cast: Cast) -> None:
        moving = Moving(cast, capture.taps, capture.interfaces)
        followed = 0
        for passed in capture.passed():
            too_many = moving.take(passed.packets) + sum(passed.lost.values())
            moves = moving.ready(passed.now)
            if moves:
                self._soon(self.viewers.move, moves)
            self._soon(self.viewers.tell, "too many packets", too_many > 0)
            followed += len(passed.packets)
            if self._recast or followed > _FOLLOWED:
                self._recast, followed = False, 0
                moving = Moving(cast_of(self.lab), capture.taps, capture.interfaces)
            if not self.viewers.want_packets:
                capture.end()

    # In the event loop

    def _began(self, drawing: dict[str, Any]) -> None:
        self._known_check = 0
        self.viewers.tell("check", matrix([], {}))
        self.viewers.tell("picture", drawing)
        self.viewers.tell("gone", "")

    def _status(self, status: dict[str, Any]) -> None:
        nodes = [
            {key: node[key] for key in _SHOWN} | {"addresses": [*node["ipv4"], *node["ipv6"]]}
            for node in status["nodes"]
        ]
        before = self.viewers.latest("status") or {"nodes": ()}
        if [node["teredo_address"] for node in before["nodes"]] != [node["teredo_address"] for node in nodes]:
            self._recast = True
        self._roles = {node["name"]: node["role"] for node in nodes}
        self.viewers.tell("status", {"name": status["name"], "backend": status["backend"], "nodes": nodes})

    def _captured(self) -> None:
        self._capturing = False
        self._want_packets()

    def _want_packets(self) -> None:
        if self.viewers.want_packets and not self._capturing:
            self._capturing = True
            threading.Thread(target=self._follow, daemon=True).start()

    @contextlib.asynccontextmanager
    async def viewer(self, nodes: frozenset[str], *, packets: bool) -> AsyncIterator[Viewer]:
        """Somebody watches for a while."""
        viewer = Viewer(nodes, packets=packets)
        self.viewers.add(viewer)
        self._want_packets()
        try:
            yield viewer
        finally:
            self.viewers.remove(viewer)

    async def _look(self) -> None:
        """Look again and again at what the nodes remember that somebody watches, and at links."""
        while True:
            with contextlib.suppress(*GONE):  # or the lab changes just now
                await self.look()
            await asyncio.sleep(PERIOD)

    async def look(self) -> None:
        """Look once. Raises StateError."""
        if not self.viewers.present:
            return
        nodes = [name for name in self._roles if name in self.viewers.nodes]
        links, check, found = await _in_thread(lambda: self._found(nodes))
        self.viewers.tell("links", links)
        if check is not None:
            self._known_check = check[0]
            self.viewers.tell("check", check[1])
        for name, facts in found.items():
            self.viewers.tell(f"node {name}", facts)

    def _found(self, nodes: list[str]) -> tuple[dict[str, Any], tuple[int, dict[str, Any]] | None, dict[str, Any]]:
        """In a thread: what links are like, number and matrix of the last check if it is news, what nodes remember."""
        links = self.lab.ask_once("links")["links"]
        checked = self.lab.ask_once("checked", known=self._known_check)["checked"]
        check = None if checked is None else (checked["number"], matrix(checked["results"], checked["left_out"]))
        nats = [name for name in nodes if self._roles[name] == "nat"]
        mappings = self.lab.ask_once("mappings", nodes=nats)["mappings"] if nats else {}
        found: dict[str, Any] = {name: {"mappings": rows} for name, rows in mappings.items()}
        for name in nodes:
            if self._roles[name] in ("client", "server", "relay", "host"):
                found[name] = {"program": self.lab.ask_once("program", node=name, request="state")["answer"]}
        return links, check, found

    async def act(self, doing: str, act: Callable[..., _T], *arguments: object, **options: object) -> _T:
        """Do something in a thread, one at a time, and have everybody know. Raises what it raises."""
        async with self._one_act:
            self.viewers.tell("doing", doing)
            try:
                return await self._unless_closed(_in_thread(lambda: act(self.lab, *arguments, **options)))
            finally:
                self.viewers.tell("doing", "")
                self._recast = True
                with contextlib.suppress(*GONE):
                    await self._unless_closed(self.look())

    async def _unless_closed(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What work returns, unless the server ends before. Raises StateError, and what it raises."""
        working, closing = asyncio.create_task(work), asyncio.create_task(self._closing.wait())
        await asyncio.wait({working, closing}, return_when=asyncio.FIRST_COMPLETED)
        closing.cancel()
        if working.done():
            return working.result()
        working.cancel()
        raise StateError("the page's server has been ended; what it had begun in the lab may still happen")

    def progress(self, what: str) -> Callable[[int, int], None]:
        """How far an act has come, for everybody; for the act's thread."""
        return lambda done, total: self._soon(self.viewers.tell, "doing", f"{what}: {done} of {total}")


_SHOWN: Final = ("name", "role", "site", "program", "state", "reason", "teredo_address", "nat_kind", "extensions")


async def _in_thread(call: Callable[[], _T]) -> _T:
    """What a call returns or raises in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, found = None, None
        try:
            result = call()
        except Exception as error:
            found = error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, found)

    threading.Thread(target=run, daemon=True).start()
    return await future

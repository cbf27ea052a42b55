"""The supervisor: has a lab's programs started, knows its nodes' states, and answers over the lab's control socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from lab import answers, unix
from lab.backends import links, linux, nats, replanning
from lab.backends.nodes import Nodes
from lab.backends.processes import fork, lines
from lab.check import reachability
from lab.node import NodeError
from lab.plan import LinkQuality, Plan
from lab.seeing import tapping
from lab.state import Lab
from lab.teredo.runner import ask

_log = logging.getLogger("supervisor")

_START_ORDER = ({"server"}, {"relay", "host", "nat"}, {"client"})
_START_TIMEOUT = 10.0
REPORT_INTERVAL = 0.05
"""Seconds between two reports of progress: more often than anybody can see would only cost."""

NODES: Final = "nodes"
"""Progress counts these until all are there; whoever is not is not heard of."""

_REQUEST = 1 << 26
"""The longest request in bytes: it may hold a plan."""

Tell = Callable[[dict[str, Any]], None]


class Supervisor:
    """Of one lab, whose nodes exist or will come; `facts` are its backend's, for ``status --json``.

    `ends_on_failure`: whether it ends when the programs cannot be started.
    """

    def __init__(
        self,
        plan: Plan,
        topology: dict[str, Any],
        lab: Lab,
        nodes: Nodes,
        facts: dict[str, Any],
        *,
        ends_on_failure: bool = True,
    ) -> None:
        self._plan = self._first = plan
        self._topology = topology
        self._lab = lab
        self._facts = facts
        self._ends_on_failure = ends_on_failure
        self._nodes = nodes
        self._links = links.qualities(plan)
        self._one_check = asyncio.Lock()
        self._captures: dict[str, int] = {}
        self._checked: dict[str, Any] = {"number": 0, "results": [], "left_out": {}}
        self._stop = asyncio.Event()
        self._noted: list[dict[str, Any]] = []
        self._news = asyncio.Event()

    def note(self, report: dict[str, Any]) -> None:
        """Keep a report of how the lab comes up, for whoever asks for the story with the command `start`."""
        self._noted.append(report)
        self._news.set()
        self._news = asyncio.Event()

    async def serve(self, tell: Tell, *, measure: bool) -> None:
        """Start the programs, then answer commands until SIGTERM."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        server = await asyncio.start_unix_server(self._answer, sock=unix.listen(self._lab.socket), limit=_REQUEST)
        starting = asyncio.create_task(self._start(tell, measure=measure))
        await self._stop.wait()
        starting.cancel()
        server.close()
        await self._nodes.programs.shut_down()

    async def _start(self, tell: Tell, *, measure: bool) -> None:
        """Start the programs; whoever waits for the lab is told when that fails, and the lab ends."""
        try:
            await self._start_programs(tell, measure=measure)
        except Exception as error:
            why = str(error) if isinstance(error, NodeError) else f"the supervisor failed: {error}"
            _log.exception("the programs cannot be started")
            tell(failed(why, self._lab))
            if self._ends_on_failure:
                self._stop.set()

    async def _start_programs(self, tell: Tell, *, measure: bool) -> None:
        """Servers first, since clients ask them at once, then relays and hosts, then clients."""
        await self._nodes.programs.connect(lambda done, total: tell(progress(NODES, done, total)))
        self._nodes.took("nodes there")
        self._shape_links(measured=False)
        self._nodes.ready()
        measured = asyncio.create_task(self._measure_nats(tell, measure=measure))
        for roles in _START_ORDER:
            if roles == {"client"}:
                await measured  # alone: the clients' own packets would be in the way
            nodes = [node for node in self._nodes.by_name.values() if node.plan.role in roles and node.plan.programs]
            for done, node in enumerate(nodes, 1):
                self._nodes.programs.start(node.plan)
                tell(progress(f"{'s, '.join(sorted(roles))}s", done, len(nodes)))
            if roles != {"client"}:
                with contextlib.suppress(TimeoutError):  # what is late shows in the status
                    async with asyncio.timeout(_START_TIMEOUT):
                        await self._nodes.settled(nodes)
        await self._nodes.programs.started()
        self._nodes.took("programs started")
        tell({"event": "up"})

    async def _measure_nats(self, tell: Tell, *, measure: bool) -> None:
        """See whether the NATs are what they shall be, then make the links as bad as they shall be."""

        async def send(answer: dict[str, Any]) -> None:
            tell(progress("NATs measured", answer["done"], answer["total"]))

        if measure:
            await nats.measure(self._plan, self._nodes, {}, send)
            self._nodes.took("NATs measured")
        else:
            nats.trust(self._plan, self._nodes)
        self._shape_links(measured=True)  # only now: lost packets tell nothing of a NAT

    def _shape_links(self, *, measured: bool) -> None:
        """Make the links as bad as they shall be: those that packets pass which measure NATs, or the others."""
        imperfect = {
            node: quality
            for node, quality in self._links.items()
            if quality != LinkQuality() and (self._plan.node(node).role in ("nat", "client")) == measured
        }
        links.shape(self._plan, imperfect, self._nodes.places)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One command of one client: JSON lines, the last of them `end`."""

        async def send(answer: dict[str, Any]) -> None:
            writer.write(answers.encode(answer))
            await writer.drain()

        try:
            request = json.loads(await reader.readline())
            match request.pop("command"):
                case "status":
                    await send(self.status())
                case "start":
                    await self._story(send)
                case "settle":
                    await self._settle(send, request["timeout"])
                case "watch":
                    while True:  # until nobody listens any more
                        changed = self._nodes.changed
                        await send(self.status())
                        await changed.wait()
                case "check":
                    await self._check(send, request)
                case "capture":
                    await self._capture(send, writer, request)
                case "end-capture":
                    if request["which"] in self._captures:
                        os.write(self._captures[request["which"]], b".")
                    await send({"event": "done"})
                case "conformance":
                    await self._conformance(send)
                case "nat":
                    if not await nats.measure(self._plan, self._nodes, request, send):
                        await send({"problem": f"the measurement failed; see {self._lab.supervisor_log}"})
                case "nat-reset":
                    self._plan = await nats.reset(self._plan, request["node"], self._nodes)
                    await send({"event": "done"})
                case "replan":
                    await self._replan(Plan.model_validate(request["plan"]), request["fresh"])
                    self._topology = request["topology"]
                    await send({"event": "done"})
                case "plan":
                    await send({"plan": self._first.model_dump(mode="json"), "topology": self._topology})
                case "program":
                    await send({"answer": await self._program(request["node"], request["request"])})
                case "links":
                    await send({"links": {node: quality.model_dump() for node, quality in self._links.items()}})
                case "link":
                    quality = LinkQuality.model_validate(request["quality"])
                    links.change(self._plan, self._links, request["node"], quality, self._nodes.places)
                    await send({"event": "done"})
                case "rules":
                    node = self._plan.node(request["node"])
                    await send({"rules": self._nodes.places.do(node.name, "rules", node=node)})
                case "checked":  # the last check, unless it is known
                    known = request["known"] == self._checked["number"]
                    await send({"checked": None if known else self._checked})
                case "mappings":
                    await send({"mappings": await self._mappings(request["nodes"])})
                case "forget":
                    await self._forget(send)
                case command:
                    await send({"problem": f"unknown command {command!r}"})
            await send({"event": "end"})
        except NodeError as error:
            await send({"problem": str(error)})
        except ConnectionError:
            pass
        except (ValueError, KeyError):
            _log.exception("a request failed")
        finally:
            writer.close()

    async def _story(self, send: Callable[[dict[str, Any]], Any]) -> None:
        """The noted reports, as they come, until the lab is up or cannot be."""
        told = 0
        while True:
            news = self._news
            for report in self._noted[told:]:
                await send(report)
                if report["event"] in ("up", "failed"):
                    return
            told = len(self._noted)
            await news.wait()

    async def _replan(self, plan: Plan, fresh: list[str]) -> None:
        new = plan.model_copy(update={"name": self._plan.name, "topology": self._plan.topology})
        await replanning.change(self._plan, new, self._nodes, fresh)
        self._plan = new

    async def _program(self, node: str, request: str) -> Any:  # noqa: ANN401 - each request has its own
        """What a node's Teredo program of ours answers; None if there is none, or it does not answer."""
        try:
            return await asyncio.to_thread(ask, self._lab.control(node), request)
        except OSError:
            return None

    async def _settle(self, send: Callable[[dict[str, Any]], Any], timeout: float) -> None:
        """Report until every node has reached a state in which it stays."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        total = len(self._nodes.by_name)
        next_report = 0.0
        while True:
            changed = self._nodes.changed
            waiting = self._nodes.unsettled
            if not waiting or loop.time() >= next_report:
                await send(progress("settling", total - len(waiting), total))
                next_report = loop.time() + REPORT_INTERVAL
            if not waiting:
                return
            try:
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
            except TimeoutError:
                await send({"event": "unsettled", "nodes": sorted(waiting)})
                return

    async def _check(self, send: Callable[[dict[str, Any]], Any], request: dict[str, Any]) -> None:
        """Check who reaches whom, pass the results on, and keep them unless they are of pairs that were asked for."""
        results: list[dict[str, Any]] = []
        left_out: dict[str, str] = {}

        async def note(answer: dict[str, Any]) -> None:
            results.extend(answer.get("results", ()))
            left_out.update(answer.get("nodes", {}))
            await send(answer)

        async with self._one_check:  # two would want the same ports of the nodes
            view = reachability.View(self._plan, self._nodes.places, self.status(), self._lab)
            await self._apart("check", lambda tell: reachability.run(view, request, tell), note)
            if not request.get("pairs"):
                self._checked = {"number": self._checked["number"] + 1, "results": results, "left_out": left_out}

    async def _forget(self, send: Callable[[dict[str, Any]], Any]) -> None:
        """Make all paths cold, as a check does before it begins."""
        async with self._one_check:
            view = reachability.View(self._plan, self._nodes.places, self.status(), self._lab)
            await self._apart("forgetting", lambda _: reachability.cool(view), send)

    async def _mappings(self, nodes: list[str]) -> dict[str, Any]:
        """What NATs translate now, by their names."""

        def look() -> dict[str, Any]:  # in a thread, as a change is
            firewalls = {name: self._plan.node(name).firewall for name in nodes}
            return {
                name: self._nodes.places.do(name, "mappings", in_maps=firewall.in_maps)
                for name, firewall in firewalls.items()
                if firewall is not None
            }

        return await asyncio.to_thread(look)

    async def _capture(
        self, send: Callable[[dict[str, Any]], Any], writer: asyncio.StreamWriter, request: dict[str, Any]
    ) -> None:
        """Have told what is seen on links, until somebody asks for the end, or nobody listens any more.

        It goes to who asked without a detour over this process, which would cost more than all else here.
        """
        reading, writing = os.pipe()
        self._captures[request["which"]] = writing
        tell = partial(answers.send, writer.get_extra_info("socket").fileno())
        places = self._nodes.places
        try:
            await self._apart("capture", lambda _: tapping.run(places, request, tell, reading), send)
        finally:
            os.write(writing, b".")
            del self._captures[request["which"]]
            os.close(reading)
            os.close(writing)

    async def _conformance(self, send: Callable[[dict[str, Any]], Any]) -> None:
        """Examine the lab's Teredo programs, and pass the results on."""
        from lab.conformance.run import run  # noqa: PLC0415 - few labs are asked for that

        status, places = self.status(), self._nodes.places
        await self._apart("conformance", lambda tell: run(status, places, tell), send)

    async def _apart(self, name: str, work: Callable[[Tell], object], send: Callable[[dict[str, Any]], Any]) -> None:
        """Do something in a process of its own, which may move between the nodes, and pass its results on.

        What it returns is let go when all else is over.
        """

        def main(results: int) -> None:
            linux.set_process_name(name)
            with os.fdopen(results, "wb") as stream:

                def tell(answer: dict[str, Any]) -> None:
                    stream.write(answers.encode(answer))
                    stream.flush()

                left = work(tell)
                tell({"event": "done"})
            del left  # only now: nobody waits for what takes time to be closed

        _, results = fork(main)
        last: dict[str, Any] = {}
        async with lines(results) as stream:
            async for line in stream:
                last = json.loads(line)
                if last["event"] != "done":
                    await send(last)
        if last.get("event") != "done":
            await send({"problem": f"the {name} failed; see {self._lab.supervisor_log}"})

    def status(self) -> dict[str, Any]:
        """The answer of `status --json`."""
        return {
            "name": self._plan.name,
            "topology": self._plan.topology,
            **self._facts,
            "uptime": self._nodes.uptime,
            "timings": self._nodes.timings,
            "nodes": self._nodes.facts(),
        }


def failed(why: str, lab: Lab) -> dict[str, Any]:
    """The report that a lab cannot be."""
    return {"event": "failed", "why": why, "log": str(lab.supervisor_log)}


def progress(what: str, done: int, total: int) -> dict[str, Any]:
    return {"event": "progress", "what": what, "done": done, "total": total}


def paced(tell: Tell) -> Tell:
    """Tells the same, but of progress only what is some time after the last report, and the end."""
    next_report = 0.0

    def tell_some(report: dict[str, Any]) -> None:
        nonlocal next_report
        now = time.monotonic()
        if report["event"] != "progress" or report["done"] == report["total"] or now >= next_report:
            next_report = now + REPORT_INTERVAL
            tell(report)

    return tell_some

"""The supervisor: the one process that holds a lab of network namespaces.

It is process 1 of its own PID namespace, in its own mount and network namespaces (and user namespace when not root).
All of the lab lives inside; when this process dies, even by SIGKILL, the kernel takes the rest away with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import json
import logging
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from lab import unix
from lab.backends import links, linux, nats
from lab.backends.nodes import Nodes
from lab.backends.processes import fork, lines
from lab.backends.wiring import load_firewalls, wire
from lab.check import reachability
from lab.node import NodeError
from lab.plan import LinkQuality, Plan
from lab.state import Lab

_log = logging.getLogger("supervisor")

_START_ORDER = ({"server"}, {"relay", "host", "nat"}, {"client"})
_START_TIMEOUT = 10.0
_OPEN_FILES = 65536
_REQUEST = 1 << 26
"""The longest request in bytes: it may hold a plan."""

Tell = Callable[[dict[str, Any]], None]


def run(plan: Plan, lab: Lab, tell: Tell, *, user: tuple[int, int] | None, measure: bool) -> NoReturn:
    """Become the supervisor of a lab; called in a forked process. `tell` reports progress to whoever started it.

    `user` is the ordinary user's (uid, gid) that becomes root inside, or None for real root. `measure`: whether NATs
    are measured. Never returns.
    """
    status = 1
    try:
        flags = linux.NEWNS | linux.NEWPID | linux.NEWNET
        os.setsid()
        linux.unshare(flags if user is None else flags | linux.NEWUSER)
        if user is not None:
            _map_user(*user)
        if os.fork() == 0:
            _supervise(plan, lab, tell, measure=measure)
        status = 0
    except (NodeError, TimeoutError) as error:
        tell(_failed(str(error), lab))
    except BaseException:
        traceback.print_exc()
        tell(_failed(f"the supervisor failed: {sys.exc_info()[1]}", lab))
    finally:
        os._exit(status)


def _failed(why: str, lab: Lab) -> dict[str, Any]:
    return {"event": "failed", "why": why, "log": str(lab.supervisor_log)}


def _map_user(uid: int, gid: int) -> None:
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def _supervise(plan: Plan, lab: Lab, tell: Tell, *, measure: bool) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    pid = str(Path("/proc/self").readlink())  # our number outside: /proc is still the host's
    with lab.pid_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(pid)
        lock.flush()
        linux.set_process_name(f"lab:{plan.name}")
        linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount("proc", "/proc", "proc", linux.MS_NOSUID_NODEV_NOEXEC)
        lab.hosts_file.touch()
        linux.mount(str(lab.hosts_file), "/etc/hosts", None, linux.MS_BIND)
        _raise_file_limit()
        supervisor = Supervisor(plan, lab, int(pid))
        supervisor.build(tell)
        gc.collect()
        gc.freeze()
        asyncio.run(supervisor.serve(tell, measure=measure))


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


class Supervisor:
    """Builds the lab, has its programs started, and answers over the lab's control socket."""

    def __init__(self, plan: Plan, lab: Lab, pid: int) -> None:
        self._plan = plan
        self._lab = lab
        self._pid = pid
        self._nodes = Nodes(plan, lab)
        self._links = links.qualities(plan)
        self._stop = asyncio.Event()

    def build(self, tell: Tell) -> None:
        """Wire and configure all nodes. Raises NodeError."""

        def progress(what: str, done: int, total: int) -> None:
            tell(_progress(what, done, total))

        wire(self._plan, self._nodes.namespaces, progress)
        self._nodes.took("wired")
        load_firewalls(self._plan, self._nodes.namespaces, progress)
        self._nodes.took("firewalls loaded")
        self._shape_links(measured=False)
        self._nodes.ready()

    async def serve(self, tell: Tell, *, measure: bool) -> None:
        """Start the programs, then answer commands until SIGTERM."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGCHLD, self._nodes.reap)
        server = await asyncio.start_unix_server(self._answer, sock=unix.listen(self._lab.socket), limit=_REQUEST)
        starting = asyncio.create_task(self._start(tell, measure=measure))
        await self._stop.wait()
        starting.cancel()
        server.close()
        await self._nodes.shut_down()

    async def _start(self, tell: Tell, *, measure: bool) -> None:
        """Start the programs; whoever waits for the lab is told when that fails, and the lab ends."""
        try:
            await self._start_programs(tell, measure=measure)
        except Exception as error:
            why = str(error) if isinstance(error, NodeError) else f"the supervisor failed: {error}"
            _log.exception("the programs cannot be started")
            tell(_failed(why, self._lab))
            self._stop.set()

    async def _start_programs(self, tell: Tell, *, measure: bool) -> None:
        """Servers first, since clients ask them at once, then relays and hosts, then clients."""
        measured = asyncio.create_task(self._measure_nats(tell, measure=measure))
        for roles in _START_ORDER:
            if roles == {"client"}:
                await measured  # alone: the clients' own packets would be in the way
            nodes = [node for node in self._nodes.by_name.values() if node.plan.role in roles and node.plan.programs]
            for done, node in enumerate(nodes, 1):
                self._nodes.start(node)
                tell(_progress(f"{'s, '.join(sorted(roles))}s", done, len(nodes)))
            if roles != {"client"}:
                with contextlib.suppress(TimeoutError):  # what is late shows in the status
                    async with asyncio.timeout(_START_TIMEOUT):
                        await self._nodes.settled(nodes)
        self._nodes.took("programs started")
        tell({"event": "up"})

    async def _measure_nats(self, tell: Tell, *, measure: bool) -> None:
        """See whether the NATs are what they shall be, then make the links as bad as they shall be."""

        async def send(answer: dict[str, Any]) -> None:
            tell(_progress("NATs measured", answer["done"], answer["total"]))

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
        links.shape(self._plan, imperfect, self._nodes.namespaces)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One command of one client: JSON lines, the last of them `end`."""

        async def send(answer: dict[str, Any]) -> None:
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()

        try:
            request = json.loads(await reader.readline())
            match request.pop("command"):
                case "status":
                    await send(self.status())
                case "settle":
                    await self._settle(send, request["timeout"])
                case "watch":
                    while True:  # until nobody listens any more
                        changed = self._nodes.changed
                        await send(self.status())
                        await changed.wait()
                case "check":
                    await self._check(send, request)
                case "conformance":
                    await self._conformance(send)
                case "nat":
                    if not await nats.measure(self._plan, self._nodes, request, send):
                        await send({"problem": f"the measurement failed; see {self._lab.supervisor_log}"})
                case "nat-reset":
                    self._plan = await nats.reset(self._plan, request["node"], self._nodes)
                    await send({"event": "done"})
                case "replan":
                    await self._replan(Plan.model_validate(request["plan"]))
                    await send({"event": "done"})
                case "links":
                    await send({"links": {node: quality.model_dump() for node, quality in self._links.items()}})
                case "link":
                    quality = LinkQuality.model_validate(request["quality"])
                    links.change(self._plan, self._links, request["node"], quality, self._nodes.namespaces)
                    await send({"event": "done"})
                case "rules":
                    await send({"rules": nats.rules(self._plan, request["node"], self._nodes)})
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

    async def _replan(self, plan: Plan) -> None:
        new = plan.model_copy(update={"name": self._plan.name, "topology": self._plan.topology})
        await nats.change(self._plan, new, self._nodes)
        self._plan = new

    async def _settle(self, send: Callable[[dict[str, Any]], Any], timeout: float) -> None:
        """Report until every node has reached a state in which it stays."""
        nodes = list(self._nodes.by_name.values())
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            changed = self._nodes.changed
            waiting = [node.plan.name for node in nodes if not node.settled]
            await send(_progress("settling", len(nodes) - len(waiting), len(nodes)))
            if not waiting:
                return
            try:
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
            except TimeoutError:
                await send({"event": "unsettled", "nodes": waiting})
                return

    async def _check(self, send: Callable[[dict[str, Any]], Any], request: dict[str, Any]) -> None:
        """Check who reaches whom, and pass the results on."""
        view = reachability.View(self._plan, self._nodes.namespaces.inside, self.status(), self._lab)
        await self._apart("check", lambda tell: reachability.run(view, request, tell), send)

    async def _conformance(self, send: Callable[[dict[str, Any]], Any]) -> None:
        """Examine the lab's Teredo programs, and pass the results on."""
        from lab.conformance.run import run  # noqa: PLC0415 - few labs are asked for that

        status, inside = self.status(), self._nodes.namespaces.inside
        await self._apart("conformance", lambda tell: run(status, inside, tell), send)

    async def _apart(self, name: str, work: Callable[[Tell], None], send: Callable[[dict[str, Any]], Any]) -> None:
        """Do something in a process of its own, which may move between the nodes, and pass its results on."""

        def main(results: int) -> None:
            linux.set_process_name(name)
            with os.fdopen(results, "w", buffering=1) as stream:
                work(lambda answer: print(json.dumps(answer), file=stream))
                print(json.dumps({"event": "done"}), file=stream)

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
            "backend": "netns",
            "topology": self._plan.topology,
            "supervisor": self._pid,
            "uptime": self._nodes.uptime,
            "timings": self._nodes.timings,
            "nodes": self._nodes.facts(),
        }


def _progress(what: str, done: int, total: int) -> dict[str, Any]:
    return {"event": "progress", "what": what, "done": done, "total": total}

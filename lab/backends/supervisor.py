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
import signal
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from lab.backends import linux
from lab.backends.wiring import wire
from lab.check import reachability
from lab.logs import set_up as set_up_logs
from lab.node import NodeError
from lab.plan import NodePlan, Plan, Program
from lab.programs import PROGRAMS, Context, miredo
from lab.state import Lab

_log = logging.getLogger("supervisor")

_FINAL = frozenset({"running", "qualified", "off-line", "dormant", "failed", "left out"})
_START_ORDER = ({"server"}, {"relay", "host"}, {"client"})
_OPEN_FILES = 65536

Tell = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class Node:
    """A node of the running lab: its plan, and what is known of its programs."""

    plan: NodePlan
    state: str = "starting"
    reason: str | None = None
    teredo_address: str | None = None
    pids: dict[int, str] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        return self.state in _FINAL


def run(plan: Plan, lab: Lab, tell: Tell, *, user: tuple[int, int] | None) -> NoReturn:
    """Become the supervisor of a lab; called in a forked process. `tell` reports progress to whoever started it.

    `user` is the ordinary user's (uid, gid) that becomes root inside, or None for real root. Never returns.
    """
    status = 1
    try:
        flags = linux.NEWNS | linux.NEWPID | linux.NEWNET
        os.setsid()
        linux.unshare(flags if user is None else flags | linux.NEWUSER)
        if user is not None:
            _map_user(*user)
        child = os.fork()
        if child == 0:
            status = _supervise(plan, lab, tell)
    except OSError as error:
        tell({"event": "failed", "why": f"cannot make namespaces: {error}", "log": str(lab.supervisor_log)})
    except BaseException:
        traceback.print_exc()
        tell({"event": "failed", "why": f"the supervisor failed: {sys.exc_info()[1]}", "log": str(lab.supervisor_log)})
    finally:
        os._exit(status)


def _map_user(uid: int, gid: int) -> None:
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def _supervise(plan: Plan, lab: Lab, tell: Tell) -> int:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    pid = str(Path("/proc/self").readlink())  # our number outside: /proc is still the host's
    with lab.pid_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(pid)
        lock.flush()
        linux.set_process_name(f"lab:{plan.name}")
        linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount("proc", "/proc", "proc", linux.MS_NOSUID_NODEV_NOEXEC)
        lab.hosts_file.write_text("127.0.0.1 localhost\n::1 localhost\n")
        linux.mount(str(lab.hosts_file), "/etc/hosts", None, linux.MS_BIND)
        _raise_file_limit()
        supervisor = Supervisor(plan, lab, int(pid))
        try:
            supervisor.build(tell)
        except NodeError as error:
            tell({"event": "failed", "why": str(error), "log": str(lab.supervisor_log)})
            return 1
        gc.collect()
        gc.freeze()
        asyncio.run(supervisor.serve(tell))
    return 0


def _raise_file_limit() -> None:
    import resource  # noqa: PLC0415 - only on Linux, like this function

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(hard, _OPEN_FILES) if hard != resource.RLIM_INFINITY else _OPEN_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


class Supervisor:
    """Builds the lab, starts its programs, follows their state and answers over the lab's control socket."""

    def __init__(self, plan: Plan, lab: Lab, pid: int) -> None:
        self.plan = plan
        self.lab = lab
        self.pid = pid
        self.namespaces = linux.NetworkNamespaces()
        self.nodes = {node.name: Node(node) for node in plan.nodes}
        self._followers: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._started = time.monotonic()
        self._timings: dict[str, float] = {}

    # Building

    def build(self, tell: Tell) -> None:
        """Wire and configure all nodes. Raises NodeError."""
        wire(self.plan, self.namespaces, lambda what, done, total: tell(_progress(what, done, total)))
        for node in self.nodes.values():
            self.lab.node_directory(node.plan.name).mkdir(parents=True)
            if not node.plan.programs:
                node.state = "running"
        self._write_hosts()
        self._took("wired")

    def _took(self, what: str) -> None:
        """Note, the first time, how long after the supervisor's start something was done."""
        self._timings.setdefault(what, round(time.monotonic() - self._started, 4))

    def _write_hosts(self) -> None:
        """Names for `exec` and `shell`: each node's Teredo or native address, else its IPv4 address."""
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        for name, node in self.nodes.items():
            addresses = (
                [node.teredo_address]
                if node.teredo_address
                else addresses_of(node.plan, 6) or addresses_of(node.plan, 4)
            )
            lines += [f"{address} {name}" for address in addresses[:1]]
        self.lab.hosts_file.write_text("\n".join(lines) + "\n")  # in place: it is mounted over /etc/hosts

    # Running

    async def serve(self, tell: Tell) -> None:
        """Start the programs, then answer commands until `down` or SIGTERM."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        server = await asyncio.start_unix_server(self._client, self.lab.socket)
        starting = asyncio.create_task(self._start_all(tell))
        await self._stop.wait()
        starting.cancel()
        server.close()
        await self._shut_down()

    async def _start_all(self, tell: Tell) -> None:
        for roles in _START_ORDER:
            nodes = [node for node in self.nodes.values() if node.plan.role in roles and node.plan.programs]
            for done, node in enumerate(nodes, 1):
                self._start(node)
                tell(_progress(f"{'s, '.join(sorted(roles))}s", done, len(nodes)))
            if roles != {"client"}:
                await self._settled(nodes)
        self._took("started")
        tell({"event": "up"})

    def _start(self, node: Node) -> None:
        for program in node.plan.programs:
            why = miredo.problem() if program.kind.startswith("miredo") else None
            if why is not None:
                self._set_state(node, "left out", why)
            else:
                self._spawn(node, program)

    def _spawn(self, node: Node, program: Program) -> None:
        """Fork a program into its node: far cheaper than starting an interpreter, since all is imported already."""
        reading, writing = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            self._become(node.plan, program, writing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
        os.close(writing)
        node.pids[pid] = program.kind
        task = asyncio.get_running_loop().create_task(self._follow(node, reading))
        self._followers.add(task)  # a loop holds its tasks only weakly
        task.add_done_callback(self._followers.discard)

    def _become(self, plan: NodePlan, program: Program, events: int) -> NoReturn:
        status = 1
        try:
            leave_loop()
            log = os.open(self.lab.log(plan.name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            self.namespaces.enter(plan.name)
            linux.set_process_name(f"{program.kind.split('-')[-1]}:{plan.name}")
            set_up_logs(node=plan.name)

            def notify(name: str, facts: dict[str, Any]) -> None:
                os.write(events, json.dumps({"name": name, **facts}).encode() + b"\n")

            PROGRAMS[program.kind](program.options, Context(plan.name, self.lab.node_directory(plan.name), notify))
            status = 0
        except BaseException:
            logging.getLogger("program").exception("program failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    async def _follow(self, node: Node, events: int) -> None:
        """Take a program's events as they come; its end shows as the end of the pipe."""
        async with _lines(events) as lines:
            async for line in lines:
                event = json.loads(line)
                name = event.pop("name")
                if name == "state":
                    node.teredo_address = event.get("address")
                    self._set_state(node, event["state"], event["reason"])
                elif name == "mapping changed":
                    node.teredo_address = event["new"]
                    self._set_state(node, node.state, node.reason)

    def _set_state(self, node: Node, state: str, reason: str | None) -> None:
        node.state, node.reason = state, reason
        _log.info("%s: %s%s", node.plan.name, state, f" ({reason})" if reason else "")
        self._write_hosts()
        if all(node.settled for node in self.nodes.values()):
            self._took("settled")
        self._changed.set()
        self._changed = asyncio.Event()

    async def _settled(self, nodes: list[Node]) -> None:
        while not all(node.settled for node in nodes):
            await self._changed.wait()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                for node in self.nodes.values():
                    kind = node.pids.pop(pid, None)
                    if kind is not None and not self._stop.is_set():
                        code = os.waitstatus_to_exitcode(status)
                        ended = f"signal {-code}" if code < 0 else f"exit code {code}"
                        self._set_state(
                            node, "failed", f"{kind} ended with {ended}; see {self.lab.log(node.plan.name)}"
                        )

    async def _shut_down(self) -> None:
        """Let the programs say good-bye; what does not listen goes with the namespace."""
        for node in self.nodes.values():
            for pid in node.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(1.0):
                while any(node.pids for node in self.nodes.values()):
                    await asyncio.sleep(0.01)

    # Answering

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def tell(answer: dict[str, Any]) -> None:
            writer.write(json.dumps(answer).encode() + b"\n")

        try:
            request = json.loads(await reader.readline())
            command = request.pop("command")
            if command == "status":
                tell(self.status())
            elif command == "settle":
                await self._settle(tell, request["timeout"])
            elif command == "watch":
                await self._watch(writer)
            elif command == "check":
                await self._check(writer, request)
            else:
                tell({"problem": f"unknown command {command!r}"})
            tell({"event": "end"})
            await writer.drain()
        except (ConnectionError, ValueError, KeyError):
            _log.exception("a request failed")
        finally:
            writer.close()

    async def _settle(self, tell: Tell, timeout: float) -> None:
        """Report until every node has reached a state in which it stays."""
        nodes = list(self.nodes.values())
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            waiting = [node.plan.name for node in nodes if not node.settled]
            tell(_progress("settling", len(nodes) - len(waiting), len(nodes)))
            if not waiting:
                return
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                tell({"event": "unsettled", "nodes": waiting})
                return

    async def _watch(self, writer: asyncio.StreamWriter) -> None:
        """Send the status now and at each change, for as long as somebody listens."""
        while not writer.is_closing():
            changed = self._changed
            writer.write(json.dumps(self.status()).encode() + b"\n")
            await writer.drain()
            await changed.wait()

    async def _check(self, writer: asyncio.StreamWriter, request: dict[str, Any]) -> None:
        """Run checks in a process of their own, which may move between the nodes, and pass its results on."""
        reading, writing = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            try:
                leave_loop()
                linux.set_process_name("check")
                with os.fdopen(writing, "w", buffering=1) as stream:
                    view = reachability.View(self.plan, self.namespaces, self.status(), self.lab)
                    reachability.run(view, request, lambda answer: print(json.dumps(answer), file=stream))
                    print(json.dumps({"event": "done"}), file=stream)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
        os.close(writing)
        last = b""
        async with _lines(reading) as lines:
            async for line in lines:
                last = line
                writer.write(line)
                await writer.drain()
        if json.loads(last or b"{}").get("event") != "done":
            writer.write(json.dumps({"problem": f"the check failed; see {self.lab.supervisor_log}"}).encode() + b"\n")

    def status(self) -> dict[str, Any]:
        """The answer of `status --json`, with what other commands need to enter the lab."""
        return {
            "name": self.plan.name,
            "backend": "netns",
            "topology": self.plan.topology,
            "supervisor": self.pid,
            "timings": self._timings,
            "uptime": round(time.monotonic() - self._started, 1),
            "nodes": [
                {
                    "name": name,
                    "role": node.plan.role,
                    "site": node.plan.site,
                    "program": node.plan.program,
                    "state": node.state,
                    "reason": node.reason,
                    "ipv4": addresses_of(node.plan, 4),
                    "ipv6": addresses_of(node.plan, 6),
                    "teredo_address": node.teredo_address,
                    "nat_kind": node.plan.nat_kind,
                    "log": str(self.lab.log(name)),
                    "netns_fd": self.namespaces.fds[name],
                }
                for name, node in self.nodes.items()
            ],
        }


def addresses_of(node: NodePlan, version: int) -> list[str]:
    """A node's own addresses of one IP version, without prefix lengths, each once."""
    addresses = (address.split("/")[0] for interface in node.interfaces for address in interface.addresses)
    return list(dict.fromkeys(address for address in addresses if (":" in address) == (version == 6)))


def leave_loop() -> None:
    """In a freshly forked child: forget the parent's event loop and its signal handling.

    Nothing of the parent's may be collected here: a transport that closes would take its file out of the epoll set that
    both share.
    """
    gc.freeze()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
    asyncio.set_event_loop(None)


@contextlib.asynccontextmanager
async def _lines(fd: int) -> AsyncIterator[asyncio.StreamReader]:
    """A pipe as a stream of lines."""
    reader = asyncio.StreamReader(limit=1 << 22)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
    )
    try:
        yield reader
    finally:
        transport.close()


def _progress(what: str, done: int, total: int) -> dict[str, Any]:
    return {"event": "progress", "what": what, "done": done, "total": total}

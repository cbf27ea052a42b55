"""A container's entrypoint: makes it a node of the lab, and lets the lab's controller work in it.

The controller reaches it by a Unix socket in the /dev/shm that all containers of the lab share. A socket belongs to the
network in which it was opened, so the agent opens sockets and hands them over (SCM_RIGHTS): checks and measurements are
the same code as in a lab of namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError, validate_call

from lab import unix
from lab.backends import linux
from lab.backends.containers import SETTINGS, Settings
from lab.backends.nodes import Nodes
from lab.backends.programs import Forked
from lab.backends.trunk import join
from lab.logs import set_up as set_up_logs
from lab.node import NodeError, apply_firewall, apply_sysctls, configure
from lab.plan import NodePlan, Plan
from lab.state import Lab
from lab.work import WORK

SHARED: Final = Path("/dev/shm/teredo-lab")  # noqa: S108 - not the host's
"""What all containers of a lab share, since they share one IPC namespace. It goes with the last of them."""

HEALTHY: Final = Path("/tmp/healthy")  # noqa: S108 - a container's own
"""There while the node is as it shall be: what its health check looks for."""

_HOSTS = Path("/etc/hosts")
_LINK_TIMEOUT = 5.0
_REQUEST = 1 << 24

_log = logging.getLogger("agent")


def place(lab: str) -> Lab:
    """Where a lab's containers keep what they share."""
    return Lab(lab, SHARED)


def prepare(directory: Path) -> None:
    """Make a directory below the shared one, in which every container of the lab may make its own."""
    directory.relative_to(SHARED)
    for each in (*reversed(directory.parents), directory):
        if each.is_relative_to(SHARED) and not each.exists():
            with contextlib.suppress(FileExistsError):
                each.mkdir()
                each.chmod(0o1777)


class _Programs(Forked):
    """The programs of this container's one node; they write where the agent writes."""

    async def connect(self, progress: Callable[[int, int], None]) -> None:
        progress(1, 1)

    def names(self, hosts: str) -> None:
        """The controller tells all names."""

    def facts(self, node: str) -> dict[str, Any]:
        return {}


class Agent:
    """Of one node, whose network has been made."""

    def __init__(self, node: NodePlan, lab: Lab) -> None:
        self._node = node
        self._lab = lab
        self._nodes = Nodes(Plan(name=lab.name, nodes=(node,), networks=()))
        self._nodes.programs = self._programs = _Programs(lab, self._nodes)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()

    async def serve(self) -> None:
        """Answer the controller until SIGTERM."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGCHLD, self._programs.reap)
        path = self._lab.agent(self._node.name)
        listener = unix.listen(path, mode=0o666)
        listener.setblocking(False)
        self._keep(self._accept(listener))
        self._keep(self._show_health())
        await self._stop.wait()
        await self._programs.shut_down()

    def _keep(self, work: Any) -> None:  # noqa: ANN401 - a coroutine
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # a loop holds its tasks only weakly
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            self._keep(self._answer(connection))

    async def _answer(self, connection: socket.socket) -> None:
        """One request, and its answer; `watch` stays."""
        loop = asyncio.get_running_loop()
        with connection:
            try:
                text = b""
                while not text.endswith(b"\n"):
                    part = await loop.sock_recv(connection, _REQUEST)
                    if not part:
                        return
                    text += part
                request = json.loads(text)
                match request.pop("request"):
                    case "socket":
                        self._hand_over(connection, **request)
                    case "do":
                        answer = await asyncio.to_thread(_work, request["work"], request["arguments"])
                        await loop.sock_sendall(connection, json.dumps(answer).encode() + b"\n")
                    case "watch":
                        await self._watch(connection)
                    case unknown:
                        _log.error("unknown request %r", unknown)
            except (ConnectionError, ValueError, TypeError, KeyError):
                _log.exception("a request failed")

    def _hand_over(self, connection: socket.socket, family: int, kind: int, protocol: int) -> None:
        try:
            opened = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        except OSError as error:
            connection.send(json.dumps({"errno": error.errno}).encode() + b"\n")
            return
        with opened:
            socket.send_fds(connection, [b"{}\n"], [opened.fileno()])

    async def _watch(self, connection: socket.socket) -> None:
        """Tell the state of the node's programs at each change, and do what the controller says meanwhile."""
        reader, writer = await asyncio.open_connection(sock=connection.dup(), limit=_REQUEST)
        telling = asyncio.get_running_loop().create_task(self._tell(writer))
        try:
            async for line in reader:
                order = json.loads(line)
                match order["order"]:
                    case "start":
                        self._start(NodePlan.model_validate(order["node"]), anew=order["anew"])
                    case "names":
                        _HOSTS.write_text(order["hosts"])
        finally:
            telling.cancel()
            writer.close()

    def _start(self, plan: NodePlan, *, anew: bool) -> None:
        node = self._nodes.by_name[plan.name]
        if not anew and node.reports and node.worst[0] != "failed":
            return
        node.plan, node.teredo_address = plan, None
        node.reports = {program.kind: ("starting", None) for program in plan.programs}
        self._programs.replace(plan)

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        (node,) = self._nodes.by_name.values()
        while True:
            changed = self._nodes.changed
            control = self._lab.control(node.plan.name)
            if control.exists():
                control.chmod(0o666)  # the controller is another user
            told = {"reports": node.reports, "address": node.teredo_address}
            writer.write(json.dumps(told).encode() + b"\n")
            await writer.drain()
            await changed.wait()

    async def _show_health(self) -> None:
        """A node is healthy when its programs are in states in which they stay, and none has failed."""
        (node,) = self._nodes.by_name.values()
        while True:
            changed = self._nodes.changed
            if node.reports and any(state in ("failed", "starting") for state, _ in node.reports.values()):
                HEALTHY.unlink(missing_ok=True)
            elif node.reports or not node.plan.programs:
                HEALTHY.touch()
            await changed.wait()


def _work(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """In a thread: pyroute2 has an event loop of its own."""
    try:
        return {"result": validate_call(WORK[name])(**arguments)}
    except NodeError as error:
        return {"problem": str(error)}
    except Exception as error:
        _log.exception("%s failed", name)
        return {"problem": f"{name} failed: {error}"}


def main() -> int:
    """Be the node that the environment describes, until SIGTERM. Exit code 2: bad settings; 3: it cannot be made."""
    try:
        settings = Settings.model_validate_json(os.environ[SETTINGS])
    except (KeyError, ValidationError) as error:
        print(f"teredo-lab: {SETTINGS} does not hold a node's settings: {error}", file=sys.stderr)
        return 2
    node = settings.plan()
    set_up_logs(node=node.name)
    HEALTHY.unlink(missing_ok=True)
    lab = place(settings.lab)
    prepare(lab.node_directory(node.name))
    lab.obstacle(node.name).unlink(missing_ok=True)
    try:
        apply_sysctls(node.name, node.sysctls)
        join(node.name, settings.tunnels)
        configure(node)
        linux.wait_for_links([tunnel.interface for tunnel in settings.tunnels], _LINK_TIMEOUT)
        if node.firewall is not None:
            apply_firewall(node.name, node.firewall)
    except (NodeError, OSError) as error:
        print(f"teredo-lab: {error}", file=sys.stderr)
        lab.obstacle(node.name).write_text(str(error))
        return 3
    asyncio.run(Agent(node, lab).serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())

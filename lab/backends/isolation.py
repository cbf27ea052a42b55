"""The process that holds a lab of network namespaces.

It is process 1 of its own PID namespace, in its own mount and network namespaces (and user namespace when not root).
All of the lab lives inside; when this process dies, even by SIGKILL, the kernel takes the rest away with it.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from lab.backends import linux, processes
from lab.backends.namespaces import NamespacePlaces, NamespacePrograms
from lab.backends.nodes import Nodes
from lab.backends.supervisor import Supervisor, Tell, failed, paced, progress
from lab.backends.wiring import load_firewalls, wire
from lab.node import NodeError
from lab.plan import Plan
from lab.state import Lab

_OPEN_FILES = 65536


def run(
    plan: Plan, topology: dict[str, Any], lab: Lab, tell: Tell, *, user: tuple[int, int] | None, measure: bool
) -> NoReturn:
    """Become the supervisor of a lab; called in a forked process. `tell` reports progress to whoever started it.

    `user` is the ordinary user's (uid, gid) that becomes root inside, or None for real root. `measure`: whether NATs
    are measured. Never returns.
    """
    status = 1
    try:
        os.setsid()
        linux.isolate(user)
        if os.fork() == 0:
            _supervise(plan, topology, lab, paced(tell), measure=measure)
        status = 0
    except (NodeError, TimeoutError) as error:
        tell(failed(str(error), lab))
    except BaseException:
        traceback.print_exc()
        tell(failed(f"the supervisor failed: {sys.exc_info()[1]}", lab))
    finally:
        os._exit(status)


def _supervise(plan: Plan, topology: dict[str, Any], lab: Lab, tell: Tell, *, measure: bool) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    pid = str(Path("/proc/self").readlink())  # our number outside: /proc is still the host's
    with lab.pid_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(pid)
        lock.flush()
        linux.set_process_name(f"lab:{plan.name}")
        linux.mount_own()
        lab.hosts_file.touch()
        linux.mount(str(lab.hosts_file), "/etc/hosts", None, linux.MS_BIND)
        _raise_file_limit()
        nodes = Nodes(plan)
        namespaces = linux.NetworkNamespaces()
        nodes.places = NamespacePlaces(namespaces)
        nodes.programs = NamespacePrograms(lab, nodes, namespaces, plan.nodes)

        def show(what: str, done: int, total: int) -> None:
            tell(progress(what, done, total))

        wire(plan, namespaces, show)
        nodes.took("wired")
        load_firewalls(plan, namespaces, show)
        nodes.took("firewalls loaded")
        gc.collect()
        gc.freeze()
        supervisor = Supervisor(plan, topology, lab, nodes, {"backend": "netns", "supervisor": int(pid)})

        async def serve() -> None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, processes.ended)
            await supervisor.serve(tell, measure=measure)

        asyncio.run(serve())


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))

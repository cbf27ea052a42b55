"""Commands in the nodes of a running lab of namespaces. It is quick to import: who runs one waits for no more."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from lab.backends import linux
from lab.state import node_facts


def execute(status: dict[str, Any], node: str, command: Sequence[str]) -> int:
    """Run a command in a node of a running lab, on this terminal; returns its exit code as a shell gives it.

    Raises StateError when there is no such node, OSError when its namespaces cannot be entered.
    """
    facts = node_facts(status, node)
    directory = Path.cwd()
    _enter(status["supervisor"], facts["netns_fd"])
    pid = os.fork()  # a PID namespace is for children
    if pid == 0:
        _replace(node, command, directory)
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # they are for the command
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code


def entering(status: dict[str, Any], node: str) -> tuple[str, ...]:
    """What to put before a command so that it runs in a node, with the node's name. Raises StateError."""
    facts = node_facts(status, node)
    process = f"/proc/{status['supervisor']}"
    user = () if os.geteuid() == 0 else (f"--user={process}/ns/user", "--preserve-credentials")
    spaces = (f"--net={process}/fd/{facts['netns_fd']}", f"--pid={process}/ns/pid", f"--mount={process}/ns/mnt")
    # nsenter waits for its child, and would leave it behind if it were killed.
    script = 'echo "$0" >/proc/sys/kernel/hostname; exec setpriv --pdeathsig TERM -- "$@"'
    named = ("unshare", "--uts", "sh", "-c", script, node)
    return ("nsenter", *user, *spaces, f"--wd={Path.cwd()}", *named)


def _enter(supervisor_pid: int, netns_fd: int) -> None:
    """Move this process into a lab's namespaces: user first, since it gives the right to the others."""
    process = Path(f"/proc/{supervisor_pid}")
    with contextlib.ExitStack() as stack:
        fds = {}
        for name, path in (
            ("user", process / "ns/user"),
            ("mnt", process / "ns/mnt"),
            ("pid", process / "ns/pid"),
            ("net", process / f"fd/{netns_fd}"),
        ):
            fds[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, fds[name])
        if not os.path.samestat((process / "ns/user").stat(), Path("/proc/self/ns/user").stat()):
            linux.setns(fds["user"], linux.NEWUSER)
        linux.setns(fds["net"], linux.NEWNET)
        linux.setns(fds["pid"], linux.NEWPID)
        linux.setns(fds["mnt"], linux.NEWNS)


def _replace(node: str, command: Sequence[str], directory: Path) -> NoReturn:
    code = 127
    try:
        with contextlib.suppress(OSError):
            os.chdir(directory)
        linux.unshare(linux.NEWUTS)
        socket.sethostname(node)  # for prompts: one sees where one is
        os.environ["TEREDO_LAB_NODE"] = node
        os.execvp(command[0], list(command))
    except FileNotFoundError:
        os.write(2, f"teredo-lab: {command[0]}: command not found\n".encode())
    except OSError as error:
        code = 126
        os.write(2, f"teredo-lab: {command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(code)

"""Where running labs keep their files: one directory a lab, for the user who started it.

A lab's supervisor holds a lock on its `pid` file for as long as it lives. So whether a lab runs is a question to the
kernel, and the answer stays right however the supervisor died.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab import answers, unix

if TYPE_CHECKING:
    from lab.plan import Plan

ENVIRONMENT: Final = "TEREDO_LAB_RUN"
_STOP_TIMEOUT = 5.0
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


class StateError(Exception):
    """A lab is not in the state that a command needs; the message says what to do."""


class RefusedError(StateError):
    """A lab could not do what was asked: the kernel refused it, or a program of the lab's failed."""


class MachineError(Exception):
    """The machine lacks something; the message says what, what for, and how to get it."""


def root() -> Path:
    """The directory of all labs of this user: $TEREDO_LAB_RUN, else below /run, else below /tmp."""
    if ENVIRONMENT in os.environ:
        return Path(os.environ[ENVIRONMENT])
    if os.geteuid() == 0:
        return Path("/run/teredo-lab")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime) / "teredo-lab"
    return Path(f"/tmp/teredo-lab-{os.geteuid()}")  # noqa: S108 - made with mode 0700 and checked


@dataclass(frozen=True)
class Lab:
    """A lab by its name, running or not. `base` is found once: inside the lab an ordinary user looks like root."""

    name: str
    base: Path = field(default_factory=root)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise StateError(
                f"{self.name!r} is no name for a lab: use up to 31 lower-case letters, digits and -, with --name"
            )

    @property
    def directory(self) -> Path:
        return self.base / self.name

    @property
    def socket(self) -> Path:
        return self.directory / "socket"

    @property
    def hosts_file(self) -> Path:
        return self.directory / "hosts"

    @property
    def pid_file(self) -> Path:
        return self.directory / "pid"

    @property
    def supervisor_log(self) -> Path:
        return self.directory / "supervisor.log"

    def log(self, node: str) -> Path:
        return self.node_directory(node) / "log"

    def node_directory(self, node: str) -> Path:
        return self.directory / "nodes" / node

    def agent(self, node: str) -> Path:
        """Where a container answers its lab's controller."""
        return self.node_directory(node) / "agent.sock"

    def obstacle(self, node: str) -> Path:
        """Where a container that cannot be its node says why."""
        return self.node_directory(node) / "failed"

    def control(self, node: str) -> Path:
        """Where a node's Teredo program of ours answers."""
        return self.node_directory(node) / "teredo.sock"

    def prepare(self) -> None:
        """Make the lab's directory, empty but for what is made next. Raises StateError."""
        self.base.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.base.stat().st_uid != os.geteuid():
            raise StateError(f"{self.base} belongs to another user: set {ENVIRONMENT} to a directory of yours")
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(mode=0o755)

    def pid(self) -> int | None:
        """The supervisor's process id, or None when no supervisor lives."""
        try:
            with self.pid_file.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(file.read() or 0) or None
                return None
        except (OSError, ValueError):
            return None

    def runs(self) -> bool:
        """Whether the lab is there and can be asked."""
        return self.pid() is not None

    def log_text(self, node: str | None) -> str:
        """What a node's programs have logged, or the lab's supervisor. Raises StateError."""
        path = self.supervisor_log if node is None else self.log(node)
        try:
            return path.read_text(errors="replace")
        except OSError as error:
            raise StateError(f"there is no log {path}: {error.strerror}") from error

    def execute(self, node: str, command: Sequence[str]) -> int:
        """Run a command in a node, on this terminal; returns its exit code. Raises StateError, MachineError."""
        from lab.backends import entering  # noqa: PLC0415 - it imports this module

        try:
            return entering.execute(self.ask_once("status"), node, command)
        except OSError as error:
            raise MachineError(f"cannot enter {node}: {error}") from error

    def entering(self, node: str) -> tuple[str, ...]:
        """What to put before a command so that it runs in a node, without a terminal. Raises StateError."""
        from lab.backends import entering  # noqa: PLC0415 - it imports this module

        return entering.entering(self.ask_once("status"), node)

    def refit(self, plan: Plan) -> list[str]:
        """Make those nodes anew that cannot become another plan's while they run; returns their names."""
        return []

    def down(self) -> bool:
        """Stop the lab, in whatever state it is, and remove its files. Returns whether there was anything to do."""
        was_there = self.directory.exists()
        pid = self.pid()
        if pid is not None:
            _stop(pid)
        shutil.rmtree(self.directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.base.rmdir()  # only when no other lab is in it
        return was_there

    def ask(self, command: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Send a command to the supervisor and yield its answers until the last.

        Raises StateError, and RefusedError if the lab could not do it.
        """
        if self.pid() is None:
            raise StateError(f"lab {self.name!r} is not running: start it with `teredo-lab up`")
        try:
            opened = unix.connect(self.socket)
        except OSError as error:
            raise StateError(f"lab {self.name!r} is still starting or does not answer: {error}") from error
        with opened as connection:
            connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                for answer in answers.read(stream):
                    if answer.get("event") == "end":
                        return
                    if "problem" in answer:
                        raise RefusedError(answer["problem"])
                    yield answer
        raise StateError(f"lab {self.name!r} has died; its log is {self.supervisor_log}")

    def ask_once(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The only answer to a command; raises what `ask` raises."""
        for answer in self.ask(command, **arguments):
            return answer
        raise StateError(f"lab {self.name!r} gave no answer to {command}")


def node_facts(status: dict[str, Any], name: str) -> dict[str, Any]:
    """What a `status` answer says of one node. Raises StateError when there is no such node."""
    for facts in status["nodes"]:
        if facts["name"] == name:
            found: dict[str, Any] = facts
            return found
    names = ", ".join(facts["name"] for facts in status["nodes"])
    raise StateError(f"lab {status['name']!r} has no node {name!r}; it has {names}")


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Keep two `up` apart, also of one name."""
    root().mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = os.open(root(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def labs() -> list[Lab]:
    """The labs of namespaces that run now, by name."""
    return [lab for lab in all_labs() if lab.pid() is not None]


def all_labs() -> list[Lab]:
    """The labs of namespaces that run or have left files."""
    with contextlib.suppress(OSError):
        return [Lab(path.name) for path in sorted(root().iterdir()) if path.is_dir() and _NAME.fullmatch(path.name)]
    return []


def _stop(pid: int) -> None:
    """Ask a process to end, and after a while make it; return when it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with os.fdopen(handle):
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
            if select.select([handle], [], [], _STOP_TIMEOUT)[0]:
                return

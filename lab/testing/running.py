"""A lab that is up, as tests use it, in either backend."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab.backends import base
from lab.state import Lab, MachineError, StateError, node_facts

if TYPE_CHECKING:
    import testinfra.host

COMMAND: Final = (sys.executable, "-m", "lab.cli")
PATIENCE: Final = 600.0
"""Seconds for a command; without a limit a test would never end that hangs."""

_LOG: Final = re.compile(r"\blog(?: is|:) (\S+)")
_LINES: Final = 20

_serial = itertools.count()

Completed = subprocess.CompletedProcess[str]


def command(*arguments: str, timeout: float = PATIENCE, **options: Any) -> Completed:
    """Run `teredo-lab` with these arguments."""
    return subprocess.run(
        (*COMMAND, *arguments), capture_output=True, text=True, check=False, timeout=timeout, **options
    )


@dataclass(frozen=True)
class Capture:
    """A recorded file, read by tshark as an independent judge."""

    path: Path

    def tshark(self, *arguments: str) -> str:
        """What tshark prints of it with these arguments. Raises AssertionError with what it complains of."""
        result = subprocess.run(
            ("tshark", "-n", "-r", str(self.path), "--enable-heuristic", "teredo_udp", *arguments),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def fields(self, display_filter: str, *fields: str) -> list[tuple[str, ...]]:
        """These fields of each packet that a display filter selects."""
        options = [option for field in fields for option in ("-e", field)]
        output = self.tshark("-Y", display_filter, "-T", "fields", *options)
        return [tuple(line.split("\t")) for line in output.splitlines()]


def _compiled(expression: str) -> list[list[int]]:
    """An expression of tcpdump's as a filter for Ethernet. Raises AssertionError with what is wrong with it."""
    program = ("tcpdump", "-ddd", "-y", "EN10MB", expression)
    result = subprocess.run(program, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{expression}: {result.stderr.strip()}"
    return [[int(number) for number in line.split()] for line in result.stdout.splitlines()[1:]]


@dataclass(frozen=True)
class RunningLab:
    """A lab that is up. Its files for the test, captures above all, are in `directory`."""

    name: str
    directory: Path
    backend: str = base.DEFAULT
    _hosts: dict[str, testinfra.host.Host] = field(default_factory=dict, repr=False, compare=False)

    @property
    def lab(self) -> Lab:
        return base.lab_of(self.backend, self.name)

    def exec(self, node: str, *command: str, check: bool = True, timeout: float = 60.0) -> Completed:
        """Run a command in a node; raises AssertionError if it fails, unless `check` is false.

        Its exit code is as a shell gives it: 137 if it was killed.
        """
        inside = (*self.lab.entering(node), *command)
        result = subprocess.run(inside, capture_output=True, text=True, check=False, timeout=timeout)
        if result.returncode < 0:
            result.returncode = 128 - result.returncode
        if check and result.returncode != 0:
            raise AssertionError(f"{node}: {' '.join(command)}: {result.returncode}\n{result.stdout}\n{result.stderr}")
        return result

    def host(self, node: str) -> testinfra.host.Host:
        """A node as a host of testinfra: files, interfaces, sockets, processes and so on. Needs pytest-testinfra."""
        from lab.testing.hosts import host  # noqa: PLC0415 - only tests that want it need the library

        if node not in self._hosts:
            self._hosts[node] = host(self.lab, node)
        return self._hosts[node]

    def status(self) -> dict[str, Any]:
        """The answer of `status --json`."""
        return self.lab.ask_once("status")

    def node(self, name: str) -> dict[str, Any]:
        """What `status` says of one node."""
        return node_facts(self.status(), name)

    def address(self, name: str) -> str:
        """A node's Teredo address, or its native one."""
        node = self.node(name)
        address: str = node["teredo_address"] or node["ipv6"][0]
        return address

    def reaches(self, source: str, destination: str, wait: float = 10.0) -> bool:
        """Whether an ICMPv6 echo request from one node is answered by another within so many seconds."""
        ping = ("ping", "-6", "-c", "1", "-w", str(int(wait)), self.address(destination))
        return self.exec(source, *ping, check=False).returncode == 0

    def check(self, *nodes: str) -> dict[str, Any]:
        """The answer of `check --json`: all pairs, or those among these nodes."""
        result = command("check", "--name", self.name, "--json", *nodes)
        assert result.returncode in (0, 1), result.stderr
        answer: dict[str, Any] = json.loads(result.stdout)
        assert answer["ok"] == (result.returncode == 0)
        return answer

    def wait_for(self, condition: Callable[[dict[str, dict[str, Any]]], bool], timeout: float = 30.0) -> None:
        """Return when the nodes, by name, satisfy a condition; looked at now and at each change of state.

        Raises AssertionError after so many seconds.
        """

        def late(*_: object) -> None:
            raise AssertionError(f"not within {timeout} s; the lab is {json.dumps(self.status(), indent=1)}")

        before = signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        try:
            for status in self.lab.ask("watch"):
                if condition({node["name"]: node for node in status["nodes"]}):
                    return
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    @contextlib.contextmanager
    def capture(self, node: str, interface: str, *expression: str) -> Iterator[Capture]:
        """Record what passes an interface of a node, or `any` of those of its plan, for as long as the context lasts.

        `expression` is tcpdump's, UDP by default. The file is there when the context has ended.
        """
        from lab.seeing import live, pcapng  # noqa: PLC0415 - slow to import
        from lab.seeing.cast import Tap  # noqa: PLC0415

        plans = {each["name"]: each for each in self.lab.ask_once("plan")["plan"]["nodes"]}
        names = [each["name"] for each in plans[node]["interfaces"]] if interface == "any" else [interface]
        taps = [Tap(f"{node}/{name}", node, name) for name in names]
        running = live.Capture(
            self.lab, taps, lambda tap, kind: pcapng.Interface(kind, tap.name), _compiled(" ".join(expression) or "udp")
        )
        if not running.taps:
            running.end()
            raise AssertionError(f"{node} has no interface {interface}")
        path = self.directory / f"{self.name}-{node}-{next(_serial)}.pcapng"
        try:
            yield Capture(path)
        finally:
            path.write_bytes(pcapng.document(f"lab {self.name}", running.interfaces, running.rest()))

    def keep(self) -> list[Path]:
        """Copy the logs of the lab and its nodes to its directory; returns what is there now, captures as well."""
        texts: dict[str, str] = {}
        with contextlib.suppress(StateError, MachineError):
            texts["lab.log"] = self.lab.log_text(None)
            for node in self.status()["nodes"]:
                with contextlib.suppress(StateError):  # it runs nothing that could log
                    texts[f"{node['name']}.log"] = self.lab.log_text(node["name"])
        for name, text in texts.items():
            (self.directory / f"{self.name}-{name}").write_text(text)
        for recording in self.lab.directory.glob("*.pcapng"):
            shutil.copy(recording, self.directory / f"{self.name}-{recording.name}")
        return sorted(self.directory.glob(f"{self.name}-*"))


class CannotStartError(Exception):
    """A lab cannot be had; `lacking` says whether it is this machine's fault, and the message why."""

    def __init__(self, why: str, *, lacking: bool) -> None:
        super().__init__(why)
        self.lacking = lacking


def _end_of(log: Path) -> str:
    """The last lines of a log, which goes with its lab."""
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-_LINES:])
    return ""


@contextlib.contextmanager
def running(
    topology: str | Path, directory: Path, *, name: str | None = None, backend: str = base.DEFAULT
) -> Iterator[RunningLab]:
    """A lab from a topology, a file or its text, up for as long as the context lasts. Raises CannotStartError."""
    name = name or f"test{os.getpid()}-{next(_serial)}"
    if isinstance(topology, str):
        path = directory / f"{name}.yaml"
        path.write_text(topology)
    else:
        path = topology
    up = command("up", str(path), "--name", name, "--backend", backend, "--json")
    lab = RunningLab(name, directory, backend)
    if up.returncode != 0:
        why = re.sub(r"^teredo-lab: ", "", up.stderr.strip())
        why += "".join(f"\n{_end_of(Path(log))}" for log in _LOG.findall(why))
        with contextlib.suppress(MachineError):
            lab.lab.down()
        raise CannotStartError(f"teredo-lab up: exit code {up.returncode}: {why}", lacking=up.returncode == 3)
    try:
        yield lab
    finally:
        lab.lab.down()

"""Running labs for tests, used as a user would: through the command line."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.backends import linux
from lab.state import Lab
from lab.teredo.runner import ask

COMMAND = (sys.executable, "-m", "lab.cli")
TIMEOUT = 120.0

SMALL = """
servers: {server: }
relays: {relay: }
hosts: {web: }
sites:
  home: {nat: cone, clients: {alice: }}
  away: {nat: port_restricted, clients: {carol: }}
"""
"""Two clients and a native host: enough for most tests."""

_serial = itertools.count()

Completed = subprocess.CompletedProcess[str]


def cli(*arguments: str, check: bool = False, timeout: float = TIMEOUT, **options: Any) -> Completed:
    """Run `teredo-lab` with these arguments."""
    result = subprocess.run(
        (*COMMAND, *arguments), capture_output=True, text=True, check=False, timeout=timeout, **options
    )
    if check and result.returncode != 0:
        raise AssertionError(f"teredo-lab {' '.join(arguments)}: {result.returncode}\n{result.stdout}\n{result.stderr}")
    return result


def until(condition: Callable[[], bool], timeout: float = 20.0, pause: float = 0.02) -> None:
    """Wait for something that has no event."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(pause)


def mapped(source: socket.socket, server: socket.socket) -> tuple[str, int]:
    """The endpoint that a server outside sees of a socket inside."""
    token = random.randbytes(16)
    source.sendto(token, server.getsockname())
    while True:
        data, seen = server.recvfrom(100)
        if data == token:
            return seen  # type: ignore[no-any-return]


def arrives(sender: socket.socket, receiver: socket.socket, to: tuple[str, int]) -> bool:
    """Whether a datagram comes through."""
    token = random.randbytes(16)
    sender.sendto(token, to)
    receiver.settimeout(0.3)
    with contextlib.suppress(TimeoutError):
        while True:
            if receiver.recv(100) == token:
                return True
    return False


@dataclass(frozen=True)
class RunningLab:
    """A lab that is up; `down` when the context that made it ends."""

    name: str

    @property
    def lab(self) -> Lab:
        return Lab(self.name)

    def exec(self, node: str, *command: str, check: bool = True, timeout: float = 60.0) -> Completed:
        """Run a command in a node and return what it printed."""
        result = subprocess.run(
            (*COMMAND, "exec", "--name", self.name, node, "--", *command),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if check and result.returncode != 0:
            raise AssertionError(f"{node}: {' '.join(command)}: {result.returncode}\n{result.stdout}\n{result.stderr}")
        return result

    def inside(self, node: str) -> tuple[str, ...]:
        """What to put before a command so that it runs in a node's network, without starting Python for that."""
        status = self.status()
        supervisor = f"/proc/{status['supervisor']}"
        fd = next(each["netns_fd"] for each in status["nodes"] if each["name"] == node)
        user = () if os.geteuid() == 0 else (f"--user={supervisor}/ns/user", "--preserve-credentials")
        return ("nsenter", *user, f"--net={supervisor}/fd/{fd}")

    @contextlib.contextmanager
    def enter(self, node: str) -> Iterator[None]:
        """Be in a node's network for a while: sockets opened meanwhile stay there. Needs root."""
        if os.geteuid() != 0:
            pytest.skip("needs root, to open sockets in nodes from here")
        status = self.status()
        fd = next(each["netns_fd"] for each in status["nodes"] if each["name"] == node)
        home = linux.current_netns()
        there = os.open(f"/proc/{status['supervisor']}/fd/{fd}", os.O_RDONLY)
        linux.setns(there, linux.NEWNET)
        try:
            yield
        finally:
            linux.setns(home, linux.NEWNET)
            os.close(there)
            os.close(home)

    def socket(self, node: str, port: int = 0, *, which: int = 0) -> socket.socket:
        """A UDP socket in a node, at one of its addresses; a read waits no longer than a second."""
        with self.enter(node):
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.settimeout(1)
        opened.bind((self.node(node)["ipv4"][which], port))
        return opened

    def nat(self, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
        """Exit code and rows of `nat --json`."""
        result = cli("nat", "show", "--name", self.name, "--json", *arguments)
        assert result.returncode in (0, 1), result.stderr
        return result.returncode, json.loads(result.stdout)

    def python(self, node: str, program: str, *arguments: str) -> str:
        """Run a Python program in a node and return what it printed."""
        return self.exec(node, sys.executable, "-c", program, *arguments).stdout

    def status(self) -> dict[str, Any]:
        return self.lab.ask_once("status")

    def node(self, name: str) -> dict[str, Any]:
        """What `status` says of one node."""
        return next(node for node in self.status()["nodes"] if node["name"] == name)

    def address(self, name: str) -> str:
        """A node's Teredo address, or its native one."""
        node = self.node(name)
        address = node["teredo_address"] or node["ipv6"][0]
        assert isinstance(address, str)
        return address

    def teredo(self, name: str, command: str = "state") -> dict[str, Any]:
        """Ask a node's Teredo program of ours over its control socket."""
        return ask(self.lab.control(name), command)

    def reaches(self, source: str, destination: str, wait: float = 10.0) -> bool:
        """Whether an ICMPv6 echo from one node is answered by another."""
        seconds = str(int(wait))
        ping = self.exec(source, "ping", "-6", "-c", "1", "-w", seconds, self.address(destination), check=False)
        return ping.returncode == 0

    def check(self, *nodes: str) -> dict[str, Any]:
        """The answer of `check --json`."""
        result = cli("check", "--name", self.name, "--json", *nodes)
        assert result.returncode in (0, 1), result.stderr
        answer: dict[str, Any] = json.loads(result.stdout)
        assert answer["ok"] == (result.returncode == 0)
        return answer

    def wait_for(self, condition: Callable[[dict[str, dict[str, Any]]], bool], timeout: float = 30.0) -> None:
        """Return when the nodes, by name, satisfy a condition; looked at now and at each change of state."""

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
        """Record what passes an interface of a node for a while."""
        path = self.lab.node_directory(node) / f"capture{next(_serial)}.pcap"
        options = ["-Z", "root", "-U", "--immediate-mode", "-n", "-s", "0", "-B", "16384"]
        command = ("tcpdump", *options, "-i", interface, "-w", str(path), *(expression or ("udp",)))
        process = subprocess.Popen(
            (*COMMAND, "exec", "--name", self.name, node, "--", *command),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "listening on" in line:
                break
        else:
            raise AssertionError("tcpdump did not start")
        try:
            yield Capture(path)
        finally:
            _written(path)
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=10)


@dataclass(frozen=True)
class Capture:
    """A recorded file, read by tshark as an independent judge."""

    path: Path

    def tshark(self, *arguments: str) -> str:
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


def _written(path: Path) -> None:
    """Wait until a capture has taken in what has passed: until its file no longer grows."""
    before = -1
    while (size := path.stat().st_size) != before:
        before = size
        time.sleep(0.2)


@contextlib.contextmanager
def running(topology: str | Path, directory: Path, *, name: str | None = None) -> Iterator[RunningLab]:
    """A lab from a topology, a file or its text, up for as long as the context lasts; leaves nothing behind."""
    name = name or f"test{os.getpid()}-{next(_serial)}"
    if isinstance(topology, str):
        path = directory / f"{name}.yaml"
        path.write_text(topology)
    else:
        path = topology
    try:
        cli("up", str(path), "--name", name, "--json", check=True)
        yield RunningLab(name)
    finally:
        keep_logs(Lab(name), directory)
        cli("down", "--name", name, check=True)


def keep_logs(lab: Lab, directory: Path) -> None:
    """Copy a lab's logs and captures to where pytest keeps them for failed tests."""
    for path in lab.directory.rglob("*"):
        if path.suffix in (".log", ".pcap") or path.name == "log":
            kept = directory / re.sub(r"[^\w.-]", "-", str(path.relative_to(lab.directory)))
            with contextlib.suppress(OSError):
                kept.write_bytes(path.read_bytes())

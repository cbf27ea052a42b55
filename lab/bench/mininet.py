"""How long it takes to wire 100 hosts on a switch, and to take them away, beside Mininet doing the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from lab.backends import linux
from lab.backends.wiring import wire
from lab.bench.section import Aim, Figures, Section
from lab.planner import plan
from lab.topology.load import parse

_HOSTS: Final = 100
_PYTHON: Final = "/usr/bin/python3"
"""The system's, for which Debian packages Mininet."""

_MININET: Final = f"""
import json, time
from mininet.net import Mininet
from mininet.nodelib import LinuxBridge
from mininet.topo import SingleSwitchTopo
Mininet.inited = True  # or it would write sysctls of the machine
began = time.monotonic()
net = Mininet(SingleSwitchTopo({_HOSTS}), switch=LinuxBridge, controller=None)
net.start()
up = time.monotonic()
net.stop()
print(json.dumps([up - began, time.monotonic() - up]))
"""
_TOPOLOGY: Final = f"{{servers: {{server: }}, sites: {{home: {{clients: {{host: {{count: {_HOSTS}}}}}}}}}}}"


def _lacking() -> str | None:
    """Why Mininet cannot run, or None."""
    if os.geteuid() != 0:
        return "Mininet needs root"
    missing = [name for name in ("brctl", "mnexec") if shutil.which(name) is None]
    found = subprocess.run((_PYTHON, "-c", "import mininet.net"), capture_output=True, check=False).returncode == 0
    if missing or not found:
        return "Mininet is not there: apt-get install --no-install-recommends mininet bridge-utils"
    return None


def _once(_: Path) -> Figures:
    up, down = _ours()
    their_up, their_down = _theirs()
    return {
        "wired": up,
        "  gone": down,
        "Mininet, with LinuxBridge: wired": their_up,
        "  gone, of Mininet": their_down,
        "ratio, wired and gone": (their_up + their_down) / (up + down),
    }


def _theirs() -> tuple[float, float]:
    """Seconds that Mininet takes, in a network namespace of its own. Raises RuntimeError."""
    command = ("unshare", "--net", "--mount", _PYTHON, "-c", _MININET)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"Mininet: {result.stderr.strip()[-2000:]}")
    up, down = json.loads(result.stdout.splitlines()[-1])
    return up, down


def _ours() -> tuple[float, float]:
    """Seconds until a process has wired them, and until it is gone when it is killed. Raises RuntimeError."""
    planned = plan(parse(_TOPOLOGY.encode(), "bench"))
    reading, writing = os.pipe()
    began = time.monotonic()
    holder = os.fork()
    if holder == 0:
        code = 1
        try:
            linux.isolate(None)
            if (process := os.fork()) == 0:
                linux.mount_own()
                wire(planned, linux.NetworkNamespaces(), lambda *_: None)
                os.write(writing, b"1")
                signal.pause()
            os.close(writing)
            os.waitpid(process, 0)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as wired:
        if not wired.read(1):
            os.waitpid(holder, 0)
            raise RuntimeError("the hosts could not be wired")
        up = time.monotonic()
        (process,) = map(int, Path(f"/proc/{holder}/task/{holder}/children").read_text().split())
        os.kill(process, signal.SIGKILL)
        os.waitpid(holder, 0)
    return up - began, time.monotonic() - up


_AIMS: Final = (Aim("ratio, wired and gone", at_least=5.0),)

SECTIONS: Final = (Section("mininet", f"{_HOSTS} hosts on a switch", _once, _lacking, aims=_AIMS),)

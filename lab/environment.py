"""What figures and results depend on besides the lab: the machine, and the versions of what runs on it."""

from __future__ import annotations

import os
import platform
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from lab.doctor.commands import BY_NAME, COMMANDS
from lab.doctor.probes import version
from lab.state import Lab

_TEREDO: Final = ("client", "relay")
_MOST: Final = 64
"""Programs that are asked for their data path, at most."""


def machine() -> dict[str, Any]:
    """Kernel, Python, processor, cores and memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "GiB of memory": round(memory),
    }


def _processor() -> str:
    """What the kernel calls it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def miredo() -> str:
    """The version of Miredo on this machine: ``1.2.6``."""
    found = version(BY_NAME["miredo"])
    return "that of the image" if found is None else found or "unknown"


def docker_engine() -> str:
    """The engine's version. Raises MachineError."""
    from lab.backends.engine import engine  # noqa: PLC0415 - slow to import

    return str(engine().version()["Version"])


def surroundings(lab: Lab, status: dict[str, Any]) -> dict[str, str]:
    """All that, for a running lab: what its nodes use of the machine, and how its programs carry data.

    Raises StateError, MachineError.
    """
    found = {"teredo-lab": metadata.version("teredo-lab")} | {what: str(value) for what, value in machine().items()}
    if status["backend"] == "docker":
        found["Docker engine"] = docker_engine()
    else:
        tools = [command for command in COMMANDS if command.required or command.name == "tc"]
        found |= {command.name: version(command) or "not found" for command in tools}
    if any(node["program"] == "miredo" for node in status["nodes"]):
        found["Miredo"] = "that of the image" if status["backend"] == "docker" else miredo()
    return found | {"data path": _data_paths(lab, status["nodes"])}


def _data_paths(lab: Lab, nodes: list[dict[str, Any]]) -> str:
    """``userspace (few data so far): 5 programs; kernel …``"""
    ours = [node["name"] for node in nodes if node["role"] in _TEREDO and node["program"] == "teredo-lab"]
    counted: Counter[str] = Counter()
    for name in ours[:_MOST]:
        state = lab.ask_once("program", node=name, request="state")["answer"] or {}
        if "datapath" in state:  # it has not failed
            counted[f"{state['datapath']} ({state['datapath_reason']})"] += 1
    told = "; ".join(f"{what}: {count} of {len(ours)} programs" for what, count in counted.most_common())
    return told or "no program of ours carries data"

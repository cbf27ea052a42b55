"""The backends by name, and finding a lab of either."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab import state
from lab.state import Lab, MachineError

if TYPE_CHECKING:
    from lab.plan import Plan

BACKENDS: Final = ("netns", "docker")
DEFAULT: Final = "netns"

_TRACES: Final = (Path("/var/run/docker.sock"), Path("~/.docker/contexts").expanduser())
"""What is there where an engine may be."""


def lab_of(backend: str, name: str) -> Lab:
    """A lab of a backend by its name, running or not."""
    if backend == "docker":
        from lab.backends.docker import DockerLab  # noqa: PLC0415 - slow to import

        return DockerLab(name)
    return Lab(name)


def find(name: str) -> Lab:
    """The lab of that name that runs; one of namespaces if none does."""
    lab = Lab(name)
    if lab.runs():
        return lab
    return next((each for each in _of_docker() if each.name == name), lab)


def running() -> list[Lab]:
    """All labs that run, of either backend."""
    return [*state.labs(), *(lab for lab in _of_docker() if lab.runs())]


def everything() -> list[Lab]:
    """All labs of which anything is there, running or not."""
    return [*state.all_labs(), *_of_docker()]


def _of_docker() -> list[Lab]:
    """Labs in containers, if there may be an engine at all: most commands do not want to load its library."""
    if "DOCKER_HOST" not in os.environ and not any(path.exists() for path in _TRACES):
        return []
    from lab.backends.docker import docker_labs  # noqa: PLC0415 - slow to import

    try:
        return list(docker_labs())
    except MachineError:  # no engine, no labs of it
        return []


def launch(plan: Plan, topology: dict[str, Any], lab: Lab, *, measure: bool) -> Iterator[dict[str, Any]]:
    """Make a lab of a plan, and yield reports; the last is `up`, or `failed` with `why` and `log`.

    `topology` is what later changes start from. Raises MachineError before anything is made, StateError.
    """
    if type(lab) is Lab:
        from lab.backends import netns  # noqa: PLC0415 - slow to import

        netns.preflight(plan)
        lab.prepare()
        return netns.launch(plan, topology, lab, measure=measure)
    from lab.backends import docker  # noqa: PLC0415 - slow to import

    assert isinstance(lab, docker.DockerLab)
    docker.preflight(plan)
    return lab.launch(plan, topology, measure=measure)

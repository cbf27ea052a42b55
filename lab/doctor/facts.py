"""What is known of a machine, as data. `lab.doctor.probes` finds it out, `lab.doctor.judgement` says what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from lab.nat.kinds import Engine as NatEngine


class Step(StrEnum):
    """What is tried in a network of its own; the kinds of NAT are tried besides (`nat_step`)."""

    TUN = "TUN"
    VETH = "veth"
    BRIDGE = "bridge"
    IPV6 = "IPv6"
    RULES = "IPv6 rules"
    PACKETS = "packet sockets"
    VXLAN = "VXLAN"
    LOSS = "loss"
    RATE = "rate"
    DELAY = "delay"
    CONNTRACK = "connection tracking"


def nat_step(engine: NatEngine, kind: str) -> str:
    """The step that loads the rules of a kind of NAT."""
    return f"{engine}: {kind}"


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of trying: of each step, what the kernel or a tool said against it, or None if it worked.

    `problem`: why there was no place where anything could be tried; None if there was.
    """

    problem: str | None = None
    steps: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Package:
    """A Python package: the oldest version that will do, and the one that is there."""

    name: str
    at_least: str
    version: str | None


ImageState = Literal["fresh", "stale", "missing"]


@dataclass(frozen=True, slots=True)
class Engine:
    """A Docker engine that answers. `local`: its containers run on this very kernel, and its files are here.

    `free`: bytes where it keeps images, where that is known.
    """

    version: str
    api: str
    os: str
    kind: str
    architecture: str
    cgroup: str
    storage: str
    local: bool
    free: int | None
    images: Mapping[str, ImageState]


@dataclass(frozen=True, slots=True)
class Docker:
    """The engine or, without one, why none answers at `host` (DOCKER_HOST).

    `container`: what a container with a node's rights can do, if that was tried.
    """

    engine: Engine | None
    problem: str | None
    host: str | None
    container: Trial | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known. Sizes are in bytes.

    `commands`, `docker_commands`: their versions, None for those that are missing. `namespaces`: what can be done in
    namespaces as this user; `others`: whether ordinary users can have them, asked by root. `sysctls`: those that
    restrict user namespaces, where there are any. `checkout`: whether the project's own scripts are here.
    """

    root: bool
    debian: bool
    checkout: bool
    python: str
    python_at_least: str
    packages: tuple[Package, ...]
    commands: Mapping[str, str | None]
    namespaces: Trial
    others: Trial | None
    sysctls: Mapping[str, int]
    docker: Docker
    docker_commands: Mapping[str, str | None]
    memory: int

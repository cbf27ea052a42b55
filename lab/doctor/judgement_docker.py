"""What the facts about Docker mean for labs in containers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lab.doctor import remedies
from lab.doctor.facts import Docker, Engine, Facts, Step
from lab.doctor.findings import DOCKER, LINKS, NONE, Judged, Tried
from lab.nat.kinds import Engine as NatEngine

_IMAGES_SIZE: Final = 1 << 30
"""What building the images takes on disk, caches included."""


def docker(facts: Facts) -> Iterator[Judged]:
    """Findings about the engine, its commands and images, and what its containers can do."""
    engine = facts.docker.engine
    problem = _engine_problem(facts.docker)
    yield Judged("engine", problem, _told(engine), "labs in containers", _start_engine(facts), DOCKER)
    for name, what, script, packages, needed_by in (
        ("docker", "building images, and commands in nodes", "up", "docker.io, or docker-cli", DOCKER),
        (
            "docker compose",
            "the lab as a Compose file",
            "compose",
            "docker-compose-v2, or Debian 13's docker-compose",
            NONE,
        ),
        ("docker buildx", "building images with BuildKit", "compose", "docker-buildx", NONE),
    ):
        version = facts.docker_commands[name]
        remedy = f"tools/engine.sh {script}" if facts.checkout else f"install the package {packages}, or Docker's own"
        yield Judged(name, "not found" if version is None else None, version or "found", what, remedy, needed_by)
    if engine is None:
        return
    bad = {tag: state for tag, state in engine.images.items() if state != "fresh"}
    yield Judged(
        "images",
        ", ".join(f"{tag} is {state}" for tag, state in bad.items()) or None,
        f"{', '.join(engine.images)}: fresh",
        "nodes",
        "make images (`teredo-lab up --backend docker` does it, too)"
        if facts.checkout
        else "build them in a checkout of the project: make images",
        NONE if facts.checkout else DOCKER,
    )
    if engine.free is not None:
        yield Judged(
            "disk",
            f"{size(engine.free)} free" if bad and engine.free < _IMAGES_SIZE else None,
            f"{size(engine.free)} free",
            f"building the images takes up to {size(_IMAGES_SIZE)}",
            "docker system df shows what takes it; docker builder prune frees what old builds have left",
            DOCKER,
        )
    yield from _containers(facts, engine)


def _engine_problem(docker: Docker) -> str | None:
    engine = docker.engine
    if engine is None:
        return f"none answers{f' at {docker.host}' if docker.host else ''}: {docker.problem}"
    return None if engine.os == "linux" else f"it runs containers of {engine.os}, and labs need those of Linux"


def _told(engine: Engine | None) -> str:
    if engine is None:
        return ""
    return (
        f"{engine.version} (API {engine.api}), {engine.kind}, {engine.architecture}, cgroup {engine.cgroup},"
        f" {engine.storage}"
    )


def _start_engine(facts: Facts) -> str:
    sudo = remedies.sudo(root=facts.root)
    if facts.docker.engine is not None:
        return "switch it to Linux containers"
    if facts.docker.problem is not None and "permission denied" in facts.docker.problem.lower():
        return f"{sudo}usermod -aG docker $USER, then log in again"
    if facts.docker.host is not None and not facts.docker.host.startswith("unix:"):
        return "start it, or unset DOCKER_HOST to use one on this machine"
    if facts.checkout:
        return "tools/engine.sh up"
    return f"{remedies.install('docker.io', debian=facts.debian, root=facts.root)}, and start it"


def _containers(facts: Facts, engine: Engine) -> Iterator[Judged]:
    """What the kernel gives a container: tried in one or, on the same kernel, in a namespace."""
    container = facts.docker.container
    trial = container or (facts.namespaces if engine.local else None)
    if trial is not None and trial.problem is None:
        yield Tried(trial, facts.root).steps("VXLAN", [Step.VXLAN], "links between containers", DOCKER)
    if container is None:
        return
    tried = Tried(container, facts.root)
    parts = [
        tried.steps("TUN", [Step.TUN], "", DOCKER),
        tried.steps("links", LINKS, "", DOCKER),
        *(tried.nats(nat_engine, DOCKER) for nat_engine in NatEngine),
        tried.steps("connection tracking", [Step.CONNTRACK], "", DOCKER),
    ]
    wrong = [part for part in parts if part.problem is not None]
    kinds = len({step.split(": ")[1] for step in container.steps if ": " in step})
    yield Judged(
        "a container",
        container.problem or "; ".join(f"{part.name}: {part.problem}" for part in wrong) or None,
        f"one with a node's rights made TUN, links and {kinds} kinds of NAT",
        "nodes",
        "give the engine's machine a kernel that has them, and /dev/net/tun (modprobe tun)",
        DOCKER if container.problem or any(part.needed_by for part in wrong) else NONE,
    )


def size(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count >> 20} MiB"

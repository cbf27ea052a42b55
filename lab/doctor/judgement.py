"""What a machine's facts mean for labs: findings, each with what was found, what it is for, and how to get it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from lab.doctor import remedies
from lab.doctor.commands import COMMANDS, Command
from lab.doctor.facts import Docker, Engine, Facts, Step, Trial
from lab.nat.kinds import KINDS
from lab.nat.kinds import Engine as NatEngine

Status = Literal["ok", "missing", "optional-missing"]
Backend = Literal["netns", "docker"]

NODE_SIZE: Final[Mapping[Backend, int]] = {"netns": 5 << 20, "docker": 25 << 20}
"""The memory that a node takes, roughly, as measured with labs of 20 and 130 nodes; and what a lab takes besides."""
_LAB_SIZE: Final = 150 << 20
_FEWEST_NODES: Final = 10
"""Of a lab with a server, a relay, a host, and two clients behind NATs."""

_IMAGES_SIZE: Final = 1 << 30
"""What building the images takes on disk, caches included."""

_LINKS: Final = (Step.VETH, Step.BRIDGE, Step.IPV6, Step.RULES, Step.PACKETS)
_MODULES: Final[Mapping[str, str]] = {
    Step.VETH: "veth",
    Step.BRIDGE: "bridge",
    Step.IPV6: "ipv6",
    Step.VXLAN: "vxlan",
    Step.RATE: "sch_tbf",
    Step.DELAY: "sch_netem",
    Step.LOSS: "nf_tables",
    Step.CONNTRACK: "nf_conntrack",
    NatEngine.IPTABLES: "-a ip_tables xt_set",
    NatEngine.NFTABLES: "nft_chain_nat",
}
_BOTH: Final = frozenset[Backend](("netns", "docker"))
_NETNS: Final = frozenset[Backend](("netns",))
_DOCKER: Final = frozenset[Backend](("docker",))
_NONE: Final = frozenset[Backend]()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that labs use. `purpose` and `remedy` are of interest where it is missing."""

    group: str
    name: str
    status: Status
    found: str
    purpose: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class _Judged:
    """A finding before it is known which backend shall run: `problem` says what is wrong, None if nothing is."""

    name: str
    problem: str | None
    found: str
    purpose: str
    remedy: str
    needed_by: frozenset[Backend]


def judge(facts: Facts, backend: Backend) -> list[Finding]:
    """All findings; one is `missing` if labs of this backend cannot be without it."""
    groups = {
        "machine": _machine(facts, backend),
        "namespaces": _namespaces(facts),
        "commands": (_command(command, facts) for command in COMMANDS),
        "Docker": _docker(facts),
    }
    return [_finding(group, judged, backend) for group, several in groups.items() for judged in several]


def able(findings: Iterable[Finding]) -> bool:
    """Whether labs can run, going by the findings."""
    return all(finding.status != "missing" for finding in findings)


def _finding(group: str, judged: _Judged, backend: Backend) -> Finding:
    if judged.problem is None:
        return Finding(group, judged.name, "ok", judged.found, judged.purpose)
    status: Status = "missing" if backend in judged.needed_by else "optional-missing"
    return Finding(group, judged.name, status, judged.problem, judged.purpose, judged.remedy)


# --- the machine -----------------------------------------------------------------------------------------------------


def _machine(facts: Facts, backend: Backend) -> Iterator[_Judged]:
    yield _Judged(
        "Python",
        f"{facts.python} is too old" if _older(facts.python, facts.python_at_least) else None,
        facts.python,
        "everything",
        f"install Python {facts.python_at_least} or newer, and have PYTHON name it: make lab-up PYTHON=python3.13",
        _BOTH,
    )
    wrong = [
        f"{package.name} {'is missing' if package.version is None else f'{package.version} is too old'}"
        for package in facts.packages
        if package.version is None or _older(package.version, package.at_least)
    ]
    nothing = None if facts.packages else "the project is not installed as a Python package"
    yield _Judged(
        "Python packages",
        ", ".join(wrong) or nothing,
        ", ".join(f"{package.name} {package.version}" for package in facts.packages),
        "everything",
        "tools/setup.sh run" if facts.checkout else "pip install --upgrade teredo-lab, where you have installed it",
        _BOTH,
    )
    nodes = max(0, facts.memory - _LAB_SIZE) // NODE_SIZE[backend]
    yield _Judged(
        "memory",
        f"{_size(facts.memory)} free: not enough for {_FEWEST_NODES} nodes" if nodes < _FEWEST_NODES else None,
        f"{_size(facts.memory)} free: for about {_rounded(nodes)} nodes",
        "nodes",
        "end what takes it: ps -e --sort -rss -o rss,comm shows it",
        _BOTH,
    )


def _older(version: str, wanted: str) -> bool:
    return _numbers(version) < _numbers(wanted)


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count >> 20} MiB"


def _rounded(count: int) -> int:
    """A number with no more than two digits that say something."""
    zeros = len(str(count)) - 2
    return count if zeros <= 0 else round(count, -zeros)


# --- namespaces ------------------------------------------------------------------------------------------------------


def _namespaces(facts: Facts) -> Iterator[_Judged]:
    sudo = remedies.sudo(root=facts.root)
    trial = facts.namespaces
    yield _Judged(
        "network namespaces",
        trial.problem and f"cannot be made: {trial.problem}{_culprits(facts)}",
        "made, as root" if facts.root else "made, in a user namespace",
        "labs in namespaces",
        "run it where root has all rights: not in a container without --privileged"
        if facts.root
        else f"run it as root, or: {_allow(facts, sudo)}",
        _NETNS,
    )
    if facts.others is not None:
        problem = facts.others.problem
        yield _Judged(
            "user namespaces",
            problem and f"ordinary users cannot make them: {problem}{_culprits(facts)}",
            "ordinary users can make them",
            "labs of ordinary users",
            _allow(facts, sudo),
            _NONE,
        )
    if trial.problem is not None:
        return
    local = facts.docker.engine is not None and facts.docker.engine.local and facts.docker.container is None
    both = _BOTH if local else _NETNS
    tun = f"{sudo}modprobe tun; {sudo}chmod 666 /dev/net/tun"
    yield _of_steps("TUN", [Step.TUN], trial, "Teredo's interface", tun, both)
    yield _of_steps("links", _LINKS, trial, "the lab's networks and what is measured in them", _modprobe(sudo), both)
    for engine in NatEngine:
        yield from _nats(engine, trial, sudo, both)
    timeouts = _modprobe(sudo)
    yield _of_steps("connection tracking", [Step.CONNTRACK], trial, "NATs' lifetimes", timeouts, both)
    yield _of_steps("loss", [Step.LOSS], trial, "links that lose packets or are cut", _modprobe(sudo), _NONE)
    yield _of_steps("rate", [Step.RATE], trial, "links with a rate", _modprobe(sudo), _NONE)
    yield _of_steps("delay", [Step.DELAY], trial, "links with delay, jitter or reordering", _modprobe(sudo), _NONE)


def _culprits(facts: Facts) -> str:
    """The settings that forbid user namespaces."""
    wrong = [f"{name} is {value}" for name, value in facts.sysctls.items() if _restricts(name, value)]
    return f" ({', '.join(wrong)})" if wrong else ""


def _restricts(name: str, value: int) -> bool:
    wanted = remedies.USERNS_SYSCTLS[name]
    return value > wanted if wanted == 0 else value == 0


def _allow(facts: Facts, sudo: str) -> str:
    settings = [
        f"{name}={remedies.USERNS_SYSCTLS[name]}" for name, value in facts.sysctls.items() if _restricts(name, value)
    ]
    return f"{sudo}sysctl -w {' '.join(settings)}" if settings else "see what your kernel and its security module allow"


_MODPROBE: Final = "MODULES"


def _modprobe(sudo: str) -> str:
    return f"{sudo}modprobe {_MODPROBE}; on Ubuntu it may be in the package linux-modules-extra-$(uname -r)"


def _of_steps(
    name: str, steps: Sequence[Step], trial: Trial, purpose: str, remedy: str, needed_by: frozenset[Backend]
) -> _Judged:
    """A finding of what came of some steps; those that were not tried are no problem."""
    failed = {step: why for step in steps if (why := trial.steps.get(step)) is not None}
    problem = "; ".join(why if len(steps) == 1 else f"{step}: {why}" for step, why in failed.items())
    modules = " ".join(_MODULES[step] for step in failed if step in _MODULES)
    found = "works" if len(steps) == 1 else ", ".join(steps)
    return _Judged(name, problem or None, found, purpose, remedy.replace(_MODPROBE, modules), needed_by)


def _nats(engine: NatEngine, trial: Trial, sudo: str, needed_by: frozenset[Backend]) -> Iterator[_Judged]:
    """What came of the kinds of NAT that an engine makes. A lab can be without those that are not of RFC 6081."""
    prefix = f"{engine}: "
    results = {step.removeprefix(prefix): why for step, why in trial.steps.items() if step.startswith(prefix)}
    failed: dict[str, list[str]] = {}
    for kind, why in results.items():
        if why is not None:
            failed.setdefault(why, []).append(kind)
    yield _Judged(
        f"NATs by {engine}",
        "; ".join(f"{', '.join(kinds)}: {why}" for why, kinds in failed.items()) or None,
        f"{len(results)} kinds loaded",
        "these kinds of NAT" if failed else "NATs",
        _modprobe(sudo).replace(_MODPROBE, _MODULES[engine]),
        needed_by if any(kind in KINDS for kinds in failed.values() for kind in kinds) else _NONE,
    )


# --- commands --------------------------------------------------------------------------------------------------------


def _command(command: Command, facts: Facts) -> _Judged:
    version = facts.commands[command.name]
    if command.daemon and facts.checkout:
        remedy = f"{remedies.sudo(root=facts.root)}make packages (it starts no daemon)"
    else:
        remedy = remedies.install(command.package, debian=facts.debian, root=facts.root)
    found = version or "there"
    if command.package.startswith("miredo") and not facts.root:
        found += "; labs of ordinary users leave it out"
    needed_by = _NETNS if command.required else _NONE
    return _Judged(command.name, "not found" if version is None else None, found, command.purpose, remedy, needed_by)


# --- Docker ----------------------------------------------------------------------------------------------------------


def _docker(facts: Facts) -> Iterator[_Judged]:
    docker, engine = facts.docker, facts.docker.engine
    purpose = "labs in containers"
    yield _Judged("engine", _engine_problem(docker), _told(engine), purpose, _start_engine(facts), _DOCKER)
    for name, what, script, packages, needed_by in (
        ("docker", "building images, and commands in nodes", "up", "docker.io, or docker-cli", _DOCKER),
        (
            "docker compose",
            "the lab as a Compose file",
            "compose",
            "docker-compose-v2, or Debian 13's docker-compose",
            _NONE,
        ),
        ("docker buildx", "building images with BuildKit", "compose", "docker-buildx", _NONE),
    ):
        version = facts.docker_commands[name]
        remedy = f"tools/engine.sh {script}" if facts.checkout else f"install the package {packages}, or Docker's own"
        yield _Judged(name, "not found" if version is None else None, version or "there", what, remedy, needed_by)
    if engine is None:
        return
    bad = {tag: state for tag, state in engine.images.items() if state != "fresh"}
    yield _Judged(
        "images",
        ", ".join(f"{tag} is {state}" for tag, state in bad.items()) or None,
        f"{', '.join(engine.images)}: fresh",
        "nodes",
        "make images (`teredo-lab up --backend docker` does it, too)"
        if facts.checkout
        else "build them in a checkout of the project: make images",
        _NONE if facts.checkout else _DOCKER,
    )
    if engine.free is not None:
        yield _Judged(
            "disk",
            f"{_size(engine.free)} free" if bad and engine.free < _IMAGES_SIZE else None,
            f"{_size(engine.free)} free",
            f"building the images takes up to {_size(_IMAGES_SIZE)}",
            "docker system df shows what takes it; docker builder prune frees what old builds have left",
            _DOCKER,
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


def _containers(facts: Facts, engine: Engine) -> Iterator[_Judged]:
    """What the kernel gives a container: tried in one or, on the same kernel, in a namespace."""
    sudo = remedies.sudo(root=facts.root)
    container = facts.docker.container
    vxlan = container or (facts.namespaces if engine.local else None)
    if vxlan is not None and vxlan.problem is None:
        purpose = "links between containers"
        yield _of_steps("VXLAN", [Step.VXLAN], vxlan, purpose, _modprobe(sudo), _DOCKER)
    if container is None:
        return
    parts = [
        _of_steps("TUN", [Step.TUN], container, "", "", _DOCKER),
        _of_steps("links", _LINKS, container, "", "", _DOCKER),
        *(each for nat_engine in NatEngine for each in _nats(nat_engine, container, sudo, _DOCKER)),
        _of_steps("connection tracking", [Step.CONNTRACK], container, "", "", _DOCKER),
    ]
    wrong = [part for part in parts if part.problem is not None]
    kinds = len({step.split(": ")[1] for step in container.steps if ": " in step})
    yield _Judged(
        "a container",
        container.problem or "; ".join(f"{part.name}: {part.problem}" for part in wrong) or None,
        f"one with a node's rights made TUN, links and {kinds} kinds of NAT",
        "nodes",
        "give the engine's machine a kernel that has them, and /dev/net/tun (modprobe tun)",
        _DOCKER if container.problem or any(part.needed_by for part in wrong) else _NONE,
    )

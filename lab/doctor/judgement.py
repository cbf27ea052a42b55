"""What a machine's facts mean for labs: findings, each with what was found, what it is for, and how to get it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from lab.doctor import remedies
from lab.doctor.commands import COMMANDS, Command
from lab.doctor.facts import Facts, Step
from lab.doctor.findings import BOTH, LINKS, NETNS, NONE, Backend, Finding, Judged, Tried
from lab.doctor.judgement_docker import docker, size
from lab.nat.kinds import Engine

_NODE_SIZE: Final[Mapping[Backend, int]] = {"netns": 5 << 20, "docker": 25 << 20}
"""The memory that a node takes, roughly, as measured with labs of 20 and 130 nodes."""

_LAB_SIZE: Final = 150 << 20
"""What a lab takes besides."""

_FEWEST_NODES: Final = 10
"""Of a lab with a server, a relay, a host, and two clients behind NATs."""


def judge(facts: Facts, backend: Backend) -> list[Finding]:
    """All findings; one is `missing` if labs of this backend cannot be without it."""
    groups = {
        "machine": _machine(facts, backend),
        "namespaces": _namespaces(facts),
        "commands": (_command(command, facts) for command in COMMANDS),
        "Docker": docker(facts),
    }
    return [judged.finding(group, backend) for group, several in groups.items() for judged in several]


def able(findings: Iterable[Finding]) -> bool:
    """Whether labs can run, going by the findings."""
    return all(finding.status != "missing" for finding in findings)


# --- the machine -----------------------------------------------------------------------------------------------------


def _machine(facts: Facts, backend: Backend) -> Iterator[Judged]:
    yield Judged(
        "Python",
        f"{facts.python} is too old" if _older(facts.python, facts.python_at_least) else None,
        facts.python,
        "everything",
        f"install Python {facts.python_at_least} or newer, and have PYTHON name it: make lab-up PYTHON=python3.13",
        BOTH,
    )
    wrong = [
        f"{package.name} {'is missing' if package.version is None else f'{package.version} is too old'}"
        for package in facts.packages
        if package.version is None or _older(package.version, package.at_least)
    ]
    nothing = None if facts.packages else "the project is not installed as a Python package"
    yield Judged(
        "Python packages",
        ", ".join(wrong) or nothing,
        ", ".join(f"{package.name} {package.version}" for package in facts.packages),
        "everything",
        "tools/setup.sh run" if facts.checkout else "pip install --upgrade teredo-lab, where you have installed it",
        BOTH,
    )
    nodes = max(0, facts.memory - _LAB_SIZE) // _NODE_SIZE[backend]
    yield Judged(
        "memory",
        f"{size(facts.memory)} free: not enough for {_FEWEST_NODES} nodes" if nodes < _FEWEST_NODES else None,
        f"{size(facts.memory)} free: for about {_rounded(nodes)} nodes",
        "nodes",
        "end what takes it: ps -e --sort -rss -o rss,comm shows it",
        BOTH,
    )


def _older(version: str, wanted: str) -> bool:
    return _numbers(version) < _numbers(wanted)


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def _rounded(count: int) -> int:
    """A number with no more than two digits that say something."""
    zeros = len(str(count)) - 2
    return count if zeros <= 0 else round(count, -zeros)


# --- namespaces ------------------------------------------------------------------------------------------------------


def _namespaces(facts: Facts) -> Iterator[Judged]:
    problem = facts.namespaces.problem
    yield Judged(
        "network namespaces",
        problem and f"cannot be made: {problem}{'' if facts.root else _culprits(facts)}",
        "made, as root" if facts.root else "made, in a user namespace",
        "labs in namespaces",
        "run it where root has all rights: in a container, only with --privileged"
        if facts.root
        else f"run it as root, or: {_allow(facts)}",
        NETNS,
    )
    if facts.others is not None:
        forbidden = facts.others.problem
        yield Judged(
            "user namespaces",
            forbidden and f"ordinary users cannot make them: {forbidden}{_culprits(facts)}",
            "ordinary users can make them",
            "labs of ordinary users",
            _allow(facts),
        )
    if problem is not None:
        return
    engine = facts.docker.engine
    same_kernel = BOTH if engine is not None and engine.local and facts.docker.container is None else NETNS
    absent = frozenset(name for name, version in facts.commands.items() if version is None)
    tried = Tried(facts.namespaces, facts.root, absent)
    yield tried.steps("TUN", [Step.TUN], "Teredo's interface", same_kernel)
    yield tried.steps("links", LINKS, "the lab's networks, and what is measured in them", same_kernel)
    for nat_engine in Engine:
        yield tried.nats(nat_engine, NETNS)
    yield tried.steps("connection tracking", [Step.CONNTRACK], "the lifetimes of NATs' mappings", NETNS)
    yield tried.steps("loss", [Step.LOSS], "links that lose packets or are cut")
    yield tried.steps("rate", [Step.RATE], "links with a rate")
    yield tried.steps("delay", [Step.DELAY], "links with delay, jitter or reordering")


def _culprits(facts: Facts) -> str:
    """The settings that forbid user namespaces."""
    wrong = [f"{name} is {value}" for name, value in facts.sysctls.items() if _restricts(name, value)]
    return f" ({', '.join(wrong)})" if wrong else ""


def _restricts(name: str, value: int) -> bool:
    wanted = remedies.USERNS_SYSCTLS[name]
    return value > wanted if wanted == 0 else value == 0


def _allow(facts: Facts) -> str:
    settings = [
        f"{name}={remedies.USERNS_SYSCTLS[name]}" for name, value in facts.sysctls.items() if _restricts(name, value)
    ]
    return (
        f"{remedies.sudo(root=facts.root)}sysctl -w {' '.join(settings)}"
        if settings
        else "see what your kernel and its security module allow"
    )


# --- commands --------------------------------------------------------------------------------------------------------


def _command(command: Command, facts: Facts) -> Judged:
    version = facts.commands[command.name]
    if command.daemon and facts.checkout:
        remedy = f"{remedies.sudo(root=facts.root)}make packages (it starts no daemon)"
    else:
        remedy = remedies.install(command.package, debian=facts.debian, root=facts.root)
    found = version or "found"
    if command.package.startswith("miredo") and not facts.root:
        found += "; labs of ordinary users leave it out"
    needed_by = NETNS if command.required else NONE
    return Judged(command.name, "not found" if version is None else None, found, command.purpose, remedy, needed_by)

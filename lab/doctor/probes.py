"""Looks at the machine: what there is of what `lab.doctor.judgement` asks for. Leaves nothing behind."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab.backends.netns import TOOLS
from lab.doctor.judgement import COMMANDS, Seen
from lab.state import MachineError

if TYPE_CHECKING:
    import docker

_PYTHON: Final = (3, 11)
_PATIENCE: Final = 20.0
_ANSWER: Final = 2
"""Seconds for an engine to answer."""

_NODE_MB: Final = 6
_CONTAINER_MB: Final = 40
"""What a node of either backend takes with its program: measured with the 326 of topologies/rfc6081.yaml."""

_LEAST_MB: Final = 512
_IMAGES_GB: Final = 1.0


def look() -> Iterator[tuple[str, Seen]]:
    """Each subject that was looked at, and what was seen of it."""
    path = os.environ["PATH"] = f"{os.environ.get('PATH', '/usr/bin:/bin')}:{TOOLS}"
    version = platform.python_version()
    yield "Python", Seen(sys.version_info >= _PYTHON, version)
    yield "Python packages", _packages()
    for name in COMMANDS:
        where = shutil.which(name, path=path)
        yield f"command {name}", Seen(where is not None, where or "not found")
    yield from _tried((sys.executable, "-m", "lab.doctor.trial"), "namespaces")
    yield from _docker()
    yield "memory", _memory()


def _packages() -> Seen:
    names = [require.split(";")[0] for require in metadata.requires("teredo-lab") or ()]
    found, missing = [], []
    for name in (name.split(">")[0].split("=")[0].strip() for name in names):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    return Seen(not missing, f"missing: {', '.join(missing)}" if missing else ", ".join(found))


def _tried(command: tuple[str, ...], subject: str) -> Iterator[tuple[str, Seen]]:
    """What a trial says; if it says nothing, that its first subject cannot be had."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)
        for name, seen in json.loads(result.stdout).items():
            yield name, Seen(**seen)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        said = result.stderr.strip().splitlines()[-1:] if isinstance(error, ValueError) else [str(error)]
        yield subject, Seen(False, f"the trial failed: {' '.join(said)}")


def _docker() -> Iterator[tuple[str, Seen]]:
    client = shutil.which("docker")
    yield "Docker client", Seen(client is not None, _said("docker", "--version") or "not found")
    for plugin, name in (("compose", "Docker Compose"), ("buildx", "Docker buildx")):
        version = _said("docker", plugin, "version") if client else None
        yield name, Seen(version is not None, version or "not found")
    from lab.backends.engine import connected, image, is_fresh  # noqa: PLC0415 - slow to import

    try:
        engine = connected(timeout=_ANSWER)
        yield "Docker engine", _engine(engine)
        missing = [tag for tag in (image(miredo=miredo) for miredo in (False, True)) if not is_fresh(engine, tag)]
        tags = f"{' and '.join(missing)}: not built from this tree" if missing else image(miredo=False)
        yield "images", Seen(not missing, tags)
        yield "disk", _disk(engine, needed=bool(missing))
        if not missing:
            options = ("--rm", "--network", "none", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN")
            trial = ("docker", "run", *options, image(miredo=False), "python", "-m", "lab.doctor.trial", "container")
            yield from _tried(trial, "VXLAN in containers")
    except MachineError as error:
        yield "Docker engine", Seen(False, str(error))


def _said(*command: str) -> str | None:
    """The first line that a command prints; None if it cannot be run, or fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = result.stdout.strip().splitlines()
    return lines[0] if result.returncode == 0 and lines else None


def _engine(engine: docker.DockerClient) -> Seen:
    version: dict[str, Any] = engine.version()
    info: dict[str, Any] = engine.info()
    what = (
        f"{version['Version']} (API {version['ApiVersion']}), {info['OperatingSystem']}, {info['Architecture']},"
        f" {info['Driver']}, cgroup v{info.get('CgroupVersion', '1')}"
    )
    linux = info["OSType"] == "linux"
    return Seen(linux, what if linux else f"{what}: it runs containers of {info['OSType']}, and the lab needs Linux's")


def _disk(engine: docker.DockerClient, *, needed: bool) -> Seen:
    """What is free where the engine keeps images, if that is on this machine."""
    place = Path(engine.info()["DockerRootDir"])
    try:
        free = shutil.disk_usage(place).free / 1e9
    except OSError:  # in a virtual machine of its own
        return Seen(True, f"{place} is not on this machine")
    return Seen(free >= _IMAGES_GB or not needed, f"{free:.1f} GB free in {place}")


def _memory() -> Seen:
    """What is available, and roughly how many nodes that is for."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) // 1024 for line in lines if line.startswith("MemAvailable:"))
    return Seen(
        available >= _LEAST_MB,
        f"{available:,} MB available: for about {available // _NODE_MB:,} nodes in namespaces,"
        f" or {available // _CONTAINER_MB:,} in containers",
    )

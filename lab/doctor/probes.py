"""Finds out what there is of all that labs use: nothing is judged here, and nothing changed."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import secrets
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab.backends import linux
from lab.doctor import remedies, trial
from lab.doctor.commands import COMMANDS, Command
from lab.doctor.facts import Docker, Engine, Facts, Package, Trial

if TYPE_CHECKING:
    from docker import DockerClient

_NOBODY: Final = 65534
_PROJECT: Final = "teredo-lab"
_ENGINE_TIMEOUT: Final = 2.0
_COMMAND_TIMEOUT: Final = 5.0
_CONTAINER_TIMEOUT: Final = 30
_AT_ONCE: Final = 8
_DOCKER_COMMANDS: Final = {
    "docker": ("docker", "--version"),
    "docker compose": ("docker", "compose", "version"),
    "docker buildx": ("docker", "buildx", "version"),
}


def collect(*, containers: bool) -> Facts:
    """All facts. `containers`: also try what a container can do, where there are an engine and images."""
    root = os.geteuid() == 0
    namespaces = trial.start(trial.everything())  # forked first: from here on there are threads
    others = trial.start((), become=_NOBODY) if root and linux.is_mapped(_NOBODY) else None
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        docker = pool.submit(_docker, containers=containers)
        commands = pool.map(version, COMMANDS)
        docker_commands = pool.map(_output, _DOCKER_COMMANDS.values())
        return Facts(
            root=root,
            debian=linux.find_tool("apt-get") is not None,
            checkout=(Path(__file__).parents[2] / "tools/setup.sh").exists(),
            python=platform.python_version(),
            python_at_least=_python_at_least(),
            packages=tuple(_packages()),
            commands=dict(zip((command.name for command in COMMANDS), commands, strict=True)),
            namespaces=namespaces.result(),
            others=None if others is None else others.result(),
            sysctls=_sysctls(),
            docker=docker.result(),
            docker_commands=dict(zip(_DOCKER_COMMANDS, map(_number, docker_commands), strict=True)),
            memory=_memory(),
        )


def version(command: Command) -> str | None:
    """A command's version, an empty text where it cannot be asked, None where the command is missing."""
    path = linux.find_tool(command.name)
    if path is None:
        return None
    return "" if command.version is None else _number(_output((path, command.version), whatever=True)) or ""


def _output(command: Iterable[str], *, whatever: bool = False) -> str | None:
    """What a command prints; None if it cannot be run or fails, unless that does not matter."""
    try:
        result = subprocess.run(
            tuple(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_COMMAND_TIMEOUT,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout + result.stderr if whatever or result.returncode == 0 else None


def _number(output: str | None) -> str | None:
    """The version number in what a command has printed, and iptables' kind."""
    if output is None:
        return None
    match = re.search(r"\d+(?:\.\d+)+[\w.+~-]*(?: \((?:nf_tables|legacy)\))?|\b\d{8}\b", output)
    return match[0] if match else ""


def _python_at_least() -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return str(metadata.metadata(_PROJECT)["Requires-Python"]).removeprefix(">=")
    return ""


def _packages() -> Iterable[Package]:
    try:
        requirements = metadata.requires(_PROJECT) or []
    except metadata.PackageNotFoundError:
        return
    for requirement in requirements:
        match = re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement)
        assert match is not None, requirement
        try:
            version: str | None = metadata.version(match[1])
        except metadata.PackageNotFoundError:
            version = None
        yield Package(match[1], match[2], version)


def _sysctls() -> dict[str, int]:
    """Those that restrict user namespaces, as far as this kernel has them."""
    found = {}
    for name in remedies.USERNS_SYSCTLS:
        with contextlib.suppress(OSError, ValueError):
            found[name] = int((Path("/proc/sys") / name.replace(".", "/")).read_text())
    return found


def _memory() -> int:
    """Bytes that are free, or would be if they were needed."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(match[1]) << 10 if match else 0


def _docker(*, containers: bool) -> Docker:
    from docker.errors import DockerException  # noqa: PLC0415 - slow to import

    from lab.backends import engine  # noqa: PLC0415

    host = os.environ.get("DOCKER_HOST")
    try:
        client = engine.connect(_ENGINE_TIMEOUT)
        found = _engine(client)
    except (DockerException, OSError) as error:
        return Docker(None, engine.reason(error), host)
    fresh = all(state == "fresh" for state in found.images.values())
    return Docker(found, None, host, _in_container() if containers and fresh and found.os == "linux" else None)


def _in_container() -> Trial:
    """The same steps in a container that may do what a node may; it is gone when this returns."""
    from docker.errors import APIError, DockerException, NotFound  # noqa: PLC0415 - slow to import

    from lab.backends import engine  # noqa: PLC0415
    from lab.backends.containers import CAPABILITIES, IPV6  # noqa: PLC0415
    from lab.backends.starting import make  # noqa: PLC0415

    host = {
        "cap_add": list(CAPABILITIES),
        "devices": ["/dev/net/tun"],
        "sysctls": IPV6 | trial.SYSCTLS,
        "network_mode": "none",
        "auto_remove": True,  # also when we are killed
    }
    command = ["timeout", str(_CONTAINER_TIMEOUT), "python", "-m", "lab.doctor.trial"]
    try:
        api = engine.connect(_CONTAINER_TIMEOUT).api
        name = f"teredo-lab-doctor-{secrets.token_hex(4)}"
        made = make(api, name, image=engine.image(miredo=False), command=command, host=host, networks={})
        try:
            output = api.attach(made, stdout=True, stderr=True, stream=True, demux=True)
            api.start(made)
            parts = list(output)
            with contextlib.suppress(NotFound):
                api.wait(made, condition="removed")
        except BaseException:
            with contextlib.suppress(DockerException):
                api.remove_container(made, force=True)
            raise
    except (DockerException, OSError) as error:
        return Trial(f"the engine refused it: {error.explanation if isinstance(error, APIError) else error}")
    text, errors = (b"".join(part[stream] or b"" for part in parts) for stream in (0, 1))
    try:
        return Trial(steps=json.loads(text))
    except ValueError:
        return Trial(f"nothing came of it: {errors.decode(errors='replace').strip()}")


def _engine(client: DockerClient) -> Engine:
    from lab.backends.engine import image_source, image_states  # noqa: PLC0415 - slow to import

    info, version = client.info(), client.version()
    local = info.get("KernelVersion") == platform.release() and info.get("Name") == platform.node()
    place = Path(info.get("DockerRootDir", "/"))
    free = None
    if local and place.exists():
        disk = os.statvfs(place)
        free = disk.f_bavail * disk.f_frsize
    system = info.get("OperatingSystem", "")
    return Engine(
        version=version["Version"],
        api=version["ApiVersion"],
        os=info.get("OSType", ""),
        kind=system if system == "Docker Desktop" else f"on {system}",
        architecture=info.get("Architecture", ""),
        cgroup=f"v{info.get('CgroupVersion', '1')} ({info.get('CgroupDriver', '')})",
        storage=info.get("Driver", ""),
        local=local,
        free=free,
        images=image_states(client, image_source()),
    )

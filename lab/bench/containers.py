"""How long a lab in containers takes, beside the same containers started by a plain parallel loop of `docker run`."""

from __future__ import annotations

import ipaddress
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lab.agent import SHARED
from lab.backends.containers import MTU, SETTINGS, Container, containers
from lab.backends.engine import engine, ensure_images, image
from lab.backends.starting import AT_ONCE
from lab.bench.section import NAME, Aim, Figures, Section, timed
from lab.planner import plan
from lab.state import MachineError
from lab.topology.load import load
from lab.topology.rules import INTERNET

_PLAIN: Final = "bench-plain"
_STARTED: Final = "docker run, in parallel"
_MADE: Final = "  until each has made its node"
TOPOLOGY: Final = """
servers: {server: }
relays: {relay: }
hosts: {web: }
checks: {pairs: ring}
sites:
  open: {nat: cone, clients: {alice: {count: 4}}}
  address: {nat: addr_restricted, clients: {bob: {count: 4}}}
  port: {nat: port_restricted, clients: {carol: {count: 4}}}
"""
"""It makes 20 containers, with the core and the checks."""

_SUBNET: Final = ipaddress.IPv4Network("172.31.77.0/24")


def _lacking() -> str | None:
    """Why there can be no containers, or None; images are built here, where nobody measures."""
    try:
        for _ in ensure_images(engine()):
            pass
    except MachineError as error:
        return str(error)
    return None


def _whole(directory: Path) -> Figures:
    """A lab of 20 containers beside the same containers without the lab."""
    topology = directory / "containers.yaml"
    topology.write_text(TOPOLOGY)
    took, _ = timed("up", str(topology), "--name", NAME, "--backend", "docker", "--json")
    timed("down", "--name", NAME)
    plain = _plain(topology)
    ratios = {f"ratio to {what.strip()}": took / seconds for what, seconds in plain.items()}
    return {"up and qualified, as the user waits": took, **plain, **ratios}


def _plain(file: Path) -> Figures:
    """Seconds until the loop has started all containers of a topology's lab, and until each has made its node.

    Raises RuntimeError if one cannot be started.
    """
    made = containers(plan(load(file)).model_copy(update={"name": _PLAIN}), _SUBNET)
    core = next(container for container in made if container.name == INTERNET)
    began = time.monotonic()
    with _network():
        try:
            _docker(*_arguments(core, "shareable"))
            others = [_arguments(each, f"container:{_name(core)}") for each in made if each is not core]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda arguments: _docker(*arguments), others))
            started = time.monotonic() - began
            ready = f"until [ $(ls {SHARED}/{_PLAIN}/nodes/*/agent.sock | wc -l) = {len(made)} ]; do sleep 0.02; done"
            _docker("exec", _name(core), "sh", "-c", ready)
            return {_STARTED: started, _MADE: time.monotonic() - began}
        finally:
            _docker("rm", "--force", *map(_name, made))


def _name(container: Container) -> str:
    return f"teredo-lab-{_PLAIN}-{container.name}"


@contextmanager
def _network() -> Iterator[None]:
    mtu = f"com.docker.network.driver.mtu={MTU}"
    _docker("network", "create", "--internal", "--opt", mtu, "--subnet", str(_SUBNET), _PLAIN)
    try:
        yield
    finally:
        _docker("network", "rm", _PLAIN)


def _arguments(container: Container, ipc: str) -> list[str]:
    """What `docker run` needs to make the container that the lab would make."""
    return [
        *("run", "--detach", "--name", _name(container), "--hostname", container.name, "--ipc", ipc),
        *("--network", _PLAIN, "--ip", container.address, "--cap-drop", "ALL", "--device", "/dev/net/tun"),
        *("--security-opt", "no-new-privileges", "--pids-limit", "512"),
        *(option for capability in container.capabilities for option in ("--cap-add", capability)),
        *(option for key, value in container.sysctls.items() for option in ("--sysctl", f"{key}={value}")),
        *("--env", f"{SETTINGS}={container.settings.model_dump_json(exclude_defaults=True)}"),
        image(miredo=container.miredo),
    ]


def _docker(*arguments: str) -> None:
    result = subprocess.run(("docker", *arguments), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"docker {arguments[0]}: {result.stderr.strip()}")


SECTIONS: Final = (
    Section(
        "containers",
        "20 containers",
        _whole,
        _lacking,
        tuple(Aim(f"ratio to {what.strip()}", at_most=1.3) for what in (_STARTED, _MADE)),
        note="`docker run` returns when a container's process has been started. Until each has made its node, the same"
        " containers have done the same work; what a lab adds is a command line, the measurement of its NATs, and the"
        " qualification of its clients.",
    ),
)

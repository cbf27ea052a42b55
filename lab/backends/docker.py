"""The Docker backend: a lab whose nodes are containers, found by their labels and nothing else."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import json
import queue
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import docker
from docker.errors import APIError, NotFound
from docker.models.containers import Container as Running
from docker.models.networks import Network
from docker.utils.socket import frames_iter

from lab import answers, controller
from lab.agent import SHARED
from lab.backends.containers import (
    MTU,
    Container,
    containers,
    controller_address,
    room,
)
from lab.backends.engine import CONTROLLER, LABEL, NODE, answering, engine, ensure_images
from lab.backends.starting import AT_ONCE, Act, create, create_controller, is_watched, one_at_a_time, remove, start
from lab.backends.supervisor import NODES
from lab.doctor.remedies import DOCTOR
from lab.plan import Plan
from lab.state import Lab, MachineError, RefusedError, StateError, node_facts
from lab.topology.rules import INTERNET

_POOLS: Final = ("172.16.0.0/12", "10.0.0.0/8")
_TRIES: Final = 64
_OVERLAP: Final = "overlap"
_STARTING: Final = 30
"""Seconds in which a controller that has been started must answer."""

_LOOK: Final = 1.0
"""Seconds without a report after which to look whether a node's container has ended."""


class Output(io.RawIOBase):
    """What a command in a container of a lab prints. Reading raises StateError with what it complains of."""

    def __init__(self, connection: Any, lab: str) -> None:  # noqa: ANN401 - whatever the engine's client calls a socket
        self._frames: Iterator[tuple[int, bytes]] = frames_iter(connection, tty=False)  # type: ignore[no-untyped-call]
        self._lab = lab
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:  # noqa: ANN401 - any buffer
        while not self._rest:
            stream, self._rest = next(self._frames, (1, b""))
            if stream == 2:
                raise StateError(f"lab {self._lab!r}: {self._rest.decode().strip()}")
            if not self._rest:
                return 0
        size = min(len(into), len(self._rest))
        into[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


@dataclass(frozen=True)
class DockerLab(Lab):
    """A lab in containers, running or not."""

    @answering()
    def runs(self) -> bool:
        return self._controller() is not None

    @answering()
    def down(self) -> bool:
        client = engine()
        found = client.containers.list(all=True, filters={"label": f"{LABEL}={self.name}"}, ignore_removed=True)
        networks = client.networks.list(filters={"label": f"{LABEL}={self.name}"})
        _remove_all(client.api, [str(each.id) for each in found], [str(each.id) for each in networks])
        for network in networks:
            _remove_network(network)
        return bool(found or networks)

    def ask(self, command: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        request = json.dumps({"command": command, **arguments}).encode() + b"\n"
        for answer in self._pumped(request):
            if answer.get("event") == "end":
                return
            if "problem" in answer:
                raise RefusedError(answer["problem"])
            yield answer
        raise StateError(f"lab {self.name!r} has died; see `teredo-lab logs`")

    def _pumped(self, request: bytes) -> Iterator[dict[str, Any]]:
        """The answers to a request, by a small program in the controller's container."""
        with answering():
            yield from self._answers(request)

    def _answers(self, request: bytes) -> Iterator[dict[str, Any]]:
        running = self._controller()
        if running is None:
            raise StateError(f"lab {self.name!r} is not running: start it with `teredo-lab up`")
        api = engine().api
        command = ["python", "-m", "lab.pump", str(SHARED / self.name / "socket"), str(_STARTING)]
        try:
            started = api.exec_create(running.id, command, stdin=True)
            connection = api.exec_start(started["Id"], socket=True)
        except APIError as error:
            raise StateError(f"lab {self.name!r} does not answer: {error.explanation}") from error
        try:
            raw: Any = getattr(connection, "_sock", connection)
            raw.sendall(request)
            yield from answers.read(io.BufferedReader(Output(connection, self.name)))
        except ValueError as error:  # what the engine says where the command in the container cannot be started
            raise StateError(f"lab {self.name!r} does not answer: {error}") from None
        finally:
            connection.close()

    @answering()
    def log_text(self, node: str | None) -> str:
        running = self._controller() if node is None else self._container(node)
        if running is None:
            raise StateError(f"lab {self.name!r} has no container of {node or 'its controller'}")
        text: bytes = running.logs()
        return text.decode(errors="replace")

    def execute(self, node: str, command: Sequence[str]) -> int:
        """Run a command in a node, on this terminal; returns its exit code. Raises StateError, MachineError."""
        node_facts(self.ask_once("status"), node)
        with answering():
            running = self._container(node)
        if running is None:
            raise StateError(f"the container of {node} has gone")
        client = shutil.which("docker")
        if client is None:
            raise MachineError("the command docker is missing: install Docker's command line")
        terminal = ("-t",) if sys.stdin.isatty() and sys.stdout.isatty() else ()
        options = ("-i", *terminal, "-e", f"TEREDO_LAB_NODE={node}", str(running.id))
        return subprocess.run((client, "exec", *options, *command), check=False).returncode

    def entering(self, node: str) -> tuple[str, ...]:
        return ("docker", "exec", "-i", self.container_name(node))

    def launch(self, plan: Plan, topology: dict[str, Any], *, measure: bool) -> Iterator[dict[str, Any]]:
        """Make the lab's containers and yield reports; the last is `up`, or `failed` with `why` and `log`."""
        client = engine()
        with answering():
            for what in ensure_images(client):
                yield {"event": "progress", "what": what, "done": 0, "total": None}
        try:
            with answering():
                network, subnet = _make_network(client, plan)
                yield from self._start(client, plan, topology, network, subnet, measure=measure)
        except MachineError:
            with contextlib.suppress(MachineError):
                self.down()
            raise
        yield from self._reports_of_the_start()

    def _reports_of_the_start(self) -> Iterator[dict[str, Any]]:
        """What the controller reports of the lab's start; it would wait long for a container that ended unheard."""
        heard: queue.SimpleQueue[dict[str, Any] | MachineError | StateError | None] = queue.SimpleQueue()

        def listen() -> None:
            try:
                for report in self.ask("start"):
                    heard.put(report)
                heard.put(None)
            except (MachineError, StateError) as error:
                heard.put(error)

        threading.Thread(target=listen, daemon=True).start()
        there = False
        while True:
            try:
                report = heard.get(timeout=None if there else _LOOK)
            except queue.Empty:
                if (why := self._ended()) is not None:
                    self.down()
                    raise MachineError(why) from None
                continue
            if report is None:
                return
            if not isinstance(report, dict):
                raise report
            there |= report.get("what") == NODES and report["done"] == report["total"]
            yield report

    @answering()
    def _ended(self) -> str | None:
        """Which of the lab's containers has ended by itself, and what it said last; None if all run."""
        ended = self._first({"label": [f"{LABEL}={self.name}", NODE], "status": "exited"}, all_=True)
        if ended is None:
            return None
        why = f"the container of {ended.labels[NODE]} ended with exit code {ended.attrs['State']['ExitCode']}"
        said = _last_words(engine(), str(ended.id))
        return f"{why}: {said}" if said else why

    def _start(
        self,
        client: docker.DockerClient,
        plan: Plan,
        topology: dict[str, Any],
        network: str,
        subnet: ipaddress.IPv4Network,
        *,
        measure: bool,
    ) -> Iterator[dict[str, Any]]:
        made = containers(plan, subnet)
        total, watched = len(made) + 1, is_watched(made)
        core = next(container for container in made if container.name == INTERNET)
        shared = create(client.api, core, network, "shareable", watched=watched)

        environment = {
            controller.NAME: self.name,
            controller.FILE: plan.topology or "",
            controller.TOPOLOGY: json.dumps(topology),
            controller.MEASURE: "1" if measure else "0",
        }
        with one_at_a_time(client.api, network, "connect", client.api.start) as go, ThreadPoolExecutor(AT_ONCE) as pool:
            begun = pool.submit(go, shared)  # whose IPC namespace the others need to start, not to exist

            def start_checks() -> None:
                address = controller_address(subnet)
                identity = create_controller(client.api, self.name, network, address, shared, environment)
                begun.result()
                go(identity)

            def begin(container: Container) -> None:
                ipc = f"container:{shared}"
                start(client.api, go, container, network, ipc, watched=watched, after=begun.result)

            checks = pool.submit(start_checks)
            others = [pool.submit(begin, container) for container in made if container is not core]
            for done, each in enumerate(as_completed([begun, checks, *others]), 1):
                try:
                    each.result()
                except APIError as error:  # without the first, none of the others starts
                    if (why := _last_words(client, shared)) is not None:
                        raise MachineError(why) from error
                    raise
                yield {"event": "progress", "what": "containers", "done": done, "total": total}

    @answering()
    def refit(self, plan: Plan) -> list[str]:
        """Make those containers anew that another plan wants with other sysctls; returns their nodes' names."""
        client = engine()
        fresh = []
        made = containers(plan, self._subnet())
        watched = is_watched(made)
        for container in made:
            running = self._container(container.name)
            if running is None or running.attrs["HostConfig"].get("Sysctls") == container.sysctls:
                continue
            host = running.attrs["HostConfig"]
            (network,) = running.attrs["NetworkSettings"]["Networks"]
            remove(client.api, str(running.id))
            start(client.api, client.api.start, container, network, host["IpcMode"], watched=watched)
            fresh.append(container.name)
        return fresh

    def _subnet(self) -> ipaddress.IPv4Network:
        (network,) = engine().networks.list(filters={"label": f"{LABEL}={self.name}"})
        return ipaddress.IPv4Network(network.attrs["IPAM"]["Config"][0]["Subnet"])

    def _controller(self) -> Running | None:
        return self._first({"label": [f"{LABEL}={self.name}", CONTROLLER], "status": "running"})

    def _container(self, node: str) -> Running | None:
        return self._first({"label": [f"{LABEL}={self.name}", f"{NODE}={node}"]}, all_=True)

    @answering()
    def container_name(self, node: str) -> str:
        """What the engine calls a node's container. Raises StateError."""
        running = self._container(node)
        if running is None:
            raise StateError(f"lab {self.name!r} has no container of {node}")
        return str(running.name)

    def _first(self, filters: dict[str, Any], *, all_: bool = False) -> Running | None:
        found = engine().containers.list(all=all_, filters=filters, ignore_removed=True)
        return found[0] if found else None


def _last_words(client: docker.DockerClient, identity: str) -> str | None:
    """What a container said last before it ended; None if it has not."""
    with contextlib.suppress(APIError):
        ended = client.containers.get(identity)
        if ended.status == "exited":
            text: str = ended.logs(tail=1).decode(errors="replace").strip()
            return text.removeprefix("teredo-lab: ")
    return None


@answering()
def docker_labs() -> list[DockerLab]:
    """The labs of which the engine has anything, running or not."""
    client = engine()
    things = [
        *client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True),
        *client.networks.list(filters={"label": LABEL}),
    ]
    return [DockerLab(name) for name in sorted({_label(thing) for thing in things})]


def _label(thing: Any) -> str:  # noqa: ANN401 - a container or a network
    labels = thing.attrs.get("Labels") or thing.attrs["Config"]["Labels"]
    name: str = labels[LABEL]
    return name


@answering()
def preflight(plan: Plan) -> None:
    """See to it that the engine can run this plan, before anything is made. Raises MachineError."""
    kind = engine().info().get("OSType")
    if kind != "linux":
        raise MachineError(f"the Docker engine runs containers of {kind}: the lab needs Linux containers; {DOCTOR}")


def _make_network(client: docker.DockerClient, plan: Plan) -> tuple[str, ipaddress.IPv4Network]:
    """The lab's one internal network; its subnet is none of the lab's own, and none that the engine has."""
    for subnet in _subnets(plan):
        ipam = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=str(subnet))])
        try:
            network = client.networks.create(
                f"teredo-lab-{plan.name}",
                driver="bridge",
                internal=True,
                check_duplicate=True,
                ipam=ipam,
                options={"com.docker.network.driver.mtu": str(MTU)},
                labels={LABEL: plan.name},
            )
        except APIError as error:
            if _OVERLAP in str(error.explanation):
                continue
            raise
        return str(network.id), subnet
    raise MachineError(f"no free subnet for the lab's network in {' and '.join(_POOLS)} after {_TRIES} tries")


def _subnets(plan: Plan) -> Iterator[ipaddress.IPv4Network]:
    """Subnets that would do, the same for the same lab."""
    taken = [
        ipaddress.ip_interface(address).network
        for node in plan.nodes
        for interface in node.interfaces
        for address in interface.addresses
        if ":" not in address
    ]
    start = zlib.crc32(plan.name.encode())
    for number in range(_TRIES):
        pool = ipaddress.IPv4Network(_POOLS[number % len(_POOLS)])
        size = 1 << (32 - room(plan))
        places = pool.num_addresses // size
        first = int(pool.network_address) + (start + number * 7919) % places * size
        subnet = ipaddress.IPv4Network((first, room(plan)))
        if not any(subnet.overlaps(each) for each in taken if isinstance(each, ipaddress.IPv4Network)):
            yield subnet


def _remove_all(api: docker.APIClient, identities: Sequence[str], networks: Sequence[str]) -> None:
    with contextlib.ExitStack() as stack:
        act: Act = partial(remove, api)
        for network in networks:
            act = stack.enter_context(one_at_a_time(api, network, "disconnect", act))
        list(stack.enter_context(ThreadPoolExecutor(AT_ONCE)).map(act, identities))


def _remove_network(network: Network) -> None:
    """Raises MachineError where the engine miscounts what is on it; see `lab.backends.starting`."""
    try:
        with contextlib.suppress(NotFound):
            network.remove()
    except APIError as error:
        network.reload()
        if error.status_code != 403 or network.attrs["Containers"]:
            raise
        raise MachineError(
            f"the engine counts containers on the network {network.name}, which has none: restart it, and try again"
        ) from error

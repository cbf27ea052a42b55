"""Labs in containers: whatever dies, `down` leaves nothing of the lab, and touches nothing else."""

from __future__ import annotations

import contextlib
import os
import random
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from lab.backends.docker import DockerLab
from lab.backends.engine import LABEL, NODE, image
from lab.plan import Route
from lab.planner import plan
from lab.state import MachineError
from lab.topology.changes import described
from lab.topology.load import load
from lab.topology.rules import INTERNET
from tests.e2e.labs import COMMAND, SMALL, cli, until

pytestmark = [pytest.mark.docker, pytest.mark.alone]

ROUNDS = 14
"""With those in which the engine dies (test_engine_death.py), twenty."""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def bystander(client: docker.DockerClient) -> Iterator[str]:
    """A container and a network that are not the lab's."""
    network = client.networks.create(f"bystander{os.getpid()}", labels={"somebody": "else"})
    container = client.containers.run(
        image(miredo=False), ["sleep", "600"], detach=True, network=network.name, labels={"somebody": "else"}
    )
    try:
        yield str(container.id)
    finally:
        container.remove(force=True)
        network.remove()


def of_labs(client: docker.DockerClient) -> list[str]:
    """Names of all that the engine has of any lab, but for images."""
    filters: Any = {"label": LABEL}
    return [
        *(str(each.name) for each in client.containers.list(all=True, filters=filters, ignore_removed=True)),
        *(str(each.name) for each in client.networks.list(filters=filters)),
    ]


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_death_at_any_moment_leaves_nothing_after_down(
    seed: int, small: Path, bystander: str, client: docker.DockerClient
) -> None:
    chance = random.Random(seed)
    name = f"chaos{os.getpid()}-{seed}"
    before = {each.id for each in client.images.list()}, {each.id for each in client.volumes.list()}
    command = (*COMMAND, "up", str(small), "--name", name, "--backend", "docker", "--check", "--json")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        time.sleep(chance.uniform(0.5, 14))
        victims = client.containers.list(filters={"label": f"{LABEL}={name}"}, ignore_removed=True)
        if victims and chance.random() < 0.5:
            with contextlib.suppress(docker.errors.APIError):
                chance.choice(victims).kill()
        else:
            process.kill()
    if chance.random() < 0.3:  # `down` dies as well, the first time
        with subprocess.Popen((*COMMAND, "down", "--name", name), stderr=subprocess.DEVNULL) as first:
            time.sleep(chance.uniform(0.3, 2))
            first.kill()
    cli("down", "--name", name, check=True)
    assert of_labs(client) == []
    assert client.containers.get(bystander).status == "running"
    assert ({each.id for each in client.images.list()}, {each.id for each in client.volumes.list()}) == before


def test_up_is_idempotent_and_names_are_unique_over_backends(small: Path) -> None:
    name = f"twice{os.getpid()}"
    up = ("up", str(small), "--name", name)
    try:
        cli(*up, "--backend", "docker", check=True)
        cli(*up, "--backend", "docker", check=True)
        refused = cli(*up)
        assert refused.returncode == 2
        assert "other backend" in refused.stderr
    finally:
        cli("down", "--name", name, check=True)


def test_the_error_is_of_the_node_that_cannot_be_and_not_of_those_that_need_it(
    small: Path, client: docker.DockerClient
) -> None:
    topology = load(small)
    planned = plan(topology)
    core = planned.node(INTERNET)
    lost = core.model_copy(update={"routes": (*core.routes, Route(destination="10.9.0.0/16", via="203.0.113.99"))})
    nodes = tuple(lost if node is core else node for node in planned.nodes)
    lab = DockerLab(planned.name)
    try:
        # It ends before the others start, or after it.
        reports = list(lab.launch(planned.model_copy(update={"nodes": nodes}), described(topology), measure=False))
        why = reports[-1]["why"]
    except MachineError as error:
        why = str(error)
        assert of_labs(client) == []
    lab.down()
    assert re.search(r"internet: .* route 10\.9\.0\.0/16: Network is unreachable", why)


def test_a_container_that_ends_before_its_node_is_heard_of_is_named_at_once(
    small: Path, client: docker.DockerClient
) -> None:
    name = f"ended{os.getpid()}"
    labels = [f"{LABEL}={name}", f"{NODE}=relay"]
    command = (*COMMAND, "up", str(small), "--name", name, "--backend", "docker")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: bool(client.containers.list(filters={"label": labels}, ignore_removed=True)), timeout=60)
        client.containers.list(filters={"label": labels})[0].kill()
        said = process.communicate(timeout=90)[1]  # its controller alone would wait for two minutes
    assert process.returncode == 3, said
    assert "the container of relay ended with exit code 137" in said
    assert of_labs(client) == []


def test_exec_returns_what_the_command_does(small: Path) -> None:
    name = f"exec{os.getpid()}"
    try:
        cli("up", str(small), "--name", name, "--backend", "docker", check=True)
        execute = ("exec", "--name", name, "alice", "--")
        assert cli(*execute, "sh", "-c", "exit 7").returncode == 7
        assert cli(*execute, "cat", input="through\n").stdout == "through\n"
        assert cli(*execute, "ping", "-6", "-c", "1", "-w", "10", "carol").returncode == 0
        assert "no node 'nobody'" in cli("exec", "--name", name, "nobody", "--", "true").stderr
        logs = cli("logs", "--name", name, "alice", check=True).stdout
        assert '"qualified"' in logs
    finally:
        cli("down", "--name", name, check=True)


def test_a_nat_can_be_changed_also_in_what_only_the_engine_can_set(small: Path) -> None:
    name = f"nat{os.getpid()}"
    try:
        cli("up", str(small), "--name", name, "--backend", "docker", check=True)
        changed = cli("nat", "set", "home-nat", "port_symmetric", "--name", name)
        assert changed.returncode == 0, changed.stderr
        changed = cli("nat", "set", "away-nat", "cone", "udp_timeout=77", "--name", name)
        assert changed.returncode == 0, changed.stderr
        timeout = "/proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream"
        assert cli("exec", "--name", name, "away-nat", "--", "cat", timeout).stdout == "77\n"
        assert cli("nat", "--name", name).returncode == 0
    finally:
        cli("down", "--name", name, check=True)

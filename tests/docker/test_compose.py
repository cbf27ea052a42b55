"""compose.yaml: the default topology for people who have Docker alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from lab.backends.engine import LABEL
from tests.docker.conftest import ROOT
from tests.e2e.labs import cli, until

pytestmark = [pytest.mark.docker, pytest.mark.alone]

WAIT = 300.0
"""Seconds for whatever Compose does, on a busy machine."""


def compose(*arguments: str, file: Path = ROOT / "compose.yaml") -> subprocess.CompletedProcess[str]:
    """Run `docker compose` with the project's file."""
    command = ("docker", "compose", "--file", str(file), "--ansi", "never", *arguments)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=WAIT)


def health(client: docker.DockerClient) -> str:
    (checks,) = client.containers.list(all=True, filters={"label": "com.docker.compose.service=checks"})
    state: str = checks.attrs["State"]["Health"]["Status"]
    return state


@pytest.fixture
def up() -> Iterator[None]:
    """The lab, up and found good."""
    try:
        result = compose("up", "--build", "--wait")
        assert result.returncode == 0, result.stderr + compose("logs", "--no-log-prefix", "checks").stdout
        yield
    finally:
        compose("down")


def test_it_comes_up_healthy_shows_the_matrix_and_leaves_nothing(up: None, client: docker.DockerClient) -> None:
    assert "120 of 120 results are as expected" in compose("logs", "--no-log-prefix", "checks").stdout
    assert health(client) == "healthy"
    inside = compose("exec", "-T", "alice", "ping", "-6", "-c", "1", "-w", "10", "web")
    assert inside.returncode == 0, inside.stdout + inside.stderr
    status = json.loads(cli("status", "--json", check=True).stdout)  # the command line finds it by its labels
    assert status["backend"] == "docker"
    assert len(status["nodes"]) == 16
    assert compose("down").returncode == 0
    filters: Any = {"label": LABEL}
    assert client.containers.list(all=True, filters=filters) == []
    assert client.networks.list(filters=filters) == []
    assert client.volumes.list() == []


def test_a_stopped_relay_makes_the_checks_fail_with_the_pairs_that_suffer(
    up: None, client: docker.DockerClient
) -> None:
    assert compose("stop", "relay").returncode == 0
    until(lambda: health(client) == "unhealthy", timeout=60)
    result = compose("exec", "-T", "checks", "teredo-lab", "check", "--json", "alice", "bob", "web")
    assert result.returncode == 1, result.stderr
    broken = json.loads(result.stdout)
    failed = {(each["source"], each["destination"]) for each in broken["results"] if not each["ok"]}
    assert failed == {("alice", "web"), ("bob", "web"), ("web", "alice"), ("web", "bob")}
    assert compose("start", "relay").returncode == 0
    until(lambda: health(client) == "healthy", timeout=WAIT)


def test_nobody_has_more_rights_than_needed(up: None, client: docker.DockerClient) -> None:
    for container in client.containers.list(filters={"label": LABEL}):
        host = container.attrs["HostConfig"]
        assert not host["Privileged"]
        assert host["CapDrop"] == ["ALL"]
        assert "no-new-privileges" in host["SecurityOpt"]
        assert "SYS_ADMIN" not in (host["CapAdd"] or ())
        (network,) = container.attrs["NetworkSettings"]["Networks"]
        assert client.networks.get(network).attrs["Internal"]
        service = container.labels["com.docker.compose.service"]
        if service == "checks":
            assert host["CapAdd"] is None
            assert host["ReadonlyRootfs"]
            assert container.attrs["Config"]["User"] == "lab"
        elif service != "dave":
            assert set(host["CapAdd"]) == {"NET_ADMIN", "NET_RAW"}

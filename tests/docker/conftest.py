"""Fixtures of the container tier: it needs a Docker engine and Compose v2."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from lab.backends.docker import docker_labs
from lab.backends.engine import engine, ensure_images
from lab.state import MachineError

ROOT = Path(__file__).parents[2]


def missing() -> str | None:
    """What this machine lacks for the tier; None if it lacks nothing."""
    try:
        engine()
    except MachineError as error:
        return str(error)
    if subprocess.run(("docker", "compose", "version"), capture_output=True, check=False).returncode != 0:
        return "docker compose (v2) is missing: run `make test`, which brings it where it can"
    return None


@pytest.fixture(autouse=True, scope="session")
def _able() -> None:
    if (why := missing()) is not None:
        pytest.skip(why)


@pytest.fixture(autouse=True, scope="module")
def _images(_able: None) -> None:
    """Build images now, and not while a test watches what changes; Compose may have built others meanwhile."""
    for _ in ensure_images(engine()):
        pass


@pytest.fixture
def client() -> docker.DockerClient:
    return engine()


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    """Fail a test that leaves a container or a network of a lab behind; a lab that was there before is somebody's."""
    before = docker_labs()
    yield
    left = [lab for lab in docker_labs() if lab not in before]
    for lab in left:
        lab.down()
    assert not left, f"labs left behind: {[lab.name for lab in left]}"

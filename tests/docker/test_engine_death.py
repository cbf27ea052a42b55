"""The engine itself dies at any moment: once it runs again, `down` leaves nothing, and touches nothing else."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lab.backends.engine import image
from tests.docker.engines import OwnEngine, own_engine
from tests.docker.test_lifecycle import of_labs
from tests.e2e.labs import COMMAND, SMALL, cli

pytestmark = [pytest.mark.docker, pytest.mark.alone]

IMAGE = image(miredo=False)
ROUNDS = 6


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("needs root and dockerd, to start an engine that may die")
    # The path of a socket is short, and pytest's directories are not.
    place = tempfile.TemporaryDirectory(prefix="engine", dir="/var/tmp")
    with place, own_engine(Path(place.name), IMAGE, image(miredo=True)) as engine:
        yield engine


def _dies(own: OwnEngine, command: Sequence[str], name: str, chance: random.Random, *, in_down: bool) -> str:
    """Let the engine die while a lab comes up and is checked, or goes; returns what the commands said of it."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as up:
        if not in_down:
            time.sleep(chance.uniform(0.5, 8))
            own.kill()
        said = up.communicate(timeout=120)[1]
    if in_down:
        assert up.returncode == 0, said
        down = (*COMMAND, "down", "--name", name)
        with subprocess.Popen(down, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as going:
            time.sleep(chance.uniform(0.4, 2.5))
            own.kill()
            said += going.communicate(timeout=120)[1]
    return said


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_an_engine_that_dies_at_any_moment_leaves_nothing_after_down(
    seed: int, own: OwnEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", own.host)
    if not own.answers():
        own.start()
    topology = tmp_path / "small.yaml"
    topology.write_text(SMALL)
    chance = random.Random(seed)
    name = f"engine{os.getpid()}-{seed}"
    client = own.client()
    network = client.networks.create(f"bystander{seed}")
    bystander = client.containers.create(IMAGE, ["sleep", "600"], network=network.name)
    before = {each.id for each in client.images.list()}, {each.id for each in client.volumes.list()}
    command = (*COMMAND, "up", str(topology), "--name", name, "--backend", "docker", "--check", "--json")
    said = _dies(own, command, name, chance, in_down=seed % 3 == 2)
    knows_networks = own.start()
    client = own.client()
    cli("down", "--name", name, check=True)
    assert "Traceback" not in said
    assert of_labs(client) == []
    assert client.containers.get(str(bystander.id)).status == "created"
    assert ({each.id for each in client.images.list()}, {each.id for each in client.volumes.list()}) == before
    bystander.remove()
    if knows_networks:
        network.remove()


def test_a_lab_without_its_engine_is_named_so(own: OwnEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", own.host)
    own.kill()
    try:
        result = cli("up", str(Path(__file__).parents[2] / "topologies" / "default.yaml"), "--backend", "docker")
        assert result.returncode == 3
        assert "no Docker engine answers" in result.stderr
    finally:
        own.start()

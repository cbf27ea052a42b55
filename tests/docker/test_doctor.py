"""The doctor asks the engine, and tries what labs ask of the kernel in a container."""

from __future__ import annotations

import json

import docker
import pytest

from tests.e2e.labs import cli

pytestmark = [pytest.mark.docker, pytest.mark.alone]


def test_labs_in_containers_can_run_here_and_the_container_that_tried_it_is_gone(client: docker.DockerClient) -> None:
    answer = json.loads(cli("doctor", "--json", "--backend", "docker", check=True).stdout)
    found = {finding["name"]: finding for finding in answer["findings"]}
    assert answer["ok"]
    assert found["engine"]["found"].startswith(client.version()["Version"])
    assert found["VXLAN"]["status"] == "ok"
    assert found["images"]["status"] == "ok"
    assert found["a container"]["status"] == "ok"
    assert found["a container"]["found"].startswith("one with a node's rights made TUN, links and ")
    assert client.containers.list(all=True, filters={"name": "teredo-lab-doctor-"}) == []

"""`teredo-lab doctor` where there is an engine."""

from __future__ import annotations

import json

import docker
import pytest

from tests.e2e.labs import cli

pytestmark = pytest.mark.docker


def test_an_engine_that_can_run_labs_is_found_so_by_trying(client: docker.DockerClient) -> None:
    before = {each.id for each in client.containers.list(all=True)}
    answer = json.loads(cli("doctor", "--backend", "docker", "--json", check=True).stdout)
    findings = {finding["name"]: finding for finding in answer["findings"]}
    assert answer["ok"]
    assert findings["Docker engine"]["found"].startswith(str(client.version()["Version"]))
    assert findings["images"]["state"] == "ok"
    assert findings["VXLAN in containers"]["found"] == "a VXLAN interface was made"
    assert {each.id for each in client.containers.list(all=True)} == before

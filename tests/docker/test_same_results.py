"""A lab in containers and a lab in namespaces: the same checks, the same results, for every topology of the project."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.docker.conftest import ROOT
from tests.e2e.labs import cli

pytestmark = [pytest.mark.docker, pytest.mark.alone]

TOPOLOGIES = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.large] if path.stem == "rfc6081" else [])
    for path in sorted((ROOT / "topologies").glob("*.yaml"))
]
PATIENCE = 900
"""Seconds for the largest of them: two cores start its 326 containers in three to six minutes."""

TIMES = ("first_packet_ms", "rtt_ms")


def checked(topology: Path, backend: str) -> Any:
    """What `up --check --json` says with a backend, without times and without numbers that differ at each run."""
    name = f"same{os.getpid()}"
    try:
        result = cli("up", str(topology), "--name", name, "--backend", backend, "--check", "--json", timeout=PATIENCE)
    finally:
        down = cli("down", "--name", name, timeout=PATIENCE)
    assert (result.returncode, down.returncode) == (0, 0), result.stdout[-4000:] + result.stderr + down.stderr
    answer = json.loads(result.stdout)
    for each in answer["results"]:
        for key in TIMES:
            del each[key]
        if each["observed"] == "unreachable":
            del each["reason"]  # it names ports that a NAT chose at random
    return answer


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_both_backends_find_the_same(topology: Path) -> None:
    assert checked(topology, "docker") == checked(topology, "netns")

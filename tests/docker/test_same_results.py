"""A lab in containers and a lab in namespaces: the same checks, the same results, for every topology of the project."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.docker.conftest import ROOT
from tests.e2e.labs import cli

pytestmark = [pytest.mark.docker, pytest.mark.alone]

PATIENCE = 900
"""Seconds for the largest of them: two cores start its 326 containers in three to six minutes."""

TOPOLOGIES = [
    pytest.param(
        path,
        id=path.stem,
        marks=[pytest.mark.large, pytest.mark.timeout(2 * PATIENCE)] if path.stem == "rfc6081" else [],
    )
    for path in sorted((ROOT / "topologies").glob("*.yaml"))
]
TIMES = ("first_packet_ms", "rtt_ms")


def checked(topology: Path, backend: str) -> Any:
    """What `up --check --json` says with a backend, without times and names that differ at each run."""
    name = f"same{os.getpid()}-{backend}"
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
    with ThreadPoolExecutor() as pool:  # at once: most of a check is waiting for what must not arrive
        docker, netns = pool.map(checked, (topology, topology), ("docker", "netns"))
    assert docker == netns

"""The nodes of a lab in containers, looked at from inside by testinfra: the same as in namespaces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.testing.running import RunningLab, running
from tests.e2e.hosts import TOPOLOGY, test_a_node_is_what_its_plan_says

__all__ = ["test_a_node_is_what_its_plan_says"]

pytestmark = [pytest.mark.docker, pytest.mark.alone]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running(TOPOLOGY, tmp_path_factory.mktemp("hosts"), backend="docker") as lab:
        yield lab


def test_a_capture_is_of_the_node(nodes: RunningLab) -> None:
    with nodes.capture("internet", "any") as capture:
        assert nodes.reaches("alice", "web")
    assert ("2001:db8:0:3::2",) in capture.fields("teredo && icmpv6.type == 128", "ipv6.dst")

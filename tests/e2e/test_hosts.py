"""The nodes of a lab of namespaces, looked at from inside by testinfra."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.testing.running import RunningLab, running
from tests.e2e.hosts import TOPOLOGY, test_a_node_is_what_its_plan_says

__all__ = ["test_a_node_is_what_its_plan_says"]

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running(TOPOLOGY, tmp_path_factory.mktemp("hosts")) as lab:
        yield lab


def test_a_command_ends_with_the_exit_code_and_output_that_it_has_in_the_node(nodes: RunningLab) -> None:
    host = nodes.host("alice")
    result = host.run("echo %s; exit 7", "100% 'as it is'")
    assert (result.rc, result.stdout) == (7, "100% 'as it is'\n")
    assert not host.interface("eth0").exists
    assert not nodes.host("server").socket("udp://192.0.2.2:3545").is_listening

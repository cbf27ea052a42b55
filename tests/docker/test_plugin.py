"""The pytest plugin with labs in containers."""

from __future__ import annotations

import pytest

from tests.e2e.test_plugin import SMALL, run

pytest_plugins = ["pytester"]
pytestmark = [pytest.mark.docker, pytest.mark.alone]

TEXT = f"""
    import pytest

    @pytest.mark.lab("{SMALL}")
    def test_it(lab):
        assert lab.backend == "docker"
        assert lab.host("alice").file("/.dockerenv").exists
        assert lab.exec("alice", "ping", "-c", "1", "192.0.2.2").returncode == 0
        assert False
"""


def test_a_failed_test_keeps_the_logs_of_containers(pytester: pytest.Pytester) -> None:
    result = run(pytester, TEXT, "--lab-backend", "docker")
    result.assert_outcomes(failed=1)
    assert "-alice.log" in result.stdout.str()
    assert "assert False" in result.stdout.str()

"""Every topology that comes with the lab comes up, and all its expectations hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import TOPOLOGIES, Start

pytestmark = [pytest.mark.e2e, pytest.mark.long]


@pytest.mark.parametrize("path", sorted(TOPOLOGIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_topology_of_ours_is_as_expected(start: Start, path: Path) -> None:
    lab = start(path)
    answer = lab.check()
    assert answer["left_out"] == {}
    assert answer["results"]
    wrong = [result for result in answer["results"] if not result["ok"]]
    assert wrong == []
    for result in answer["results"]:
        if result["observed"] == "reachable":
            assert result["path"] in ("direct", "relay", "local"), result
            assert result["first_packet_ms"] > 0
        else:
            assert result["reason"], result

"""Captures of a lab in containers: the same as in namespaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.testing.running import command, running
from tests.e2e.captures import captures_all_links_of_a_conversation_in_one_order
from tests.e2e.labs import SMALL

pytestmark = [pytest.mark.docker, pytest.mark.alone]


def test_all_links_in_one_order_with_comments_and_a_story(tmp_path: Path) -> None:
    with running(SMALL, tmp_path, backend="docker") as lab:
        captures_all_links_of_a_conversation_in_one_order(lab, tmp_path)
        told = command("story", "alice", "carol", "--name", lab.name)
        assert told.returncode == 0
        assert "✗ dropped by away-nat: filtering APDF" in told.stdout

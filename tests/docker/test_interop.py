"""Ours and Miredo's with each other in containers: the same as in namespaces, as docs/interop.md has it."""

from __future__ import annotations

import pytest

from tests.e2e.test_interop import holds

pytestmark = [pytest.mark.docker, pytest.mark.alone]


def test_the_documented_cells_work_and_no_others() -> None:
    holds("docker")

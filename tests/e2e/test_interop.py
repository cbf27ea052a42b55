"""Ours and Miredo's with each other on the real kernel; what docs/interop.md says of it is still so."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab.interop.grid import COMBINATIONS, NATS
from tests.e2e.labs import COMMAND, cli

pytestmark = pytest.mark.e2e

DOCUMENT = Path(__file__).parents[2] / "docs" / "interop.md"
LONGEST = 600


def documented() -> dict[tuple[str, ...], str | None]:
    """Of each cell, whose fault it is that it does not work, by docs/interop.md; None if it works."""
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in DOCUMENT.read_text().splitlines()
        if line.startswith(("| ours", "| miredo"))
    ]
    columns = [(nat, direction) for nat in NATS for direction in ("outward", "inward")]
    return {
        (*row[:3], *column): cell.removeprefix("no: ") if cell.startswith("no") else None
        for row in rows
        for column, cell in zip(columns, row[3:], strict=True)
    }


def measured(backend: str) -> tuple[dict[tuple[str, ...], str | None], dict[str, Any]]:
    """The same as a run finds it, and all that it says."""
    result = subprocess.run(
        (*COMMAND, "interop", "--backend", backend, "--json"),
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
    )
    assert result.returncode in (0, 1), result.stderr
    answer = json.loads(result.stdout)
    assert answer["ok"] == (result.returncode == 0)
    keys = ("client", "server", "relay", "nat", "direction")
    return {tuple(cell[key] for key in keys): cell["fault"] for cell in answer["cells"]}, answer


def holds(backend: str) -> None:
    """What a backend finds is what the document says, and of each failure there are packets."""
    found, answer = measured(backend)
    assert len(found) == len(COMBINATIONS) * len(NATS) * 2
    assert found == documented()
    for cell in answer["cells"]:
        assert cell["works"] or not cell["promised"]
        if not cell["works"]:
            evidence = cell["backends"][backend]
            assert "without the nonce of the relay's bubble" in evidence["diagnosis"]
            assert any("indirect bubble, origin" in packet[3] for packet in evidence["packets"])


def test_the_documented_cells_work_and_no_others() -> None:
    holds("netns")


def test_what_is_not_in_the_grid_is_refused() -> None:
    assert "unknown kind of NAT office; the grid has cone," in cli("interop", "--nat", "office").stderr
    result = cli("interop", "--backend", "podman")
    assert (result.returncode, "there is no backend 'podman'" in result.stderr) == (2, True)

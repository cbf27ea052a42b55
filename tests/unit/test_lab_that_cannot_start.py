"""What a test is told when a lab of its cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.testing import running
from lab.testing.running import CannotStartError, Completed


def test_the_log_of_what_failed_is_told_since_it_goes_with_the_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    log.write_text("much before\n" * 50 + "OSError: [Errno 99] Cannot assign requested address\n")
    said = f"teredo-lab: web has failed: web ended with exit code 1; its log is {log}\n"
    monkeypatch.setattr(running, "command", lambda *_, **__: Completed((), 1, "", said))
    with pytest.raises(CannotStartError) as error, running.running("servers: {server: }\n", tmp_path):
        pass
    assert str(error.value).startswith("teredo-lab up: exit code 1: web has failed")
    assert str(error.value).endswith("Cannot assign requested address")
    assert str(error.value).count("much before") < 20
    assert not error.value.lacking

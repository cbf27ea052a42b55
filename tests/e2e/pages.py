"""Pages in a real browser."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

from lab.bench import browser as real


def log(driver: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    """What has been logged since the last call."""
    entries: list[dict[str, Any]] = driver.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


@contextlib.contextmanager
def browser(directory: Path) -> Iterator[webdriver.Chrome]:
    """A browser for a while, whose files are in a directory."""
    if (why := real.lacking()) is not None:
        pytest.skip(why)
    with real.browser(directory) as driver:
        yield driver

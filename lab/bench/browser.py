"""A real browser for a while, in which a page is measured or tested; Chromium or Chrome, without a window."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from selenium import webdriver

_BROWSERS: Final = ("chromium", "google-chrome")
_OPTIONS: Final = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--window-size=1600,1100"),
)


def lacking() -> str | None:
    """Why there can be none, and what to do, or None."""
    if _binary() is None or shutil.which("chromedriver") is None:
        return "it needs a browser, packages chromium and chromium-driver: `make test` installs them where it can"
    return None


def _binary() -> str | None:
    return next(filter(None, map(shutil.which, _BROWSERS)), None)


@contextlib.contextmanager
def browser(directory: Path) -> Iterator[webdriver.Chrome]:
    """A browser whose files are in a directory, and which logs its console and its requests."""
    from selenium import webdriver  # noqa: PLC0415 - a dependency of development only

    options = webdriver.ChromeOptions()
    options.binary_location = _binary() or ""
    for option in (*_OPTIONS, f"--user-data-dir={directory}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield started
    finally:
        started.quit()

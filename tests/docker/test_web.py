"""The live page of a lab in containers: the same as in namespaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.testing.running import running
from tests.e2e.labs import SMALL, until
from tests.e2e.live_page import served, shown
from tests.e2e.pages import browser

pytestmark = [pytest.mark.docker, pytest.mark.alone]


def test_nodes_a_ping_a_reset_and_extensions(tmp_path: Path) -> None:
    with (
        running(SMALL, tmp_path, backend="docker") as lab,
        served(lab.name) as server,
        browser(tmp_path / "browser") as driver,
        shown(driver, server.url, tmp_path) as page,
    ):
        for name in ("alice", "carol"):
            page.until(f"#picture [data-node={name}] .state", "qualified")
        page.until("#panels [data-node=alice]", "mapped to")
        page.choose("#ping [name=from]", "alice")
        page.choose("#ping [name=to]", "carol")
        page.done("#ping button", "alice reaches carol")
        assert "3 packets transmitted, 3 received" in page.text("#told-output")
        assert "dropped by away-nat: filtering APDF" in page.text("#told-steps")
        until(
            lambda: int(page.driver.execute_script("return document.getElementById('told-picture').naturalWidth")) > 0
        )
        page.until("#last-packet", "Last packet: ")
        page.until("#panels [data-node=home-nat] .mappings", "192.0.2.2:3544")
        page.choose("#link [name=node]", "alice")
        page.done("#cut", "the link of alice is cut")  # or a refresh would open the next mapping at once
        page.choose("#nat [name=node]", "home-nat")
        page.done("#reset", "home-nat has forgotten all its mappings")
        page.until("#panels [data-node=home-nat]", "It remembers no mapping now.")
        page.done("#mend", "the link of alice is mended")
        page.choose("#client [name=node]", "carol")
        for box in driver.find_elements("css selector", "#extensions input:checked"):
            box.click()
        page.done("#client button", "carol has no extensions now, and is qualified")
        page.until("#panels [data-node=carol]", "extensionsnone")

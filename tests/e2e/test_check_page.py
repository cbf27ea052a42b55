"""The page of a check, as CI keeps it: of a lab that is not as expected, and of one that is, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.e2e.conftest import Start
from tests.e2e.labs import SMALL, cli
from tests.e2e.pages import browser, log

pytestmark = pytest.mark.e2e

WRONG = (
    SMALL
    + "checks: {expect: [{from: alice, to: carol, is: unreachable, because: <i>no</i>},"
    + " {from: carol, to: alice, is: unreachable, because: a test}]}\n"
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with browser(tmp_path_factory.mktemp("browser")) as started:
        yield started


def shown(driver: webdriver.Chrome, page: Path) -> None:
    """Open a page: the console stays empty, and all that is asked for is the page and what it brings."""
    driver.get("about:blank")
    log(driver, "browser")
    log(driver, "performance")
    driver.get(page.as_uri())
    pictures = driver.find_elements(By.TAG_NAME, "img")
    assert pictures
    assert all(int(picture.get_property("naturalWidth")) > 800 for picture in pictures)  # type: ignore[arg-type]
    assert log(driver, "browser") == []
    events = [json.loads(entry["message"])["message"] for entry in log(driver, "performance")]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked
    assert [each for each in asked if not each.startswith((page.as_uri(), "data:image/svg+xml"))] == []


def words(driver: webdriver.Chrome, selector: str) -> list[str]:
    found = driver.find_elements(By.CSS_SELECTOR, selector)
    return [str(each.get_property("textContent")) for each in found]


def test_what_is_not_as_expected_is_on_the_page_with_its_packets(
    start: Start, driver: webdriver.Chrome, tmp_path: Path
) -> None:
    lab = start(WRONG)
    page = tmp_path / "report.html"
    result = cli("check", "--name", lab.name, "--html", str(page), "--json")
    assert result.returncode == 1
    shown(driver, page)
    found = json.loads(result.stdout)
    good = sum(each["ok"] for each in found["results"])
    assert words(driver, ".verdict") == [f"✗ {good} of 18 results are as expected"]
    failures = words(driver, "#failures tbody tr")
    assert len(failures) == 6
    assert "<i>no</i>" in failures[0]
    assert found["capture"] in words(driver, "#stories > p")[0]
    assert words(driver, "#stories h3") == ["alice → carol", "carol → alice"]
    for caller, callee in (("alice", "carol"), ("carol", "alice")):
        story = f"[id='story.{caller}.{callee}']"
        assert f"{caller} reaches {callee}" in words(driver, f"{story} > p")[0]
        assert "Tried again: the same." in words(driver, f"{story} > p")[0]
        requests = [step for step in words(driver, f"{story} li") if "echo request" in step]
        assert requests
        assert all(f"ms, {caller} → " in step for step in requests), requests  # none of the other direction
    assert len(words(driver, "#results tbody tr")) == 18
    assert any("NAT (port_restricted)" in row and "away-nat" in row for row in words(driver, "#topology tr"))
    assert {"teredo-lab", "kernel", "nft", "data path"} <= {*words(driver, "#environment dt")}
    driver.save_screenshot(str(tmp_path / "report.png"))


def test_a_good_check_shows_a_story_for_each_kind_of_path(
    start: Start, driver: webdriver.Chrome, tmp_path: Path
) -> None:
    lab = start(SMALL)
    page = tmp_path / "report.html"
    cli("check", "--name", lab.name, "--html", str(page), check=True)
    shown(driver, page)
    assert words(driver, ".verdict") == ["✓ 18 of 18 results are as expected"]
    assert words(driver, "#stories h3") == ["alice → carol", "alice → web"]
    assert not any("relay" in step for step in words(driver, "[id='story.alice.carol'] li"))  # of the other pair
    tree = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [node for node in tree if node.get("role", {}).get("value") in ("table", "image", "region", "link")]
    assert len(named) > 20
    assert [node for node in named if not node.get("ignored") and not node.get("name", {}).get("value")] == []
    for theme, dark in (("light", False), ("dark", True)):
        preferred = [{"name": "prefers-color-scheme", "value": theme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": preferred})
        paper = driver.execute_script("return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]")
        assert (int(paper) < 50) == dark
        driver.save_screenshot(str(tmp_path / f"{theme}.png"))
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_without_a_capture_there_is_a_page_without_stories(start: Start, tmp_path: Path) -> None:
    lab = start(WRONG)
    page = tmp_path / "report.html"
    assert cli("check", "--name", lab.name, "--no-capture", "--html", str(page)).returncode == 1
    assert "There are none: --no-capture was given." in page.read_text()
    assert [*lab.lab.directory.glob("*.pcapng")] == []

"""The live page in a real browser: a teacher's morning, and nothing that goes wrong without being seen."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.e2e.conftest import TOPOLOGIES
from tests.e2e.labs import SMALL, RunningLab, cli, running, until
from tests.e2e.live_page import Page, served, shown
from tests.e2e.pages import browser, log

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running(TOPOLOGIES / "default.yaml", tmp_path_factory.mktemp("web")) as up:
        yield up


@pytest.fixture(scope="module")
def url(lab: RunningLab) -> Iterator[str]:
    with served(lab.name) as page:
        yield page.url


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with browser(tmp_path_factory.mktemp("browser")) as started:
        yield started


@pytest.fixture
def page(driver: webdriver.Chrome, url: str, tmp_path: Path) -> Iterator[Page]:
    """The page, anew for each test."""
    with shown(driver, url, tmp_path) as found:
        yield found


def test_the_picture_says_what_each_node_is(page: Page, lab: RunningLab) -> None:
    page.until("[data-node=frank] .state", "off-line")
    for node in lab.status()["nodes"]:
        if node["role"] == "internet":
            continue
        (label,) = page.attributes(f"#picture [data-node={node['name']}]", "aria-label")
        assert label is not None
        assert node["name"] in label
        assert node["state"] in label
        assert node["nat_kind"] is None or node["nat_kind"] in label
    assert "symmetric NAT: mapped to" in str(page.attributes("#picture [data-node=frank]", "aria-label"))
    page.until("#panels [data-node=alice]", "qualified")
    assert page.text("#panels [data-node=alice] .states [aria-current]") == "qualified"
    assert lab.teredo("alice")["external_mapping"] in page.text("#panels [data-node=alice]")


def test_a_ping_appears_in_the_diagram(page: Page, lab: RunningLab) -> None:
    page.choose("#ping [name=from]", "alice")
    page.choose("#ping [name=to]", "carol")
    page.done("#ping button", "alice reaches carol")
    assert page.text("#told-title") == "Ping alice → carol, over cold paths"
    assert "3 packets transmitted, 3 received" in page.text("#told-output")
    assert "direct bubble" in page.text("#told-steps")
    assert "dropped by home-port-nat: filtering APDF" in page.text("#told-steps")
    assert "alice → home-cone-nat → server" in page.text("#told-steps")
    until(lambda: int(page.driver.execute_script("return document.getElementById('told-picture').naturalWidth")) > 800)
    page.until("#last-packet", "Last packet: ")
    page.until("#panels [data-node=alice]", lab.address("carol"))
    page.driver.execute_script("scrollTo(0, 0)")
    page.picture("ping")


def test_a_ping_that_cannot_be_says_why(page: Page) -> None:
    page.choose("#ping [name=from]", "alice")
    page.choose("#ping [name=to]", "frank")
    page.done("#ping button", "frank has no Teredo address, so nothing can be sent")
    page.choose("#ping [name=to]", "alice")
    page.done("#ping button", "a ping needs two, and alice is one")
    # A browser notes in its console that the server has answered 400, which is what is meant here.
    assert all("400" in entry["message"] for entry in log(page.driver, "browser"))


def test_a_reset_shows_the_mappings_go(page: Page, lab: RunningLab) -> None:
    mapped = lab.teredo("alice")["external_mapping"]
    page.until("#panels [data-node=home-cone-nat] .mappings", mapped)
    page.choose("#link [name=node]", "alice")
    page.done("#cut", "the link of alice is cut")  # or a refresh would open the next mapping at once
    page.until("#picture .link.down")
    page.choose("#nat [name=node]", "home-cone-nat")
    page.done("#reset", "home-cone-nat has forgotten all its mappings")
    page.until("#panels [data-node=home-cone-nat]", "It remembers no mapping now.")
    assert lab.exec("home-cone-nat", "conntrack", "-L", "-p", "udp").stdout == ""
    page.picture("reset")
    page.done("#mend", "the link of alice is mended")
    until(lambda: page.texts("#picture .link.down") == [])
    lab.teredo("alice", "refresh")
    page.until("#panels [data-node=home-cone-nat] .mappings", "192.0.2.2:3544")


def test_a_nat_becomes_another_kind(page: Page, lab: RunningLab) -> None:
    page.choose("#nat [name=node]", "home-addr-nat")
    assert page.find("#nat [name=kind]").get_attribute("value") == "addr_restricted"
    page.choose("#nat [name=kind]", "cone")
    page.done("#nat button:not([type])", "home-addr-nat is cone now")
    page.until("#picture [data-node=home-addr-nat]", "cone")
    assert lab.node("home-addr-nat")["nat_kind"] == "cone"
    assert lab.node("home-addr-nat")["state"] == "running"
    lab.teredo("bob", "refresh")  # his mapping is gone: nobody could reach him until the next one
    page.until("#panels [data-node=home-addr-nat] .mappings", "192.0.2.2:3544")


def test_extensions_are_switched_off_and_on_again(page: Page, lab: RunningLab) -> None:
    page.choose("#client [name=node]", "erin")
    boxes = page.driver.find_elements(By.CSS_SELECTOR, "#extensions input:checked")
    assert {box.get_attribute("name") for box in boxes} == set(lab.node("erin")["extensions"])
    page.click("#extensions [name=symmetric]")
    page.done("#client button", "the extension upnp builds on symmetric; add symmetric, or leave out upnp")
    assert all("400" in entry["message"] for entry in log(page.driver, "browser"))
    for box in page.driver.find_elements(By.CSS_SELECTOR, "#extensions input:checked"):
        box.click()
    page.done("#client button", "erin has no extensions now, and is off-line: symmetric NAT")
    page.until("[data-node=erin] .state", "off-line")
    assert lab.node("erin")["extensions"] == []
    for box in page.driver.find_elements(By.CSS_SELECTOR, "#extensions input"):
        box.click()
    page.done("#client button", "now, and is qualified")
    page.until("[data-node=erin] .state", "qualified")
    page.until("#panels [data-node=erin]", "hairpinning, load-reduction, port-preserving, sequential, symmetric, upnp")


def test_the_matrix_is_that_of_the_check(page: Page) -> None:
    page.done("#check button", "all is as expected")
    page.until("#matrix-summary", "as expected")
    assert re.fullmatch(r"✓ (\d+) of \1 results are as expected", page.text("#matrix-summary"))
    cells = dict(zip(page.texts("#matrix-table tbody th"), page.texts("#matrix-table tbody tr"), strict=True))
    assert "direct" in cells["alice"]
    assert "relay" in cells["web"]
    assert "no, expected" in cells["frank"]
    page.driver.execute_script("document.getElementById('matrix').scrollIntoView()")
    page.picture("matrix")


def test_a_check_from_elsewhere_is_in_the_matrix_too(page: Page, lab: RunningLab) -> None:
    answer = lab.check("alice", "bob")
    good = sum(result["ok"] for result in answer["results"])
    page.until("#matrix-summary", f" {good} of {len(answer['results'])} results are as expected")
    assert page.texts("#matrix-table tbody th") == ["alice", "bob"]


def test_everything_can_be_had_by_keys_and_has_a_name(page: Page) -> None:
    page.until("#panels [data-node=bob]")
    page.find("#picture [data-node=bob]").send_keys(Keys.ENTER)
    until(lambda: page.texts("#panels [data-node=alice]") == [])
    assert page.attributes("#picture [data-node=bob]", "aria-pressed") == ["true"]
    assert set(page.attributes("#panels article", "data-node")) == {"bob", "home-addr-nat"}
    page.find("#picture [data-node=bob]").send_keys(Keys.SPACE)
    page.until("#panels [data-node=alice]")
    tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    asked = [node for node in tree if node.get("role", {}).get("value") in ("button", "combobox", "checkbox", "image")]
    assert len(asked) > 25
    assert [node for node in asked if not node.get("ignored") and not node.get("name", {}).get("value")] == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_and_motion_are_as_the_viewer_wants(page: Page, theme: str) -> None:
    wanted = {"prefers-color-scheme": theme, "prefers-reduced-motion": "reduce"}
    preferred = [{"name": name, "value": value} for name, value in wanted.items()]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": preferred})
    try:
        script = "return getComputedStyle(document.body).backgroundColor"
        red = int(re.findall(r"\d+", page.driver.execute_script(script))[0])
        assert red > 200 if theme == "light" else red < 50
        page.choose("#ping [name=from]", "bob")
        page.choose("#ping [name=to]", "web")
        page.done("#ping button", "bob reaches web")
        page.until("#last-packet", "Last packet: ")
        assert page.find("#moving").get_attribute("data-dots") in (None, "0")
        page.driver.execute_script("scrollTo(0, 0)")
        page.picture(theme)
    finally:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_without_the_token_one_may_look_but_not_touch(driver: webdriver.Chrome, url: str, tmp_path: Path) -> None:
    driver.get("about:blank")
    driver.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": url.partition("/#")[0], "storageTypes": "all"})
    driver.switch_to.new_window("tab")  # which has no session's token
    page = Page(driver, url.partition("#")[0], tmp_path)
    page.until("[data-node=alice] .state", "qualified")
    assert page.find("#only-look").is_displayed()
    assert [each for each in driver.find_elements(By.CSS_SELECTOR, "#acts button") if each.is_displayed()] == []
    answer = httpx2.post(f"{page.origin}links/alice", json={"down": True})
    assert answer.status_code == 401
    driver.close()
    driver.switch_to.window(driver.window_handles[0])


def test_nobody_may_reach_it_by_another_name(url: str) -> None:
    origin = url.partition("#")[0]
    assert httpx2.get(origin).status_code == 200
    assert httpx2.get(origin, headers={"Host": "evil.example"}).status_code == 421
    assert httpx2.get(f"{origin}kinds", headers={"Origin": "http://evil.example"}).status_code == 403
    assert urlsplit(url).hostname == "127.0.0.1"


def test_the_page_says_when_its_lab_has_ended_and_when_it_is_back(tmp_path: Path) -> None:
    with running(SMALL, tmp_path) as lab, served(lab.name) as page:
        parameters = {"nodes": "alice", "packets": "1"}
        with httpx2.stream("GET", f"{page.origin}events", params=parameters, timeout=60) as stream:
            news = (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: "))
            assert any(each["topic"] == "node alice" for each in news)
            cli("down", "--name", lab.name, check=True)
            why = next(each["value"] for each in news if each["topic"] == "gone" and each["value"])
            assert lab.name in why
            cli("up", str(tmp_path / f"{lab.name}.yaml"), "--name", lab.name, check=True)
            assert any(each["topic"] == "gone" and each["value"] == "" for each in news)


def test_it_ends_at_once_also_while_something_is_done(lab: RunningLab) -> None:
    with (
        served(lab.name) as page,
        httpx2.Client(base_url=page.origin, timeout=60) as client,
        ThreadPoolExecutor() as pool,
    ):
        token = {"Authorization": f"Bearer {page.url.partition('#')[2]}"}
        with client.stream("GET", "events") as stream:
            news = (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: "))
            checking = pool.submit(client.post, "check", json={}, headers=token)
            assert any(each["topic"] == "doing" and each["value"].startswith("checking: ") for each in news)
            os.kill(page.process, signal.SIGINT)
            assert checking.result().status_code == 409
            assert "has been ended" in checking.result().json()["problem"]


def test_without_a_lab_it_says_so() -> None:
    result = cli("web", "--name", "nowhere")
    assert result.returncode == 2
    assert "lab 'nowhere' is not running: start it with `teredo-lab up`" in result.stderr


def test_a_port_that_is_taken_is_said(lab: RunningLab, url: str) -> None:
    result = cli("web", "--name", lab.name, "--port", str(urlsplit(url).port))
    assert result.returncode == 2
    assert "choose others with --host and --port" in result.stderr


ENGINES = """
servers: {server: }
sites:
  plain: {nat: cone, clients: {alice: }}
  round: {nat: {kind: cone, hairpin: true}, clients: {bob: }}
  strict: {nat: {kind: port_restricted, hairpin: true}, clients: {carol: }}
  odd: {nat: {kind: port_symmetric, engine: nftables}, clients: {fiona: }}
"""


def test_mappings_are_what_the_clients_see_whichever_engine_keeps_them(tmp_path: Path) -> None:
    with running(ENGINES, tmp_path) as lab:
        nats = [node["name"] for node in lab.status()["nodes"] if node["role"] == "nat"]
        found = lab.lab.ask_once("mappings", nodes=nats)["mappings"]
        for name, client in {"plain": "alice", "round": "bob", "strict": "carol", "odd": "fiona"}.items():
            state = lab.teredo(client)
            own = [row for row in found[f"{name}-nat"] if row["inside"] == state["local_mapping"]]
            assert state["external_mapping"] in {row["outside"] for row in own}
            assert all(0 <= row["expires"] <= 300 for row in own)
            remotes = {row["remote"] for row in own}
            assert remotes == {"anybody"} if name == "round" else "192.0.2.2:3544" in remotes
        for _ in lab.lab.ask("forget"):
            pass
        after = lab.lab.ask_once("mappings", nodes=["strict-nat"])["mappings"]["strict-nat"]
        assert {row["outside"] for row in after} >= {lab.teredo("carol")["external_mapping"]}
        assert all(row["remote"].startswith(("192.0.2.2:", "192.0.2.3:", "nobody")) for row in after)
        lab.lab.ask_once("link", node="carol", quality={"down": True})  # or a refresh would make the next one at once
        lab.lab.ask_once("nat-reset", node="strict-nat")
        assert lab.lab.ask_once("mappings", nodes=["strict-nat"])["mappings"]["strict-nat"] == []

"""The live page of a large lab: no frame of it takes long, and it can be read."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from selenium import webdriver

from tests.e2e.labs import COMMAND, RunningLab, running, until
from tests.e2e.live_page import Page, served, shown
from tests.e2e.pages import browser

pytestmark = pytest.mark.e2e

LAB = """
servers: {server: }
relays: {relay: }
hosts: {web: }
checks: {pairs: ring}
sites:
  open: {count: 20, nat: cone, clients: {alice: {count: 3}}}
  port: {count: 20, nat: port_restricted, clients: {bob: {count: 3}}}
  strict: {count: 10, nat: port_symmetric, clients: {carol: {count: 2}}}
"""

LONGEST = 100
"""Milliseconds of work, of the processor's time, that the page may do without a pause."""

WATCH = """
const [milliseconds, done] = arguments;
const tasks = [], frames = [];
const span = ({ startTime, duration }) => [performance.timeOrigin + startTime, duration];
const observer = new PerformanceObserver((list) => tasks.push(...list.getEntries().map(span)));
observer.observe({ type: "longtask" });
const began = performance.now();
let last = began;
requestAnimationFrame(function step(now) {
  frames.push(now - last);
  last = now;
  const told = document.getElementById("notice").textContent && document.getElementById("told-picture").complete;
  if (now - began < milliseconds || !told) requestAnimationFrame(step);
  else setTimeout(() => { observer.disconnect(); done({ tasks, frames }); }, 100);
});
"""

CHECK = """
const [names, done] = arguments;
const cells = names.map((source) => names.map((to) => (source === to ? null : "direct, 8.9 ms")));
const total = names.length * (names.length - 1) * 3;
const pairs = { sources: names, destinations: names, cells };
const check = { ...pairs, good: total, total, left_out: {}, failures: [], more_failures: 0 };
import("./matrix.js").then(({ showCheck }) => {
  requestAnimationFrame(() => {
    const began = performance.now();
    showCheck(check);
    requestAnimationFrame(() => setTimeout(() => done([performance.timeOrigin + began, performance.now() - began])));
  });
});
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    with running(LAB, tmp_path_factory.mktemp("large")) as up:
        yield up


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with browser(tmp_path_factory.mktemp("browser")) as started:
        started.set_script_timeout(120)
        yield started


@pytest.fixture(scope="module")
def url(lab: RunningLab) -> Iterator[str]:
    with served(lab.name) as page:
        yield page.url


@pytest.fixture
def page(driver: webdriver.Chrome, url: str, tmp_path: Path) -> Iterator[Page]:
    with shown(driver, url, tmp_path) as found:
        yield found


def clients(lab: RunningLab) -> dict[str, str]:
    """The clients' Teredo addresses."""
    return {node["name"]: node["teredo_address"] for node in lab.status()["nodes"] if node["role"] == "client"}


class Work:
    """How much the main threads of a browser's pages have worked, as the kernel counts it, over some time.

    The clock would also count how long others had the processor, who may be many.
    """

    def __init__(self, driver: webdriver.Chrome) -> None:
        place = f"--user-data-dir={driver.capabilities['chrome']['userDataDir']}"
        self._threads = [
            path.with_name("schedstat")
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if {place, "--type=renderer"} <= {*_words(path)}
        ]
        assert self._threads
        self._ended = threading.Event()
        self._seen: list[tuple[float, float]] = []

    def __enter__(self) -> Work:
        self._sampler = threading.Thread(target=self._sample)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._sampler.join()

    def _sample(self) -> None:
        while not self._ended.wait(0.004):
            worked = sum(int(path.read_text().split()[0]) for path in self._threads)
            self._seen.append((time.time() * 1000, worked / 1e6))

    def between(self, began: float, lasted: float) -> float:
        """Milliseconds of work in a span of time, which begins at milliseconds since the epoch."""
        times, worked = zip(*self._seen, strict=True)
        return float(np.interp(began + lasted, times, worked) - np.interp(began, times, worked))


def _words(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").replace("\0", " ").split()
    return []


def test_no_frame_takes_long_while_there_is_traffic(page: Page, lab: RunningLab) -> None:
    addresses = clients(lab)
    assert len(addresses) == 140
    page.until("#picture [data-node=strict-10-nat] .state", "2 of 2 qualified")
    pinging = [
        subprocess.Popen(
            (*COMMAND, "exec", "--name", lab.name, caller, "--", "ping", "-6", "-q", "-i", "0.1", addresses[callee]),
            stdout=subprocess.DEVNULL,
        )
        for caller, callee in (("alice-1-1", "bob-4-2"), ("bob-9-1", "carol-3-2"), ("carol-7-1", "alice-15-3"))
    ]
    try:
        until(lambda: "echo" in page.text("#last-packet"), 60)
        page.choose("#ping [name=from]", "alice-2-1")
        page.choose("#ping [name=to]", "bob-2-1")
        page.click("#ping button")
        with Work(page.driver) as work:
            found: dict[str, Any] = page.driver.execute_async_script(WATCH, 6000)  # and until the ping is told
        assert "alice-2-1 reaches bob-2-1" in page.text("#notice")
    finally:
        for each in pinging:
            each.terminate()
            each.wait()
    page.driver.execute_script("scrollTo(0, 0)")
    page.picture("large")
    tasks = sorted(((work.between(*span), span[1]) for span in found["tasks"]), reverse=True)
    frames = sorted(found["frames"])
    longest = ", ".join(f"{worked:.0f} ms of work in {lasted:.0f} ms" for worked, lasted in tasks[:4])
    told = f"longest tasks: {longest or 'none'}; frames: median {median(frames):.1f} ms, longest {frames[-3:]}"
    print(told)
    assert max((worked for worked, _ in tasks), default=0.0) < LONGEST, told
    assert median(frames) < LONGEST, told


def test_to_choose_a_node_does_not_draw_all_anew(page: Page) -> None:
    page.until("#picture [data-node=strict-10-nat] .state", "2 of 2 qualified")
    page.driver.execute_script("window.drawn = document.querySelector('#picture [data-node=open-3-nat]')")
    page.choose("#chosen", "alice-3-2")
    page.until("#panels [data-node=alice-3-2]", "qualified")
    page.until("#panels [data-node=open-3-nat] .mappings", "192.168.")
    assert page.driver.execute_script("return window.drawn.isConnected && window.drawn.classList.contains('chosen')")


def test_sites_fold_and_unfold(page: Page) -> None:
    page.until("#picture [data-node=open-1-nat] .state", "3 of 3 qualified")
    assert page.text("#picture [data-node=alice-1-1]") == ""
    page.click("#folded")
    page.until("#picture [data-node=alice-1-1] .state", "qualified")
    page.click("#enlarged")
    page.choose("#chosen", "carol-10-2")
    script = "const at = (it) => it.getBoundingClientRect(); return [at(arguments[0]), at(arguments[1])]"
    node, frame = page.driver.execute_script(script, page.find("#picture [data-node=carol-10-2]"), page.find("#frame"))
    assert frame["left"] <= node["left"] < node["right"] <= frame["right"]
    assert frame["top"] <= node["top"] < node["bottom"] <= frame["bottom"]
    page.picture("unfolded")


def test_a_matrix_of_all_clients_is_drawn_at_once(page: Page, lab: RunningLab) -> None:
    names = list(clients(lab))
    with Work(page.driver) as work:
        span: list[float] = page.driver.execute_async_script(CHECK, names)
    print(told := f"the matrix: {work.between(*span):.0f} ms of work in {span[1]:.0f} ms")
    assert work.between(*span) < LONGEST, told
    page.until("#matrix-summary", "58380 of 58380 results are as expected")
    page.choose("#map-node", "bob-1-2")
    rows: Any = page.driver.execute_script("return document.querySelectorAll('#matrix-table tbody tr').length")
    assert rows == 139
    page.driver.execute_script("document.getElementById('matrix').scrollIntoView()")
    page.picture("matrix")


def test_a_client_that_starts_anew_leaves_those_alone_that_share_its_process(page: Page, lab: RunningLab) -> None:
    page.until("#picture [data-node=strict-10-nat] .state", "2 of 2 qualified")
    before = clients(lab)
    page.choose("#client [name=node]", "carol-5-1")
    for box in page.driver.find_elements("css selector", "#extensions input:checked"):
        box.click()
    page.done("#client button", "carol-5-1 has no extensions now, and is off-line")
    page.until("#picture [data-node=strict-5-nat] .state", "1 of 2 qualified")
    assert clients(lab) == before | {"carol-5-1": None}

"""How long a teacher waits, in a real browser, from the click on a ping to its diagram on the page."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab.bench.browser import browser, lacking
from lab.bench.labs import DEFAULT
from lab.bench.section import NAME, Aim, Figures, Section, started, timed
from lab.state import Lab, node_facts
from lab.web.acts import PING

if TYPE_CHECKING:
    from selenium import webdriver

_BETWEEN: Final = ("alice", "carol")
"""Clients of the default lab; the NAT of one of them drops the first packet from the other."""

_PATIENCE: Final = 60
_LOADED: Final = """
const [done] = arguments;
const wait = () => document.querySelector("#ping [name=to]").length ? done() : requestAnimationFrame(wait);
wait();
"""
_CLICK: Final = """
const [caller, callee, cold, done] = arguments;
const form = document.querySelector("#ping"), picture = document.getElementById("told-picture");
form.elements.from.value = caller;
form.elements.to.value = callee;
form.elements.cold.checked = cold;
picture.addEventListener("load", () => requestAnimationFrame(() => {
  done([performance.now() - began, document.getElementById("told-outcome").textContent]);
}), {once: true});
const began = performance.now();
form.querySelector("button").click();
"""


@contextlib.contextmanager
def _served() -> Iterator[str]:
    """The page of the lab for a while; its address."""
    with started("web", "--name", NAME, "--port", "0") as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()


def _clicked(driver: webdriver.Chrome, *, cold: bool) -> float:
    """Seconds from the click to the diagram. Raises RuntimeError if it is not that of a ping that came through."""
    milliseconds, outcome = driver.execute_async_script(_CLICK, *_BETWEEN, cold)
    if not outcome.startswith("\u2713"):
        raise RuntimeError(f"the page says: {outcome}")
    return float(milliseconds) / 1000


def _by_itself() -> float:
    """Seconds that the same ping takes without a page."""
    caller, callee = _BETWEEN
    lab = Lab(NAME)
    address = node_facts(lab.ask_once("status"), callee)["teredo_address"]
    began = time.monotonic()
    subprocess.run((*lab.entering(caller), *PING, address), check=True, capture_output=True)
    return time.monotonic() - began


def _once(directory: Path) -> Figures:
    """Cold first: then the path is warm."""
    timed("up", str(DEFAULT), "--name", NAME, "--json")
    try:
        with _served() as url, browser(directory / "browser") as driver:
            driver.set_script_timeout(_PATIENCE)
            driver.get(url)
            driver.execute_async_script(_LOADED)
            return {
                "from the click to the diagram, cold paths": _clicked(driver, cold=True),
                "from the click to the diagram, warm paths": _clicked(driver, cold=False),
                "the same ping by itself, warm paths": _by_itself(),
            }
    finally:
        timed("down", "--name", NAME)


SECTIONS: Final = (
    Section(
        "page",
        "a ping on the live page",
        _once,
        lacking,
        tuple(Aim(f"from the click to the diagram, {paths} paths", at_most=1.0) for paths in ("cold", "warm")),
        note="In Chromium, over the default lab, between clients behind a cone and a port-restricted NAT. A ping is of"
        " three echo requests, 0.1 s apart.",
    ),
)

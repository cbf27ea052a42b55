"""The live page of a lab in a real browser, for tests in either backend."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

from lab.testing.running import COMMAND
from tests.e2e.labs import until
from tests.e2e.pages import log


class Served(NamedTuple):
    """A page that is served: its address with the token, and the server's process id."""

    url: str
    process: int

    @property
    def origin(self) -> str:
        return self.url.partition("#")[0]


@contextlib.contextmanager
def served(name: str) -> Iterator[Served]:
    """A lab's page for a while. It ends by Ctrl-C, and says nothing of it."""
    command = (*COMMAND, "web", "--name", name, "--port", "0")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Served(process.stdout.readline().strip(), process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said == f"showing lab {name}; Ctrl-C ends it\n"


class Page:
    """The page in a browser."""

    def __init__(self, driver: webdriver.Chrome, url: str, directory: Path) -> None:
        self.driver = driver
        self.origin = url.partition("#")[0]
        self._directory = directory
        driver.get(url)
        self.until("#picture .node")

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """What is in an element, shown or not; nothing if there is none."""
        return next(iter(self.texts(selector)), "")

    def attributes(self, selector: str, name: str) -> list[str | None]:
        """An attribute of all such elements, read at one moment: the page replaces what changes."""
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.getAttribute(arguments[1]))"
        found: list[str | None] = self.driver.execute_script(script, selector, name)
        return found

    def texts(self, selector: str) -> list[str]:
        """What is in all such elements, shown or not, likewise."""
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)"
        found: list[str] = self.driver.execute_script(script, selector)
        return found

    def until(self, selector: str, words: str = "") -> None:
        """Wait for an element, and for words in it."""
        until(lambda: any(words in text for text in self.texts(selector)[:1]), 60)

    def choose(self, selector: str, value: str) -> None:
        Select(self.find(selector)).select_by_value(value)

    def click(self, selector: str) -> None:
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", self.find(selector))
        self.find(selector).click()

    def done(self, selector: str, words: str) -> None:
        """Do something, and wait for the notice that it has been done."""
        self.click(selector)
        self.until("#notice", words)
        until(lambda: bool(self.find(selector).is_enabled()))

    def picture(self, name: str) -> Path:
        path = self._directory / f"{name}.png"
        self.driver.save_screenshot(str(path))
        return path

    def requests(self) -> list[str]:
        """All addresses that the browser has asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in log(self.driver, "performance")]
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


@contextlib.contextmanager
def shown(driver: webdriver.Chrome, url: str, directory: Path) -> Iterator[Page]:
    """The page, opened anew; the console stays empty, and nobody but its server is asked."""
    driver.get("about:blank")
    log(driver, "browser")
    log(driver, "performance")  # of what the browser has shown by itself
    found = Page(driver, url, directory)
    yield found
    found.picture("end")
    assert log(driver, "browser") == []
    foreign = [each for each in found.requests() if not each.startswith((found.origin, "about:", "data:"))]
    assert foreign == []

"""A headless Chromium, Debian's own, driven by its chromedriver: a window of its own, which reaches nothing but this machine.

with Browser() as browser:
    browser.open(gateway.url, width=375, height=812, dark=True)
    browser.find("#models-table").text
    browser.asked(), browser.said()  # every address that was asked for, and what the page's console said
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Self

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from support import waiting

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
MISSING = (
    "" if CHROMIUM and DRIVER else "Chromium or its driver is not installed (apt-get install chromium chromium-driver)"
)
SKIPPED = bool(MISSING) and not os.environ.get("CI")

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)


class Browser:
    """Starts in the constructor; use it as a context manager."""

    def __init__(self) -> None:
        assert CHROMIUM, MISSING
        assert DRIVER, MISSING
        self.folder = Path(tempfile.mkdtemp(prefix="mutirao-browser-"))
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*_FLAGS, f"--user-data-dir={self.folder}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))

    def open(
        self,
        url: str,
        *,
        width: int = 1440,
        height: int = 1000,
        dark: bool = False,
        still: bool = False,
        wait: str = "",
    ) -> None:
        """Open a page as a new visitor of this address, and wait for an element."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        preferred = {"prefers-color-scheme": "dark" if dark else "light"}
        preferred["prefers-reduced-motion"] = "reduce" if still else "no-preference"
        self.command(
            "Emulation.setEmulatedMedia", features=[{"name": name, "value": value} for name, value in preferred.items()]
        )
        self.driver.get(url)
        self.run("sessionStorage.clear()")
        self.driver.refresh()
        if wait:
            self.find(wait)

    def find(self, selector: str, *, text: str = "", timeout_s: float = 30.0) -> WebElement:
        """Wait until an element is shown that has this text."""
        found: Any = waiting.until(
            lambda: self._shown(selector, text), timeout_s=timeout_s, what=lambda: self._seen(selector)
        )
        return found  # type: ignore[no-any-return]

    def text(self, selector: str) -> str:
        """Read an element's text, shown or not; "" where there is none."""
        found = self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector)
        return str(found)

    def run(self, script: str, *args: object) -> Any:
        """Run a script in the page; return what it returns."""
        return self.driver.execute_script(script, *args)

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def command(self, name: str, **params: object) -> Any:
        """Send a command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, params)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Save what is to be seen, or the whole page, as PNG."""
        width, height = self.run("return [document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        if whole:
            mobile = width < 600
            self.command(
                "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile
            )
        self.driver.save_screenshot(str(path))

    def all(self, selector: str) -> list[WebElement]:
        """Find every such element, shown or not."""
        found: list[WebElement] = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found

    def said(self) -> list[str]:
        """Take what the page's console has said since this was last asked."""
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [f"{entry['level']} {entry['message']}" for entry in entries]

    def asked(self) -> list[str]:
        """Take the addresses that were asked for since this was last asked."""
        entries = self.driver.get_log("performance")  # type: ignore[no-untyped-call]
        messages = (json.loads(entry["message"])["message"] for entry in entries)
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def close(self) -> None:
        self.driver.quit()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _shown(self, selector: str, text: str) -> WebElement | None:
        try:
            found = self.driver.find_element(By.CSS_SELECTOR, selector)
            return found if found.is_displayed() and text in found.text else None
        except (NoSuchElementException, StaleElementReferenceException):
            return None

    def _seen(self, selector: str) -> str:
        return f"{selector}: {self.text(selector)!r}\n{self.text('main')}"

"""A headless Chromium that records console messages and network requests."""

import base64
import json
import os
import shutil
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from report_forms import DESKTOP

TALLEST = 16_000
"""Pixels of a page that a screenshot shows."""


class Browser:
    """One page at a time, with its console and network recorded."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path, *, screen=DESKTOP, dark=False, scripts=True):
        """Opens a file from disk or a URL and waits until the page's script is done."""
        self.show(screen, dark=dark)
        run = self.driver.execute_cdp_cmd
        run("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        self.driver.get("about:blank")
        self.requests(), self.console()
        self.driver.get(path if "://" in str(path) else path.as_uri())
        if scripts:
            self.wait("document.documentElement.dataset.ready || !document.getElementById('data')")

    def show(self, screen, *, dark=False):
        """Shows the open page on another screen, or in another color scheme."""
        width, height, scale, mobile = screen
        run = self.driver.execute_cdp_cmd
        run(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile},
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        run("Emulation.setEmulatedMedia", {"features": features})

    def wait(self, condition, seconds=20):
        """Waits until a JavaScript expression is true."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, seconds, 0.02).until(lambda _: self.js(f"return {condition}"))

    def js(self, code, *arguments):
        return self.driver.execute_script(code, *arguments)

    def console(self):
        """Messages logged since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        """URLs requested since the last call, except those inside the file."""
        messages = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        urls = [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith(("data:", "blob:", "about:"))]

    @contextmanager
    def clock(self):
        """Yields a function that returns the CPU seconds of the page's thread within the block."""
        run = self.driver.execute_cdp_cmd
        run("Performance.enable", {"timeDomain": "threadTicks"})

        def spent():
            metrics = run("Performance.getMetrics", {})["metrics"]
            return next(one["value"] for one in metrics if one["name"] == "TaskDuration")

        start = spent()
        try:
            yield lambda: spent() - start
        finally:
            run("Performance.disable", {})

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def screenshot(self, path):
        """Writes a screenshot of the page as PNG, up to the height that Chromium can draw."""
        width, height = self.js(
            "const page = document.documentElement; return [page.scrollWidth, page.scrollHeight]"
        )
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, TALLEST), "scale": 1}
        data = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True, "format": "png", "clip": clip}
        )["data"]
        path.write_bytes(base64.b64decode(data))


@pytest.fixture(scope="session")
def browser():
    from selenium import webdriver

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.fail("expected chromium and chromedriver: make test-browser installs them")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(driver)
    started = webdriver.Chrome(options=options, service=service)
    yield Browser(started)
    started.quit()


@pytest.fixture
def axe(browser):
    """A function that returns axe-core's violations on the open page."""
    source = Path(find_spec("axe_playwright_python").origin).with_name("axe.min.js").read_text()

    def found():
        browser.js(source)
        # without the details of what passes, which take minutes on long pages
        run = "axe.run({resultTypes: ['violations'], preload: false}).then(arguments[0])"
        result = browser.driver.execute_async_script(run)
        return [
            f"{rule['id']}: {node['html'][:120]} {node['failureSummary'][:200]}"
            for rule in result["violations"]
            for node in rule["nodes"]
        ]

    return found


@pytest.fixture(scope="session")
def shots():
    """The folder for screenshots, EXPLAINKIT_SHOTS; None, and no screenshots, without it."""
    named = os.environ.get("EXPLAINKIT_SHOTS")
    if not named:
        return None
    Path(named).mkdir(parents=True, exist_ok=True)
    return Path(named)

"""The built site in a real browser: pages load from their own host only, log nothing, and fit."""

import functools
import http.server
import threading
from pathlib import Path

import pytest
from report_forms import DESKTOP, PHONE

pytestmark = pytest.mark.browser
SITE = Path(__file__).parents[2] / "site"
PAGES = [
    "",
    "gallery/",
    "gallery/explainkit/how_fast_how_exact/",
    "gallery/fer_hw3/saliency_methods/",
    "tutorial/first-explanation/",
    "how-to/use-a-method/",
    "coming-from/captum/",
    "reference/api/",
    "reference/methods/",
    "explanation/choosing-a-method/",
    "404.html",
]
"""One of each kind."""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Logs nothing."""


@pytest.fixture(scope="module")
def port():
    if not (SITE / "gallery/index.html").is_file():
        pytest.fail("expected the built site in site/: make docs")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=SITE)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pages_are_silent_local_and_fit(browser, port, shots, dark):
    """Each page is loaded once, on a phone, and then given the window of a desktop."""
    host = f"http://{'dark' if dark else 'light'}.localhost:{port}/"  # it stores the theme per host
    pages = PAGES
    if not dark:
        pages = [str(path.relative_to(SITE)).removesuffix("index.html") for path in _files()]
        assert set(PAGES) < set(pages)
    faults = []
    for page in pages:
        _open(browser, host + page, PHONE, dark)
        images = browser.js(
            "return [...document.querySelectorAll('article img')]"
            ".map(i => [i.src, i.alt, i.naturalWidth])"
        )
        faults += [f"{page}: {src} shows nothing" for src, alt, width in images if not width]
        faults += [f"{page}: {src} has no alt text" for src, alt, width in images if not alt]
        for screen in (PHONE, DESKTOP):
            browser.show(screen, dark=dark)
            if not _fits(browser, screen[0]):
                faults.append(f"{page}: wider than {screen[0]} pixels")
            if page in PAGES and shots:
                name = page.strip("/").replace("/", "-") or "home"
                theme = "dark" if dark else "light"
                browser.screenshot(shots / f"site-{name}-{screen[0]}-{theme}.png")
        faults += [
            f"{page}: requests {url}" for url in browser.requests() if not url.startswith(host)
        ]
        faults += [f"{page}: {line}" for line in browser.console() if "favicon" not in line]
    assert faults == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_page_is_accessible(browser, port, axe, dark):
    host = f"http://{'dark' if dark else 'light'}.localhost:{port}/"
    browser.driver.set_script_timeout(300)  # the reference has thousands of elements
    faults = []
    for path in _files():
        page = str(path.relative_to(SITE)).removesuffix("index.html")
        _open(browser, host + page, DESKTOP, dark)
        faults += [f"{page}: {line}" for line in axe()]
    assert faults == []


def _open(browser, url, screen, dark):
    """Opens a page in a color scheme, and waits until it is shown in it."""
    browser.open(url, screen=screen, dark=dark)
    browser.wait("document.readyState === 'complete'")
    if browser.js("return 'mdColorScheme' in document.body.dataset"):  # not in a report
        scheme = "slate" if dark else "default"
        browser.wait(f"document.body.dataset.mdColorScheme === '{scheme}'")


def _files():
    return sorted(SITE.rglob("*.html"))


def _fits(browser, width):
    """Whether the page is at most this wide, once the menus have moved to their places."""
    from selenium.common.exceptions import TimeoutException

    try:
        browser.wait(f"document.documentElement.scrollWidth <= {width}", seconds=2)
    except TimeoutException:
        return False
    return True

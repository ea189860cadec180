"""The built site in a real browser: pages load from their own host only and log nothing."""

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
    "how-to/use-a-method/",
    "reference/api/",
    "explanation/choosing-a-method/",
]


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


@pytest.fixture
def host(port, request):
    """A host name of its own for each test: the site stores light or dark per host."""
    number = request.node.session.items.index(request.node)
    return f"http://test-{number}.localhost:{port}/"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("page", PAGES)
def test_pages_are_silent_local_and_fit(browser, host, shots, page, screen, dark):
    browser.open(host + page, screen=screen, dark=dark)
    browser.wait("document.readyState === 'complete'")
    browser.wait(f"document.body.dataset.mdColorScheme === '{'slate' if dark else 'default'}'")
    assert [url for url in browser.requests() if not url.startswith(host)] == []
    assert [line for line in browser.console() if "favicon" not in line] == []
    assert browser.js("return document.documentElement.scrollWidth") <= screen[0]
    images = browser.js(
        "return [...document.querySelectorAll('article img')].map(i => [i.alt, i.naturalWidth])"
    )
    assert all(alt and width for alt, width in images)
    name = page.strip("/").replace("/", "-") or "home"
    browser.screenshot(shots / f"site-{name}-{screen[0]}-{'dark' if dark else 'light'}.png")


def test_no_page_is_wider_than_a_phone(browser, host):
    pages = [path.relative_to(SITE) for path in SITE.rglob("*.html")]
    assert len(pages) > len(PAGES)
    wide = []
    for page in pages:
        browser.open(f"{host}{page}", screen=PHONE)
        browser.wait("document.readyState === 'complete'")
        if browser.js("return document.scrollingElement.scrollWidth > innerWidth"):
            wide.append(page)
    assert wide == []

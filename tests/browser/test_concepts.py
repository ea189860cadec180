"""The report of concepts in a real browser: nothing is loaded, axe finds nothing."""

import pytest
from concept_forms import made
from report_forms import DESKTOP, HOSTILE, PHONE
from torch import nn

import explainkit as ek

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("concepts")
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU()).eval()
    found = made(
        classes=12, size=(48, 48), layer="1", p=[0.01, 0.6, 0.02],
        class_names=("happy", *HOSTILE[:11]), names=HOSTILE[:9],
    )  # fmt: skip
    maximized = ek.maximize(net, list(found), shape=(1, 48, 48), steps=2)
    names = ["mouth", HOSTILE[0], ""]
    return found.report(
        folder / "a.html", names=names, maximized=maximized, command="explainkit concepts 'a<b'"
    )


@pytest.mark.parametrize(("screen", "dark"), [(DESKTOP, False), (PHONE, True)])
def test_it_is_accessible_and_loads_nothing(browser, page, axe, shots, screen, dark):
    browser.open(page, screen=screen, dark=dark)
    assert browser.console() == []
    assert browser.requests() == [page.as_uri()]
    shown = browser.js("return [...document.images].map((i) => i.complete && i.naturalWidth > 0)")
    assert len(shown) == 3 * (2 * 9 + 1)
    assert all(shown)
    wide = browser.js("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide[0] <= wide[1]
    assert axe() == []
    if shots:
        browser.screenshot(shots / f"concepts-{'dark' if dark else 'light'}.png")


def test_links_lead_to_the_cards(browser, page):
    browser.open(page)
    ends = browser.js(
        "return [...document.querySelectorAll('a')].map((a) => "
        "document.querySelector(a.getAttribute('href')).textContent)"
    )
    assert len(ends) == 3
    assert ends[0] == "Concept 0: mouth"
    assert ends[2] == "Concept 2"

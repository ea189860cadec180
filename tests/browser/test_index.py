"""The index of a store in a real browser: filters work, nothing is loaded, axe finds nothing."""

import pytest
import torch
from report_forms import DESKTOP, PHONE
from torch import nn

import explainkit as ek
from explainkit.jobs.index import report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(24 * 24, 2)).eval()
    images = {f"image {i}": torch.rand(1, 24, 24) for i in range(8)}
    images["<script>"] = torch.full((1, 24, 24), torch.nan)
    methods = ["saliency", "input_x_gradient"]
    return ek.batch(images, net, methods, tmp_path_factory.mktemp("index") / "out", scorecard=True)


def visible(browser):
    return browser.js(
        "return [...document.querySelectorAll('#cards li')].filter((i) => !i.hidden).length"
    )


def choose(browser, name, value):
    browser.js(
        "const e = document.getElementById('filters').elements[arguments[0]]; e.value = arguments[1];"
        "e.dispatchEvent(new Event('input', { bubbles: true }))",
        name, value,
    )  # fmt: skip


@pytest.mark.parametrize(("screen", "dark"), [(DESKTOP, False), (PHONE, True)])
def test_filters(browser, store, axe, shots, tmp_path, screen, dark):
    path = report(store, tmp_path / "index.html")
    browser.open(path, screen=screen, dark=dark)
    browser.wait("document.documentElement.dataset.ready")
    assert visible(browser) == 9
    choose(browser, "status", "failed")
    assert visible(browser) == len(store.where(status="failed")) == 1
    choose(browser, "status", "")
    for verdict in {item.judged[1].verdict for item in store.items if item.judged}:
        choose(browser, "verdict", verdict)
        choose(browser, "method", "1")
        wanted = sum(item.judged[1].verdict == verdict for item in store.items if item.judged)
        assert visible(browser) == wanted
        assert browser.find("#found").text == f"{wanted} of 9"
    choose(browser, "verdict", "")
    choose(browser, "sort", "unsure")
    sure = browser.js(
        "return [...document.querySelectorAll('#cards li')].map((i) => i.dataset.confidence)"
    )
    assert sure[-1] == ""
    assert sure[:-1] == sorted(sure[:-1])
    assert browser.console() == []
    assert browser.requests() == [path.as_uri()]
    assert axe() == []
    if shots:
        browser.screenshot(shots / f"index-{'dark' if dark else 'light'}.png")


def test_without_scripts(browser, store, tmp_path):
    browser.open(report(store, tmp_path / "index.html"), scripts=False)
    assert browser.find("#cards li:last-child img").is_displayed()
    assert not browser.find("#filters").is_displayed()

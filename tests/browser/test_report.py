"""The report in a real browser: interactive, correct, without network, accessible."""

import re

import pytest
import torch
from PIL import Image
from report_forms import DESKTOP, HOSTILE, PHONE, explained

import explainkit as ek
from explainkit.adapters.preprocessing import CenterCrop, Preprocessing, Resize
from explainkit.render.report import report
from explainkit.render.shown_image import overlay, shown_images

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A report of two methods on three faces, and the explanations in it."""
    folder = tmp_path_factory.mktemp("faces")
    data = ek.load_dataset("fer_hw3/synthetic", split="all")
    images, labels = data.images[[14, 10, 12]], data.labels[[14, 10, 12]].tolist()
    maps = [
        ek.explain("fer_hw3/cnn", images, method=m) for m in ("saliency", "integrated_gradients")
    ]
    report(maps[0][0], folder / "one.html", labels=labels[:1])
    return report(maps, folder / "faces.html", labels=labels), maps


def assert_silent(browser, path):
    assert browser.console() == []
    assert browser.requests() == [path.as_uri()]


def pixel(browser, panel, x, y):
    return browser.js(
        "const c = document.querySelectorAll('.stage canvas')[arguments[0]];"
        "return [...c.getContext('2d').getImageData(arguments[1], arguments[2], 1, 1).data]",
        panel, x, y,
    )  # fmt: skip


def pixels(browser, panel):
    return browser.js(
        "const c = document.querySelectorAll('.stage canvas')[arguments[0]];"
        "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].join()",
        panel,
    )


def move(browser, name, value):
    browser.js(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input')); e.dispatchEvent(new Event('change'))",
        name, value,
    )  # fmt: skip


def hover(browser, panel, x, y):
    browser.js(
        "const c = document.querySelectorAll('.stage canvas')[arguments[0]], b ="
        " c.getBoundingClientRect(); c.dispatchEvent(new PointerEvent('pointermove', {clientX:"
        " b.left + (arguments[1] + 0.5) * b.width / c.width, clientY: b.top + (arguments[2] + 0.5)"
        " * b.height / c.height}))",
        panel, x, y,
    )  # fmt: skip
    rows = browser.js(
        "return [...document.querySelectorAll('#pointer tbody tr')].map(r => r.children[1].textContent)"
    )
    return [float(text.replace("−", "-")) for text in rows]


def test_values_at_the_pointer_are_correct(browser, faces):
    path, maps = faces
    browser.open(path)
    for image in range(3):
        browser.js(f"location.hash = 'image-{image + 1}'")
        browser.wait(f"document.querySelector('#name').textContent === 'image {image}'")
        for panel, x, y in ((0, 0, 0), (1, 47, 47), (2, 24, 17), (1, 30, 11)):
            wanted = [float(f"{float(one.heatmap()[image, y, x]):.4g}") for one in maps]
            assert hover(browser, panel, x, y) == wanted
    assert_silent(browser, path)


def test_the_overlay_matches_the_figures(browser, faces):
    path, maps = faces
    browser.open(path)
    seen = torch.tensor([int(n) for n in pixels(browser, 2).split(",")]).reshape(48, 48, 4)[..., :3]
    one = maps[1]
    image = one.inputs[0, 0] * one.std[0] + one.mean[0]
    wanted = overlay(image.clip(0, 1).numpy(), one.heatmap()[0])
    # both color maps have 256 steps
    assert (seen - torch.from_numpy(255 * wanted)).abs().max() < 6


def test_maps_lie_on_the_originals(browser, tmp_path):
    """Photos of three shapes: cropped, enlarged and cropped, and one that is shown reduced."""
    random = torch.Generator().manual_seed(0)
    originals = [
        torch.randint(0, 256, (*size, 3), generator=random, dtype=torch.uint8).numpy()
        for size in ((40, 64), (9, 7), (600, 1500))
    ]
    steps = Preprocessing((Resize(24), CenterCrop(20)))
    found = explained(
        3, 20, channels=3, originals=tuple(originals), names=("a", "b", "c"),
        geometries=tuple(steps(Image.fromarray(one))[1] for one in originals),
    )  # fmt: skip
    path = report(found, tmp_path / "photos.html")
    browser.open(path)
    for i, image in enumerate(shown_images(found)):
        browser.js(f"location.hash = 'image-{i + 1}'")
        browser.wait(f"document.querySelector('#name').textContent === '{'abc'[i]}'")
        high, wide = image.size
        values = image.place(found.heatmap()[i].double().numpy())
        seen = browser.js("return Array.from(values(0))")  # NaN arrives as null
        seen = torch.tensor([float("nan") if v is None else v for v in seen]).reshape(high, wide)
        assert torch.allclose(
            seen, torch.from_numpy(values).float(), atol=1e-4 * abs(values[values == values]).max(),
            equal_nan=True,
        )  # fmt: skip
        drawn = torch.tensor([int(n) for n in pixels(browser, 1).split(",")])
        wanted = torch.from_numpy(255 * overlay(image, found.heatmap()[i]))
        # the image below is a JPEG, and both color maps have 256 steps
        difference = (drawn.reshape(high, wide, 4)[..., :3] - wanted).abs()
        assert float(difference.mean()) < 4
        browser.js("state.at = [0, 0]; tell()")
        text = browser.js("return document.querySelector('#pointer').textContent")
        assert ("not seen by the model" in text) == bool(torch.isnan(seen[0, 0]))
        assert text.startswith("row 0, column 0")
    assert browser.js("state.at = [1023, 5]; return place()") == "row 8, column 1499"
    assert_silent(browser, path)


def test_sliders_and_switches_change_the_pixels(browser, faces):
    path, maps = faces
    browser.open(path)
    gray = pixels(browser, 0)
    seen = {pixels(browser, 1)}
    for name, value in (("opacity", 40), ("threshold", 30), ("scaling", "max")):
        move(browser, name, value)
        now = pixels(browser, 1)
        assert now not in seen, name
        seen.add(now)
    for choice in ("positive", "absolute", "map"):
        browser.js("document.querySelector(`input[value=${arguments[0]}]`).click()", choice)
        now = pixels(browser, 1)
        assert now not in seen, choice
        seen.add(now)
    assert pixels(browser, 0) == gray
    browser.open(path)
    move(browser, "opacity", 0)
    assert pixels(browser, 1) == gray
    full = browser.js("return document.querySelector('#map-0 .bar div').lastChild.textContent")
    move(browser, "scaling", "max")
    most = browser.js("return document.querySelector('#map-0 .bar div').lastChild.textContent")
    assert float(most) == float(f"{float(maps[0].heatmap()[0].abs().max()):.4g}") > float(full)
    assert_silent(browser, path)


def test_the_keyboard_reaches_everything(browser, faces):
    from selenium.webdriver.common.keys import Keys

    path, maps = faces
    browser.open(path)
    body = browser.find("body")
    reached = set()
    for _ in range(40):
        body = browser.driver.switch_to.active_element
        body.send_keys(Keys.TAB)
        reached.add(
            browser.js("const e = document.activeElement; return e.id || e.name || e.tagName")
        )
    assert {"sort", "outcome", "cards", "next", "view", "sign", "opacity", "threshold"} <= reached
    assert "CANVAS" in reached
    browser.js("document.querySelectorAll('.stage canvas')[1].focus()")
    browser.driver.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    spoken = browser.find("#spoken").get_attribute("textContent")
    value = f"{float(maps[0].heatmap()[0, 25, 24]):.4g}".replace("-", "−")
    assert spoken.startswith(f"row 25, column 24: saliency {value}")


def test_filters_and_sorting(browser, faces):
    path, maps = faces
    browser.open(path)

    def listed():
        return browser.js(
            "return [...document.querySelectorAll('#cards b')].map(e => e.textContent)"
        )

    sure = maps[0].logits.softmax(1).amax(1)
    browser.js("document.getElementById('sort').value = 'unsure'")
    browser.js("document.querySelector('.filters').dispatchEvent(new Event('input'))")
    assert listed() == [f"image {i}" for i in sure.argsort().tolist()]
    browser.js("document.getElementById('outcome').value = 'wrong'")
    browser.js("document.querySelector('.filters').dispatchEvent(new Event('input'))")
    assert listed() == []
    assert browser.find("#found").text == "0 of 3"


def test_without_scripts_the_images_show(browser, faces):
    path, maps = faces
    browser.open(path, scripts=False)
    assert browser.requests() == [path.as_uri()]
    boxes = [
        image.rect for image in browser.driver.find_elements("css selector", "figure .sheet")
        if image.is_displayed()
    ]  # fmt: skip
    assert len(boxes) == 3
    assert all(box["width"] > 100 and box["height"] > 30 for box in boxes)
    assert "angry" in browser.find("body").text
    browser.open(path.parent / "one.html", scripts=False)
    for chance in maps[0].logits[0].softmax(0).tolist():
        assert f"{chance:.3f}" in browser.find("table.bars").text


def test_hostile_texts_run_nothing(browser, tmp_path):
    for start in range(0, 100, 10):
        ten = HOSTILE[start : start + 10]
        one = explained(
            count=10, classes=10, class_names=tuple(ten), method=f"x/{ten[0]}", model=ten[1],
            params={"a": ten[2]}, versions={ten[3]: ten[4]}, diagnostics={"warnings": ten},
        )  # fmt: skip
        path = report(one, tmp_path / f"{start}.html", labels=range(10), names=ten, command=ten[5])
        browser.open(path)
        for i in range(1, 10):
            browser.js(f"location.hash = 'image-{i + 1}'")
        browser.wait("location.hash === '#image-10'")
        assert_silent(browser, path)
        assert browser.js("return document.querySelectorAll('script').length") == 4
        assert (
            browser.js("return document.querySelectorAll('[onerror],[onload],iframe').length") == 0
        )


@pytest.mark.parametrize("page", ["faces.html", "one.html"])
def test_it_is_accessible_and_fits(browser, faces, axe, shots, page):
    path = faces[0].with_name(page)
    browser.open(path)
    for screen in (DESKTOP, PHONE):
        for dark in (False, True):
            browser.show(screen, dark=dark)
            assert browser.js("return matchMedia('(prefers-color-scheme: dark)').matches") == dark
            assert browser.js("return document.documentElement.scrollWidth") <= screen[0]
            assert axe() == []
            if shots:
                name = f"{path.stem}-{screen[0]}-{'dark' if dark else 'light'}.png"
                browser.screenshot(shots / name)
    assert_silent(browser, path)


def test_two_thousand_images_stay_quick(browser, tmp_path):
    """Measured in the page's own CPU time, which does not depend on other processes."""
    one = explained(count=2000, side=48, classes=7, class_names=tuple("abcdefg"))
    labels = torch.arange(2000).remainder(7).tolist()
    path = report(one, tmp_path / "many.html", labels=labels)
    with browser.clock() as spent:
        browser.open(path)
        ready = spent()
        browser.js("document.getElementById('sort').value = 'sure'")
        browser.js("document.querySelector('.filters').dispatchEvent(new Event('input'))")
        browser.js("return document.getElementById('cards').offsetHeight")
        sorting = spent() - ready
    cards = browser.js(
        "return [...document.getElementById('cards').children].slice(0, 20).map(e => e.textContent)"
    )
    shown = [float(re.search(r"0\.\d\d", card)[0]) for card in cards]
    assert shown == sorted(shown, reverse=True)
    print(f"2,000 images: ready after {ready:.2f} s, sorted in {sorting:.2f} s of CPU time")
    assert 0 < ready < 2
    assert 0 < sorting < 2
    assert_silent(browser, path)


def test_scrolling_through_the_slices_of_a_volume(browser, axe, shots, tmp_path):
    """By the slider, its keys, and the keys of a slice; every panel and value follows."""
    generator = torch.Generator().manual_seed(0)
    inputs, values = torch.rand(2, 2, 1, 9, 30, 26, generator=generator)
    values = values - 0.5
    values[:, :, 6] *= 3
    found = explained(2, inputs=inputs, attribution=values)
    path = report(found, tmp_path / "volume.html")
    browser.open(path)
    where = "return document.getElementById('slice').value"
    assert browser.js(where) == "6"  # the strongest
    seen = {}
    for slice_ in (0, 3, 8):
        move(browser, "slice", slice_)
        (value,) = hover(browser, 1, 5, 7)
        assert value == float(f"{float(values[0, 0, slice_, 7, 5]):.4g}")
        gray = round(255 * float(inputs[0, 0, slice_, 7, 5]))
        assert pixel(browser, 0, 5, 7)[:3] == [gray] * 3
        seen[slice_] = pixels(browser, 1)
    assert len(set(seen.values())) == 3
    browser.find("#slice").send_keys("\ue012")  # the left arrow
    assert browser.js(where) == "7"
    browser.find(".stage canvas").send_keys("\ue00e")  # Page Up
    assert browser.js(where) == "6"
    assert "slice 6" in browser.js("return document.querySelector('.stage canvas').ariaLabel")
    shares = browser.js("return document.querySelectorAll('.profile rect').length")
    assert shares == 9
    browser.js("location.hash = 'image-2'")
    browser.wait("document.querySelector('#name').textContent === 'volume 1'")
    assert browser.js(where) == "6"
    assert axe() == []
    assert_silent(browser, path)
    if shots:
        browser.screenshot(shots / "volume.png")
    browser.open(path, scripts=False)
    assert browser.js("return getComputedStyle(document.querySelector('.slices.js')).display") == (
        "none"
    )

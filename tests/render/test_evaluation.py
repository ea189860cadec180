"""Evaluations drawn: bars have the shares, colors can be told apart, and texts are escaped."""

import re
from itertools import pairwise

import pytest
import torch

import explainkit as ek
from explainkit.render.verdicts import FILLS, HATCHED, SHORT, ink_on, luminance
from explainkit.results.evaluated import VERDICTS, EvaluatedImage, MethodResults
from explainkit.results.evaluation import Evaluation

NAN = float("nan")


def results(method, counts, mean):
    """A method with so many images of each verdict."""
    verdict = tuple(name for name, count in counts.items() for _ in range(count))
    statistic = torch.full((len(verdict), 3), mean, dtype=torch.float64)
    statistic += torch.linspace(-0.1, 0.1, len(verdict), dtype=torch.float64)[:, None]
    statistic[[name in HATCHED for name in verdict]] = NAN
    return MethodResults(
        method=method, name=f"explainkit/{method}", params="steps=<9>", verdict=verdict,
        reason=("",) * len(verdict), statistic=statistic, p=statistic.abs(), swapped=statistic * NAN,
        metrics={"road": statistic[:, 0] * 2}, undefined={"road": ("",) * len(verdict)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def found():
    images = tuple(
        EvaluatedImage(name=f"<{i}>.png", correct=i % 3 > 0, label="sad") for i in range(20)
    )
    good = results("deeplift", {"supported": 12, "partly supported": 5, "cannot be judged": 3}, 0.6)
    bad = results("<b>", {"supported": 1, "not supported: moved": 18, "not explained": 1}, 0.1)
    return Evaluation(model="my/<net>", images=images, results=(good, bad))


def test_bars_have_the_shares(found):
    bars, means = found.plot().axes[:2]
    widths = [(round(bar.get_y() + 0.37), round(bar.get_width(), 4)) for bar in bars.patches]
    assert widths == [(0, 0.6), (0, 0.25), (0, 0.15), (1, 0.05), (1, 0.9), (1, 0.05)]
    assert [text.get_text() for text in bars.texts] == ["60", "25", "15", "90"]
    points = [line.get_xdata()[0] for line in means.lines if line.get_marker() == "o"]
    assert points == pytest.approx([row["predicts"] for row in found.table()])


def test_colors_are_told_apart_also_in_gray_and_on_both_pages():
    plain = [luminance(FILLS[name]) for name in VERDICTS if name not in HATCHED]
    assert all(darker < lighter for darker, lighter in pairwise(plain))
    assert FILLS.keys() == SHORT.keys() == set(VERDICTS)
    for fill in FILLS.values():
        high, low = sorted((luminance(fill), luminance(ink_on(fill))), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5
    dark = luminance("#1b1d24")
    assert min(plain) + 0.05 >= 3 * (dark + 0.05)


def test_a_notebook_shows_tables_and_escapes_names(found):
    html = found._repr_html_()
    assert "<b></th>" not in html
    assert "&lt;b&gt;" in html
    assert html.count("<caption>") == 4
    widths = [float(one) for one in re.findall(r'<rect x="[\d.]+" width="([\d.]+)"', html)]
    # two methods, each for all, correct and wrong predictions
    assert sum(widths) == pytest.approx(600, abs=0.2)
    assert "60 <small>[39, 78]</small>" in html


def test_a_report_is_one_file_without_scripts(found, tmp_path):
    text = found.report(tmp_path / "a.html", command="explainkit evaluate 'x<y'").read_text()
    assert "&lt;0&gt;.png" in text
    assert "<0>" not in text
    assert "explainkit evaluate &#39;x&lt;y&#39;" in text
    assert "<script" not in text
    assert "style=" not in text.replace("<style>", "")
    assert not re.search(r"(?:src|href)=", text)


def test_a_report_of_maps_has_it_as_a_section(found, tmp_path):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3)).eval()
    maps = ek.explain(net, torch.rand(1, 1, 4, 4))
    text = maps.report(tmp_path / "a.html", evaluation=found).read_text()
    assert "Methods on 20 images" in text
    assert "&lt;b&gt;" in text
    assert "Methods on" not in maps.report(tmp_path / "b.html").read_text()

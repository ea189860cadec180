"""Files of class names."""

import json

import pytest
from foreign import foreign

from explainkit.adapters.class_names import imagenet_class_names, read_class_names
from explainkit.errors import InputError


@pytest.mark.parametrize(
    "content",
    [
        ["cat", "dog", "great crane"],
        {"0": "cat", "2": "great crane", "1": "dog"},
        {"cat": 0, "great crane": 2, "dog": 1},
        {"0": ["n01", "cat"], "1": ["n02", "dog"], "2": ["n03", "great crane"]},
    ],
    ids=["list", "by index", "by name", "imagenet_class_index"],
)
def test_json(content, tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps(content))
    assert read_class_names(path) == ("cat", "dog", "great crane")


def test_more_than_ten_indices_are_numbers_not_texts(tmp_path):
    path = tmp_path / "names.json"
    path.write_text(json.dumps({str(i): f"class {i}" for i in range(12)}))
    assert read_class_names(path)[10:] == ("class 10", "class 11")


@pytest.mark.parametrize(
    "text", ["cat\ndog\ngreat crane\n", "\ufeffcat\r\ndog\r\ngreat crane\r\n\r\n"]
)
def test_one_a_line(text, tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(text.encode())
    assert read_class_names(path) == ("cat", "dog", "great crane")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "class 0 has none"),
        ("a.txt", "cat\n\ndog", "class 1 has none"),
        ("a.json", '{"0": "cat", "2": "dog"}', "indices from 0 on"),
        ("a.json", '{"cat": 1, "dog": 2}', "indices from 0 on"),
        ("a.json", '["cat", 3]', "class 1 has none"),
        ("a.json", '["cat"', "expected JSON"),
        ("a.json", '"cat"', "expected one class name per line"),
    ],
)
def test_damaged_files(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_class_names(tmp_path / name)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_class_names(tmp_path / "no.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="not a text file"):
        read_class_names(tmp_path / "b.txt")


def test_the_classes_of_imagenet_are_those_of_other_libraries():
    models = foreign("torchvision").models
    if not hasattr(models, "AlexNet_Weights"):
        pytest.skip("needs torchvision, not what stands in for it in benchmarks")
    weights = models.AlexNet_Weights.DEFAULT
    assert list(imagenet_class_names()) == weights.meta["categories"]

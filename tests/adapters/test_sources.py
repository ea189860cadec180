"""Sources: their forms, and that no package is imported before a model of it is loaded."""

import subprocess
import sys

import pytest

import explainkit as ek
from explainkit.adapters.sources import is_foreign, package_of

CODE = """
import sys
import explainkit as ek
ek.load_model("fer_hw3/dnn")
ek.adapt(lambda images: images)
packages = {"timm", "torchvision", "transformers", "onnxruntime", "onnx", "captum", "PIL"}
print(sorted(packages & sys.modules.keys()))
"""


def test_no_package_is_imported_for_nothing():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("source", "package", "foreign"),
    [
        ("timm:hf-hub:owner/name", "timm", True),
        ("torchvision:resnet50", "torchvision", True),
        ("transformers:./folder", "transformers", True),
        ("onnx:C:\\nets\\net.onnx", "onnxruntime", True),
        ("nets/small.py:make", None, True),
        ("C:\\nets\\small.py:make", None, True),
        ("package.module:Class.make", None, True),
        ("fer_hw3/cnn", None, False),
        ("cnn", None, False),
        ("nets/w.safetensors", None, False),
        ("timm", None, False),
    ],
)
def test_forms(source, package, foreign):
    assert package_of(source) == package
    assert is_foreign(source) == foreign


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ("resnet50", "written 'timm:resnet50' or 'torchvision:resnet50'"),
        ("google/vit-base-patch16-224", "written 'transformers:google/vit-base-patch16-224'"),
        ("fer_hw3/cnnn", "did you mean 'fer_hw3/cnn'"),
    ],
)
def test_a_name_without_its_package(source, written):
    with pytest.raises(ek.UnknownNameError, match=written):
        ek.load_model(source)

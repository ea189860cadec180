"""Names: qualified, bare, ambiguous, unknown; strings resolved at first use."""

import pytest
from torch import nn

from explainkit.catalog.factories import load_methods
from explainkit.catalog.registry import Registry
from explainkit.errors import MethodError, PluginError, UnknownNameError


@pytest.fixture
def methods():
    registry = Registry("method", {"a": "a 1.0", "b": "b 2.0"}.__getitem__)
    registry.add("a", "sal", "fractions:Fraction")
    registry.add("b", "sal", int)
    registry.add("b", "other", "no_such_module:X")
    return registry


def test_names(methods):
    assert methods.names() == ["a/sal", "b/other", "b/sal"]
    assert methods.qualify("other") == "b/other"
    assert methods.qualify("a/sal") == "a/sal"


def test_ambiguity_lists_the_candidates(methods):
    with pytest.raises(UnknownNameError, match="'sal' is ambiguous: use 'a/sal' or 'b/sal'"):
        methods.qualify("sal")


@pytest.mark.parametrize(("name", "hint"), [("othr", "'other'"), ("zzz", "no similar name")])
def test_unknown(methods, name, hint):
    with pytest.raises(
        UnknownNameError, match=f"no method is named '{name}'.*{hint}.*list methods"
    ):
        methods.get(name)


def test_resolution(methods):
    from fractions import Fraction

    assert methods.get("a/sal") is Fraction
    assert methods.get("b/sal") is int
    assert methods.name_of(Fraction) == "a/sal"
    assert methods.name_of(str) is None


def test_names_of_classes_import_nothing(methods):
    from fractions import Fraction

    assert methods.name_of(Fraction) == "a/sal"


def test_a_string_that_ends_the_process_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "leaving_module.py").write_text("print('bye'); raise SystemExit(0)")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("method", str)
    registry.add("a", "x", "leaving_module:X")
    with pytest.raises(PluginError, match="SystemExit: 0"):
        registry.get("x")


def test_names_of_a_broken_plugin():
    registry = Registry("method", str, lambda name: "'bad' is broken: why" * (name == "bad"))
    with pytest.raises(PluginError, match=r"'bad/x' can't be used: plugin 'bad' is broken: why"):
        registry.qualify("bad/x")
    with pytest.raises(UnknownNameError):
        registry.qualify("good/x")


def test_an_invalid_string_is_an_error_that_names_the_plugin(methods):
    with pytest.raises(
        PluginError, match=r"plugin b 2\.0 offers method 'b/other' .*no_such_module"
    ):
        methods.get("other")


def test_among_several_methods_each_gets_what_it_requires():
    _, conductance = load_methods(["saliency", "conductance"], {"layer": "0"}, nn.Identity())
    assert conductance.layer == "0"
    with pytest.raises(MethodError, match="expected layer="):
        load_methods(["saliency", "conductance"], {}, nn.Identity())

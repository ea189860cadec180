"""Discovery: broken plugins of every kind are reported, and the others work."""

import sys

import pytest

from explainkit.catalog.discovery import Plugins
from explainkit.errors import PluginError, UnknownNameError

GOOD = """
    from dataclasses import dataclass
    from explainkit import hookimpl

    @dataclass(frozen=True)
    class Good:
        "A method that works."
        def __call__(self, model, inputs, target):
            return inputs

    @hookimpl
    def explainkit_methods():
        return {"good": Good}
"""

BROKEN = {
    "import_error": ("import no_such_module", "ModuleNotFoundError: No module named"),
    "syntax": ("def f(:", "SyntaxError: invalid syntax"),
    "system_exit": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "a_base_exception": ("class Strange(BaseException): pass\nraise Strange('no')", "Strange: no"),
    "an_unreadable_message": (
        ("class Strange(BaseException):\n    def __str__(self): raise Strange\nraise Strange"),
        "Strange, whose message can't be read",
    ),
    "a_long_message": ("raise ValueError('x' * 10**6)", "ValueError: " + "x" * 287 + "…"),
    "an_escape_sequence": ("raise ValueError('\\x1b[2J')", "ValueError: �[2J"),
    "a_long_name": (
        (
            "from explainkit import hookimpl\n@hookimpl\n"
            "def explainkit_methods(): return {'a ' * 10**6: 'x:y'}"
        ),
        "explainkit_methods returns the name 'a a a ",
    ),
    "a_base_exception_of_a_hook": (
        "from explainkit import hookimpl\n@hookimpl\ndef explainkit_methods(): raise GeneratorExit",
        "explainkit_methods raises GeneratorExit",
    ),
    "unknown_hook": (
        "from explainkit import hookimpl\n@hookimpl\ndef explainkit_telepathy(): return {}",
        "built for another version of explainkit",
    ),
    "argument": (
        "from explainkit import hookimpl\n@hookimpl\ndef explainkit_methods(config): return {}",
        "built for another version of explainkit",
    ),
    "raising": (
        "from explainkit import hookimpl\n@hookimpl\ndef explainkit_methods(): 1 / 0",
        "explainkit_methods raises ZeroDivisionError",
    ),
    "exiting": (
        "from explainkit import hookimpl\n@hookimpl\ndef explainkit_methods(): raise SystemExit(1)",
        "explainkit_methods raises SystemExit",
    ),
    "a_list": (
        "from explainkit import hookimpl\n@hookimpl\ndef explainkit_methods(): return ['x']",
        "explainkit_methods returns list, not a mapping",
    ),
    "a_number": (
        "from explainkit import hookimpl\n@hookimpl\ndef explainkit_methods(): return {'x': 3}",
        "explainkit_methods returns int for 'x'",
    ),
    "a_bad_name": (
        "from explainkit import hookimpl\n@hookimpl\ndef explainkit_methods(): return {'a b': 'x:y'}",
        "the name 'a b', which is not an identifier",
    ),
    "a_bad_string": (
        "from explainkit import hookimpl\n@hookimpl\ndef explainkit_methods(): return {'x': 'x.y'}",
        "'x.y' for 'x', not 'module:attribute'",
    ),
    "iteration": (
        (
            "from collections import UserDict\n"
            "class Bad(UserDict):\n    def __iter__(self): raise ValueError('no')\n"
            "from explainkit import hookimpl\n@hookimpl\ndef explainkit_methods(): return Bad(x='y:z')"
        ),
        "explainkit_methods raises ValueError: no",
    ),
    "attributes": (
        (
            "class Bad:\n    def __getattr__(self, name): raise ValueError('no')\n"
            "from explainkit import hookimpl\n@hookimpl\ndef explainkit_methods(): return {'x': Bad()}"
        ),
        "explainkit_methods raises ValueError: no",
    ),
    "an_instance": (
        (
            "from explainkit import hookimpl\nfrom explainkit.methods.gradient import Saliency\n"
            "@hookimpl\ndef explainkit_methods(): return {'x': Saliency()}"
        ),
        "explainkit_methods returns Saliency for 'x'",
    ),
    "bad_commands": (
        "from explainkit import hookimpl\n@hookimpl\ndef explainkit_commands(): return 3",
        "explainkit_commands returns int, not a typer.Typer",
    ),
}


def report_of(plugins, name):
    return next(report for report in plugins.reports() if report.name == name)


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_reported_and_the_others_work(fakes, source, reason):
    fakes.add("bad", source, version="2.5")
    fakes.add("good", GOOD)
    plugins = Plugins(fakes.entry_points(), strict=False)
    names = plugins.registry("methods").names()
    assert "good/good" in names
    assert "explainkit/saliency" in names
    assert not [name for name in names if name.startswith("bad/")]
    bad = report_of(plugins, "bad")
    assert (bad.status, bad.distribution, bad.version) == ("broken", "fake-bad", "2.5")
    assert reason in bad.error
    assert "\n" not in bad.error
    assert len(bad.error) <= 320
    assert [report.name for report in plugins.broken()] == ["bad"]
    assert report_of(plugins, "good").status == "ok"


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_fatal_in_strict_mode_or_if_used(fakes, source, reason, monkeypatch):
    fakes.add("bad", source)
    with pytest.raises(PluginError, match=r"plugin 'bad' \(fake-bad 1\.0\)") as caught:
        Plugins(fakes.entry_points(), strict=False).offer("bad", "explainkit_commands")
    assert "can't be used" in str(caught.value)
    monkeypatch.setenv("EXPLAINKIT_STRICT", "1")
    with pytest.raises(PluginError, match=r"'bad' \(fake-bad 1\.0\) is broken"):
        Plugins(fakes.entry_points()).registry("methods")


def test_a_failing_hook_does_not_affect_the_others(fakes):
    fakes.add(
        "half",
        """
        from explainkit import hookimpl

        @hookimpl
        def explainkit_methods():
            return {"x": "fractions:Fraction"}

        @hookimpl
        def explainkit_models():
            raise ValueError("two\\nlines")
        """,
    )
    plugins = Plugins(fakes.entry_points(), strict=False)
    assert "half/x" in plugins.registry("methods").names()
    assert plugins.registry("models").names() == []
    assert report_of(plugins, "half").error == "explainkit_models raises ValueError: two"
    assert report_of(plugins, "half").hooks == ("explainkit_methods", "explainkit_models")


def test_a_keyboard_interrupt_is_not_suppressed(fakes):
    fakes.add("held", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        Plugins(fakes.entry_points(), strict=False).reports()


def test_a_missing_attribute(fakes):
    fakes.add("lost", "x = 1", attribute=":nothing")
    assert "AttributeError" in report_of(Plugins(fakes.entry_points(), strict=False), "lost").error


def test_an_id_of_two_distributions(fakes):
    fakes.add("twin", GOOD, distribution="zebra")
    fakes.add("twin", GOOD.replace('"good"', '"better"'), distribution="ant")
    plugins = Plugins(fakes.entry_points(), strict=False)
    assert [n for n in plugins.registry("methods").names() if "twin" in n] == ["twin/better"]
    (kept, skipped) = [report for report in plugins.reports() if report.name == "twin"]
    assert (kept.distribution, kept.status) == ("ant", "ok")
    assert (skipped.distribution, skipped.status) == ("zebra", "broken")
    assert "ant already has the id 'twin'" in skipped.error


def test_the_cores_id_is_reserved(fakes):
    fakes.add("explainkit", GOOD)
    plugins = Plugins(fakes.entry_points(), strict=False)
    assert "explainkit/saliency" in plugins.registry("methods").names()
    assert "explainkit/good" not in plugins.registry("methods").names()
    assert "already has the id 'explainkit'" in plugins.broken()[0].error


@pytest.mark.parametrize("needs", ["explainkit-vision>=99", "explainkit_vision<0.1"])
def test_a_plugin_for_another_version(fakes, needs):
    fakes.add("future", GOOD, requires=["numpy", needs])
    report = report_of(Plugins(fakes.entry_points(), strict=False), "future")
    assert report.error.startswith("built for another version of explainkit: it needs")


def test_the_version_is_checked_before_the_import(fakes):
    fakes.add("future", "import no_such_module", requires=["explainkit-vision>=99"])
    report = report_of(Plugins(fakes.entry_points(), strict=False), "future")
    assert report.error.startswith("built for another version")


def test_a_requirement_of_an_extra_does_not_count(fakes):
    fakes.add("good", GOOD, requires=['explainkit-vision>=99; extra == "next"'])
    assert report_of(Plugins(fakes.entry_points(), strict=False), "good").status == "ok"


def test_a_hook_with_an_argument_names_it(fakes):
    fakes.add("bad", BROKEN["argument"][0])
    assert "config" in report_of(Plugins(fakes.entry_points(), strict=False), "bad").error


def test_strict_mode_holds_for_every_call_and_still_lists_all(fakes):
    fakes.add("bad", "import no_such_module")
    fakes.add("good", GOOD)
    found = Plugins(fakes.entry_points(), strict=True)
    for _ in range(2):
        with pytest.raises(PluginError, match="'bad'"):
            found.registry("methods")
    assert {report.name for report in found.reports()} == {"explainkit", "bad", "good"}


def test_an_id_that_is_not_an_identifier(fakes):
    fakes.add("a/b", GOOD, distribution="slash")
    found = Plugins(fakes.entry_points(), strict=False)
    assert "explainkit/saliency" in found.registry("methods").names()
    assert "not an identifier" in found.broken()[0].error


def test_what_a_plugin_prints_does_not_reach_stdout(fakes, capsys):
    fakes.add("loud", "print('hello')\n" + GOOD.replace("\n    ", "\n"))
    assert "loud/good" in Plugins(fakes.entry_points(), strict=False).registry("methods").names()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err


def test_an_invalid_lazy_name_does_not_affect_the_others(fakes, monkeypatch):
    import explainkit as ek
    from explainkit.catalog import discovery

    fakes.add("lost", GOOD.replace("Good}", "'no_such_module:X'}"))
    found = Plugins(fakes.entry_points(), strict=False)
    monkeypatch.setattr(discovery, "default", lambda: found)
    listed = ek.list_methods()
    assert "can't be loaded: ModuleNotFoundError" in listed["lost/good"]
    assert listed["explainkit/saliency"].startswith("Gradient")


def test_a_slow_plugin_is_reported_and_works(fakes, monkeypatch):
    monkeypatch.setattr("explainkit.catalog.discovery.SLOW", 0.05)
    fakes.add("slow", "import time; time.sleep(0.1)\n" + GOOD.replace("\n    ", "\n"))
    plugins = Plugins(fakes.entry_points(), strict=True)
    assert "slow/good" in plugins.registry("methods").names()
    report = report_of(plugins, "slow")
    assert report.status == "slow"
    assert report.seconds >= 0.1
    assert "to load" in report.error


def test_the_import_of_torch_is_not_a_plugins_time(fakes, monkeypatch, tmp_path):
    (tmp_path / "heavy_library.py").write_text("import time; time.sleep(0.3)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("explainkit.catalog.discovery.SLOW", 0.2)
    monkeypatch.setattr("explainkit.catalog.discovery.EXEMPT", "heavy_library")
    finders = list(sys.meta_path)
    fakes.add("good", "import heavy_library\n" + GOOD.replace("\n    ", "\n"))
    report = report_of(Plugins(fakes.entry_points(), strict=False), "good")
    assert (report.status, report.error) == ("ok", "")
    assert "heavy_library" in sys.modules
    assert sys.meta_path == finders
    assert "exec_module" not in vars(sys.modules["heavy_library"].__spec__.loader)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("class Strange(BaseException): pass\nraise Strange('no')", "can't be loaded: Strange: no"),
        ("X = 3", "which is not a method"),
    ],
)
def test_a_lazy_name_that_fails_or_names_something_else(
    fakes, monkeypatch, tmp_path, source, reason
):
    (tmp_path / "lazily_broken.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lazily_broken", raising=False)
    fakes.add("lost", GOOD.replace("Good}", "'lazily_broken:X'}"))
    found = Plugins(fakes.entry_points(), strict=False)
    with pytest.raises(PluginError, match=f"plugin .* offers method 'lost/good' .*{reason}"):
        found.registry("methods").get("lost/good")


def test_bare_names_become_ambiguous_but_never_change(fakes):
    fakes.add("mine", GOOD.replace('"good"', '"saliency"'))
    registry = Plugins(fakes.entry_points(), strict=False).registry("methods")
    with pytest.raises(UnknownNameError, match="'explainkit/saliency' or 'mine/saliency'"):
        registry.get("saliency")
    assert registry.get("explainkit/saliency").__name__ == "Saliency"


def test_order_does_not_depend_on_installation(fakes):
    for name in ("b", "c", "a"):
        fakes.add(name, GOOD)
    points = fakes.entry_points()
    one, two = (Plugins(order, strict=False) for order in (points, points[::-1]))
    assert one.names() == two.names() == ["a", "b", "c"]
    assert [r.name for r in one.reports()] == [r.name for r in two.reports()]


def test_unknown_plugin(fakes):
    fakes.add("good", GOOD)
    with pytest.raises(UnknownNameError, match="no plugin is named 'x'; installed: good"):
        Plugins(fakes.entry_points(), strict=False).offer("x", "explainkit_commands")
    with pytest.raises(PluginError, match="it offers no commands"):
        Plugins(fakes.entry_points(), strict=False).offer("good", "explainkit_commands")

"""Imports between the core's packages point one way, without cycles, and never to a plugin."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import explainkit

ROOT = Path(explainkit.__file__).parent

# lowest first; a module may import those of its own row and of the rows before it
ROWS = [
    {"errors"},
    {
        "concept_discovery.spectral",
        "correlation",
        "files",
        "hashes",
        "interruption",
        "isolation",
        "layer_tensors",
        "layers",
        "progress",
        "scores",
    },
    {"expressions", "graph"},
    {"interfaces", "methods.contract"},
    {"adapters"},
    {"render", "catalog"},
    {"results", "engine"},
    {"activation_maximization", "methods"},
    {"metrics"},
    {"api"},
    {"testing", "gallery", "interop", "jobs"},
    {"evaluation"},
    {"concept_discovery"},
    {"cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(ROWS) for name in names}


def modules(root=ROOT):
    """Dotted name in the package, "" for the package itself, to the file."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def package_of(module):
    """The top-level package of a module, or the module itself if `ROWS` lists it."""
    parts = module.split(".")
    return module if module in LEVEL else parts[0]


def imported(tree):
    """Dotted names that a file imports, also in function bodies, except under TYPE_CHECKING."""
    exempt = set()
    for block in ast.walk(tree):
        if (
            isinstance(block, ast.If)
            and isinstance(block.test, ast.Name)
            and block.test.id == "TYPE_CHECKING"
        ):
            exempt |= {id(inner) for statement in block.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if id(node) in exempt:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def names_in(path):
    """The names that a file imports."""
    return list(imported(ast.parse(path.read_text())))


@cache
def imports(root=ROOT):
    """Module to the modules of the package that it imports."""
    known = modules(root)
    found = {}
    for module, path in known.items():
        names = [
            name.partition(".")[2]
            for name in names_in(path)
            if name.partition(".")[0] == "explainkit"
        ]
        # "a.b.C" names the module "a.b"
        targets = {name if name in known else name.rpartition(".")[0] for name in names}
        found[module] = targets & known.keys() - {module}
    return found


def cycle(graph):
    """An import cycle; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_every_module_is_listed():
    assert {package_of(module) for module in modules() if module} == set(LEVEL)


def test_imports_point_down():
    up = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in sorted(others)
        if module and other and LEVEL[package_of(other)] > LEVEL[package_of(module)]
    ]
    assert up == []


def test_the_package_itself_imports_names_only():
    assert imports()[""] == {"errors", "catalog.builtin", "catalog.hookspecs"}


def test_the_graph_knows_nothing_of_the_engine():
    for module, others in imports().items():
        if module.partition(".")[0] == "graph":
            assert not [other for other in others if other.partition(".")[0] == "engine"], module


def test_no_cycles():
    assert cycle(imports()) == []


def test_cycles_and_imports_in_functions_are_found(tmp_path):
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "a.py").write_text("from explainkit.b import x")
    (tmp_path / "b.py").write_text("def f():\n    import explainkit.c")
    (tmp_path / "c.py").write_text(
        "if TYPE_CHECKING:\n    import explainkit.b\nelse:\n    from explainkit import a"
    )
    graph = imports(tmp_path)
    assert graph == {"": set(), "a": {"b"}, "b": {"c"}, "c": {"a"}}
    assert set(cycle(graph)) == {"a", "b", "c"}


def test_nothing_imports_a_plugin():
    for path in ROOT.rglob("*.py"):
        assert not [name for name in names_in(path) if name.startswith("explainkit_")], path

"""Dependencies between the core's modules point one way, and none leads to a plugin."""

import ast
from pathlib import Path

import explainkit

ROOT = Path(explainkit.__file__).parent

# lowest first; a module may import those of its own row and of the rows above it here
LAYERS = [
    {"errors"},
    {"outputs", "hookspecs", "registry", "layers", "guard", "progress"},
    {"expressions"},
    {"types", "adapter", "visualization"},
    {"builtin", "inputs", "outcome", "batching", "render", "storage", "graph"},
    {"passes"},
    {"methods", "plugins"},
    {"host", "weights", "parameters", "maximize"},
    {"loading"},
    {"api"},
    {"testing", "scaffold", "doctor", "gallery"},
    {"cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(tree):
    """Modules imported when a file is; what result types import inside methods is exempt."""
    exempt = set()
    for block in ast.walk(tree):
        if isinstance(block, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(block, ast.If)
            and isinstance(block.test, ast.Name)
            and block.test.id == "TYPE_CHECKING"
        ):
            exempt |= {id(inner) for inner in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in exempt:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "explainkit":
                yield from (f"explainkit.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_every_module_has_its_layer():
    modules = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")}
    assert modules - {"__init__"} == set(LEVEL)


def test_imports_point_down():
    for path in ROOT.rglob("*.py"):
        module = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if module == "__init__":
            continue
        for name in imports(ast.parse(path.read_text())):
            if name.startswith("explainkit."):
                other = name.split(".")[1]
                if other in LEVEL:
                    assert LEVEL[other] <= LEVEL[module], f"{module} imports {other}"


def test_nothing_imports_a_plugin():
    for path in ROOT.rglob("*.py"):
        names = {
            name
            for node in ast.walk(ast.parse(path.read_text()))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert not [name for name in names if name.startswith("explainkit_")], path

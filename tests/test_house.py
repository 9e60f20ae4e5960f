"""What the documents promise about the house."""

import ast
import json
import os
import pkgutil
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Floors, lowest first; a module may import from its own floor and below.
LIBRARY = [
    {"annotations"},
    {"gate", "block", "branch", "trees", "labels"},
    {"moments"},
    {"spread", "kronecker", "momentum"},
    {"settings"},
    {"kernel"},
    {"evidence", "spectrum"},
    {"checks", "measure", "diagnostics", "targets"},
    {"memory", "state"},
    {"observe"},
    {"apply"},
    {"transform", "alias", "eigenbasis"},
    {"theory", "risk", "preferences"},
    {"__init__"},
    {"models", "estimators"},
]
LABORATORY = [
    {"lab", "lab.__init__", "lab.errors", "lab.kinds", "lab.memory", "lab.help"},
    {"lab.tasks"},
    {"lab.training"},
    {"lab.commands", "lab.study"},
    {"lab.cli", "lab.launch"},
]
FLOORS = LIBRARY + LABORATORY


def floor(module):
    parts = module.split(".")[1:] or ["__init__"]
    name = ".".join(parts[: 2 if parts[0] == "lab" else 1])
    return next(i for i, names in enumerate(FLOORS) if name in names)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            # ``from snrgate import gate`` imports a module, not the package's names.
            if node.module in ("snrgate", "snrgate.lab"):
                yield from (f"{node.module}.{a.name}" for a in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)


@pytest.mark.parametrize("path", sorted((ROOT / "snrgate").rglob("*.py")), ids=str)
def test_imports_go_down_only(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for name in imports(path):
        if name.split(".")[0] == "snrgate":
            assert floor(name) <= floor(module), f"{module} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "snrgate").rglob("*.py")), ids=str)
def test_the_library_never_imports_the_laboratory(path):
    if path.relative_to(ROOT / "snrgate").parts[0] != "lab":
        assert not [name for name in imports(path) if f"{name}.".startswith("snrgate.lab.")]


@pytest.mark.parametrize("path", sorted((ROOT / "snrgate").rglob("*.py")), ids=str)
def test_no_function_is_longer_than_one_reads_at_once(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            name = f"{path.stem}.{node.name}"
            assert lines <= 60, f"{name} has a body of {lines} lines"


@pytest.mark.parametrize(
    "path", [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))], ids=str
)
def test_no_line_of_prose_is_longer_than_a_window(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert len(line) <= 120 or line.startswith("|"), f"{path}, line {number}: {len(line)}"


def test_the_command_knows_the_gates_of_the_library():
    from snrgate.gate import GATES
    from snrgate.lab.kinds import Gate

    assert set(typing.get_args(Gate)) == set(GATES)


def test_the_library_needs_only_jax_optax_and_numpy():
    """Import the library with everything else out of reach."""
    hidden = [
        "sklearn",
        "flax",
        "chex",
        "matplotlib",
        "orbax",
        "jaxtyping",
        "tyro",
        "rich",
        "skimage",
        "PIL",
    ]
    code = (
        "import sys\n"
        f"for name in {hidden!r}: sys.modules[name] = None\n"
        "import jax.numpy as jnp, snrgate\n"
        "tx = snrgate.adamw(1e-3)\n"
        "tx.init({'w': jnp.ones(2)})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_ci_runs_the_test_command_of_the_readme():
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (command,) = [block.strip() for block in blocks if "pytest" in block]
    script = (ROOT / ".ci" / "run").read_text()
    assert command in script


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_between_the_documents_hold(page):
    path = ROOT / page if page == "README.md" else ROOT / "docs" / page
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if not target.startswith(("http", "mailto")):
            assert (path.parent / target).exists(), f"{path} links to {target}"


def test_public_names_are_documented_and_exist():
    import snrgate

    documented = set(
        re.findall(r"auto(?:function|class):: (\S+)", (ROOT / "docs/api.md").read_text())
    )
    for name in documented:
        pkgutil.resolve_name(name)
    public = {f"snrgate.{n}" for n in vars(snrgate) if not n.startswith("_")} - {
        f"snrgate.{n}" for n, v in vars(snrgate).items() if type(v).__name__ == "module"
    }
    assert public <= documented


def test_notebooks_carry_no_paths_of_a_machine():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        text = json.dumps(json.loads(path.read_text()))
        assert os.sep + "root" + os.sep not in text
        assert os.sep + "home" + os.sep not in text

"""The notebooks run, at a smoke size, and their two forms agree."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import jupytext
import nbclient
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))
SMOKE = {"STEPS": 50}
SMALLER = {
    "grokking_transformer": ("Division", {"modulus": 53, "width": 16, "depth": 1, "heads": 2}),
    "image_denoising": ("Photo", {"size": 48}),
    "pinn": ("Pinn", {"width": 16, "depth": 1}),
}
"""The task of a notebook, and the settings that make it smaller."""


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_both_forms_hold_the_same_cells(path):
    script = jupytext.read(path)
    notebook = jupytext.read(path.with_suffix(".ipynb"))
    assert [c.source for c in script.cells] == [c.source for c in notebook.cells]
    # Committed with the outputs of a whole run.
    assert any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_installs_the_package_where_it_is_missing(path, monkeypatch):
    cells = jupytext.read(path).cells
    assert "colab.research.google.com" in cells[0].source
    (install,) = [c for c in cells if "install" in c.metadata.get("tags", [])]
    assert install is next(c for c in cells if c.cell_type == "code")
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    exec(install.source, {})
    assert not commands  # it is there
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(install.source, {})
    assert commands == [[sys.executable, "-m", "pip", "install", "-q", "snrgate[examples]"]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path):
    notebook = jupytext.read(path)
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    names = [line.split(" = ")[0] for line in parameters.source.splitlines()]
    assert set(SMOKE) <= set(names)
    parameters.source += "".join(f"\n{name} = {value}" for name, value in SMOKE.items())
    if path.stem in SMALLER:
        name, settings = SMALLER[path.stem]
        parameters.source += f"\nimport functools\n{name} = functools.partial({name}, **{settings})"
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()

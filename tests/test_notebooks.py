"""The notebooks run, at a smoke size, and their two forms agree."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbclient
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
ADDRESS = importlib.util.module_from_spec(
    spec := importlib.util.spec_from_file_location("address", ROOT / "docs" / "address.py")
)
spec.loader.exec_module(ADDRESS)
OURS = ADDRESS.repository((ROOT / "pyproject.toml").read_text())
SMOKE = {"STEPS": 50}
MODEL = ROOT / "tests" / "fixtures" / "causal_lm" / "llama.gguf"
MORE = {
    "preferences": {"PAIRS": 64, "MODEL": repr(str(MODEL))},
}
"""Other parameters of a notebook."""
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
    (install,) = [c for c in cells if "install" in c.metadata.get("tags", [])]
    assert install is next(c for c in cells if c.cell_type == "code")
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    exec(install.source, {})
    assert not commands  # it is there
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(install.source, {})
    (package,) = re.findall(r'^PACKAGE = "(.*?)"', install.source, re.M)
    assert commands == [[sys.executable, "-m", "pip", "install", "-q", package]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_follows_the_address_of_the_repository(path):
    """Ours, in its one line; and one that has another, or none."""
    for file, text in ADDRESS.follow(path, OURS).items():
        assert file.read_text() == text, "run python docs/address.py"
    for line in ("", '[project.urls]\nRepository = "https://github.com/ours/gate.git/"\n'):
        address = ADDRESS.repository(f"[project]\n{line}")
        script, notebook = ADDRESS.follow(path, address).values()
        cells = [
            jupytext.reads(script, "py:percent").cells,
            jupytext.reads(notebook, "ipynb").cells,
        ]
        assert [c.source for c in cells[0]] == [c.source for c in cells[1]]
        place = f"github/ours/gate/blob/main/notebooks/{path.stem}.ipynb" if line else "#upload"
        assert f"https://colab.research.google.com/{place}" in cells[0][0].source
        (extra,) = re.findall(r'^PACKAGE = ".*(\[\w+\])', path.read_text(), re.M)
        package = f"snrgate{extra} @ git+https://github.com/ours/gate" if line else f"..{extra}"
        assert sum(f'"{package}"' in c.source for c in cells[0]) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path):
    notebook = jupytext.read(path)
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    names = [line.split(" = ")[0] for line in parameters.source.splitlines()]
    smoke = SMOKE | MORE.get(path.stem, {})
    assert set(smoke) <= set(names)
    parameters.source += "".join(f"\n{name} = {value}" for name, value in smoke.items())
    if path.stem in SMALLER:
        name, settings = SMALLER[path.stem]
        parameters.source += f"\nimport functools\n{name} = functools.partial({name}, **{settings})"
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()

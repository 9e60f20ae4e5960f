"""Every program and every command of the documents, as it stands on its page."""

import importlib
import re
import shlex
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snrgate.lab import cli
from snrgate.models import causal_lm

ROOT = Path(__file__).parents[1]
PAGES = {
    path.name: path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
}
TINY = ROOT / "tests" / "fixtures" / "causal_lm" / "llama.gguf"
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.M | re.S)
NEEDED = {
    "equinox.md": "equinox",
    "labels.md": "sklearn",
    "tables.md": "sklearn",
    "language_models.md": "gguf",
}
"""What a page uses besides the library and its examples."""
ELSEWHERE = re.compile(r"^from tunix\b", re.M)
"""A program for a package that the tests do not bring; ``test_tunix.py`` runs it."""


def programs(text):
    """The Python blocks of a page, each with the number of its first line."""
    for block in FENCE.finditer(text):
        if block[1] == "python":
            yield text[: block.start(2)].count("\n"), block[2]


def commands(text):
    """The calls of ``snrgate`` on a page, in blocks of commands or indented."""
    blocks = [block[2] for block in FENCE.finditer(text) if block[1] in ("", "sh", "console")]
    blocks += re.findall(r"^    \S.*$", FENCE.sub("", text), re.M)
    for call in re.findall(r"(?:^|&&)[$ ]*(?:\S*/)?snrgate (.*)", "\n".join(blocks), re.M):
        yield tuple(shlex.split(call, comments=True))


def runs(out):
    """The losses that a page prints, a list for each run from its step 0."""
    found = []
    for step, loss in re.findall(r"step +(\d+):? +loss ([0-9.]+)", out):
        if int(step) == 0:
            found.append([])
        found[-1].append(float(loss))
    return found


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 80


def same_on_all_devices(names, _):
    step, params, batch = (names[name] for name in ("make_step", "params", "batch"))
    expected = step(method="vmap")(params, names["tx"].init(params), batch)
    for way in ("with_jit", "with_shard_map", "with_pmap"):
        for got, wanted in zip(*map(jax.tree.leaves, (names[way], expected)), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def tells_the_risk(names, out):
    x = jax.random.normal(jax.random.key(9), (2000, 10))
    error = jnp.square(names["predict"](names["params"], x) - jnp.sin(2 * x[:, 0]))
    *_, last = re.findall(r"risk ([0-9.]+) \+- ([0-9.]+)", out)
    told, chance = min(float(last[0]), float(names["found"].risk.min())), float(last[1])
    assert abs(error.mean() + 0.25 - told) < 3 * chance


SHOWN = {"devices.md": same_on_all_devices, "twin.md": tells_the_risk}
"""What a page claims besides: a function of its names and of what it prints."""


@pytest.mark.filterwarnings("ignore:.*pmap.*:DeprecationWarning")
@pytest.mark.parametrize("page", [name for name in PAGES if any(programs(PAGES[name]))])
def test_the_programs_of_a_page_run_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    """One namespace a page; where it prints the loss of its steps, the loss falls.

    The estimators alone are given a smaller network and fewer steps, and the pages on language
    models a tiny one: they take half a minute.
    """
    if page in NEEDED:
        pytest.importorskip(NEEDED[page])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(causal_lm, "smollm2_path", lambda: TINY)
    names = {"__name__": "__main__"}
    with jax.numpy_rank_promotion("allow"):  # as it is for a reader
        for line, program in programs(PAGES[page]):
            if ELSEWHERE.search(program):
                continue
            quick = re.sub(r"(= Gated\w+\()", r"\1(16,), steps=25, batch_size=32, ", program)
            exec(compile("\n" * line + quick, page, "exec"), names)
        out = capsys.readouterr().out
        if page in SHOWN:
            SHOWN[page](names, out)
    for losses in runs(out):
        assert losses[-1] < losses[0]


COMMANDS = ("denoise", "own_photo", "audit", "dpo", "train", "compare")


@pytest.mark.parametrize(
    "command", sorted({c for text in PAGES.values() for c in commands(text)}), ids=" ".join
)
def test_the_commands_of_the_pages_parse(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    called = []
    for module, name in (
        *((f"snrgate.lab.commands.{name}", name) for name in COMMANDS),
        ("snrgate.lab.study.run", "run"),
    ):
        run = lambda *given, **more: called.append(given)  # noqa: E731
        monkeypatch.setattr(importlib.import_module(module), name, run)
    folder = importlib.import_module("snrgate.lab.training.folder")
    monkeypatch.setattr(folder, "stored_settings", lambda _, settings: settings)
    (tmp_path / "results").symlink_to(ROOT / "results")  # whose settings a command takes
    (tmp_path / "mine.toml").touch()
    assert cli.main(command) == 0, capsys.readouterr().err
    assert called or "--version" in command

"""A run that cannot be lost: whatever happens to it, it goes on to the same numbers."""

import contextlib
import dataclasses
import errno
import gc
import json
import math
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snrgate.lab import cli
from snrgate.lab.commands.train import train
from snrgate.lab.errors import InputError
from snrgate.lab.tasks.task import Task, of_data
from snrgate.lab.training.checkpoint import open_checkpoints
from snrgate.lab.training.folder import RunFolder, alone
from snrgate.lab.training.optimizers import AdamW, Gated
from snrgate.lab.training.train import MOST_IN_A_ROW, Training, fit

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    ["snrgate.lab.training.train", "snrgate.lab.tasks.table", "orbax.checkpoint"]
)

SETTINGS = {
    "task.width": 4,
    "task.depth": 1,
    "steps": 300,
    "batch-size": 8,
    "eval-every": 10,
    "checkpoint-every": 10,
}
TINY = ["train", "table/gated", *(f"--{name}={value}" for name, value in SETTINGS.items())]


@pytest.fixture
def leftovers():
    """Orbax leaves coroutines behind when a file cannot be read; here they end with the test."""
    yield
    gc.collect()


def damages(test):
    """A test of files that cannot be read."""
    ignored = "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning"
    return pytest.mark.usefixtures("leftovers")(pytest.mark.filterwarnings(*ignored)(test))


def command(args):
    """What a child process runs."""
    sys.exit(cli.main(args))


@contextlib.contextmanager
def child(*args):
    process = FORKSERVER.Process(target=command, args=([str(a) for a in args],))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()
        process.close()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main([*TINY, "--out", str(out)]) == 0
    return out


def assert_same_run(out, other):
    for name in ("metrics.jsonl", "summary.json"):
        assert (out / name).read_bytes() == (other / name).read_bytes(), name


def begun(out):
    return (out / "config.json").exists()


def test_half_a_dozen_kills_at_random_moments(tmp_path, uninterrupted):
    """Also while a checkpoint is written: one is due at nearly every moment."""
    rng = random.Random(0)
    kills, out = 0, tmp_path / "run"
    while kills < 6:
        resume = ["--resume"] if begun(out) else []
        with child(*TINY, "--out", out, *resume) as process:
            while not begun(out) and process.is_alive():
                time.sleep(0.01)
            process.join(timeout=rng.uniform(0, 2))
            if process.exitcode is None:
                process.kill()
                kills += 1
                continue
            assert process.exitcode == 0
        # It came to its end before its time.
        assert_same_run(out, uninterrupted)
        out = tmp_path / f"run{kills}"
    if begun(out):
        assert cli.main([*TINY, "--out", str(out), "--resume"]) == 0
        assert_same_run(out, uninterrupted)


def test_sigterm_saves_and_ends(tmp_path, uninterrupted):
    out = tmp_path / "run"
    with child(*TINY, "--out", out) as process:
        while not (begun(out) and RunFolder(out).rows()) and process.is_alive():
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGTERM)
        process.join(timeout=60)
        assert process.exitcode == 128 + signal.SIGTERM
    last = RunFolder(out).rows()[-1]["step"]
    assert (out / "checkpoints" / str(last)).exists()
    assert cli.main([*TINY, "--out", str(out), "--resume"]) == 0
    assert_same_run(out, uninterrupted)


TREE = {"a": jnp.arange(300.0), "none": None}


def emptied(path):
    path.write_bytes(b"")


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def gone(path):
    path.unlink()


@damages
@pytest.mark.parametrize("damage", [emptied, halved, flipped, gone])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    with open_checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(TREE) is TREE
        for step in (1, 2, 3, 4, 4):
            checkpoints.save(step, {"a": TREE["a"] + step, "none": None})
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["2", "3", "4"]
    for path in (tmp_path / "c" / "4" / "state").rglob("*"):
        if path.is_file() and path.stat().st_size:
            damage(path)
    with open_checkpoints(tmp_path / "c") as checkpoints:
        with pytest.warns(UserWarning, match="c/4 is damaged; going on from the one before"):
            kept = checkpoints.restore(TREE)
        np.testing.assert_array_equal(kept["a"], TREE["a"] + 3)
        checkpoints.save(4, {"a": TREE["a"] + 4, "none": None})
    with open_checkpoints(tmp_path / "c") as checkpoints:
        np.testing.assert_array_equal(checkpoints.restore(TREE)["a"], TREE["a"] + 4)


@damages
@pytest.mark.parametrize("where", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_no_flipped_bit_goes_unseen(tmp_path, where):
    """In any file of a checkpoint: the numbers are the right ones, or another checkpoint's."""
    with open_checkpoints(tmp_path / "c") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"a": TREE["a"] + step, "none": None})
    files = [p for p in (tmp_path / "c" / "2").rglob("*") if p.is_file() and p.stat().st_size]
    for path in files:
        content = bytearray(path.read_bytes())
        content[int(where * len(content))] ^= 4
        path.write_bytes(bytes(content))
        with (
            open_checkpoints(tmp_path / "c") as checkpoints,
            contextlib.suppress(UserWarning),  # as errors here: the checkpoint was passed over
        ):
            kept = checkpoints.restore(TREE)
            np.testing.assert_array_equal(kept["a"], TREE["a"] + 2)
        content[int(where * len(content))] ^= 4
        path.write_bytes(bytes(content))


@damages
def test_when_every_checkpoint_is_damaged_it_is_said(tmp_path):
    with open_checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, TREE)
    for path in (tmp_path / "c" / "1" / "state").rglob("*"):
        if path.is_file():
            emptied(path)
    with (
        open_checkpoints(tmp_path / "c") as checkpoints,
        pytest.raises(InputError, match="c/1 cannot be read, and there is no other"),
    ):
        checkpoints.restore(TREE)


@damages
def test_a_run_with_a_damaged_checkpoint_comes_to_the_same_numbers(tmp_path, uninterrupted, capsys):
    out = tmp_path / "run"
    short = [*TINY, "--checkpoint-every", "100"]
    assert cli.main([*short, "--out", str(out)]) == 0
    newest = max((out / "checkpoints").iterdir(), key=lambda p: int(p.name))
    for path in (newest / "state").rglob("*"):
        if path.is_file():
            emptied(path)
    with pytest.warns(UserWarning, match="is damaged"):
        assert cli.main([*short, "--out", str(out), "--resume"]) == 0
    assert_same_run(out, uninterrupted)


def test_nothing_in_a_run_folder_is_unpickled(tmp_path, monkeypatch):
    """A pickle can run code; a run that comes from somebody else must not."""
    out = tmp_path / "run"
    short = [*TINY, "--steps", "20", "--out", str(out)]
    assert cli.main(short) == 0
    metrics = (out / "metrics.jsonl").read_bytes()
    shutil.rmtree(out / "checkpoints" / "20")
    loads, opened = np.load, []

    def refuse(*args, **kwargs):
        raise AssertionError("a pickle is read")

    def plain(*args, allow_pickle=False, **kwargs):
        assert not allow_pickle
        return loads(*args, allow_pickle=False, **kwargs)

    @contextlib.contextmanager
    def watched(folder):
        with open_checkpoints(folder) as checkpoints, pytest.MonkeyPatch.context() as patch:
            for module in (pickle, pickle._Unpickler):
                for name in {"load", "loads", "Unpickler"} & set(vars(module)):
                    patch.setattr(module, name, refuse)
            patch.setattr(np, "load", plain)
            restore = checkpoints.restore
            patch.setattr(checkpoints, "restore", lambda x: opened.append(restore(x)) or opened[0])
            yield checkpoints

    monkeypatch.setattr("snrgate.lab.training.run.open_checkpoints", watched)
    assert cli.main(["train", "table/gated", "--out", str(out), "--resume"]) == 0
    assert int(opened[0]["train"].state.step) == 10
    assert (out / "metrics.jsonl").read_bytes() == metrics
    for path in out.rglob("*"):
        if path.is_file():  # and nothing there is one: those of protocol 2 and above begin so
            assert not path.read_bytes().startswith(b"\x80")


def test_a_run_that_got_where_it_was_to_stop_stays_there(tmp_path):
    out = tmp_path / "run"
    assert cli.main([*TINY, "--until", "1.4", "--out", str(out)]) == 0
    metrics = (out / "metrics.jsonl").read_bytes()
    assert RunFolder(out).rows()[-1]["step"] < SETTINGS["steps"]
    assert cli.main(["train", "table/gated", "--out", str(out), "--resume"]) == 0
    assert (out / "metrics.jsonl").read_bytes() == metrics


def test_a_run_of_another_version_is_refused(tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main([*TINY, "--steps", "10", "--out", str(out)]) == 0
    kept = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(kept | {"version": "0.0.1"}))
    capsys.readouterr()
    assert cli.main(["train", "table/gated", "--out", str(out), "--resume"]) == 2
    assert "was made by snrgate 0.0.1" in capsys.readouterr().err


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path, capsys):
    """Two processes in one folder would write into each other's metrics and checkpoints."""
    out = tmp_path / "run"
    assert cli.main([*TINY, "--steps", "10", "--out", str(out)]) == 0
    resume = ["train", "table/gated", "--out", str(out), "--resume"]
    capsys.readouterr()
    with alone(out, waits=False):
        for args in ([*TINY, "--out", str(out)], [*resume, "--steps", "20"]):
            assert cli.main(args) == 2
            said = capsys.readouterr().err
            assert f"another process trains in {out}; wait until it ends, or give another" in said
    assert json.loads((out / "config.json").read_text())["settings"]["steps"] == 10
    assert cli.main([*resume, "--steps", "20"]) == 0  # the other one has ended


def test_file_systems_without_locks_can_keep_a_run(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refused)
    assert cli.main([*TINY, "--steps", "10", "--out", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("text", ["[1, 2]\n", '{"a": 1}\n', "words\n"])
def test_metrics_that_hold_something_else_are_said(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + text)
    with pytest.raises(InputError, match="is damaged; start another run"):
        RunFolder(tmp_path).rows()


def test_a_folder_that_cannot_be_written(capsys):
    assert cli.main([*TINY, "--out", "/proc/run"]) == 2
    assert "cannot write to /proc/run" in capsys.readouterr().err


@dataclasses.dataclass(frozen=True)
class Spoilt:
    """A line to fit, with some measurements that are no numbers."""

    bad: int = 1
    value: float = math.nan

    def make(self, seed: int) -> Task:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((64, 2)).astype(np.float32)
        y = (x @ np.array([1.0, -2.0])).astype(np.float32)
        y[: self.bad] = self.value

        def loss(params, example):
            return jnp.square(example[0] @ params["w"] - example[1])

        def evaluate(params):
            return {"error": jnp.sum(jnp.square(params["w"] - jnp.array([1.0, -2.0])))}

        params = {"w": jnp.zeros(2)}
        return Task(params, (of_data(loss, (x, y)),), evaluate, "error", higher_is_better=False)


SPOILT = Training(Spoilt(), AdamW(0.05), steps=400, batch_size=8, eval_every=50)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("optimizer", [AdamW(0.05), Gated(0.05)], ids=["adamw", "gated"])
def test_a_batch_that_is_no_number_is_skipped_and_counted(value, optimizer):
    settings = dataclasses.replace(SPOILT, task=Spoilt(1, value), optimizer=optimizer)
    task = settings.task.make(0)
    (group,) = task.groups
    expected = sum(
        not np.all(np.isfinite(group.sample(jax.random.fold_in(jax.random.key(0), i), 8)[1]))
        for i in range(400)
    )
    *_, (state, row) = fit(settings, task)
    assert row["skipped"] == int(state.skipped) == expected > 0
    assert row["error"] < 0.05
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))


def test_a_skipped_batch_leaves_everything_as_it_was():
    settings = dataclasses.replace(SPOILT, task=Spoilt(64), optimizer=Gated(0.05), steps=5)
    task = settings.task.make(0)
    ((state, row),) = fit(settings, task)
    tx = settings.optimizer.build(task).tx
    before = (task.params, tx.init(task.params))
    after = (state.params, state.opt_state)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(a, b)
    assert row["skipped"] == 5


def test_a_run_that_never_recovers_is_given_up(tmp_path):
    settings = dataclasses.replace(SPOILT, task=Spoilt(64))
    with pytest.raises(InputError, match=f"{MOST_IN_A_ROW} batches in a row up to step 100"):
        train(settings, tmp_path / "run", "here")


def test_a_loss_that_explodes_is_given_up(tmp_path):
    settings = dataclasses.replace(SPOILT, task=Spoilt(0), optimizer=AdamW(1e30))
    with pytest.raises(InputError, match="give a smaller learning_rate"):
        train(settings, tmp_path / "run", "here")


@pytest.mark.parametrize("size", [0, 1])
def test_a_batch_without_variance_is_refused(size):
    with pytest.raises(InputError, match=f"batch_size = {size} must be at least 2"):
        dataclasses.replace(SPOILT, batch_size=size)


@pytest.mark.parametrize("devices", [2, 4])
def test_several_devices_come_to_the_numbers_of_one(devices):
    settings = dataclasses.replace(SPOILT, optimizer=Gated(0.05), task=Spoilt(0))
    *_, (one, _) = fit(settings, settings.task.make(0))
    spread = dataclasses.replace(settings, devices=devices)
    *_, (many, _) = fit(spread, settings.task.make(0))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert len(many.params["w"].sharding.device_set) == devices


def test_more_devices_than_there_are_is_said():
    with pytest.raises(InputError, match="JAX_NUM_CPU_DEVICES=64"):
        list(fit(dataclasses.replace(SPOILT, batch_size=64, devices=64), SPOILT.task.make(0)))
    with pytest.raises(InputError, match="devices = 3 must be a divisor of batch_size = 8"):
        dataclasses.replace(SPOILT, devices=3)

"""The trainer in several processes, and on another number of devices: the same numbers."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from snrgate.lab import cli

SETTINGS = {
    "task.width": 4,
    "task.depth": 1,
    "steps": 100,
    "batch-size": 8,
    "eval-every": 10,
    "checkpoint-every": 10,
}
TINY = ["train", "table/gated", *(f"--{name}={value}" for name, value in SETTINGS.items())]
AGAIN = ["train", "table/gated", "--resume"]
BOUND = 60  # seconds, on a busy machine
# Each process has one device of its own.
FLAGS = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ["XLA_FLAGS"])
ALONE = os.environ | {"XLA_FLAGS": FLAGS}


def processes(*args: object) -> subprocess.Popen[str]:
    """The command in two processes."""
    program = [sys.executable, "-m", "snrgate.lab.cli", *map(str, args)]
    return subprocess.Popen(
        [sys.executable, "-m", "snrgate.lab.launch", "-n", "2", "--", *program],
        env=ALONE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    try:
        said, _ = process.communicate(timeout=3 * BOUND)
    finally:
        process.terminate()  # its children with it
    return said


def numbers(out: Path) -> np.ndarray:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return np.array([[row[name] for name in sorted(rows[0])] for row in rows])


def until_checkpoint(process: subprocess.Popen[str], out: Path, step: int) -> None:
    while not (out / "checkpoints" / str(step)).exists() and process.poll() is None:
        time.sleep(0.01)


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """An uninterrupted run of two processes."""
    out = tmp_path_factory.mktemp("two") / "run"
    process = processes(*TINY, "--devices=2", "--out", out)
    said = finish(process)
    assert process.returncode == 0, said
    assert said.count(f"Everything is in {out}") == 1  # one of them speaks
    return out


def test_two_processes_come_to_the_numbers_of_one(tmp_path, two):
    for devices in (1, 2):
        out = tmp_path / str(devices)
        assert cli.main([*TINY, f"--devices={devices}", "--out", str(out)]) == 0
        np.testing.assert_allclose(numbers(out), numbers(two), rtol=1e-5)


@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_process_is_killed_the_run_is_not_lost(tmp_path, two, victim):
    out = tmp_path / "run"
    process = processes(*TINY, "--devices=2", "--out", out)
    until_checkpoint(process, out, 30)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    began = time.monotonic()
    os.kill(int(children[victim]), signal.SIGKILL)
    said = finish(process)
    assert time.monotonic() - began < BOUND
    assert process.returncode not in (0, None)
    assert "; ending the others" in said
    assert not (out / "summary.json").exists()
    if victim == 0:  # one process goes on, with one device
        assert cli.main([*AGAIN, "--devices=1", "--out", str(out)]) == 0
        np.testing.assert_allclose(numbers(out), numbers(two), rtol=1e-5)
    else:
        process = processes(*AGAIN, "--out", out)
        said = finish(process)
        assert process.returncode == 0, said
        np.testing.assert_array_equal(numbers(out), numbers(two))


def test_told_to_stop_all_processes_save_the_same_step(tmp_path, two):
    out = tmp_path / "run"
    process = processes(*TINY, "--devices=2", "--out", out)
    until_checkpoint(process, out, 30)
    process.send_signal(signal.SIGTERM)
    said = finish(process)
    assert process.returncode == 128 + signal.SIGTERM
    stopped = {line.partition("stopped at")[2] for line in said.splitlines() if "stopped" in line}
    assert len(stopped) == 1, said
    assert max(int(path.name) for path in (out / "checkpoints").iterdir()) == len(numbers(out)) * 10
    assert cli.main([*AGAIN, "--out", str(out)]) == 0  # two devices of one process
    np.testing.assert_allclose(numbers(out), numbers(two), rtol=1e-5)


def test_a_folder_that_is_taken_ends_all_processes(two):
    before = numbers(two)
    began = time.monotonic()
    process = processes(*TINY, "--devices=2", "--out", two)
    said = finish(process)
    assert time.monotonic() - began < BOUND
    assert process.returncode != 0
    assert f"[0] snrgate: {two} holds a run already" in said
    np.testing.assert_array_equal(numbers(two), before)


def test_devices_of_a_cpu_are_made_as_the_message_says(tmp_path):
    command = [sys.executable, "-m", "snrgate.lab.cli", *TINY, "--steps=10", "--devices=2"]
    command += ["--out", str(tmp_path / "run")]
    pipes = {"stderr": subprocess.PIPE, "text": True}
    done = subprocess.run(command, env=ALONE, **pipes)
    assert done.returncode == 2
    assert "devices = 2, but there are 1" in done.stderr
    assert "JAX_NUM_CPU_DEVICES=2" in done.stderr
    assert not (tmp_path / "run").exists()
    done = subprocess.run(command, env={**ALONE, "JAX_NUM_CPU_DEVICES": "2"}, **pipes)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (2, 4)])
def test_a_run_goes_on_on_another_number_of_devices(tmp_path, two, before, after):
    out = tmp_path / "run"
    assert cli.main([*TINY, f"--devices={before}", "--out", str(out)]) == 0
    # Back to the middle of the run.
    for path in (out / "checkpoints").iterdir():
        if path.name != "80":
            shutil.rmtree(path)
    assert cli.main([*AGAIN, f"--devices={after}", "--out", str(out)]) == 0
    np.testing.assert_allclose(numbers(out), numbers(two), rtol=1e-5)

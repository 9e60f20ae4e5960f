"""Several processes on one machine: they work together, and none is left behind."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from snrgate.lab.launch import launch, main

BOUND = 20  # seconds, on a busy machine; patience is 5
WAIT = "import time; print('waiting', flush=True); time.sleep(1000)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAIT
RANK = "import os; rank = int(os.environ['SNRGATE_PROCESS']); "


def python(code):
    return [sys.executable, "-c", code]


def test_processes_share_a_step(capfd, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")  # one device each
    example = Path(__file__).parents[1] / "benchmarks" / "processes.py"
    assert launch([sys.executable, str(example)], 2) == 0
    losses = []
    for rank in range(2):
        rng = np.random.default_rng(rank)
        losses.append(np.square(rng.normal(size=(8, 3)).sum(1) - rng.normal(size=8)))
    pattern = r"^\[(\d)\] 16 examples in 2 processes, loss ([\d.]+)$"
    said = dict(re.findall(pattern, capfd.readouterr().out, re.M))
    assert {rank: float(loss) for rank, loss in said.items()} == pytest.approx(
        dict.fromkeys("01", np.mean(losses)), rel=1e-6
    )


@pytest.mark.parametrize("others", [WAIT, DEAF], ids=["polite", "deaf to SIGTERM"])
def test_when_one_is_killed_the_others_end(capfd, others):
    began = time.monotonic()
    killed = "time.sleep(1); os.kill(os.getpid(), 9)"
    code = f"{RANK}import time\nif rank == 1: {killed}\nprint(os.getpid(), flush=True)\n{others}"
    assert launch(python(code), 3) == 128 + signal.SIGKILL
    assert time.monotonic() - began < BOUND
    out, err = capfd.readouterr()
    assert err == "launch: process 1 was killed by SIGKILL; ending the others\n"
    pids = [int(line.split()[1]) for line in out.splitlines() if "waiting" not in line]
    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


def test_when_one_is_killed_in_a_collective_the_others_end(capfd, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")
    code = """
import os, signal, jax, numpy as np
from snrgate.lab import launch
launch.join()
sharding = jax.NamedSharding(jax.make_mesh((2,), ("data",)), jax.P("data"))
x = jax.make_array_from_process_local_data(sharding, np.ones(1))
for step in range(1000):
    if step == 3 and jax.process_index() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    print("step", step, float(jax.jit(jax.numpy.sum)(x)), flush=True)
"""
    began = time.monotonic()
    # Its peer may see the broken connection and fail in the same moment.
    assert launch(python(code), 2) != 0
    assert time.monotonic() - began < 60  # two starts of JAX included
    out, err = capfd.readouterr()
    assert "[1] step 2 2.0" in out
    assert "[1] step 3" not in out
    assert err.endswith("; ending the others\n")


@pytest.mark.parametrize(
    ("fails", "status"), [("raise ValueError('mine')", 1), ("launch.leave(7)", 7)]
)
def test_one_that_fails_does_not_wait_for_the_others(capfd, monkeypatch, fails, status):
    """JAX would have it wait at its end for theirs."""
    monkeypatch.delenv("XLA_FLAGS")
    code = f"""
import time, jax
from snrgate.lab import launch
launch.join()
if jax.process_index() == 0:
    print("failing", flush=True)
    {fails}
time.sleep(1000)
"""
    began = time.monotonic()
    assert launch(python(code), 2) == status
    assert time.monotonic() - began < 60  # two starts of JAX included
    out, err = capfd.readouterr()
    assert "[0] failing" in out
    assert f"process 0 ended with {status}; ending the others" in err


def test_an_exit_status_is_handed_on(capfd):
    assert launch(python(f"{RANK}import sys; sys.exit(7 * rank)"), 2) == 7
    assert "process 1 ended with 7; ending the others" in capfd.readouterr().err


def test_told_to_stop_it_ends_all():
    command = [sys.executable, "-m", "snrgate.lab.launch", "-n", "2", "--"]
    command += python(f"import os; print(os.getpid(), flush=True); {WAIT}")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as launcher:
        words = [launcher.stdout.readline().split()[1] for _ in range(4)]
        launcher.send_signal(signal.SIGTERM)
        _, err = launcher.communicate(timeout=BOUND)
    pids = [int(word) for word in words if word.isdigit()]
    assert launcher.returncode == 128 + signal.SIGTERM
    assert "told to stop" in err
    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-n", "0", "--", "x"], "-n 0 must be at least 1"),
        (["--", "/no/such/program"], "cannot start /no/such/program: No such file"),
        (["-n", "2"], "the following arguments are required: command"),
    ],
)
def test_what_cannot_be_run_is_said(capsys, args, message):
    with pytest.raises(SystemExit):
        main(args)
    assert message in capsys.readouterr().err


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

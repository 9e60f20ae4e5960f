"""The command line: what is wrong is said in one line, and no run is ever lost."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from signalled import signalled

import snrgate
from snrgate.lab import cli
from snrgate.lab.errors import InputError
from snrgate.lab.tasks.denoise import Denoise
from snrgate.lab.training.configs import denoise_config, task_names, training_config
from snrgate.lab.training.interrupt import deferred_interrupts
from snrgate.lab.training.optimizers import OPTIMIZERS, Gated

SETTINGS = {
    "size": 16,
    "steps": 300,
    "batch-size": 16,
    "width": 8,
    "depth": 1,
    "frequencies": 4,
    "eval-every": 10,
    "checkpoint-every": 30,
}
TINY = ["denoise", *(f"--{name}={value}" for name, value in SETTINGS.items())]
FINISHES = [*TINY, "--steps", "10", "--optimizers", "adamw"]


@pytest.fixture
def complaint(capsys):
    """Run a command that must fail; return the one line it says."""

    def run(*args: str, status: int = 2) -> str:
        assert cli.main(list(args)) == status
        error = capsys.readouterr().err
        assert error.startswith("snrgate: ")
        assert error.count("\n") == 1
        return error

    return run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main([*TINY, "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_run_resumes_to_the_same_numbers(tmp_path, uninterrupted, number):
    out = tmp_path / "a run"
    ended = signalled([*TINY, "--out", str(out)], number, (out / "checkpoints" / "30").exists)
    assert not (out / "summary.json").exists()
    assert "\r" not in ended.stdout  # no progress bar in a file
    if number == signal.SIGKILL:
        assert ended.returncode == -number
    else:
        assert ended.returncode == 128 + number
        assert ended.stderr.count("\n") == 1
        assert f"continue with: snrgate denoise --out '{out}' --resume" in ended.stderr
    assert cli.main(["denoise", "--out", str(out), "--resume"]) == 0
    for name in ("metrics.jsonl", "summary.json", "table.md", "denoised.png"):
        assert (out / name).read_bytes() == (uninterrupted / name).read_bytes(), name


@pytest.fixture
def interrupt_handler():
    """Set a handler of SIGINT, whatever this process inherited, and put the old one back."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda handler: signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGINT, before)


def test_an_ignored_interrupt_stays_ignored(interrupt_handler):
    interrupt_handler(signal.SIG_IGN)
    with deferred_interrupts() as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert interrupted() is None


def test_the_first_interrupt_waits_and_the_second_does_not(interrupt_handler):
    interrupt_handler(signal.default_int_handler)
    with deferred_interrupts() as interrupted:
        assert interrupted() is None
        signal.raise_signal(signal.SIGINT)
        assert interrupted() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_finished_run_may_be_resumed(tmp_path, uninterrupted, capsys):
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    (uninterrupted / "picture.png").unlink()
    assert cli.main(["denoise", "--out", str(uninterrupted), "--resume"]) == 0
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before
    assert (uninterrupted / "picture.png").exists()


def test_a_run_killed_before_its_first_checkpoint_starts_anew(tmp_path):
    out = tmp_path / "run"
    assert cli.main([*FINISHES, "--out", str(out)]) == 0
    metrics = (out / "metrics.jsonl").read_bytes()
    for path in sorted((out / "checkpoints").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert cli.main(["denoise", "--out", str(out), "--resume"]) == 0
    assert (out / "metrics.jsonl").read_bytes() == metrics


def test_a_run_folder_is_not_overwritten(complaint, uninterrupted, tmp_path):
    assert "continue it with --resume" in complaint(*TINY, "--out", str(uninterrupted))
    (tmp_path / "letter.txt").write_text("dear")
    assert "is not empty" in complaint(*TINY, "--out", str(tmp_path))
    assert "Not a directory" in complaint(*TINY, "--out", str(tmp_path / "letter.txt" / "x"))


def test_resume_says_what_differs(complaint, uninterrupted, tmp_path):
    args = ("denoise", "--resume", "--out")
    line = complaint(*args, str(uninterrupted), "--learning-rate", "0.5", "--seed", "7")
    assert "seed is 0 there, not 7; learning_rate is 0.003 there, not 0.5" in line
    assert "there is no run" in complaint(*args, str(tmp_path))
    (tmp_path / "config.json").write_text('{"settings": {}}')
    assert "such a run: there is no image;" in complaint(*args, str(tmp_path))


def test_resume_notices_another_picture(complaint, tmp_path):
    image, out = tmp_path / "in.png", tmp_path / "run"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(image)
    assert cli.main([*FINISHES, "--image", str(image), "--out", str(out)]) == 0
    Image.fromarray(rng.integers(0, 256, (16, 16), np.uint8)).save(image)
    assert "the data has changed" in complaint("denoise", "--out", str(out), "--resume")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(complaint, tmp_path):
    tmp_path.chmod(0o500)
    assert "Permission denied" in complaint(*TINY, "--out", str(tmp_path / "run"))


def test_a_folder_that_cannot_be_written(complaint):
    assert "cannot write to /proc/run" in complaint(*TINY, "--out", "/proc/run")


TRAIN = {
    "task.width": 32,
    "task.depth": 2,
    "steps": 40,
    "batch-size": 8,
    "eval-every": 10,
    "checkpoint-every": 10,
}
TINY_TRAIN = ["train", "table/gated", *(f"--{name}={value}" for name, value in TRAIN.items())]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    assert cli.main([*TINY_TRAIN, "--out", str(out)]) == 0
    return out


# A disk that is full after so many bytes of one file. It fills in a process of its own, because the
# storage layer leaves threads and coroutines behind, which would fail in some later test.
FILLS = """
import resource, sys
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), hard))
from snrgate.lab.cli import main
sys.exit(main())
"""


def fills(size: int, *args: str) -> str:
    """Run a command on a disk that fills up; return what it says."""
    ended = subprocess.run(
        [sys.executable, "-c", FILLS, str(size), *args],
        env=os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9"},  # it would not fit
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 2, ended.stderr
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("snrgate: "))
    return line


def test_a_disk_without_room_for_the_settings(tmp_path):
    out = tmp_path / "run"
    line = fills(100, *TINY_TRAIN, "--out", str(out))
    assert line == f"snrgate: cannot write to {out}: {os.strerror(errno.EFBIG)}"
    assert list(out.iterdir()) == []


def test_a_full_disk_loses_nothing(uninterrupted, tmp_path):
    out = tmp_path / "run"
    line = fills(2000, *TINY, "--out", str(out))
    assert f"cannot write to {out}: {os.strerror(errno.EFBIG)}" in line
    assert f"continue with: snrgate denoise --out {out} --resume" in line
    assert cli.main(["denoise", "--out", str(out), "--resume"]) == 0
    assert (out / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("size", [1000, 6000])
def test_a_full_disk_loses_no_training(trained, tmp_path, size):
    """Also where it shows only while a checkpoint is written beside the next steps."""
    out = tmp_path / "run"
    line = fills(size, *TINY_TRAIN, "--out", str(out))
    assert f"cannot write to {out}: {os.strerror(errno.EFBIG)}" in line
    assert f"continue with: snrgate train table/gated --out {out} --resume" in line
    assert cli.main(["train", "table/gated", "--out", str(out), "--resume"]) == 0
    assert (out / "metrics.jsonl").read_bytes() == (trained / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--image", "nowhere.png"], "there is no image nowhere.png"),
        (["--image", __file__], "not a picture"),
        (["--steps", "0"], "steps = 0 must be at least 1"),
        (["--z", "nan"], "z = nan must be more than 0"),
        (["--learning-rate", "-1"], "learning_rate = -1.0 must be more than 0"),
        (["--batch-size", "257"], "batch_size = 257 is more than the 256 pixels"),
        (["--optimizers"], "optimizers = () must be some of"),
        (["--config", "missing.toml"], "config missing.toml cannot be read: No such file"),
        (["--config", __file__], "is not TOML"),
        (["--out"], "argument --out: expected one argument"),
    ],
)
def test_what_cannot_be_used_is_said(complaint, tmp_path, args, message):
    out = [] if args == ["--out"] else ["--out", str(tmp_path / "run")]
    assert message in complaint(*TINY, *out, *args)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["train", "table", "--optimizer.learning-rate", "-1"],
            "learning_rate = -1.0 must be at",
        ),
        (["train", "table", "--optimizer.learning-rate-warmup", "-5"], "warmup = -5 must be at"),
        (["train", "table", "--optimizer.weight-decay", "nan"], "weight_decay = nan must be at"),
        (["train", "table", "--optimizer.z", "-1"], "cannot be built: z=-1"),
        (["train", "table", "--optimizer.fitted", "9"], "cannot be built: fitted=9"),
        (["train", "table", "--task.width", "0"], "task.width = 0 must be at least 1"),
        (["train", "table", "--task.depth", "-1"], "task.depth = -1 must be at least 1"),
        (["train", "table", "--batch-size", "5000"], "must be at most the 330 training examples"),
        (["train", "table/adamw", "--batch-size", "5000"], "batch_size = 5000 must be at most"),
        (["compare", "table", "--steps", "0"], "steps = 0 must be at least 1"),
        (["compare", "table", "--seeds", "-1"], "seeds = (-1,) must be in [0, 2**32)"),
    ],
)
def test_what_cannot_be_trained_with_is_said_before_a_folder_is_taken(
    complaint, tmp_path, args, message
):
    assert message in complaint(*args, "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_config_that_was_edited_is_not_passed_over_on_resuming(complaint, tmp_path):
    config, sizes = tmp_path / "own.toml", ["--steps", "4"]
    text = "task.width = 8\ntask.depth = 1\nbatch_size = 8\neval_every = 2\n"
    config.write_text(text)
    for command in ("train", "compare"):
        out = ["--out", str(tmp_path / command), "--config", str(config)]
        assert cli.main([command, "table", *sizes, *out]) == 0
        # The same config again, and further.
        assert cli.main([command, "table", *out, "--resume", "--steps", "6"]) == 0
    config.write_text(text.replace("eval_every = 2", "eval_every = 3"))
    out = ["--out", str(tmp_path / "train"), "--config", str(config)]
    assert "eval_every is 2 there, not 3" in complaint("train", "table", *out, "--resume")
    line = complaint("compare", "table", "--out", str(tmp_path / "compare"), "--resume")
    assert "or the config of its optimizers" in line


@pytest.mark.parametrize("args", [["--steps", "many"], ["--speed", "3"], ["--gate", "ajar"]])
def test_a_flag_that_cannot_be_understood(capsys, args):
    with pytest.raises(SystemExit, match="2"):
        cli.main([*TINY, *args])
    error = capsys.readouterr().err
    assert args[0] in error
    assert "Traceback" not in error


def test_a_config_of_ones_own(tmp_path):
    config, out = tmp_path / "mine.toml", tmp_path / "run"
    config.write_text('noise = 0.1\noptimizers = ["adamw"]')
    assert cli.main([*FINISHES, "--config", str(config), "--out", str(out)]) == 0
    stored = json.loads((out / "config.json").read_text())["settings"]
    assert (stored["noise"], stored["steps"], stored["size"]) == (0.1, 10, 16)


def test_a_training_config_of_ones_own(tmp_path):
    config, out = tmp_path / "mine.toml", tmp_path / "run"
    config.write_text("until = 1.5\ntask.width = 4\noptimizers.gated.learning_rate = 1\n")
    args = ["train", "table/gated", "--config", str(config), "--steps", "5", "--out", str(out)]
    assert cli.main(args) == 0
    stored = json.loads((out / "config.json").read_text())["settings"]
    values = {"optimizer.learning_rate": 1, "task.width": 4, "until": 1.5}
    assert {name: stored[name] for name in values} == values
    assert stored["optimizer.weight_decay"] == 10.0  # as the config of the task has it
    assert stored["steps"] == 5  # the command line has the last word


def test_a_copy_of_a_config_is_a_config(tmp_path):
    """What the file of a task says, it says as one's own too, with a new optimizer besides."""
    folder = Path(__file__).parents[1] / "configs"
    for task in ("digits", "chaos", "division"):
        text = (folder / f"{task}.toml").read_text()
        (tmp_path / "mine.toml").write_text(
            text + '\n[optimizers.hard]\nkind = "gated"\ngate = "hard"\n'
        )
        own = tmp_path / "mine.toml"
        assert training_config(task, "adamw", own) == training_config(task, "adamw")
        assert training_config(task, "hard", own).optimizer == Gated(gate="hard")
    (tmp_path / "mine.toml").write_text((folder / "denoise.toml").read_text())
    assert denoise_config(tmp_path / "mine.toml") == denoise_config() == Denoise()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import this", "is not TOML"),
        ("steps = " + "[" * 100_000, "is not TOML"),
        ("speed = 3", "there is no setting speed"),
        ("task = 3", "task = 3 must be Table"),
        ("optimizers = 3", "optimizers must hold a table"),
        ("optimizers.gated = 3", "optimizers must hold a table"),
        ("optimizer.b1 = 0.5", "there is no setting optimizer"),
        ("optimizers.gated.speed = 3", "there is no setting optimizer.speed"),
        ("optimizers.adamw.speed = 3", "there is no setting optimizer.speed"),
        ("optimizers.gated.kind = 'sgd'", "optimizers.gated.kind = 'sgd' must be one of gated"),
        ("optimizers.sgd.b1 = 0.5", "optimizers.sgd.kind = 'sgd' must be one of gated"),
        ("steps.x = 3", "there is no setting steps.x"),
        ("__class__.x = 3", "there is no setting __class__.x"),
        ("steps = 'many'", "steps = 'many' must be int"),
        ("steps = 1.5", "steps = 1.5 must be int"),
        ("steps = true", "steps = True must be int"),
        ("optimizers.gated.gate = 'ajar'", "optimizer.gate = 'ajar' must be"),
        ("until = 'soon'", "until = 'soon' must be float | None"),
        ("until = nan", "until = nan must be a finite number"),
        ("optimizers.gated.finite = 1", "optimizer.finite = 1 must be bool"),
        ("steps = 0", "steps = 0 must be at least 1"),
        ("eval_every = 1979-05-27", "must be int"),
    ],
)
def test_what_a_config_of_ones_own_may_not_hold(tmp_path, text, message):
    config = tmp_path / "mine.toml"
    config.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        training_config("table", "gated", config)


def test_a_mistake_in_a_config_of_ones_own_is_said_in_one_line(complaint, tmp_path):
    (tmp_path / "mine.toml").write_text("speed = 3")
    args = ["--config", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "run")]
    assert "mine.toml: there is no setting speed" in complaint("train", "table", *args)
    assert "mine.toml: there is no setting speed" in complaint("compare", "table", *args)
    assert "mine.toml: there is no setting speed" in complaint("denoise", *args)
    assert not (tmp_path / "run").exists()


def test_the_name_of_a_task_does_not_lead_out_of_the_configs(complaint, tmp_path):
    folder = Path(__file__).parents[1] / "configs"
    (tmp_path / "mine.toml").write_text((folder / "table.toml").read_text())
    for task in (str(tmp_path / "mine"), os.path.relpath(tmp_path / "mine", folder), "denoise"):
        with pytest.raises(InputError, match="there is no task"):
            training_config(task, "gated")
    assert "there is no task .." in complaint("train", "../cli")


def test_help(capsys, complaint):
    assert cli.main([]) == cli.main(["--help"]) == 0
    assert "denoise" in capsys.readouterr().out
    assert "there is no command paint" in complaint("paint")


def test_the_version_is_that_of_the_package(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"snrgate {snrgate.__version__}, jax ")
    with pytest.raises(SystemExit, match="0"):
        cli.main(["denoise", "--help"])
    out = capsys.readouterr().out
    assert all(f"--{name.replace('_', '-')}" in out for name in Denoise.__dataclass_fields__)


CONFIGURED = sorted(OPTIMIZERS.keys() - {"soap"})  # what the config of every task names


@pytest.mark.parametrize(
    ("args", "least"),
    [
        *((("train", f"{task}/{name}"), 30) for task in task_names() for name in CONFIGURED),
        (("compare", "digits"), 10),
        (("denoise",), 30),
    ],
)
def test_help_fits_on_a_screen_with_a_line_for_each_option(capsys, monkeypatch, args, least):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit, match="0"):
        cli.main([*args, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert least <= len(lines) <= 50
    assert max(map(len, lines)) <= 100
    options = [line for line in lines if line.startswith("  ")]
    assert all(line.startswith("  --") and line.endswith((".", "]")) for line in options)


def test_help_without_a_task_lists_the_tasks(capsys):
    for command in ("train", "compare"):
        with pytest.raises(SystemExit, match="0"):
            cli.main([command, "--help"])
        out = capsys.readouterr().out
        assert all(task in out for task in task_names())
        assert "algorithm_1" in out


def test_a_network_that_cannot_fit_is_refused_before_memory_is_taken(complaint, tmp_path):
    out = "--out", str(tmp_path / "run")
    line = complaint("train", "digits", "--task.width", "1000000", *out)
    assert "1,000,076,000,010 parameters, takes about 22353.4 GiB of memory" in line
    assert "give a smaller width" in line
    line = complaint("denoise", "--width", "1000000", *out)
    assert "the network of width = 1000000" in line
    assert not (tmp_path / "run").exists()


def test_memory_that_runs_out_is_said(complaint, monkeypatch):
    def full(args):
        raise MemoryError

    monkeypatch.setitem(cli._COMMANDS, "audit", full)
    assert "there is not enough memory" in complaint("audit")


def test_a_missing_extra_is_said(complaint, monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert "pip install 'snrgate[examples]'" in complaint("denoise")


def test_the_library_does_without_the_extras():
    code = (
        "import sys, snrgate, snrgate.lab.cli; "
        "print(sorted({'flax', 'matplotlib', 'orbax', 'PIL', 'rich', 'skimage', 'tyro'} "
        "& set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

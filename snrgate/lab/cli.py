"""The command line: ``snrgate denoise``, ``audit``, ``train``, ``compare`` and ``study``."""

import argparse
import dataclasses
import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import optax

import snrgate
from snrgate.lab.errors import InputError

__all__ = ["main"]

_USAGE = """\
usage: snrgate COMMAND [OPTIONS]
       snrgate --version

commands:
  denoise   learn a photo from its noisy pixels, without a validation set
  audit     find the wrong labels of a table, or of pictures: snrgate audit data.csv --label COLUMN
  train     one optimizer on one task: snrgate train digits, or digits/adamw
  compare   a task's optimizers side by side: snrgate compare digits
  study     run the study, or what is missing of it: snrgate study --list

`snrgate COMMAND --help` lists the options.
"""

_PLACE = (
    "{summary} --out FOLDER keeps the run there ({out}); --config FILE takes settings from a TOML "
    "file like those of configs/; --resume goes on with the run in that folder, whose settings "
    "need not be given again; a larger --steps trains it further."
)
_EXTRA = ("flax", "matplotlib", "orbax.checkpoint", "PIL", "rich", "skimage", "tyro")


@dataclasses.dataclass(frozen=True)
class _Place:
    """The arguments that decide the defaults of all other settings."""

    out: Path
    config: Path | None
    resume: bool


def denoise(args: Sequence[str]) -> None:
    """Fit a network to a noisy photo, with AdamW and with the gate side by side.

    Args:
        args: the command line after ``denoise``.

    Raises:
        InputError: an argument or a setting cannot be used.
        Stopped: SIGINT or SIGTERM came. The run is saved.
    """
    from snrgate.lab.commands.denoise import denoise as run
    from snrgate.lab.tasks.denoise import Denoise
    from snrgate.lab.training.configs import denoise_config
    from snrgate.lab.training.folder import stored_settings

    place, rest = _place(args, Path("runs/denoise"))
    settings = denoise_config(place.config)
    if place.resume:
        settings = stored_settings(place.out, settings)
    parsed = _parsed(Denoise, rest, settings, "snrgate denoise", place)
    run(parsed, place.out, resume=place.resume)


def train(args: Sequence[str]) -> None:
    """Train with one optimizer.

    Args:
        args: the command line after ``train``.

    Raises:
        InputError: an argument or a setting cannot be used.
        Stopped: SIGINT or SIGTERM came. The run is saved.
    """
    from snrgate.lab.commands.train import train as run
    from snrgate.lab.training.configs import optimizer_names, training_config
    from snrgate.lab.training.folder import stored_settings
    from snrgate.lab.training.train import Training

    name, *rest = _named(args, "train")
    task, _, optimizer = name.partition("/")
    optimizer = optimizer or optimizer_names(task)[0]
    place, rest = _place(rest, Path("runs") / task / optimizer)
    settings = training_config(task, optimizer, place.config)
    if place.resume:
        settings = stored_settings(place.out, settings)
    # The config decides the kinds of task and optimizer that the generic dataclass has.
    kind = Training[type(settings.task), type(settings.optimizer)]  # type: ignore[misc]
    parsed = _parsed(kind, rest, settings, f"snrgate train {name}", place)
    run(parsed, place.out, f"snrgate train {name}", resume=place.resume)


def compare(args: Sequence[str]) -> None:
    """Train with several optimizers of one task and put the results side by side.

    Args:
        args: the command line after ``compare``.

    Raises:
        InputError: an argument or a setting cannot be used.
        Stopped: SIGINT or SIGTERM came. The run is saved.
    """
    from snrgate.lab.commands.compare import Comparison
    from snrgate.lab.commands.compare import compare as run
    from snrgate.lab.training.folder import stored_settings

    task, *rest = _named(args, "compare")
    place, rest = _place(rest, Path("runs/compare") / task)
    settings = Comparison(config=None if place.config is None else str(place.config))
    if place.resume:
        settings = stored_settings(place.out, settings)
    parsed = _parsed(Comparison, rest, settings, f"snrgate compare {task}", place)
    run(task, parsed, place.out, f"snrgate compare {task}", resume=place.resume)


def _named(args: Sequence[str], command: str) -> Sequence[str]:
    """The arguments of a command, which must begin with the name of a task."""
    from snrgate.lab.training.configs import task_names

    if not args or args[0].startswith("-"):
        known = ", ".join(task_names())
        raise InputError(f"name a task, as in snrgate {command} digits; there are {known}")
    return args


def _place(args: Sequence[str], out: Path) -> tuple[_Place, list[str]]:
    """The folder of a run and the file of its settings, and the arguments that are left.

    Raises:
        InputError: one of them is named without a value.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--out", type=Path, default=out)
    first.add_argument("--config", type=Path)
    first.add_argument("--resume", action="store_true")
    try:
        given, rest = first.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from error
    return _Place(given.out, given.config, given.resume), rest


def _parsed(kind: Any, args: Sequence[str], default: Any, command: str, place: _Place) -> Any:
    """The settings that the rest of a command line gives."""
    import tyro

    return tyro.cli(
        kind,
        args=list(args),
        default=default,
        prog=command,
        description=_PLACE.format(summary=(type(default).__doc__ or "").strip(), out=place.out),
    )


def audit(args: Sequence[str]) -> None:
    """Rank the given labels of a data set, the most suspicious first.

    Args:
        args: the command line after ``audit``.

    Raises:
        InputError: an argument or the data cannot be used.
    """
    import tyro

    from snrgate.lab.commands.audit import Audit
    from snrgate.lab.commands.audit import audit as run

    run(tyro.cli(Audit, args=list(args), prog="snrgate audit"))


def study(args: Sequence[str]) -> None:
    """Run the study, or what is missing of it.

    Args:
        args: the command line after ``study``.

    Raises:
        InputError: an argument or a setting cannot be used.
    """
    import tyro

    from snrgate.lab.study.run import Study, run

    run(tyro.cli(Study, args=list(args), prog="snrgate study"))


_COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "denoise": denoise,
    "audit": audit,
    "train": train,
    "compare": compare,
    "study": study,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run a command. A mistake of the user becomes one line on standard error.

    Args:
        args: the command line; by default that of the process.

    Returns:
        The exit status: 0, 2 for a mistake in what was given, 128 plus the number of the signal
        that stopped a run.
    """
    args = sys.argv[1:] if args is None else list(args)
    if not args or args[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0
    if args[0] == "--version":
        print(f"snrgate {snrgate.__version__}, jax {jax.__version__}, optax {optax.__version__}")
        return 0
    command, *rest = args
    if command not in _COMMANDS:
        return _complain(f"there is no command {command}; see snrgate --help", 2)
    try:
        for module in _EXTRA:
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = f"{error.name} is missing; install it with: pip install 'snrgate[examples]'"
        return _complain(missing, 2)
    except KeyboardInterrupt:
        return _complain("interrupted", 128 + signal.SIGINT)

    from snrgate.lab.launch import join, leave
    from snrgate.lab.training.interrupt import Stopped

    joined = join()
    try:
        _COMMANDS[command](rest)
        return 0
    except Stopped as stopped:
        return _complain(str(stopped), 128 + stopped.number)
    except InputError as error:
        status = _complain(str(error), 2)
    except KeyboardInterrupt:
        status = _complain("interrupted", 128 + signal.SIGINT)
    if joined:
        leave(status)
    return status


def _complain(message: str, status: int) -> int:
    print(f"snrgate: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

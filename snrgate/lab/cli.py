"""The command line: ``snrgate denoise``, ``train``, ``compare`` and ``study``."""

import argparse
import dataclasses
import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from snrgate.lab.errors import InputError

__all__ = ["main"]

_USAGE = """\
usage: snrgate COMMAND [OPTIONS]

commands:
  denoise   learn a photo from its noisy pixels, without a validation set
  train     one optimizer on one task: snrgate train digits/gated
  compare   a task's optimizers side by side: snrgate compare digits
  study     run the study, or what is missing of it: snrgate study --list

`snrgate COMMAND --help` lists the options.
"""

_TRAIN = (
    "In place of its name the path of a JSON file will do: "
    '{{"config": "gated", "optimizer.learning_rate": 0.01}}. '
    "--out FOLDER ({}); --resume goes on there."
)
_OUT = Path("runs/denoise")
_EXTRA = ("flax", "matplotlib", "orbax.checkpoint", "PIL", "rich", "skimage", "tyro")


def denoise(args: Sequence[str]) -> None:
    """Fit a network to a noisy photo, with AdamW and with the gate side by side.

    Args:
        args: the command line after ``denoise``.

    Raises:
        InputError: something that was given cannot be used.
        Stopped: on SIGINT or SIGTERM, with the run saved.
    """
    import tyro

    from snrgate.lab.tasks.denoise import Denoise
    from snrgate.lab.training.configs import config_names, load_config
    from snrgate.lab.training.denoise import run
    from snrgate.lab.training.folder import stored_settings

    @dataclasses.dataclass(frozen=True)
    class Arguments:
        settings: tyro.conf.OmitArgPrefixes[Denoise]
        config: str = "default"
        """A name, or a JSON file: {"config": NAME, SETTING: VALUE, ...}."""
        out: Path = _OUT
        """Folder of the run."""
        resume: tyro.conf.FlagCreatePairsOff[bool] = False
        """Continue the run in that folder; its settings need not be given again."""

    # What these three say decides the defaults of all the settings.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config")
    first.add_argument("--out", type=Path, default=_OUT)
    first.add_argument("--resume", action="store_true")
    try:
        given, _ = first.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from error
    if given.resume and given.config is None:
        settings = stored_settings(given.out, Denoise())
    else:
        settings = load_config("denoise", given.config or "default", Denoise)
    parsed = tyro.cli(
        Arguments,
        args=list(args),
        default=Arguments(settings),
        prog="snrgate denoise",
        description=f"{Denoise.__doc__} Configs: {', '.join(config_names('denoise'))}.",
    )
    run(parsed.settings, parsed.out, resume=parsed.resume)


def train(args: Sequence[str]) -> None:
    """Train with one config.

    Args:
        args: the command line after ``train``.

    Raises:
        InputError: something that was given cannot be used.
        Stopped: on SIGINT or SIGTERM, with the run saved.
    """
    import tyro

    from snrgate.lab.training.configs import load_config, task_names
    from snrgate.lab.training.folder import stored_settings
    from snrgate.lab.training.run import run
    from snrgate.lab.training.train import Training

    if not args or args[0].startswith("-"):
        known = ", ".join(task_names(Training))
        raise InputError(
            f"name a task and an optimizer, as in snrgate train digits/gated; there are {known}"
        )
    name, *rest = args
    task, _, config = name.partition("/")
    config = config or "gated"
    settings = load_config(task, config, Training)

    @dataclasses.dataclass(frozen=True)
    class Where:
        """Train with one config."""

        out: Path = Path("runs") / task / Path(config).stem
        """Folder of the run."""
        resume: tyro.conf.FlagCreatePairsOff[bool] = False
        """Continue the run in that folder; its settings need not be given again."""

    where, others = tyro.cli(Where, args=rest, return_unknown_args=True, add_help=False)
    if where.resume:
        settings = stored_settings(where.out, settings)
    # A generic dataclass: the kinds of its task and optimizer are those of the config.
    parsed = tyro.cli(
        Training[type(settings.task), type(settings.optimizer)],  # type: ignore[misc]
        args=others,
        default=settings,
        prog=f"snrgate train {name}",
        description=f"{Where.__doc__} {_TRAIN.format(where.out)}",
    )
    run(parsed, where.out, f"snrgate train {name}", resume=where.resume)


def compare(args: Sequence[str]) -> None:
    """Train with several configs of one task and put the results side by side.

    Args:
        args: the command line after ``compare``.

    Raises:
        InputError: something that was given cannot be used.
    """
    import tyro

    from snrgate.lab.training.configs import task_names
    from snrgate.lab.training.side_by_side import Comparison, run
    from snrgate.lab.training.train import Training

    if not args or args[0].startswith("-"):
        known = ", ".join(task_names(Training))
        raise InputError(f"name a task, as in snrgate compare digits; there are {known}")
    task, *rest = args
    settings = tyro.cli(Comparison, args=rest, prog=f"snrgate compare {task}")
    run(task, settings)


def study(args: Sequence[str]) -> None:
    """Run the study, or what is missing of it.

    Args:
        args: the command line after ``study``.

    Raises:
        InputError: something that was given cannot be used.
    """
    import tyro

    from snrgate.lab.study.run import Study, run

    run(tyro.cli(Study, args=list(args), prog="snrgate study"))


_COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "denoise": denoise,
    "train": train,
    "compare": compare,
    "study": study,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; whatever is the user's to mend becomes one line on standard error.

    Args:
        args: the command line, default that of the process.

    Returns:
        The exit status: 0, 2 for a mistake in what was given, 128 plus the number of the signal
        that stopped a run.
    """
    args = sys.argv[1:] if args is None else list(args)
    if not args or args[0] in ("-h", "--help"):
        print(_USAGE, end="")
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

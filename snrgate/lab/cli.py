"""The command line: ``snrgate denoise``, ``audit``, ``dpo``, ``train``, ``compare``, ``study``."""

import argparse
import dataclasses
import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import optax

import snrgate
from snrgate.lab.errors import InputError, StorageError
from snrgate.lab.help import Line, help_text, options

__all__ = ["main"]

_USAGE = """\
usage: snrgate COMMAND [OPTIONS]
       snrgate --version

commands:
  denoise   take the noise out of a photo of yours: snrgate denoise my.jpg --out clean.png
            without a photo: a demonstration, which adds noise to a photo and compares
  audit     find the wrong labels of a table, or of pictures: snrgate audit data.csv --label COLUMN
  dpo       teach a language model preferences: snrgate dpo pairs.jsonl --model FOLDER
  train     one optimizer on one task: snrgate train digits, or digits/adamw
  compare   a task's optimizers side by side: snrgate compare digits
  study     run the study, or what is missing of it: snrgate study --list

`snrgate COMMAND --help` lists the options.
"""

_PLACE = (
    ("--out {out}", "Folder that keeps the run."),
    ("--config FILE", "TOML file of settings, like those of configs/."),
    ("--resume", "Goes on with that run; a larger --steps trains it further."),
)
_ABOUT = "The value after an option is its default."
_HELP = ("-h", "--help")
_MEMORY = "RESOURCE_EXHAUSTED"  # how XLA says that there is not enough
_EXTRA = ("flax", "matplotlib", "orbax.checkpoint", "PIL", "rich", "skimage", "tyro")


@dataclasses.dataclass(frozen=True)
class _Place:
    """The arguments that decide the defaults of all other settings."""

    out: Path
    config: Path | None
    resume: bool


def denoise(args: Sequence[str]) -> None:
    """Take the noise out of a photo, or demonstrate the gate on a photo with added noise.

    Args:
        args: the command line after ``denoise``. With a photo among it, it is that of
            :class:`snrgate.lab.commands.own_photo.OwnPhoto`.

    Raises:
        InputError: an argument or a setting cannot be used.
        Stopped: SIGINT or SIGTERM came. The run is saved.
    """
    from snrgate.lab.commands.denoise import denoise as run
    from snrgate.lab.tasks.denoise import Denoise
    from snrgate.lab.training.configs import denoise_config

    if _names_photo(args):
        _own_photo(args)
        return
    place, rest = _place(args, Path("runs/denoise"))
    settings = _resumed(place, denoise_config(place.config))
    if any(word in _HELP for word in rest):
        from snrgate.lab.commands.own_photo import OwnPhoto

        result = Line("--out FILE", "File of the result: .png, .tif, .jpg or .webp.")
        photo = [result, *options(OwnPhoto(Path()), without=["photo", "out"])]
        _show_help(
            "snrgate denoise PHOTO [--out FILE] [OPTIONS], or snrgate denoise [OPTIONS]",
            "With PHOTO: takes the noise out of a photo of yours. It adds none, keeps size and "
            "colour, and writes a picture of before and after beside the result. Without PHOTO: a "
            f"demonstration adds noise to a photo and trains with AdamW and the gate. {_ABOUT}",
            {"a photo of yours": photo, "the demonstration": _options(settings, place)},
        )
    parsed = _parsed(Denoise, rest, settings, "snrgate denoise")
    run(parsed, place.out, resume=place.resume)


def _names_photo(args: Sequence[str]) -> bool:
    """Whether a command line names a photo of the user's."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    own.add_argument("photo", nargs="?")
    for name in ("--out", "--sigma", "--crop"):
        own.add_argument(name)
    own.add_argument("--overwrite", action="store_true")
    try:
        given, others = own.parse_known_args(args)
    except argparse.ArgumentError:
        given, others = argparse.Namespace(photo=None), []
    # What follows an option of the demonstration is its value.
    first = bool(args) and not args[0].startswith("-")
    return first or (given.photo is not None and not others)


def _own_photo(args: Sequence[str]) -> None:
    import tyro

    from snrgate.lab.commands.own_photo import OwnPhoto, own_photo

    own_photo(tyro.cli(OwnPhoto, args=list(args), prog="snrgate denoise"))


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
    from snrgate.lab.training.train import Training

    if args and args[0] in _HELP:
        _show_tasks("train", "TASK/OPTIMIZER", "Trains with one optimizer on one task.")
    name, *rest = _named(args, "train")
    task, _, optimizer = name.partition("/")
    optimizer = optimizer or optimizer_names(task)[0]
    place, rest = _place(rest, Path("runs") / task / optimizer)
    settings = _resumed(place, training_config(task, optimizer, place.config))
    if any(word in _HELP for word in rest):
        groups = {
            "run": _options(settings, place),
            f"task {task}": options(settings.task, "task."),
            f"optimizer {optimizer}": options(settings.optimizer, "optimizer."),
        }
        _show_help(f"snrgate train {name} [OPTIONS]", f"{type(settings).__doc__} {_ABOUT}", groups)
    # The config decides the kinds of task and optimizer that the generic dataclass has.
    kind = Training[type(settings.task), type(settings.optimizer)]  # type: ignore[misc]
    parsed = _parsed(kind, rest, settings, f"snrgate train {name}")
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

    if args and args[0] in _HELP:
        _show_tasks("compare", "TASK", "Trains with several optimizers of a task.")
    task, *rest = _named(args, "compare")
    place, rest = _place(rest, Path("runs/compare") / task)
    own = None if place.config is None else str(place.config)
    settings = _resumed(place, Comparison(config=own))
    if any(word in _HELP for word in rest):
        groups = {"run": _options(settings, place)}
        about = f"{Comparison.__doc__} {_ABOUT}"
        _show_help(f"snrgate compare {task} [OPTIONS]", about, groups)
    parsed = _parsed(Comparison, rest, settings, f"snrgate compare {task}")
    run(task, parsed, place.out, f"snrgate compare {task}", resume=place.resume)


def _resumed(place: _Place, settings: Any) -> Any:
    """The settings of the run that is resumed, or the given ones where none is.

    A config that is named again counts. The folder refuses it where it has other values.
    """
    from snrgate.lab.training.folder import FREE, stored_settings

    if not place.resume:
        return settings
    stored = stored_settings(place.out, settings)
    if place.config is None:
        return stored
    # What may differ from the run is asked for by an option of its own.
    free = {name: getattr(stored, name) for name in FREE if hasattr(stored, name)}
    return dataclasses.replace(settings, **free)


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


def _options(settings: Any, place: _Place) -> list[Line]:
    """The options of a run that is kept in a folder."""
    where = [Line(option.format(out=place.out), text) for option, text in _PLACE]
    return where + options(settings, without=["config"])


def _show_tasks(command: str, name: str, about: str) -> NoReturn:
    """Print which tasks and optimizers a command knows."""
    from snrgate.lab.training.configs import optimizer_names, task_names

    example = f"snrgate {command} digits"
    tasks = [Line(task, ", ".join(optimizer_names(task))) for task in task_names()]
    _show_help(
        f"snrgate {command} {name} [OPTIONS]",
        f"{about} {example} is an example, and {example} --help lists its options.",
        {"tasks, and the optimizers of each, the default one first": tasks},
    )


def _show_help(usage: str, about: str, groups: dict[str, list[Line]]) -> NoReturn:
    print(help_text(usage, about, groups), end="")
    raise SystemExit(0)


def _parsed(kind: Any, args: Sequence[str], default: Any, command: str) -> Any:
    """The settings that the rest of a command line gives."""
    import tyro

    return tyro.cli(kind, args=list(args), default=default, prog=command)


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


def dpo(args: Sequence[str]) -> None:
    """Teach a language model preferences.

    Args:
        args: the command line after ``dpo``.

    Raises:
        InputError: an argument, the pairs or the model cannot be used.
        Stopped: SIGINT or SIGTERM came. The run is saved.
    """
    from snrgate.lab.commands.dpo import Dpo
    from snrgate.lab.commands.dpo import dpo as run

    place, rest = _place(args, Path("runs/dpo"))
    if place.config is not None:
        raise InputError("snrgate dpo has no --config; give its settings as options")
    settings = _resumed(place, Dpo())
    if any(word in _HELP for word in rest):
        where = [line for line in _options(settings, place) if "config" not in line.option]
        shown = [line for line in where if not line.option.startswith("--pairs")]
        about = f"{Dpo.__doc__} Labels may be wrong. {_ABOUT}"
        _show_help(
            "snrgate dpo PAIRS.jsonl --model FOLDER|FILE.gguf [OPTIONS]", about, {"run": shown}
        )
    run(_parsed(Dpo, rest, settings, "snrgate dpo"), place.out, resume=place.resume)


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
    "dpo": dpo,
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
    of_process = args is None
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
    from snrgate.lab.training.interrupt import Stopped, abandoned, heard_interrupts

    joined = join()
    try:
        with heard_interrupts():
            status = _status(_COMMANDS[command], rest)
    except Stopped as stopped:
        status = _complain(str(stopped), 128 + stopped.number)
        if joined:  # all processes stop together, and wait for one another
            return status
    except KeyboardInterrupt:
        status = _complain("interrupted", 128 + signal.SIGINT)
    # A program of JAX that still runs must not hold up the end of the process, nor break it.
    if abandoned() or (status and (joined or of_process)):
        leave(status)
    return status


def _status(command: Callable[[Sequence[str]], None], rest: Sequence[str]) -> int:
    """Run a command, and say in one line what went wrong."""
    try:
        command(rest)
        return 0
    except InputError as error:
        return _complain(str(error), 2, apart=isinstance(error, StorageError))
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and _MEMORY not in str(error):
            raise
        return _complain("there is not enough memory; give smaller sizes, or a smaller photo", 2)


def _complain(message: str, status: int, *, apart: bool = False) -> int:
    """Say what went wrong in one piece, and on a new line if it is to stand apart."""
    sys.stderr.write("\n" * apart + f"snrgate: {' '.join(message.split())}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())

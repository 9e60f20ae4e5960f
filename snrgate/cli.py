"""The command line: ``snrgate denoise``."""

import argparse
import dataclasses
import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from snrgate.errors import InputError

__all__ = ["main"]

_USAGE = """\
usage: snrgate COMMAND [OPTIONS]

commands:
  denoise   learn a photo from its noisy pixels, without a validation set

`snrgate COMMAND --help` lists the options.
"""

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

    from snrgate.tasks.denoise import Denoise
    from snrgate.training.configs import config_names, load_config
    from snrgate.training.denoise import run
    from snrgate.training.folder import stored_settings

    @dataclasses.dataclass(frozen=True)
    class Arguments:
        settings: tyro.conf.OmitArgPrefixes[Denoise]
        config: str = "default"
        """A name, or a Python file that sets CONFIG."""
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
        settings = stored_settings(given.out, Denoise)
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


_COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"denoise": denoise}


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

    from snrgate.training.interrupt import Stopped

    try:
        _COMMANDS[command](rest)
    except InputError as error:
        return _complain(str(error), 2)
    except Stopped as stopped:
        return _complain(str(stopped), 128 + stopped.number)
    except KeyboardInterrupt:
        return _complain("interrupted", 128 + signal.SIGINT)
    return 0


def _complain(message: str, status: int) -> int:
    print(f"snrgate: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

"""The help of a command: its settings in groups, each on one line with its default."""

import ast
import dataclasses
import inspect
import itertools
import re
import shutil
import textwrap
import typing
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Line", "documented", "help_text", "options"]

_WIDTH = 100  # characters of a line, where the terminal has as many
_INDENT = "  "

_CLAUSES = re.compile(r"[;:,] ")


class Line(NamedTuple):
    """One option.

    Attributes:
        option: its name and default.
        text: a sentence that says what it is.
        choices: the values that it may have, where they are few.
    """

    option: str
    text: str
    choices: str = ""


def documented(kind: type) -> dict[str, str]:
    """The first sentence of what is written under each field of a dataclass.

    Example:
        >>> from snrgate.lab.help import documented
        >>> from snrgate.lab.training.optimizers import AdamW
        >>> documented(AdamW)["b1"]
        'Decay of the momentum.'
    """
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        lines = body.body if isinstance(body, ast.ClassDef) else []
        for field, below in itertools.pairwise(lines):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                text = " ".join(str(below.value.value).split())
                found[field.target.id] = text.split(". ")[0].rstrip(".") + "."
    return found


def help_text(usage: str, about: str, groups: Mapping[str, Sequence[Line]]) -> str:
    """The help of a command.

    Args:
        usage: how the command is called.
        about: what it does, in a few sentences.
        groups: lines of options by the titles of their groups.
    """
    width = min(_WIDTH, shutil.get_terminal_size().columns)
    column = max(len(line.option) for lines in groups.values() for line in lines)
    indent = " " * (column + 2 * len(_INDENT))
    said = [f"usage: {usage}", "", *textwrap.wrap(about, width)]
    for title, lines in groups.items():
        said += ["", f"{title}:"]
        for option, text, choices in lines:
            text = _shortened(text, width - len(indent) - len(choices)) + choices
            said += textwrap.wrap(
                f"{option:<{column}}  {text}",
                width,
                initial_indent=_INDENT,
                subsequent_indent=indent,
                break_on_hyphens=False,
            )
    return "\n".join(said) + "\n"


def _shortened(text: str, room: int) -> str:
    """A sentence that fits, by leaving out its last clauses; the whole one where none does."""
    ends = [clause.start() for clause in _CLAUSES.finditer(text)]
    fitting = [text[:end] + "." for end in ends if end < room]
    return text if len(text) <= room or not fitting else fitting[-1]


def options(settings: Any, prefix: str = "", *, without: Sequence[str] = ()) -> list[Line]:
    """A line for each setting of a dataclass; those of inner dataclasses are left out.

    Args:
        settings: a dataclass with its defaults.
        prefix: of the names, such as ``task.``.
        without: names to leave out.
    """
    texts, kinds = documented(type(settings)), typing.get_type_hints(type(settings))
    lines = []
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), field.name.replace("_", "-")
        if field.name in without or dataclasses.is_dataclass(value):
            continue
        text = texts.get(field.name, "")
        if isinstance(value, bool):
            option = f"--{prefix}{'no-' if value else ''}{name}"
        else:
            given = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            option = f"--{prefix}{name} {given}"
        lines.append(Line(option, text, _choices(kinds[field.name])))
    return lines


def _choices(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return f" [{'|'.join(map(str, typing.get_args(kind)))}]"
    return ""

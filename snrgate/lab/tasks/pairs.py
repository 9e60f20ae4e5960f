"""Pairs of replies from a file of JSON lines, in the forms that TRL reads."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from snrgate.lab.errors import InputError

__all__ = ["Pair", "PairFile", "read_pairs"]

_SHOWN = 5  # lines that a message names
_UNKNOWN = ("images", "image", "tools")  # TRL gives these to the model too
_CALLS = ("tool_calls", "tool_call_id", "function_call")  # so do its messages these

Text = str | list[dict[str, str]]
"""A plain text, or the messages of a conversation."""


class Pair(NamedTuple):
    """A prompt with two replies, all three plain texts or all three messages.

    Attributes:
        prompt: what both replies answer.
        chosen: the reply that was preferred.
        rejected: the other one.
    """

    prompt: Text
    chosen: Text
    rejected: Text


class PairFile(NamedTuple):
    """The pairs of a file.

    Attributes:
        pairs: those that can be used, in the order of the file.
        lines: number of the line of each pair, counted from 1.
        skipped: number and reason of each line that was left out.
    """

    pairs: list[Pair]
    lines: list[int]
    skipped: list[tuple[int, str]]

    def report(self) -> str:
        """A sentence about the lines that were left out, empty where there are none."""
        if not self.skipped:
            return ""
        count, total = len(self.skipped), len(self.skipped) + len(self.pairs)
        return f"{count} of {total} lines were skipped: {_listed(self.skipped)}."


def read_pairs(path: Path, *, skip: bool = False) -> PairFile:
    """Read pairs from a file with a JSON object in each line.

    An object has ``prompt``, ``chosen`` and ``rejected``, which are plain texts or lists of
    messages (``{"role": ..., "content": ...}``). The prompt may be left out, or be a plain text
    beside conversations that hold it; it is then what both replies begin with, as TRL takes it.
    Other keys are ignored. Empty lines are no lines.

    Args:
        path: the file, in UTF-8.
        skip: whether lines that cannot be used are left out, and listed in the result.

    Raises:
        InputError: the file cannot be read, a line cannot be used and ``skip`` is false, or no
            line can be used. The message has the numbers of the lines and the reasons.
    """
    try:
        raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    pairs, lines, skipped = [], [], []
    for number, line in enumerate(raw, 1):
        if not line.strip():
            continue
        try:
            pairs.append(_pair(_object(line)))
            lines.append(number)
        except ValueError as error:
            skipped.append((number, str(error)))
    if skipped and not skip:
        raise InputError(
            f"{path} has {len(skipped)} lines that are no pairs: {_listed(skipped)}; mend them, or "
            "give --skip-malformed to leave them out"
        )
    if not pairs:
        why = f": {_listed(skipped)}" if skipped else "; it is empty"
        raise InputError(f"{path} has no pairs{why}")
    return PairFile(pairs, lines, skipped)


def _listed(skipped: Sequence[tuple[int, str]]) -> str:
    named = "; ".join(f"line {number}: {why}" for number, why in skipped[:_SHOWN])
    more = len(skipped) - _SHOWN
    return f"{named}; and {more} more" if more > 0 else named


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line.decode())
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(found, dict):
        raise ValueError("it is not an object with prompt, chosen and rejected")
    return found


def _pair(found: dict[str, Any]) -> Pair:
    """The pair of an object.

    Raises:
        ValueError: it has none; the message says why.
    """
    for name in _UNKNOWN:
        if found.get(name):
            raise ValueError(f"{name} cannot be used")
    chosen, rejected = (_text(found, name) for name in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise ValueError("one reply is a text and the other a conversation")
    prompt = _text(found, "prompt") if found.get("prompt") is not None else None
    if isinstance(chosen, str) and isinstance(prompt, list):
        raise ValueError("the prompt is a conversation and the replies are texts")
    if isinstance(prompt, str) and isinstance(chosen, list):
        if not all(_holds(reply, prompt) for reply in (chosen, rejected)):
            raise ValueError(
                "the prompt is a text that the conversations do not hold; give it as their first "
                "message, or as a list of messages"
            )
        prompt = None
    if prompt is None:
        prompt, chosen, rejected = _implicit(chosen, rejected)
    if not _said(chosen) or not _said(rejected):
        raise ValueError("a reply is empty")
    if chosen == rejected:
        raise ValueError("both replies are the same")
    return Pair(prompt, chosen, rejected)


def _text(found: dict[str, Any], name: str) -> Text:
    if name not in found:
        raise ValueError(f"there is no {name}")
    value = found[name]
    if isinstance(value, str):
        return _of_characters(value, name)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} is neither a text nor a list of messages")
    for message in value:
        if not isinstance(message, dict) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise ValueError(f"a message of {name} has no role or no content that is a text")
        _of_characters(message["content"], name)
        for key in _CALLS:
            if message.get(key):
                raise ValueError(f"{key} in a message of {name} cannot be used")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def _of_characters(text: str, name: str) -> str:
    """The text, if all of it can be written down."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} holds half a character (a lone surrogate)") from None
    return text


def _holds(reply: Text, prompt: str) -> bool:
    """Whether a reply is a conversation with a message that holds the prompt."""
    messages = [] if isinstance(reply, str) else reply
    return any(prompt.strip() in message["content"] for message in messages)


def _said(reply: Text) -> bool:
    """Whether a reply holds more than blanks."""
    texts = [reply] if isinstance(reply, str) else [message["content"] for message in reply]
    return any(text.strip() for text in texts)


def _implicit(chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """The prompt that both replies begin with, and the rest of each."""
    shared = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        shared += 1
    if isinstance(chosen, str) and shared and chosen[shared - 1] == " ":
        shared -= 1  # the space belongs to the replies, because tokens begin with a space
    if not shared:
        raise ValueError("there is no prompt, and the replies do not begin alike")
    return chosen[:shared], chosen[shared:], rejected[shared:]

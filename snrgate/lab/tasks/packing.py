"""Pairs as token arrays: the prompt once, and then both replies, in one sequence."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from snrgate.lab.errors import InputError
from snrgate.lab.tasks.pairs import Pair
from snrgate.models.causal_lm import Layout, Tokenizer

__all__ = ["Packed", "layout", "pack", "tokenised"]

_PADDING, _PROMPT = -1, 0


class Packed(NamedTuple):
    """Pairs that are padded on the right to one length, or one of them without the first axis.

    Both replies follow the prompt and do not see each other. The states below the trained blocks
    are computed once for the prompt, and the head only where a token of a reply is predicted.

    Attributes:
        tokens: prompt, chosen and rejected reply, ``(n, t)``.
        positions: of the tokens in their own text, ``(n, t)``.
        part: 0 for the prompt, 1 for the chosen and 2 for the rejected reply, -1 for padding.
        at: indices of the tokens after which a token of a reply comes, ``(n, q)``.
        row: index into ``at`` of each token of a reply, ``(n, r)``.
        target: the tokens of the chosen reply and then those of the rejected one, ``(n, r)``.
        owner: share of each of them in the chosen and in the rejected reply, ``(n, r, 2)``: 1 or 0.
    """

    tokens: np.ndarray
    positions: np.ndarray
    part: np.ndarray
    at: np.ndarray
    row: np.ndarray
    target: np.ndarray
    owner: np.ndarray


def tokenised(
    pair: Pair, tokenizer: Tokenizer, *, ends: bool = True
) -> tuple[list[int], list[int], list[int]]:
    """The tokens of the prompt and of both replies.

    A conversation is written by the model's own chat template. Plain texts are taken as they are;
    the prompt begins with the token that begins a text, where the model has one.

    Args:
        pair: of plain texts or of conversations.
        tokenizer: of the model.
        ends: whether the token that ends a reply is put behind plain replies.

    Raises:
        ValueError: the chat template refuses the conversation, or does not write the reply behind
            the prompt; or a reply has no tokens.
    """
    if isinstance(pair.prompt, str):
        assert isinstance(pair.chosen, str)
        assert isinstance(pair.rejected, str)
        first = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        last = [tokenizer.eos_id] if ends and tokenizer.eos_id is not None else []
        prompt = first + tokenizer.encode(pair.prompt)
        replies = [tokenizer.encode(text) + last for text in (pair.chosen, pair.rejected)]
    else:
        start = tokenizer.chat(pair.prompt, add_generation_prompt=True)
        prompt, replies = tokenizer.encode(start), []
        for reply in (pair.chosen, pair.rejected):
            assert isinstance(reply, list)
            whole = tokenizer.chat([*pair.prompt, *reply])
            if not whole.startswith(start):
                raise ValueError("the chat template writes the prompt differently before a reply")
            replies.append(tokenizer.encode(whole.removeprefix(start)))
    if not prompt or not all(replies):
        raise ValueError("the prompt or a reply has no tokens")
    return prompt, replies[0], replies[1]


def pack(texts: Sequence[tuple[list[int], list[int], list[int]]], length: int) -> Packed:
    """Put pairs into arrays.

    Args:
        texts: the tokens of the prompt and of both replies of each pair.
        length: the most tokens of a prompt with both its replies.

    Raises:
        InputError: a pair is longer.
    """
    longest = max(sum(map(len, text)) for text in texts)
    if longest > length:
        at = next(i for i, text in enumerate(texts) if sum(map(len, text)) > length)
        raise InputError(
            f"pair {at + 1} has {sum(map(len, texts[at]))} tokens, and length = {length}; give a "
            f"larger length (the longest pair has {longest}), or shorter texts"
        )
    most = max(len(chosen) + len(rejected) for _, chosen, rejected in texts)
    count = len(texts)
    packed = Packed(
        tokens=np.zeros((count, longest), np.int32),
        positions=np.zeros((count, longest), np.int32),
        part=np.full((count, longest), _PADDING, np.int32),
        at=np.zeros((count, most), np.int32),
        row=np.zeros((count, most), np.int32),
        target=np.zeros((count, most), np.int32),
        owner=np.zeros((count, most, 2), np.float32),
    )
    for i, (prompt, chosen, rejected) in enumerate(texts):
        p, c, r = len(prompt), len(chosen), len(rejected)
        packed.tokens[i, : p + c + r] = prompt + chosen + rejected
        packed.positions[i, : p + c + r] = [*range(p + c), *range(p, p + r)]
        packed.part[i, : p + c + r] = [_PROMPT] * p + [1] * c + [2] * r
        # The last token of the prompt predicts the first one of both replies.
        at = [*range(p - 1, p + c - 1), *range(p + c, p + c + r - 1)]
        packed.at[i, : len(at)] = at
        packed.row[i, : c + r] = [*range(c), 0, *range(c, c + r - 1)]
        packed.target[i, : c + r] = chosen + rejected
        packed.owner[i, :c, 0] = packed.owner[i, c : c + r, 1] = 1
    queries = max(len(chosen) + len(rejected) - 1 for _, chosen, rejected in texts)
    return packed._replace(at=packed.at[:, :queries])


def layout(packed: Packed) -> Layout:
    """Positions, mask and wanted tokens, for :meth:`CausalLM.run`."""
    part = packed.part
    length = part.shape[-1]
    own = part[..., None, :] == part[..., :, None]
    causal = np.broadcast_to(np.tril(np.ones((length, length), bool)), own.shape)
    mask = ((part[..., None, :] == _PROMPT) | own) & causal
    return Layout(packed.positions, mask, packed.at)

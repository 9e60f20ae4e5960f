"""Text to tokens and back, and a conversation to text."""

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from snrgate.models.causal_lm.extra import require

__all__ = ["Tokenizer"]


class Tokenizer:
    """The tokenizer of a language model, around one of the package ``tokenizers``.

    Args:
        backend: a ``tokenizers.Tokenizer``.
        template: the chat template of the model, in Jinja, if it has one.
        special: texts of the special tokens, by the names that templates use: ``bos_token``,
            ``eos_token``, ``pad_token``, ``unk_token``.

    Raises:
        ValueError: a special token is not a token.

    Example:
        >>> import tokenizers
        >>> from snrgate.models.causal_lm import Tokenizer
        >>> letters = tokenizers.models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])
        >>> tokenizer = Tokenizer(tokenizers.Tokenizer(letters), template=None, special={})
        >>> tokenizer.encode("abb")
        [2, 1]
    """

    def __init__(self, backend: Any, *, template: str | None, special: Mapping[str, str]):
        self._backend, self._template, self._special = backend, template, dict(special)
        for name, text in self._special.items():
            if backend.token_to_id(text) is None:
                raise ValueError(f"{name} = {text!r} is not a token of this tokenizer")

    @property
    def size(self) -> int:
        """The number of tokens."""
        return self._backend.get_vocab_size()

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text, or ``None``."""
        return self._id("bos_token")

    @property
    def eos_id(self) -> int | None:
        """The token that ends a reply, or ``None``."""
        return self._id("eos_token")

    def _id(self, name: str) -> int | None:
        return self._backend.token_to_id(self._special[name]) if name in self._special else None

    def encode(self, text: str) -> list[int]:
        """The tokens of a text.

        None are added at its ends. The text of a special token becomes that token, so a text
        from ``chat`` is encoded as the model knows it.
        """
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, with that of special tokens."""
        return self._backend.decode(list(ids), skip_special_tokens=False)

    def chat(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = False
    ) -> str:
        """The text of a conversation, by the model's own chat template.

        Args:
            messages: ``{"role": "user", "content": "..."}`` and so on, first to last.
            add_generation_prompt: whether the text goes on to where the reply begins.

        Raises:
            ValueError: the model has no chat template, or it refuses the messages.
        """
        if self._template is None:
            raise ValueError(
                "This model has no chat template. Give it plain text, or an instruction-tuned "
                "model, whose files have one."
            )
        require("jinja2")
        try:
            return _compiled(self._template).render(
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self._special,
            )
        except Exception as reason:  # a template is a program of others, which may raise anything
            raise ValueError(f"The chat template refuses this conversation: {reason}") from reason


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    """A template in a sandbox, with what the templates of Hugging Face expect."""
    jinja2 = require("jinja2")
    sandbox = require("jinja2.sandbox")

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment.from_string(template)

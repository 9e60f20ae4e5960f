"""The trainer of Tunix, which hands the optimizer gradients alone. Left out where it is missing."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from test_pages import PAGES, programs

import snrgate
from snrgate import preferences

pytest.importorskip("tunix", reason="pip install google-tunix==0.1.7")
with warnings.catch_warnings(action="ignore"):  # what Tunix warns of is not ours
    from tunix.models.qwen2.model import ModelConfig, Qwen2
    from tunix.sft.dpo.dpo_trainer import DPOTrainer, DPOTrainingConfig, TrainingInput, dpo_loss_fn

PAIRS, BATCH = 40, 8
SIZES = {
    "num_layers": 1,
    "vocab_size": 32,
    "embed_dim": 16,
    "hidden_dim": 32,
    "num_heads": 2,
    "head_dim": 8,
    "num_kv_heads": 1,
    "rope_theta": 10_000,
    "norm_eps": 1e-6,
}
pytestmark = pytest.mark.filterwarnings("ignore")


def network(seed=0):
    return Qwen2(ModelConfig(**SIZES), rngs=nnx.Rngs(seed))


def batches(count):
    rng = np.random.default_rng(0)

    def tokens(length):
        return rng.integers(1, 32, (BATCH, length)), np.ones((BATCH, length), np.int32)

    return [TrainingInput(*tokens(6), *tokens(4), *tokens(4)) for _ in range(count)]


def trainer(tx):
    settings = DPOTrainingConfig(eval_every_n_steps=100, max_steps=4, beta=0.3)
    return DPOTrainer(network(), network(), tx, settings)


def test_the_trainer_steps_as_a_loop_does():
    """The gate shuts a part of what AdamW would do, and is told the size of the batch."""
    data, gated = batches(4), snrgate.adamw(1e-2, dataset_size=PAIRS)
    with jax.numpy_rank_promotion("allow"):
        theirs = trainer(snrgate.with_sample_size(gated, BATCH))
        theirs.train(data)
        given = trainer(optax.sgd(0.0))  # prepares the batches
        graph, params, rest = nnx.split(network(), nnx.Param, ...)
        state = gated.init(params)
        for batch in data:
            prepared = given._prepare_inputs(batch)

            def loss_fn(params, prepared=prepared):
                return dpo_loss_fn(nnx.merge(graph, params, rest), prepared, beta=0.3)[0]

            grads = jax.grad(loss_fn)(params)
            updates, state = gated.update(grads, state, params, sample_size=BATCH)
            params = optax.apply_updates(params, updates)
    assert float(optax.tree.get(state, "gate_fraction")) < 0.9
    trained = nnx.state(theirs.model, nnx.Param)
    for mine, other in zip(jax.tree.leaves(params), jax.tree.leaves(trained), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_a_size_that_is_not_stated_is_asked_for():
    with (
        jax.numpy_rank_promotion("allow"),
        pytest.raises(ValueError, match=r"snrgate\.with_sample_size\(tx, size\)"),
    ):
        trainer(snrgate.adamw(1e-2, dataset_size=PAIRS)).train(batches(1))


@pytest.mark.parametrize("flip_rate", [0.0, 0.2])
def test_the_losses_are_those_of_the_trainer(flip_rate):
    """Its label smoothing is conservative DPO."""
    settings = DPOTrainingConfig(eval_every_n_steps=100)
    (batch,) = batches(1)

    def log_probabilities(model, prepared):
        tokens, positions, seen = (
            getattr(prepared, name) for name in ("input_ids", "positions", "attention_mask")
        )
        logs = jax.nn.log_softmax(model(tokens, positions, None, seen)[0][:, 5:-1])
        return jnp.take_along_axis(logs, tokens[:, 6:, None], -1).sum((1, 2))

    with jax.numpy_rank_promotion("allow"):
        policy, reference = network(), network(1)
        prepared = DPOTrainer(policy, reference, optax.sgd(0.1), settings)._prepare_inputs(batch)
        wanted = dpo_loss_fn(policy, prepared, beta=0.3, label_smoothing=flip_rate)[0]
        new, old = (log_probabilities(model, prepared) for model in (policy, reference))
    margin = preferences.margin(new[:BATCH], new[BATCH:], old[:BATCH], old[BATCH:])
    found = preferences.cdpo(margin, 0.3, flip_rate=flip_rate)
    assert np.ptp(found) > 0.01
    np.testing.assert_allclose(np.mean(found), wanted, rtol=1e-4)
    if not flip_rate:
        np.testing.assert_allclose(preferences.dpo(margin, 0.3), found, rtol=1e-6)


def test_the_program_of_the_page_runs():
    (program,) = [text for _, text in programs(PAGES["preferences.md"]) if "tunix" in text]
    names = {}
    with jax.numpy_rank_promotion("allow"):
        exec(program, names)
    assert names["trainer"].train_steps == 2

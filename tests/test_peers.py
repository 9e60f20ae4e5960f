"""What the gate is compared with, against hand work."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_task import LINE, Line, W

from snrgate.lab.errors import InputError
from snrgate.lab.study.controls import Control
from snrgate.lab.study.peers import (
    Cautious,
    FiniteAlgorithm1,
    FloorGated,
    FreshGated,
    Grokfast,
    Muon,
    OrthoGrad,
    RowNormLion,
    Sam,
)
from snrgate.lab.study.rows import ABLATIONS, PEERS, ROWS
from snrgate.lab.training.optimizers import AdamW, Algorithm1, Gated
from snrgate.lab.training.sweep import measure


@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_a_peer_learns_a_line(peer):
    changes = {"learning_rate": 0.05}
    if hasattr(peer, "batch_size"):
        changes["batch_size"] = LINE.batch_size
    optimizer = dataclasses.replace(peer, **changes)
    settings = dataclasses.replace(LINE, optimizer=optimizer, steps=400)
    begin = float(np.mean((0.1 - W) ** 2))
    assert measure(settings)["best"]["error"] < 0.1 * begin


def test_algorithm_1_has_the_papers_thresholds():
    task = LINE.task.make(0)
    assert Algorithm1().gate_settings(task)["alpha"] == 1
    assert FiniteAlgorithm1(batch_size=8).gate_settings(task)["alpha"] == 8 / (32 - 8)
    row = dataclasses.replace(ROWS["table"], base=LINE)
    assert (
        row.grid("algorithm-1-finite")["algorithm-1-finite-lr0.001-wd0"].optimizer.batch_size == 8
    )
    for unfit, said in (
        (task, "b is 32 and n 32"),
        (ROWS["advection"].base.task.make(0), "None, 256"),
    ):
        with pytest.raises(InputError, match=said):
            FiniteAlgorithm1(batch_size=32).gate_settings(unfit)


def test_what_the_gate_is_told_of_the_data_sets():
    equation = ROWS["advection"].base.task.make(0)  # places drawn afresh, and 256 measurements
    line = LINE.task.make(0)  # 32 measurements
    for gated, sizes, told, told_of_line in (
        (Gated(), [None, 256], math.inf, 32),
        (Gated(finite=False), [None, None], None, None),
        (FreshGated(), [None, None], math.inf, math.inf),
    ):
        assert gated.sizes(equation) == sizes
        assert gated.gate_settings(equation)["dataset_size"] == told
        assert gated.gate_settings(line)["dataset_size"] == told_of_line


def test_a_gate_with_a_floor_has_the_level_of_noise_for_a_threshold():
    settings = FloorGated(batch_size=8).gate_settings(LINE.task.make(0))
    kappa, share = 0.1 / 1.9, 8 / 32
    assert settings["alpha"] == pytest.approx(share + (1 - share) * kappa, rel=1e-4)
    assert settings["z"] is None
    assert settings["floor"] == 0.4


def first_update(optimizer, grads, params):
    """The first update of a peer, per learning rate."""
    task = LINE.task.make(0)._replace(params=params)
    tx = optimizer.build(task).tx
    return tx.update(grads, tx.init(params), params)[0]


PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]])}
GRADS = {"w": jnp.array([[0.3, 0.1], [-0.2, 0.4]])}


def test_grokfast_adds_the_slow_gradient():
    one = first_update(Grokfast(1.0, learning_rate_warmup=0, decay=0.5, gain=2.0), GRADS, PARAMS)
    # g + 2 * 0.5 g = 2 g, and Adam's first step does not see a scale.
    np.testing.assert_allclose(one["w"], -np.sign(GRADS["w"]), rtol=1e-5)
    task = LINE.task.make(0)
    tx = Grokfast(1.0, decay=0.5, gain=2.0).build(task).tx
    state = tx.init(PARAMS)
    _, state = tx.update(GRADS, state, PARAMS)
    _, state = tx.update(jax.tree.map(jnp.zeros_like, GRADS), state, PARAMS)
    mu = optax.tree.get(state, "mu")["w"]
    # Gradients 2 g and 2 * 0.25 g, averaged by Adam.
    np.testing.assert_allclose(mu, (0.9 * 0.1 * 2 + 0.1 * 0.5) * GRADS["w"], rtol=1e-5)


def test_orthograd_leaves_what_is_orthogonal_to_the_weights():
    task = LINE.task.make(0)
    tx = OrthoGrad(1.0).build(task).tx
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    mu = optax.tree.get(state, "mu")["w"]
    assert jnp.vdot(mu, PARAMS["w"]) == pytest.approx(0, abs=1e-6)
    assert jnp.linalg.norm(mu) == pytest.approx(0.1 * float(jnp.linalg.norm(GRADS["w"])), rel=1e-5)


def test_cautious_keeps_what_agrees():
    task = LINE.task.make(0)
    tx = Cautious(1.0, learning_rate_warmup=0).build(task).tx
    state = tx.init(PARAMS)
    _, state = tx.update(GRADS, state, PARAMS)
    opposite = {"w": GRADS["w"] * jnp.array([[1.0, -0.01], [1.0, 1.0]])}
    updates, _ = tx.update(opposite, state, PARAMS)
    # One of four entries now points against its momentum; the others are scaled by 4 / 3.
    assert updates["w"][0, 1] == 0
    assert np.all(np.asarray(updates["w"])[[0, 1, 1], [0, 0, 1]] != 0)


def test_row_norm_clips_units():
    updates = first_update(RowNormLion(0.0, max_norm=2.0), GRADS, PARAMS)
    after = PARAMS["w"] + updates["w"]
    norms = np.linalg.norm(PARAMS["w"], axis=0)
    np.testing.assert_allclose(np.linalg.norm(after, axis=0), np.minimum(norms, 2.0), rtol=1e-5)


def test_sam_takes_the_gradient_at_the_worst_place_nearby():
    task = LINE.task.make(0)
    batches = tuple(g.sample(jax.random.key(1), 8) for g in task.groups)
    _, got, _ = Sam(radius=0.1).build(task).gradients(task.params, batches)
    _, here, _ = AdamW().build(task).gradients(task.params, batches)
    step = 0.1 * here["w"] / jnp.linalg.norm(here["w"])
    _, there, _ = AdamW().build(task).gradients({"w": task.params["w"] + step}, batches)
    np.testing.assert_allclose(got["w"], there["w"], rtol=1e-4)


def test_muon_orthogonalises():
    gradient = {"w": jnp.array([[1.0, 0.0], [0.0, 0.1]])}
    updates = first_update(Muon(1.0, learning_rate_warmup=0), gradient, PARAMS)
    singular = np.linalg.svd(updates["w"], compute_uv=False)
    assert singular.max() / singular.min() < 2  # those of the gradient: 10


def test_a_cosine_falls_from_the_peak_to_zero_by_the_last_step():
    row = dataclasses.replace(ROWS["table"], base=dataclasses.replace(LINE, steps=109))
    for name in ("adamw-cosine", "gated-cosine"):
        rate = row.grid(name)[f"{name}-lr0.003-wd0"].optimizer.rate()
        falling = 0.003 * (1 + np.cos(np.pi * np.arange(101) / 100)) / 2
        np.testing.assert_allclose([rate(9 + i) for i in range(101)], falling, atol=1e-9)
        assert rate(0) == pytest.approx(0.0003)


@pytest.mark.parametrize("kind", ["shuffled", "mean"])
def test_a_control_has_the_gates_in_other_places(kind):
    task = Line(noise=3.0).make(0)
    gated, control = Gated(1.0, learning_rate_warmup=0), Control(1.0, learning_rate_warmup=0)
    control = dataclasses.replace(control, kind=kind)
    updates = {}
    for name, optimizer in {"gated": gated, "control": control, "adam": AdamW(1.0)}.items():
        if name == "adam":
            optimizer = dataclasses.replace(optimizer, learning_rate_warmup=0)
        tx, gradients = optimizer.build(task)
        _, grads, extra = gradients(task.params, (task.groups[0].sample(jax.random.key(5), 4),))
        tx = optax.with_extra_args_support(tx)
        updates[name] = tx.update(grads, tx.init(task.params), task.params, **extra)[0]["w"]
    gates = np.asarray(updates["gated"] / updates["adam"])
    moved = np.asarray(updates["control"] / updates["adam"])
    assert 0 < gates.mean() < 1
    if kind == "mean":
        np.testing.assert_allclose(moved, gates.mean(), rtol=1e-4)
    else:
        np.testing.assert_allclose(np.sort(moved.ravel()), np.sort(gates.ravel()), rtol=1e-4)


def test_ablations_change_one_thing():
    row = ROWS["digits-40"]
    default = row.grid("gated")["gated-lr0.001-wd0"].optimizer
    for name in ABLATIONS:
        other = row.ablation(name, 1e-3, 0.0).optimizer
        fields = [field.name for field in dataclasses.fields(default)]
        changed = [field for field in fields if getattr(other, field) != getattr(default, field)]
        # A control has the default's gates, and puts them elsewhere.
        assert len(changed) == (0 if isinstance(other, Control) else 1), name
